"""scripts/render.py as a user runs it, on the tiny checkpoint."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from memo_modules.errors import InputError
from memo_modules.rendering.renderer import Models
from scripts import render
from tests.helpers.graphs import PORTRAIT, write_wav

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = (
    "resolution: 64\ninference_steps: 1\ncfg_scale: 1.0\nnum_past_frames: 16\nweight_dtype: fp32\nmodel_name_or_path: memoavatar/memo\nvae: x\n"
)


@pytest.fixture
def inputs(tmp_path) -> Path:
    shutil.copy(PORTRAIT, tmp_path / "me.jpg")
    write_wav(tmp_path / "voice.wav", 4000, 16000)
    (tmp_path / "inference.yaml").write_text(REFERENCE, encoding="utf-8")
    lines = [{"image": "me.jpg", "audio": "voice.wav", "output": f"{seed}.mp4", "seed": seed} for seed in range(2)]
    lines.append({"image": "me.jpg", "audio": "gone.wav"})
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"image": "me.jpg"}]), encoding="utf-8")
    return tmp_path


def run(models: Path, *arguments: object) -> int:
    common = ("--models", models, "--checkpoint", "tiny", "--device", "cpu", "--emotion", "sad", "--separate", "false")
    return render.main([*map(str, (*arguments, *common))])


def test_a_manifest_is_rendered_and_then_there_is_nothing_to_do(tiny_models, inputs, capsys, monkeypatch):
    arguments = (inputs / "jobs.jsonl", "--output", inputs / "out", "--config", inputs / "inference.yaml")
    assert run(tiny_models, *arguments, "--json") == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event.get("output")) for event in events if event["event"] in ("done", "failed")] == [
        ("failed", "me_gone.mp4"),
        ("failed", "line 4"),
        ("done", "0.mp4"),
        ("done", "1.mp4"),
    ]
    last = events[-1]
    assert (last["jobs_done"], last["jobs_failed"], last["jobs_left"], last["frames_made"]) == (2, 2, 0, 16)
    assert {path.name for path in (inputs / "out").iterdir()} == {"0.mp4", "1.mp4", "done.jsonl", "failed.jsonl", ".memo_render"}
    monkeypatch.setattr(Models, "load", lambda self, device: pytest.fail("nothing is left to do"))
    manifest = (inputs / "jobs.jsonl").read_text(encoding="utf-8").splitlines()[:2]
    (inputs / "jobs.jsonl").write_text("\n".join(manifest), encoding="utf-8")
    assert run(tiny_models, *arguments) == 0
    out = capsys.readouterr().out
    assert "2 videos in" in out and "failed, see" not in out
    assert (inputs / "out" / "failed.jsonl").read_text(encoding="utf-8") == "", "lines that were mended are forgotten"


def test_the_arguments_of_the_reference_make_a_video_in_its_folder(tiny_models, inputs):
    arguments = ("--input_image", inputs / "me.jpg", "--input_audio", inputs / "voice.wav", "--output_dir", inputs / "videos", "--seed", 7)
    assert run(tiny_models, *arguments, "--config", inputs / "inference.yaml") == 0
    [line] = map(json.loads, (inputs / "videos" / "done.jsonl").read_text(encoding="utf-8").splitlines())
    assert line["output"] == "me_voice.mp4" and (inputs / "videos" / "me_voice.mp4").is_file()


def test_inputs_and_videos_may_lie_in_an_object_store(tiny_models, inputs, capsys):
    fsspec.filesystem("memory").put_file(str(inputs / "voice.wav"), "/store/voice.wav")
    arguments = ("--image", inputs / "me.jpg", "--audio", "memory://store/voice.wav", "--output", inputs / "out", "--upload", "memory://store/videos")
    assert run(tiny_models, *arguments, "--config", inputs / "inference.yaml") == 0
    assert fsspec.filesystem("memory").exists("/store/videos/me_voice.mp4") and not list((inputs / "out").glob("*.mp4"))
    assert "1 videos in memory://store/videos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "many"), "--steps: expected int, got 'many'"),
        (("--steps", "0"), "this job: steps: expected 1 to 1000, got 0"),
        (("--lora", "gone.safetensors"), "gone.safetensors is missing"),
    ],
)
def test_what_no_job_can_be_made_with_is_said_first(tiny_models, inputs, arguments, words):
    with pytest.raises((InputError, ValueError), match=words):
        run(tiny_models, "--image", inputs / "me.jpg", "--audio", inputs / "voice.wav", "--output", inputs / "x.mp4", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("jobs.jsonl", "--image", "a.png", "--audio", "b.wav"),
        ("--image", "a.png"),
        ("jobs.jsonl", "--workers", "0"),
        ("jobs.jsonl", "--ray-models", "m"),
    ],
)
def test_arguments_that_say_too_little_or_too_much_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        render.parse_arguments([*arguments, "--output", "x"])
    assert "expected" in capsys.readouterr().err
