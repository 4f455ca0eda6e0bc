"""What went wrong is read in ComfyUI's error panel, the whole sentence of it."""

import json
import shutil

import pytest

from tools.chromium import PageError

pytestmark = pytest.mark.browser

BUILD = """((type, sources, widgets) => {
    const make = (type, x, y) => {
        const node = LiteGraph.createNode(type)
        node.pos = [x, y]
        app.graph.add(node)
        return node
    }
    const tried = make(type, 700, 150), shown = make("PreviewAny", 1050, 150)
    tried.connect(0, shown, 0)
    sources.forEach(([source, input], i) => make(source, 300, 150 + 200 * i).connect(0, tried, tried.findInputSlot(input)))
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? []) widget.value = widgets[widget.name] ?? widget.value
})"""
# where a sentence stands in the panel, when nothing around it cuts it off
SEEN = """(sentence => {
    const texts = document.createTreeWalker(document.querySelector("[data-testid=properties-panel]"), NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
        const { currentNode: text } = texts, start = text.data.indexOf(sentence)
        if (start < 0) continue
        const range = document.createRange()
        range.setStart(text, start)
        range.setEnd(text, start + sentence.length)
        const box = range.getBoundingClientRect()
        let whole = box.width > 0 && box.right <= innerWidth && box.bottom <= innerHeight
        for (let around = text.parentElement; around; around = around.parentElement) {
            const frame = around.getBoundingClientRect()
            if (getComputedStyle(around).overflow !== "visible")
                whole &&= box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1 && box.left >= frame.left - 1 && box.right <= frame.right + 1
        }
        if (whole) return true
    }
    return false
})"""
ERRORS = {
    "InputError": (
        ("MemoEmbedFace", [("LoadImage", "image"), ("MemoLoadFaceAnalysis", "face_analysis")], {"image": "portrait.jpg", "index": 99}),
        "index: expected ",
    ),
    "CheckpointError": (("MemoLoadVocalSeparator", [], {"vocal_separator": "memo"}), "Vocal separation is not there"),
    "a text": (("MemoEmotionTimeline", [], {"timeline": "0-3 hapy"}), 'timeline: "hapy" in "0-3 hapy" is not an emotion.'),
}
"""By name: what builds a graph that fails, and how its sentence begins."""


@pytest.fixture(scope="module")
def base(base):
    shutil.rmtree(base / "models" / "memo" / "memo" / "misc" / "vocal_separator")
    return base


@pytest.mark.parametrize(("graph", "begins"), ERRORS.values(), ids=ERRORS)
def test_the_whole_sentence_is_seen(page, graph, begins):
    page.evaluate(f"{BUILD}({', '.join(map(json.dumps, graph))})")
    with pytest.raises(PageError) as failed:
        page.run(timeout=60)
    sentence = json.loads(str(failed.value))["detail"]["exception_message"].strip()
    assert sentence.startswith(begins)
    page.press("[data-testid=error-overlay-see-errors]")
    page.wait_for(f"{SEEN}({json.dumps(sentence)})", timeout=10)
