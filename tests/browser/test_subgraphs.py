"""Nodes of the pack inside of subgraphs, and new from the search, in the real front end."""

import pytest

pytestmark = pytest.mark.browser

TALKS = """(() => {
    const make = (type, x) => {
        const node = LiteGraph.createNode(type)
        node.pos = [x, 100]
        app.graph.add(node)
        return node
    }
    const [loaders, image, sound] = ["MemoLoadAll", "LoadImage", "LoadAudio"].map((type, i) => make(type, 400 * i))
    const talks = make("MemoTalkingPortrait", 1600), save = make("SaveVideo", 2000)
    const slot = name => talks.findInputSlot(name)
    loaders.connect(0, talks, slot("models"))
    image.connect(0, talks, slot("image"))
    sound.connect(0, talks, slot("audio"))
    talks.connect(talks.findOutputSlot("video"), save, save.findInputSlot("video"))
    return talks.id
})()"""
PACK = "(type => { app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(node => node.type === type))) })"
SETTLED = "new Promise(done => setTimeout(done, 1000))"
"""In which everything that the pack puts off has been done."""


def wired(prompt: dict) -> set[tuple[str, str, str]]:
    """(class of a node, its input, class of the node that it comes from)"""
    return {
        (node["class_type"], name, prompt[value[0]]["class_type"])
        for node in prompt.values()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    }


@pytest.mark.parametrize("packed", ["MemoTalkingPortrait", "MemoLoadAll"])
def test_cables_go_on_through_the_border_of_a_subgraph(page, packed):
    page.evaluate(TALKS)
    before = wired(page.prompt())
    assert len(before) == 4
    page.evaluate(f"{PACK}('{packed}')")
    page.evaluate(SETTLED)
    assert wired(page.prompt()) == before
    for _ in range(2):
        page.evaluate("app.loadGraphData(app.graph.serialize())")
        page.evaluate(SETTLED)
        assert wired(page.prompt()) == before
    assert page.own_errors() == []


@pytest.mark.parametrize(("node", "control"), [("MemoSampleToFile", "fixed"), ("MemoSampler", "randomize")])
def test_a_video_that_may_go_on_keeps_its_seed(page, node, control):
    page.add(node)
    value = f"app.graph.nodes.find(({{ type }}) => type === '{node}').widgets.find(({{ name }}) => name === 'control_after_generate').value"
    assert page.evaluate(value) == control
    page.evaluate(f"{value} = 'increment'")
    page.evaluate("app.loadGraphData(app.graph.serialize())")
    page.evaluate(SETTLED)
    assert page.evaluate(value) == "increment"


def test_an_editor_in_a_subgraph_ends_with_it(page):
    """It looks for changes four times a second."""
    page.evaluate("""
        window.running = new Set()
        const [begin, end] = [window.setInterval, window.clearInterval]
        window.setInterval = (action, every, ...rest) => {
            const timer = begin(action, every, ...rest)
            if (every === 250) window.running.add(timer)
            return timer
        }
        window.clearInterval = timer => { window.running.delete(timer); end(timer) }
    """)
    page.add("MemoEmotionTimeline")
    page.evaluate(SETTLED)
    assert page.evaluate("window.running.size") == 1
    page.evaluate(f"{PACK}('MemoEmotionTimeline')")
    for _ in range(3):
        page.evaluate("app.loadGraphData(app.graph.serialize())")
        page.evaluate(SETTLED)
        assert page.evaluate("window.running.size") == 1
    page.clear()
    page.evaluate(SETTLED)
    assert page.evaluate("window.running.size") == 0
