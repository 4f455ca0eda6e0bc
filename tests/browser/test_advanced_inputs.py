"""Inputs for experts are out of the way on the canvas, as they are in Nodes 2.0, and never where they have been used."""

import json

import pytest

pytestmark = pytest.mark.browser

FOLDED = {"num_init_past_frames", "reference_order", "lead_in", "noise", "decoder"}
BUTTON = "node.widgets.find(({ name }) => name === 'advanced')"


@pytest.fixture
def renderer() -> str:
    """Nodes 2.0 has a button of its own, and shows none of ours."""
    return "canvas"


def of_node(page, script: str):
    return page.evaluate(f"(node => {script})(app.graph.nodes.find(({{ type }}) => type === 'MemoSampler'))")


def in_sight(page) -> set[str]:
    return set(of_node(page, "node.widgets.filter(widget => node.isWidgetVisible(widget)).map(({ name }) => name)"))


def test_button_shows_and_hides_them(page):
    page.add("MemoSampler")
    height, few = of_node(page, "node.size[1]"), in_sight(page)
    assert {"steps", "seed", "preset", "advanced"} <= few and not FOLDED & few
    assert of_node(page, f"{BUTTON}.label") == "Show advanced inputs"
    of_node(page, f"{BUTTON}.callback()")
    assert in_sight(page) == few | FOLDED
    assert of_node(page, f"{BUTTON}.label") == "Hide advanced inputs"
    assert of_node(page, "node.size[1]") > height
    of_node(page, f"{BUTTON}.callback()")
    assert (in_sight(page), of_node(page, "node.size[1]")) == (few, height)
    page.set("Comfy.Node.AlwaysShowAdvancedWidgets", True)
    shown = in_sight(page)
    page.set("Comfy.Node.AlwaysShowAdvancedWidgets", False)
    assert shown >= FOLDED
    assert page.own_errors() == []


def test_what_is_set_or_linked_stays_in_sight(page):
    page.add("MemoSampler")
    of_node(page, "node.widgets.find(({ name }) => name === 'lead_in').value = 0.5")
    page.evaluate("""(() => {
        const number = LiteGraph.createNode("PrimitiveInt"), sampler = app.graph.nodes[0]
        app.graph.add(number)
        number.connect(0, sampler, sampler.findInputSlot("num_init_past_frames"))
    })()""")
    assert FOLDED & in_sight(page) == {"lead_in", "num_init_past_frames"}
    saved = page.evaluate("app.graph.serialize()")
    page.evaluate(f"app.loadGraphData({json.dumps(saved)})")
    page.wait_for("app.graph.nodes.length === 2")
    assert FOLDED & in_sight(page) == {"lead_in", "num_init_past_frames"}


def test_a_graph_is_saved_and_run_as_without_it(page):
    page.add("MemoSampler")
    schema = of_node(page, "Object.values(node.constructor.nodeData.input).flatMap(Object.keys)")
    widgets = of_node(page, "node.widgets.filter(({ name }) => !['advanced', 'control_after_generate'].includes(name)).map(({ name }) => name)")
    given = page.prompt()
    assert set(widgets) <= set(schema)
    assert [set(node["inputs"]) for node in given.values()] == [set(widgets)]
    [saved] = page.evaluate("app.graph.serialize().nodes")
    assert len(saved["widgets_values"]) == len(widgets) + 1  # what happens to the seed after a run
