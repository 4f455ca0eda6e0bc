"""The help pages: one for each node, and it speaks of every input and output."""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "web" / "docs"


def test_every_node_has_a_page_that_names_its_inputs_and_outputs(comfyui_server):
    nodes = {name: node for name, node in comfyui_server.get("/object_info").items() if name.startswith("Memo")}
    assert {page.stem for page in DOCS.glob("*.md")} == nodes.keys()
    for name, node in nodes.items():
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {node['display_name']}\n")
        order = node["input_order"]
        named = [*order.get("required", ()), *order.get("optional", ()), *node["output_name"]]
        assert [name for name in named if f"`{name}`" not in page] == []
