"""The help pages: one for each node; it speaks of every input and output, says how the node is wired, and shows what it makes."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tools.derived.results import SEEN_ON, WIDTH

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"


def test_every_node_has_a_page_that_names_its_inputs_and_outputs(comfyui_server):
    nodes = {name: node for name, node in comfyui_server.get("/object_info").items() if name.startswith("Memo")}
    assert {page.stem for page in DOCS.glob("*.md")} == nodes.keys()
    for name, node in nodes.items():
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {node['display_name']}\n")
        order = node["input_order"]
        named = [*order.get("required", ()), *order.get("optional", ()), *node["output_name"]]
        assert [name for name in named if f"`{name}`" not in page] == []


def test_nodes_that_take_lists_say_what_another_packs_block_does_to_them(comfyui_server):
    nodes = {name: node for name, node in comfyui_server.get("/object_info").items() if name.startswith("Memo")}
    if not any("is_input_list" in node for node in nodes.values()):
        pytest.skip("this ComfyUI does not say which nodes take lists")
    sentence = "blocked one item of it (ExecutionBlocker), as some switches do, and\n  ComfyUI then skips this node for all of them."
    pages = {name for name in nodes if sentence in (DOCS / f"{name}.md").read_text(encoding="utf-8")}
    assert pages == {name for name, node in nodes.items() if node["is_input_list"]} and len(pages) == 10


def test_every_page_says_how_the_node_is_wired_in_titles_of_nodes(comfyui_server):
    titles = {node["display_name"] for node in comfyui_server.get("/object_info").values()}
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        wiring = re.search(r"\n## Wiring\n\n```\n(.+?)\n```\n", text, re.DOTALL)
        assert wiring, page.stem
        named = [re.sub(r" \(.*\)$|^(second|another) ", "", part.strip()) for line in wiring[1].splitlines() for part in line.split("→")]
        assert [name for name in named if name not in titles] == [], page.stem
        assert text.split("\n")[0].removeprefix("# ") in named


def test_pages_of_nodes_that_make_something_show_it():
    for page in DOCS.glob("*.md"):
        shown = re.match(r"# .+\n\n!\[.{20,}\]\((.+)\)\n\n", page.read_text(encoding="utf-8"))
        assert (shown[1] if shown else None) == (f"{page.stem}.png" if page.stem in SEEN_ON else None)
    for node in SEEN_ON:
        file = DOCS / f"{node}.png"
        with Image.open(file) as image:
            assert image.format == "PNG" and WIDTH // 2 <= image.width <= WIDTH and 80 <= image.height <= 900, node
        assert file.stat().st_size < 120_000
    assert {file.stem for file in DOCS.glob("*.png")} == SEEN_ON.keys()
