"""In the real front end, the workflows that no other test there can run: one takes what a microphone gives, one a checkpoint."""

import json
from pathlib import Path

import pytest

from tests.helpers.graphs import WORKFLOWS
from tools.chromium import PageError
from tools.derived.workflows import TAKEN, look_at_all
from tools.front_end import FrontEnd

pytestmark = pytest.mark.browser

FOLDER = WORKFLOWS[0].parent
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
TINY = {"MemoLoadAll": {"vae": "sd-vae-ft-mse"}, "MemoTalkingPortrait": {"resolution": 64, "steps": 1}}
RECORD = """(async () => {
    const node = app.graph.nodes.find(({ type }) => type === "RecordAudio")
    await node.widgets.find(({ type }) => type === "audiorecord").callback()
})()"""
HEARD = """app.graph.nodes.find(({ type }) => type === "RecordAudio").widgets.find(({ element }) => element)?.element.src"""
VIDEO = """(() => {
    app.canvas.ds.scale = 0.7
    app.canvas.centerOnNode(app.graph.nodes.find(({ type }) => type === "SaveVideo"))
})()"""


@pytest.fixture(scope="module")
def base(base):
    (base / "models" / "checkpoints").mkdir()
    (base / "models" / "checkpoints" / CHECKPOINT).touch()
    return base


class Unguarded(FrontEnd):
    """A page that heeds no Content-Security-Policy: with --disable-api-nodes ComfyUI sends one in which nothing recorded can be fetched."""

    def open(self, url: str) -> None:
        self.call("Page.setBypassCSP", enabled=True)
        super().open(url)


@pytest.fixture
def recording_page(chromium, server, renderer, tmp_path):
    server.post("/settings", {"Comfy.VueNodes.Enabled": renderer == "Vue"})
    server.free()
    with Unguarded(chromium, tmp_path / "profile", server.url) as page:
        yield page
        page.screenshot(tmp_path / "screenshot.png")


def exported(file: Path) -> dict:
    return json.loads((FOLDER / "api" / file.name).read_text(encoding="utf-8"))


def test_what_a_microphone_gives_becomes_a_video(recording_page):
    page, file = recording_page, FOLDER / "record_yourself.json"
    page.drop_workflow(file)
    page.evaluate(RECORD)
    page.evaluate("new Promise(done => setTimeout(done, 1000))")
    page.evaluate(RECORD)
    page.wait_for(f"{HEARD}?.startsWith('blob:')")
    prompt = page.prompt()
    for node in prompt.values():
        taken = TAKEN.get(node["class_type"], {})
        assert all(node["inputs"][name].endswith("[temp]") for name in taken)
        node["inputs"] |= taken
    assert prompt == exported(file)
    assert page.complaints() == 0
    page.set_widgets(TINY)
    page.run()
    page.evaluate(VIDEO)  # whose element the front end makes when it is drawn
    page.wait_for("document.querySelector('video')?.readyState > 0")
    assert 0.1 < page.evaluate("document.querySelector('video').duration") < 3, "about the second that was recorded"
    look_at_all(page)
    assert page.own_errors() == []


def test_text_to_portrait_loads_complete_and_gets_as_far_as_its_checkpoint(page):
    file = FOLDER / "text_to_portrait.json"
    page.drop_workflow(file)
    assert page.unknown_nodes() == []
    assert page.prompt() == exported(file)
    assert page.complaints() == 0
    page.set_widgets(TINY)
    with pytest.raises(PageError, match="CheckpointLoaderSimple"):
        page.run()
