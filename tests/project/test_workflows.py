"""The workflow files: ComfyUI knows all that is in them, they agree with their API format, and they run."""

import json
import math
import re
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.helpers import ui_to_api
from tests.helpers.graphs import OF_OTHER_PACKS, SMALL, STAND_INS, WORKFLOWS, given, with_stand_in, write_portraits, write_wav
from tools.comfyui_server import ComfyUIServer
from tools.derived.workflows import APP, apps
from tools.tiny_picture_models import write_tiny_interpolator, write_tiny_upscaler

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
BLUEPRINT = ROOT / "subgraphs" / "MEMO Talking Portrait.json"
SAVED_BY = (0, 33)
CURRENT_VERSION = 0.4
ABSOLUTE_PATH = re.compile(r"(?<![\w./:])(/\w|~/|[A-Za-z]:[\\/]+\w)")
FILES = {
    "LoadImage": ["image"],
    "LoadAudio": ["audio"],
    "RecordAudio": ["audio"],
    "LoadImageTextDataSetFromFolder": ["folder"],
    "CheckpointLoaderSimple": ["ckpt_name"],
    **{kind: list(inputs) for kind, inputs in SMALL.items() if "Load" in kind},
}
"""Widgets that name a file: which ones there are is the user's matter."""
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
APPS = [file for file in WORKFLOWS if file.name.endswith(APP)]
RUN = [file for file in WORKFLOWS if file not in APPS]
"""Apps run as the graphs that they are made of."""
CHAINED = {"record_yourself", "part_of_a_recording", "smooth_60_fps", "folder_of_portraits"}
"""Whose videos are not as long as the audio of a loader, or are several: test_chained_workflows.py."""
each_of_core_nodes = pytest.mark.parametrize("file", [file for file in WORKFLOWS if file.stem not in OF_OTHER_PACKS], ids=lambda file: file.stem)


@pytest.fixture
def object_info(comfyui_server) -> dict:
    version = comfyui_server.get("/system_stats")["system"]["comfyui_version"]
    if tuple(map(int, version.split(".")[:2])) < SAVED_BY:
        pytest.skip(f"the files are saved by ComfyUI {SAVED_BY}, whose core nodes have other widgets than those of {version}")
    return comfyui_server.get("/object_info")


@pytest.fixture(scope="module")
def small_server(comfyui_path, tmp_path_factory):
    """A ComfyUI with the small model."""
    base = tmp_path_factory.mktemp("comfyui")
    write_tiny_upscaler(base / "models" / "upscale_models" / "tiny.safetensors")
    write_tiny_interpolator(base / "models" / "frame_interpolation" / "tiny.safetensors")
    write_portraits(base / "input", {"anna": ROOT / "assets" / "cartoon.png"})
    with ComfyUIServer(comfyui_path, base, ROOT / "assets" / "models") as server:
        server.add_input(ROOT / "assets" / "cartoon.png")
        yield server


def load(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def strings(value) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in strings(part)]
    return [value] if isinstance(value, str) else []


def allowed(widget: ui_to_api.Widget) -> bool:
    """Whether ComfyUI takes the value of a widget."""
    match widget.kind:
        case "INT" | "FLOAT":
            types = (int,) if widget.kind == "INT" else (int, float)
            return type(widget.value) in types and widget.options["min"] <= widget.value <= widget.options.get("max", math.inf)
        case "BOOLEAN" | "STRING":
            return isinstance(widget.value, bool if widget.kind == "BOOLEAN" else str)
    return widget.value in widget.choices


def test_other_packs_are_needed_where_the_name_says_so(object_info):
    unknown = {file.stem: {node["type"] for node in load(file)["nodes"]} - object_info.keys() - {*ui_to_api.NOTES} for file in WORKFLOWS}
    assert {name: types for name, types in unknown.items() if types} == OF_OTHER_PACKS


@each_workflow
def test_nodes_of_other_packs_say_which_pack_they_are_of(file):
    """By which the front end offers to install it."""
    for node in load(file)["nodes"]:
        if node["type"] in OF_OTHER_PACKS.get(file.stem, ()):
            assert {"cnr_id", "aux_id"} & node["properties"].keys(), node["type"]


@each_workflow
def test_stands_in_the_readme(file):
    assert f"](workflows/{file.name}) |" in (ROOT / "README.md").read_text(encoding="utf-8")


@each_workflow
def test_says_inside_what_it_does(file):
    [note] = [node for node in load(file)["nodes"] if node["type"] in ui_to_api.NOTES]
    assert "## Models" in note["widgets_values"][0] and "## What to change first" in note["widgets_values"][0]
    assert "`" not in note["widgets_values"][0], "Nodes 2.0 draws code grey on grey"


@pytest.mark.parametrize("file", [*WORKFLOWS, BLUEPRINT], ids=lambda file: file.stem)
def test_saved_in_the_current_format_without_private_paths(file):
    workflow = load(file)
    assert workflow["version"] == CURRENT_VERSION
    assert [text for text in strings(workflow) if ABSOLUTE_PATH.search(text)] == []


@pytest.mark.parametrize("text", ["/home/me/portrait.jpg", "see /etc", r"C:\me\portrait.jpg", "C:/me", "~/models"])
def test_private_paths_are_recognised(text):
    assert ABSOLUTE_PATH.search(text)


@each_workflow
def test_thumbnail_lies_beside(file):
    thumbnail = file.with_suffix(".jpg")
    assert thumbnail.stat().st_size < 100_000
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG" and picture.size == (512, 512)


@each_of_core_nodes
def test_converts_to_what_the_front_end_exported(file, object_info):
    assert ui_to_api.to_api(load(file), object_info) == load(file.parent / "api" / file.name)


def test_converter_agrees_with_the_front_end(object_info):
    # Saved and exported by the front end of 0.33: Reroutes, a muted node, a linked widget, a seed, a note, nested combos.
    case = load(Path(__file__).resolve().parents[1] / "helpers" / "ui_to_api_case.json")
    assert ui_to_api.to_api(case["workflow"], object_info) == case["prompt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": ui_to_api.BYPASSED}, "SaveVideo .* unknown or bypassed"),
        ({"type": "NoSuchNode"}, "NoSuchNode .* unknown or bypassed"),
        ({"widgets_values": ["video/MEMO", "auto"]}, "needs more"),
        ({"widgets_values": ["video/MEMO", "auto", "auto", "auto", 8]}, r"belong to no input: \[8\]"),
    ],
)
def test_converter_refuses_what_it_does_not_know(change, message, object_info):
    node = {"id": 1, "type": "SaveVideo", "mode": 0, "inputs": []} | change
    with pytest.raises(ValueError, match=message):
        ui_to_api.to_api({"nodes": [node], "links": []}, object_info)


@each_of_core_nodes
def test_widget_values_are_allowed(file, object_info):
    assert refused_values(load(file)["nodes"], object_info) == []


def refused_values(nodes: list[dict], object_info: dict) -> list:
    """The widget values of saved nodes that ComfyUI would not take."""
    found = [(node["type"], widget) for node in nodes if node["type"] not in ui_to_api.NOTES for widget in ui_to_api.widgets(node, object_info)]
    return [(kind, widget) for kind, widget in found if widget.name not in FILES.get(kind, ()) and not allowed(widget)]


def test_blueprint_is_one_box_with_all_of_the_talking_portrait_in_it(object_info, comfyui_server):
    blueprint = load(BLUEPRINT)
    [box], [graph] = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert box["type"] == graph["id"]
    assert [slot["name"] for slot in box["inputs"] if "widget" not in slot] == ["image", "audio"]
    assert "model" in {slot["name"] for slot in box["inputs"] if "widget" in slot}
    assert [(slot["name"], slot["type"]) for slot in box["outputs"]] == [("video", "VIDEO")]
    outside = {"LoadImage", "LoadAudio", "SaveVideo", *ui_to_api.NOTES}
    of_workflow = {node["type"] for node in load(FOLDER / "talking_portrait_all_nodes.json")["nodes"]} - outside - {"MemoLoadAll"}
    loaders = {"PrimitiveBoolean", *(kind for kind in SMALL if kind.startswith("MemoLoad") and kind != "MemoLoadAll")}
    assert {node["type"] for node in graph["nodes"]} == of_workflow | loaders | {"MemoCropPortrait"}
    assert refused_values(graph["nodes"], object_info) == []
    assert BLUEPRINT.stem in {entry["name"] for entry in comfyui_server.get("/global_subgraphs").values()}


_TRIED = {"MemoTalkingPortrait": {"seed": 7, "first_2_seconds": True, "quality": "draft", "allow_no_face": True, "crop_face": False}}
NOTED = {
    "crop_and_paste_back": [
        {
            "MemoCropPortrait": {"index": 1, "margin": 0.6},
            "MemoPasteBackToFile": {"feather": 0.3, "color_match": "off"},
            "MemoTalkingPortrait": {"steps": 10, "seed": 7, "crop_face": False},
        }
    ],
    "folder_of_portraits": [{"MemoTalkingPortrait": {"first_2_seconds": True}}],
    "emotion_timeline": [
        {"MemoEmotionTimeline": {"timeline": "0-2 neutral, 2-4 happy, 7.5- sad"}, "MemoTalkingPortrait": {"seed": 7}},
        {"MemoEmotionTimeline": {"emotion": None}},
    ],
    "long_video_to_file": [
        {"MemoSampleToFile": {"codec": "h264", "crf": 23, "output_fps": 25.0, "lead_in": 1.0}},
        {"MemoSampleToFile": {"codec": "ffv1", "output_fps": 0.0, "lead_in": 0.5}},
    ],
    "low_memory": [
        {"MemoSampleToFile": {"width": 384, "height": 384, "guidance_scale": 1.0, "steps": 1}, "MemoLoadModel": {"weight_dtype": "int8_scaled"}}
    ],
    "music_with_vocal_separation": [{"MemoDetectEmotion": {"emotion_source": source}} for source in ("audio", "vocals")],
    "part_of_a_recording": [
        {"TrimAudioDuration": {"start_index": 0.1, "duration": 0.3}, "MemoTalkingPortrait": {"seed": 7}},
        {"TrimAudioDuration": {"start_index": -0.2}},
    ],
    "record_yourself": [{"MemoTalkingPortrait": {"first_2_seconds": True, "seed": 7}}],
    "several_portraits_one_voice": [{"MemoTalkingPortrait": {"seed": 7}}],
    "smooth_60_fps": [
        {
            "MemoTalkingPortrait": {"fps": 25.0, "steps": 10, "seed": 7},
            "FrameInterpolate": {"multiplier": 4},
            "ComfyMathExpression": {"expression": "a * 4"},
        }
    ],
    "talking_portrait": [_TRIED],
    "talking_portrait.app": [_TRIED],
    "talking_portrait_all_nodes": [{"MemoSampler": {"steps": 10, "seed": 7}}],
    "text_to_portrait": [{"MemoTalkingPortrait": {"first_2_seconds": True, "seed": 7, "allow_no_face": True}}],
    "text_to_speech_fill_chatterbox": [{"MemoTalkingPortrait": {"seed": 7}}],
    "two_speakers_one_photo": [
        {"MemoCropPortrait": {"index": 1, "margin": 0.3}, "MemoTalkingPortrait": {"crop_face": False, "steps": 10, "seed": 7}}
    ],
    "upscale": [{"MemoTalkingPortrait": {"steps": 10, "seed": 7}}],
}
"""By workflow, the values to try that its note names, by class of node and input; None: unplugged."""


def test_apps_are_the_graphs_of_the_same_name():
    assert [file for file, _ in apps()] == APPS != []
    for file, made in apps():
        assert load(file) == made


@each_workflow
def test_every_input_that_a_note_names_is_tried(file):
    workflow = load(file)
    [note] = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in ui_to_api.NOTES]
    named = set(re.findall(r"\*\*(\w+)\*\*", note.partition("## What to change first")[2]))
    of_the_pack = [node for node in workflow["nodes"] if node["type"].startswith("Memo")]
    inputs = {name for node in of_the_pack for name in (*node.get("widgets_values_named", ()), *(slot["name"] for slot in node.get("inputs", ())))}
    tried = {name for values in NOTED.get(file.stem, ()) for inputs in values.values() for name in inputs}
    # sockets are not tried by a value
    assert sorted(named & inputs - {"image", "audio", "emotion", "state", "vocals"} - tried) == []


@pytest.fixture(scope="module")
def two_people(tmp_path_factory) -> Path:
    cartoon = Image.open(ROOT / "assets" / "cartoon.png").convert("RGB")
    photo = Image.new("RGB", (1200, 600), (90, 120, 150))
    photo.paste(cartoon.resize((330, 330)), (60, 180))
    photo.paste(cartoon.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((390, 390)), (700, 140))
    path = tmp_path_factory.mktemp("photo") / "two_people.png"
    photo.save(path)
    return path


@pytest.mark.slow  # as they are stored they run always
@pytest.mark.parametrize(
    ("file", "values"),
    [pytest.param(file, values, id=f"{file.stem} {number}") for file in RUN for number, values in enumerate(NOTED.get(file.stem, ()))],
)
def test_runs_with_what_its_note_says_to_change(file, values, object_info, small_server, two_people, tmp_path):
    sound = small_server.add_input(write_wav(tmp_path / "half_a_second.wav", 11729, 22050))
    picture = small_server.add_input(two_people) if file.stem in ("crop_and_paste_back", "two_speakers_one_photo") else "cartoon.png"
    prompt = with_stand_in(load(file.parent / "api" / file.name), file.stem)
    for node in prompt.values():
        for inputs in (SMALL | given(picture, sound), values):
            node["inputs"] |= inputs.get(node["class_type"], {})
        node["inputs"] = {name: value for name, value in node["inputs"].items() if value is not None}
    written = [
        entry
        for output in filter(None, small_server.run(prompt).values())
        for entry in output.get("images", ())
        if entry["filename"].endswith(".mp4")
    ]
    assert written


@pytest.mark.parametrize("file", [file for file in RUN if file.stem not in {*OF_OTHER_PACKS, *STAND_INS, *CHAINED}], ids=lambda file: file.stem)
def test_runs_to_videos_as_long_as_the_audio(file, object_info, small_server, two_people, tmp_path):
    samples, sample_rate, fps = 11729, 22050, 30
    sound = small_server.add_input(write_wav(tmp_path / "half_a_second.wav", samples, sample_rate))
    prompt = ui_to_api.to_api(load(file), object_info)
    voices = sum(node["class_type"] == "LoadAudio" for node in prompt.values())  # one after the other
    photo = "cartoon.png" if voices == 1 else small_server.add_input(two_people)
    inputs = SMALL | given(photo, sound)
    for node in prompt.values():
        node["inputs"] |= inputs.get(node["class_type"], {})
    written = [
        entry
        for output in filter(None, small_server.run(prompt).values())
        for entry in output.get("images", ())
        if entry["filename"].endswith(".mp4")
    ]
    assert len(written) == sum(node["class_type"] == "LoadImage" for node in prompt.values())
    for entry in written:
        with av.open(str(small_server.output_file(entry))) as video:
            [picture], [sound] = video.streams.video, video.streams.audio
            seconds = [stream.duration * stream.time_base for stream in (picture, sound)]
            frames = sum(1 for _ in video.decode(picture))
        assert frames == ceil(Fraction(voices * samples * fps, sample_rate))
        assert abs(seconds[0] - seconds[1]) < Fraction(1, fps)


def test_nodes_that_keep_their_values_by_name_say_them_as_the_api_file_does():
    """Video Helper Suite's; in a list the front end takes them one by one, and its own names were values once."""
    [combine] = [node for node in load(FOLDER / "save_with_video_helper_suite.json")["nodes"] if node["type"] == "VHS_VideoCombine"]
    [sent] = [node for node in load(FOLDER / "api" / "save_with_video_helper_suite.json").values() if node["class_type"] == "VHS_VideoCombine"]
    linked = {name: value for name, value in sent["inputs"].items() if isinstance(value, list)}
    assert combine["widgets_values"] | linked == sent["inputs"]
