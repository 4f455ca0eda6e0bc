"""Emotion by hand and heard, in a running ComfyUI: what goes to the sampler, and the pictures that the nodes show."""

from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image

from memo_modules.types import EMOTIONS
from tests.helpers.graphs import node, write_wav
from tools.comfyui_server import ServerError

LABEL = EMOTIONS.index
WEB = Path(__file__).resolve().parents[2] / "web"
SERVED = "/extensions/ComfyUI-MEMO"


def graph(sound: str, timeline: str, **inputs) -> dict:
    return {
        "sound": node("LoadAudio", audio=sound),
        "model": node("MemoLoadEmotionModel", emotion2vec="emotion2vec_plus_large", classifier="tiny", download=False),
        "heard": node("MemoDetectEmotion", emotion_model=["model", 0], audio=["sound", 0], emotion_source="audio"),
        "timeline": node("MemoEmotionTimeline", timeline=timeline, **inputs),
        "track": node("PreviewAny", source=["timeline", 0]),
        "heard track": node("PreviewAny", source=["heard", 0]),
    }


@pytest.fixture
def sound(comfyui_server, tmp_path) -> str:
    return comfyui_server.add_input(write_wav(tmp_path / "four_seconds.wav", 4 * 22050, 22050))


def test_hand_over_heard_and_both_are_shown(comfyui_server, sound):
    outputs = comfyui_server.run(graph(sound, "0:01-2.5 happy, 3.5- sad", emotion=["heard", 0], audio=["sound", 0]))
    [track], [heard] = outputs["track"]["text"], outputs["heard track"]["text"]
    first, _, third, fourth = heard.partition("labels=(")[2].split(")")[0].split(", ")
    assert heard.startswith("EmotionTrack(starts=(0, 16000, 32000, 48000), ")
    assert track.startswith(
        f"EmotionTrack(starts=(0, 16000, 40000, 48000, 56000), labels=({first}, {LABEL('happy')}, {third}, {fourth}, {LABEL('sad')}), "
    )
    assert track.endswith("samples=64000, sample_rate=16000)")
    pictures = []
    for name in ("heard", "timeline"):
        [entry] = outputs[name]["images"]
        assert entry["type"] == "temp"
        with Image.open(comfyui_server.output_file(entry)) as picture:
            assert (picture.size, picture.text) == ((720, 314), {})
            pictures.append(picture.tobytes())
    assert pictures[0] != pictures[1]


def test_a_timeline_needs_nothing_else(comfyui_server, sound):
    prompt = {name: part for name, part in graph(sound, "2- surprised").items() if name in ("timeline", "track")}
    [track] = comfyui_server.run(prompt)["track"]["text"]
    assert (
        track
        == f"EmotionTrack(starts=(0, 32000), labels=({LABEL('neutral')}, {LABEL('surprised')}), probabilities=None, samples=0, sample_rate=16000)"
    )


def test_a_bad_timeline_says_what_is_wrong(comfyui_server, sound):
    with pytest.raises(ServerError, match='MemoEmotionTimeline: timeline: "hapy" in "0-3 hapy" is not an emotion. Did you mean happy?'):
        comfyui_server.run(graph(sound, "0-3 hapy"))


def test_the_editor_and_the_help_are_served(comfyui_server):
    assert f"{SERVED}/emotion_timeline.js" in comfyui_server.get("/extensions")
    for file in (
        "emotion_timeline.js",
        "emotion_timeline.css",
        "timeline_editor.js",
        "timeline_edits.js",
        "timeline_grammar.js",
        "docs/MemoEmotionTimeline.md",
    ):
        with urlopen(f"{comfyui_server.url}{SERVED}/{file}") as answer:
            assert answer.read() == (WEB / file).read_bytes()
