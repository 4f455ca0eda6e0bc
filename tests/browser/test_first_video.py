"""From an empty canvas to a video, counted in clicks, by somebody whose models have other names than the published ones, or who has none."""

import json
import shutil

import pytest

from tools.chromium import PageError
from tools.make_tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.browser

SMALLEST = {"MemoTalkingPortrait": {"resolution": 64, "steps": 1, "first_2_seconds": True}}
"""So that the test does not take long; nobody has to set it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    write_tiny_checkpoint(base / "models", "finetuned")
    shutil.rmtree(base / "models" / "memo" / "finetuned_two_faces")  # or there would be a choice
    return base


def test_four_clicks_with_models_of_other_names(page, clicks):
    page.open_template("talking_portrait")
    page.set_widgets(SMALLEST)
    page.run()
    page.wait_for("document.querySelector('video')?.readyState > 0")
    assert len(clicks) == 4
    assert "'memo' is not there, 'finetuned' is used instead." in page.evaluate("document.body.innerText")
    assert page.own_errors() == []


def test_without_models_one_message_names_all_and_how_large_they_are(page, base, clicks):
    for folder in ("memo", "audio_encoders"):  # which the other renderer has done before
        shutil.rmtree(base / "models" / folder, ignore_errors=True)
    page.open_template("talking_portrait")
    with pytest.raises(PageError) as failed:
        page.run()
    assert len(clicks) == 4
    said = json.loads(str(failed.value))["detail"]["exception_message"]
    assert "6 models are not there" in said and "(10.3 GB)" in said and "Switch on download (13.0 GB)" in said


MARK = "(10.3 GB to download)"
LABEL = """(() => {
    const node = app.graph.nodes.find(({ type }) => type === "MemoLoadAll"), widget = node.widgets.find(({ name }) => name === "model")
    return LiteGraph.vueNodesMode ? document.querySelector(`[data-node-id="${node.id}"]`).innerText : widget._displayValue
})()"""


def test_a_list_says_what_is_not_on_the_disk(page, server, base):
    shutil.rmtree(base / "models" / "memo", ignore_errors=True)
    page.open_template("talking_portrait")
    page.evaluate("app.refreshComboInNodes()")  # R, after what the other renderer left
    page.wait_for(f"{LABEL}.includes('↓ memo {MARK}')")
    assert page.prompt()["3"]["inputs"]["model"] == "memo", "the mark is not part of the name"
    write_tiny_checkpoint(base / "models", "memo")
    page.evaluate("app.refreshComboInNodes()")
    page.wait_for(f"{LABEL}.includes('memo') && !{LABEL}.includes('{MARK}')")
