"""The published workflow in the real front end: dropped onto the canvas, run with the Run button, and its help pages."""

import json
import time
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium

from comfyui_memo.scripts.comfyui_server import ComfyUIServer
from comfyui_memo.scripts.make_tiny_checkpoint import write_tiny_checkpoint
from comfyui_memo.tests.comfyui.graphs import write_wav

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "talking_portrait.json"
EXPORT = WORKFLOW.parent / "api" / WORKFLOW.name
ASSETS = (ROOT / "assets" / "portrait.jpg", ROOT / "assets" / "speech.wav")

pytestmark = pytest.mark.browser

SOUND = "half_a_second.wav"
SMALL = {
    "LoadAudio": {"audio": SOUND},
    "MemoLoadVAE": {"vae": "sd-vae-ft-mse"},
    "MemoSampler": {"width": 64, "height": 64, "steps": 1},
}
COMPLAINTS = "[data-testid=error-overlay], [data-testid=subgraph-breadcrumb-missing-nodes-icon]"

SET_WIDGETS = """(inputs => {
    for (const node of app.graph.nodes)
        for (const [name, value] of Object.entries(inputs[node.type] ?? {})) {
            const widget = node.widgets.find(widget => widget.name === name)
            widget.value = value
            widget.callback?.(value, app.canvas, node)
        }
})"""
LISTEN = """
    for (const event of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(event, ({detail}) => { window.outcome = {event, detail} })
"""
# Both wait, by giving null, for the overlay to go that covers everything while a workflow loads.
TITLE_OF = """(type => {
    const [x, y] = app.graph.nodes.find(node => node.type === type).pos
    const [left, top] = app.canvas.ds.convertOffsetToCanvas([x + 60, y - 15])
    const canvas = document.querySelector("#graph-canvas"), box = canvas.getBoundingClientRect()
    return document.elementFromPoint(box.x + left, box.y + top) === canvas ? [box.x + left, box.y + top] : null
})"""
MIDDLE_OF = """(selector => {
    const element = document.querySelector(selector), box = element?.getBoundingClientRect()
    const middle = box && [box.x + box.width / 2, box.y + box.height / 2]
    return middle && element.contains(document.elementFromPoint(...middle)) ? middle : null
})"""


@pytest.fixture(scope="module")
def chromium() -> str:
    return find_chromium() or pytest.skip("no Chromium found; on Debian and Ubuntu: apt install chromium")


@pytest.fixture(scope="module")
def server(chromium, comfyui_path, tmp_path_factory):
    """A ComfyUI with every file that the workflow names, the nets among them tiny."""
    base = tmp_path_factory.mktemp("comfyui")
    write_tiny_checkpoint(base / "models", "memo")
    with ComfyUIServer(comfyui_path, base) as server:
        for file in (*ASSETS, write_wav(base / SOUND, 12000, 24000)):
            server.add_input(file)
        server.post("/settings", {"Comfy.TutorialCompleted": True})  # or a dialog covers the canvas
        yield server


@pytest.fixture
def page(chromium, server, tmp_path):
    """The front end with an empty canvas; how a test left it is screenshot.png in the test's temporary folder."""
    with Chromium(chromium, tmp_path / "profile") as page:
        page.open(server.url)
        page.wait_for("!!window.app?.extensionManager && 'MemoSampler' in (window.LiteGraph?.registered_node_types ?? {})")
        page.wait_for("app.graph?.nodes.length > 0")  # it shows a graph at first, whose text boxes would take a drop
        page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        page.wait_for("app.graph.nodes.length === 0")
        yield page
        page.screenshot(tmp_path / "screenshot.png")


def export() -> dict:
    return json.loads(EXPORT.read_text(encoding="utf-8"))


def drop(page: Chromium, file: Path) -> None:
    page.drop(file, *page.wait_for(f"{MIDDLE_OF}('#graph-canvas')"))
    page.wait_for("app.graph.nodes.some(node => node.type === 'MemoSampler')")


def click(page: Chromium, selector: str) -> None:
    page.click(*page.wait_for(f"{MIDDLE_OF}({json.dumps(selector)})"))


def ours(errors: list[str]) -> list[str]:
    """The console's errors that speak of this pack. Help in a language that has no page of its own is looked for."""
    return [error for error in errors if "memo" in error.lower() and "docs/" not in error]


def test_dropped_workflow_loads_complete(page):
    drop(page, WORKFLOW)
    page.wait_for("document.body.innerText.includes('talking_portrait')")
    assert page.evaluate("app.graph.nodes.length") == len(json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"])
    assert page.evaluate("app.graph.nodes.filter(node => !(node.type in LiteGraph.registered_node_types)).map(node => node.type)") == []
    assert page.evaluate("app.graphToPrompt()")["output"] == export()
    time.sleep(1)  # in which a complaint would have come
    assert page.evaluate(f"document.querySelectorAll('{COMPLAINTS}').length") == 0
    assert ours(page.errors) == []


def test_missing_node_would_be_seen(page, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(WORKFLOW.read_text(encoding="utf-8").replace('"MemoEmbedFace"', '"MemoNoSuchNode"'), encoding="utf-8")
    drop(page, broken)
    page.wait_for(f"document.querySelectorAll('{COMPLAINTS}').length === 2")


def test_run_button_makes_a_video_that_plays(page):
    drop(page, WORKFLOW)
    page.evaluate(f"{SET_WIDGETS}({json.dumps(SMALL)})")
    page.evaluate(LISTEN)
    click(page, "[data-testid=queue-button]")
    outcome = page.wait_for("window.outcome", timeout=300)
    assert outcome["event"] == "execution_success", outcome
    page.wait_for("document.querySelector('video')?.readyState > 0")
    size, seconds = page.evaluate("(video => [[video.videoWidth, video.videoHeight], video.duration])(document.querySelector('video'))")
    assert size == [64, 64]
    assert seconds == pytest.approx(0.5, abs=1 / 30)
    assert ours(page.errors) == []


def test_help_page_opens(page):
    drop(page, WORKFLOW)
    page.click(*page.wait_for(f"{TITLE_OF}('MemoSampler')"))
    click(page, "[data-testid=info-button]")
    shown = page.wait_for("document.querySelector('.node-help-content h1')?.parentElement.innerText")
    assert shown.startswith("MEMO Sampler")
    assert "Each clip sees the frames of the one before" in shown
    assert ours(page.errors) == []
