"""The help pages: one for each node, with a picture of it, and it speaks of every input and output."""

from pathlib import Path

import pytest
from PIL import Image

from tools.derived.help_pictures import SHOWS, contents

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


def test_every_page_shows_its_node_as_it_is(comfyui_server):
    for page in DOCS.glob("*.md"):
        title, picture = page.read_text(encoding="utf-8").split("\n\n")[:2]
        assert picture == f"![{title[2:]} as a node on the canvas, with its inputs and outputs]({page.stem}.png)"
        file = page.with_suffix(".png")
        with Image.open(file) as image:
            assert image.format == "PNG" and 200 <= image.width <= 600 and 80 <= image.height <= 900, page.stem
            of = comfyui_server.get(f"/object_info/{page.stem}")[page.stem]
            assert image.text[SHOWS] == contents(of), "Run python -m tools.regenerate help_pictures"
        assert file.stat().st_size < 60_000
    assert {file.stem for file in DOCS.glob("*.png")} == {page.stem for page in DOCS.glob("*.md")}
