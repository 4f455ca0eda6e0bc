"""The published workflow in the real front end: dropped onto the canvas, and run with the Run button."""

import json
from pathlib import Path

import pytest

from comfyui_memo.tests.comfyui.graphs import write_wav

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "talking_portrait.json"

pytestmark = pytest.mark.browser

SOUND = "half_a_second.wav"
SMALL = {
    "LoadAudio": {"audio": SOUND},
    "MemoLoadVAE": {"vae": "sd-vae-ft-mse"},
    "MemoSampler": {"width": 64, "height": 64, "steps": 1},
}


def test_dropped_workflow_loads_complete(page):
    page.drop_workflow(WORKFLOW)
    page.wait_for("document.body.innerText.includes('talking_portrait')")
    assert page.evaluate("app.graph.nodes.length") == len(json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"])
    assert page.unknown_nodes() == []
    assert page.prompt() == json.loads((WORKFLOW.parent / "api" / WORKFLOW.name).read_text(encoding="utf-8"))
    assert page.complaints() == 0
    assert page.own_errors() == []


def test_missing_node_would_be_seen(page, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(WORKFLOW.read_text(encoding="utf-8").replace('"MemoEmbedFace"', '"MemoNoSuchNode"'), encoding="utf-8")
    page.drop_workflow(broken)
    assert page.complaints() == 2
    assert page.unknown_nodes() == ["MemoNoSuchNode"]


def test_run_button_makes_a_video_that_plays(page, server, tmp_path):
    server.add_input(write_wav(tmp_path / SOUND, 12000, 24000))
    page.drop_workflow(WORKFLOW)
    page.set_widgets(SMALL)
    page.run()
    page.wait_for("document.querySelector('video')?.readyState > 0")
    size, seconds = page.evaluate("(video => [[video.videoWidth, video.videoHeight], video.duration])(document.querySelector('video'))")
    assert size == [64, 64]
    assert seconds == pytest.approx(0.5, abs=1 / 30)
    assert page.own_errors() == []
