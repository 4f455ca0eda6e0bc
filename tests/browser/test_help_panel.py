"""The help panel of every node, the search for nodes, and nodes in another language."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PANEL = "document.querySelector('.node-help-content')"
LANGUAGE = "fr"
LABEL = """(text => {
    const element = [...document.querySelectorAll("[data-node-id] *")].find(({ children, innerText }) => !children.length && innerText === text)
    const box = element?.getBoundingClientRect()
    return box && [box.x + box.width / 2, box.y + box.height / 2]
})(%s)"""

pytestmark = pytest.mark.browser


def test_help_of_every_node_and_what_it_makes(page):
    pages = ROOT / "web" / "docs"
    for node in sorted(file.stem for file in pages.glob("*.md")):
        page.clear()
        page.add(node)
        page.choose(node)
        if not page.evaluate(f"!!{PANEL}"):
            page.press("[data-testid=info-button]")
        title = json.dumps((pages / f"{node}.md").read_text(encoding="utf-8").split("\n")[0][2:])
        page.wait_for(f"{PANEL}?.querySelector('h1')?.textContent === {title}", timeout=20)
        if (pages / f"{node}.png").exists():
            assert page.wait_for(f"{PANEL}.querySelector('img[src$=\"/{node}.png\"]')?.complete", timeout=20)
            assert page.evaluate(f"{PANEL}.querySelector('img').naturalWidth") > 200, node
        assert page.evaluate(f"{PANEL}.querySelectorAll('h2').length") >= 2, node
    assert page.own_errors() == []


def test_search_finds_nodes_by_what_else_they_are_called(page):
    page.search("uncrop")
    page.wait_for("document.querySelector('#results-list')?.innerText.includes('MEMO Paste Back to File')", timeout=20)


@pytest.fixture
def other_language(server):
    server.post("/settings", {"Comfy.Locale": LANGUAGE})
    yield json.loads((ROOT / "locales" / LANGUAGE / "nodeDefs.json").read_text(encoding="utf-8"))
    server.post("/settings", {"Comfy.Locale": "en"})


def test_nodes_speak_the_language_of_the_front_end(other_language, page, renderer):
    expected = other_language["MemoSampler"]
    left, top, _, _ = page.add("MemoSampler")
    shown = page.evaluate(
        "(node => [node.title, node.inputs[0].localized_name, node.widgets[0].label, node.outputs[0].localized_name])(app.graph.nodes[0])"
    )
    inputs = expected["inputs"]
    assert shown == [expected["display_name"], inputs["model"]["name"], inputs["width"]["name"], expected["outputs"]["0"]["name"]]
    if renderer == "canvas":
        x, y = page.evaluate("(([x, y]) => [x - app.graph.nodes[0].pos[0], y - app.graph.nodes[0].pos[1]])(app.graph.nodes[0].getInputPos(0))")
        place, shown_in, tooltip = (left + x, top + page.evaluate("LiteGraph.NODE_TITLE_HEIGHT") + y), ".node-tooltip", inputs["model"]["tooltip"]
    else:  # which says of a socket only what it is
        place, shown_in, tooltip = page.wait_for(LABEL % json.dumps(inputs["width"]["name"])), ".p-tooltip-text", inputs["width"]["tooltip"]
    for over in (0, 1):  # the second time it moves
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] + over, y=place[1])
    page.wait_for(f"document.querySelector('{shown_in}')?.innerText")
    assert page.evaluate(f"document.querySelector('{shown_in}').innerText") == tooltip
    assert page.own_errors() == []
