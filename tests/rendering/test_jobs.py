"""Jobs: their settings by our names and the reference's, manifests, and what tells one from another."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from memo_modules.errors import InputError
from memo_modules.rendering.jobs import Job, make_job, models_digest, read_defaults, read_manifest

REFERENCE_YAML = """
resolution: 512
num_generated_frames_per_clip: 16
fps: 30
num_init_past_frames: 16
num_past_frames: 16
inference_steps: 20
cfg_scale: 3.5
enable_xformers_memory_efficient_attention: true
"""


def job(**values) -> Job:
    return make_job({"image": "me.png", "audio": "voice.wav", **values}, Path("/data"), "line 1")


def test_defaults_are_those_of_the_nodes_and_of_the_reference(tmp_path):
    path = tmp_path / "inference.yaml"
    path.write_text(REFERENCE_YAML, encoding="utf-8")
    assert job(**read_defaults(path)) == job() == Job(Path("/data/me.png"), Path("/data/voice.wav"), "me_voice.mp4")


def test_bounds_are_those_of_the_nodes():
    schemas = json.loads((Path(__file__).resolve().parents[1] / "node_schemas.json").read_text(encoding="utf-8"))
    inputs = {}
    for node in ("MemoSampleToFile", "MemoEncodeAudio", "MemoCropPortrait", "MemoEmbedFace"):
        inputs |= {each["name"]: each for each in _inputs(schemas[node])}
    checked = 0
    for each in fields(Job):
        bounds = inputs.get(each.name, {})
        if "min" in bounds and each.type in (int, float):
            for value in (bounds["min"], bounds["max"]):
                if each.name not in ("width", "height"):  # which go together with crop
                    assert getattr(job(**{each.name: value}), each.name) == value
            for value in (bounds["min"] - 1, bounds["max"] + 8):
                with pytest.raises(InputError, match=f"line 1: {each.name}: expected"):
                    job(**{each.name: value})
            checked += 1
    assert checked >= 10


def _inputs(schema) -> list[dict]:
    """Every input of a node in the snapshot, with its name and options."""
    found = []

    def look(value, name=None):
        if isinstance(value, dict):
            if name is not None and "min" in value:
                found.append({"name": name, **value})
            for key, part in value.items():
                look(part, key)
        elif isinstance(value, list):
            for part in value:
                look(part, name)

    look(schema)
    return found


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step": 20}, "step: no such setting. Known here: image, audio, output, width"),
        ({"steps": "many"}, "steps: expected a whole number, got 'many'"),
        ({"steps": True}, "steps: expected a whole number, got True"),
        ({"guidance_scale": float("nan")}, "guidance_scale: expected 0.0 to 100.0, got nan"),
        ({"width": 500}, "width: expected 64 to 2048, a multiple of 8, got 500"),
        ({"emotion": "hungry"}, "emotion: expected one of angry, disgusted"),
        ({"timeline": "0-3 hungry"}, "timeline: "),
        ({"codec": "vp9"}, "codec"),
        ({"crop": True, "width": 512, "height": 256}, "crop: expected a square of a multiple of 64 pixels, got 512 x 256"),
        ({"output": "../me.mp4"}, "output: expected a name inside the folder of the results"),
        ({"output": "/me.mp4"}, "output: expected a name inside the folder of the results"),
        ({"output": "me.avi"}, "output: expected a name that ends in .mp4"),
        ({"image": ""}, "image: expected a file, got ''"),
        ({"num_past_frames": 8}, "num_past_frames: expected 16, which the nets were trained for, got 8"),
    ],
)
def test_what_no_node_would_take_is_refused_by_its_name(values, words):
    with pytest.raises(InputError) as raised:
        job(**values)
    assert str(raised.value).startswith(f"line 1: {words}")


def test_a_manifest_is_json_lines_or_csv_and_says_the_same(tmp_path):
    lines = [
        {"image": "a.png", "audio": "b.wav", "steps": 5, "guidance_scale": 2.0, "separate": False, "emotion": "sad", "output": "x/1.mp4"},
        {"input_image": "sub/c.png", "input_audio": "b.wav", "cfg_scale": 4, "output": "2.mp4"},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    header = ["image", "audio", "steps", "guidance_scale", "separate", "emotion", "output"]
    rows = [header, ["a.png", "b.wav", "5", "2.0", "FALSE", "sad", "x/1.mp4"], ["sub/c.png", "b.wav", "", "4", "", "", "2.mp4"]]
    (tmp_path / "jobs.csv").write_text("\ufeff" + "\r\n".join(map(",".join, rows)), encoding="utf-8")
    found = [[each for _, each in read_manifest(tmp_path / name, {"seed": 7})] for name in ("jobs.jsonl", "jobs.csv")]
    first = Job(tmp_path / "a.png", tmp_path / "b.wav", "x/1.mp4", steps=5, guidance_scale=2.0, seed=7, separate=False, emotion="sad")
    second = Job(tmp_path / "sub" / "c.png", tmp_path / "b.wav", "2.mp4", guidance_scale=4.0, seed=7)
    assert found == [[first, second]] * 2


def test_a_bad_line_is_bad_alone(tmp_path):
    lines = ['{"image": "a.png", "audio": "b.wav"}', "{", "[1]", '{"image": "a.png", "audio": "c.wav", "steps": 0}', '{"audio": "d.wav"}']
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = dict(read_manifest(tmp_path / "jobs.jsonl", {}))
    assert isinstance(found["line 1"], Job)
    assert {where: str(fault).split(" (")[0] for where, fault in found.items() if where != "line 1"} == {
        "line 2": "line 2: expected a JSON object",
        "line 3": "line 3: expected a JSON object, got [1].",
        "line 4": "line 4: steps: expected 1 to 1000, got 0.",
        "line 5": "line 5: image: expected a file, got None.",
    }


def test_two_lines_never_make_the_same_file(tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"image": "a.png", "audio": "b.wav"}\n{"image": "A.png", "audio": "b.wav", "seed": 3}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"line 1 and line 2 both make A_b\.mp4\. Give each its own output"):
        read_manifest(tmp_path / "jobs.jsonl", {})


def test_a_job_is_told_by_content_settings_and_models(tmp_path):
    for name, content in (("a.png", b"1"), ("copy.png", b"1"), ("b.png", b"2"), ("v.wav", b"3")):
        (tmp_path / name).write_bytes(content)
    first = Job(tmp_path / "a.png", tmp_path / "v.wav", "x.mp4")
    assert first.key("m") == replace(first, image=tmp_path / "copy.png", memory_mode="low").key("m")
    others = [first.key("n"), replace(first, image=tmp_path / "b.png").key("m"), replace(first, output="y.mp4").key("m")]
    others += [replace(first, **{name: value}).key("m") for name, value in (("steps", 3), ("seed", 1), ("emotion", "sad"), ("crf", 20))]
    assert len({first.key("m"), *others}) == 8
    with pytest.raises(InputError, match="image: .*gone.png cannot be read"):
        replace(first, image=tmp_path / "gone.png").key("m")


def test_models_are_told_by_what_is_in_them_wherever_they_lie(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(bytes(1_000_000))
    changed = tmp_path / "c" / "weights"
    content = bytearray(changed.read_bytes())
    content[500_000:600_000] = b"x" * 100_000
    changed.write_bytes(content)
    a, b, c = (models_digest([tmp_path / folder]) for folder in "abc")
    assert a == b != c and models_digest([tmp_path / "a"], dtype="bf16") != a
