"""What cannot be used is refused, in words that name the input or the file, and ComfyUI continues."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from memo_modules.models.emotion_classifier import EmotionClassifier
from memo_modules.models.layers import Layers
from tests.helpers.graphs import Record, find, node, talking_portrait, to_file
from tools.comfyui_server import ServerError


def expect_error(server, kind: str, inputs: dict, message: str) -> None:
    """A node of class ``kind`` fails on ``inputs``, or is refused with them, in these words. A dict among them is the node that
    makes the value, and None is nothing connected."""
    prompt = graph_up_to(kind)
    given = prompt[find(prompt, kind)]["inputs"]
    for name, value in inputs.items():
        given.pop(name, None)
        if isinstance(value, dict):
            prompt[f"bad {name}"] = value
            given[name] = [f"bad {name}", 0]
        elif value is not None:
            given[name] = value
    with pytest.raises(ServerError) as error:
        server.run(prompt)
    said = str(error.value)
    if said.startswith("http"):  # refused before the run: "<url>: <status> <JSON>"
        refused = json.loads(said.split(" ", 2)[2])["node_errors"].values()
        said = "\n".join(f"execution error in {node['class_type']}: {fault['details']}" for node in refused for fault in node["errors"])
    assert re.search(f"execution error in {kind}: .*{message}", said), said


def image(shape: str, value: float = 0.5) -> dict:
    return node("HandMadeImage", shape=shape, value=value)


def audio(shape: str, value: str = "noise") -> dict:
    return node("HandMadeAudio", shape=shape, value=value, sample_rate=16000)


def graph_up_to(kind: str) -> dict:
    """The workflow on hand-made values, up to the node of that class. The tiny detector finds a face in the grey picture."""
    prompt = on_hand_made_values(talking_portrait())
    for output in ("SaveVideo", "CreateVideo"):
        del prompt[find(prompt, output)]
    return prompt | {"end": node("PreviewAny", source=[find(prompt, kind), 0])}


def graph_to_file(**inputs) -> dict:
    """The one that ends in MEMO Sample to File, with these inputs; a dict among them is the node that makes the value."""
    made = {name: value for name, value in inputs.items() if isinstance(value, dict)}
    return made | on_hand_made_values(to_file(talking_portrait(), **inputs | {name: [name, 0] for name in made}))


def on_hand_made_values(prompt: dict) -> dict:
    for kind, value in (("LoadImage", image("1 96 96 3")), ("LoadAudio", audio("1 1 8000"))):
        prompt[find(prompt, kind)] = value
    return prompt


def test_hand_made_values_are_fine(comfyui_server):
    """Or every error below could be theirs."""
    assert comfyui_server.run(graph_up_to("MemoSampler"))


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("MemoSeparateVocals", {"audio": audio("1 2 0")}, "audio is empty"),
        ("MemoSeparateVocals", {"audio": audio("1 2 8000", "nan")}, "audio: 16000 of 16000 samples are NaN"),
        ("MemoSeparateVocals", {"audio": audio("2 1 8000")}, "audio: waveform: expected one"),
        ("MemoEncodeAudio", {"audio": audio("1 1 0")}, "audio is empty"),
        ("MemoEncodeAudio", {"audio": audio("1 0 8000")}, "audio is empty"),
        ("MemoEncodeAudio", {"audio": audio("1 1 8000", "nan")}, "audio: 8000 of 8000 samples are NaN"),
        ("MemoEncodeAudio", {"audio": audio("1 1 8000", "inf")}, "audio: 8000 of 8000 samples are NaN or infinite"),
        ("MemoEncodeAudio", {"audio": audio("1 1 533")}, "audio is shorter than one frame: 533 samples at 16000 Hz"),
        ("MemoEncodeAudio", {"audio": audio("2 1 8000")}, "audio: waveform: expected one"),
        ("MemoDetectEmotion", {"audio": audio("1 1 0")}, "audio is empty"),
        ("MemoDetectEmotion", {"audio": audio("1 1 8000", "nan")}, "audio: 8000 of 8000 samples are NaN"),
        ("MemoDetectEmotion", {"audio": audio("1 1 100")}, "audio: .* too short"),
        ("MemoDetectEmotion", {"audio": audio("2 1 8000")}, "audio: waveform: expected one"),
        ("MemoDetectEmotion", {"emotion_source": "vocals", "vocals": None}, "vocals: .* nothing is connected"),
        ("MemoDetectEmotion", {"emotion_source": "vocals", "vocals": audio("1 1 0")}, "vocals is empty"),
        ("MemoDetectEmotion", {"emotion_source": "vocals", "vocals": audio("1 1 100")}, "vocals: .* too short"),
        ("MemoDetectEmotion", {"emotion_source": "vocals", "vocals": audio("3 1 8000")}, "vocals: waveform: expected one"),
        ("MemoEmbedFace", {"image": image("1 96 96 3", 0.0)}, "image: expected a face, found none in 96 x 96"),
        ("MemoEmbedFace", {"image": image("1 96 96 4")}, r"image: expected one RGB picture .* \[1, 96, 96, 4\]"),
        ("MemoEmbedFace", {"image": image("1 63 96 3")}, "image: expected at least 64 x 64 pixels, got 96 x 63"),
        ("MemoEmbedFace", {"image": image("2 96 96 3")}, "image: expected one picture, got a batch of 2"),
        ("MemoEmbedFace", {"index": 1}, r"index: expected 0 to 0, since the picture has 1 face, got 1"),
        ("MemoSampler", {"image": image("1 96 96 4")}, r"image: expected one RGB picture .* \[1, 96, 96, 4\]"),
        ("MemoSampler", {"image": image("1 96 40 3")}, "image: expected at least 64 x 64 pixels, got 40 x 96"),
        ("MemoSampler", {"image": image("2 96 96 3")}, "image: expected one picture, got a batch of 2"),
        ("MemoSampler", {"width": 100}, "width: expected a multiple of 8"),
        ("MemoSampler", {"vae": node("VAELoader", vae_name="pixel_space")}, "vae: expected a Stable Diffusion 1 VAE .* 3 channels"),
    ],
)
def test_bad_value_is_refused_by_name(comfyui_server, kind, inputs, message):
    expect_error(comfyui_server, kind, inputs, message)


NET = "diffusion_pytorch_model.safetensors"
VOCALS = "misc/vocal_separator/Kim_Vocal_2.onnx"
DETECTOR, RECOGNISER = (f"misc/face_analysis/models/{name}.onnx" for name in ("scrfd_10g_bnkps", "glintr100"))
CLASSIFIER = f"misc/audio_emotion_classifier/{NET}"
TINY, WAV2VEC2, EMOTION2VEC = "memo/tiny", "audio_encoders/wav2vec2-base-960h", "memo/emotion2vec_plus_large"


def remove(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("kind", "name", "folder", "file", "damage", "message"),
    [
        ("MemoLoadModel", "model", TINY, f"diffusion_net/{NET}", remove, " is missing"),
        ("MemoLoadModel", "model", TINY, "reference_net/config.json", remove, " is missing"),
        ("MemoLoadModel", "model", TINY, f"diffusion_net/{NET}", truncate, " cannot be read as model weights"),
        ("MemoLoadModel", "model", TINY, "diffusion_net/config.json", truncate, " is not readable as JSON"),
        ("MemoLoadModel", "model", TINY, f"reference_net/{NET}", f"diffusion_net/{NET}", " does not fit ReferenceNet: .* not of this model"),
        ("MemoLoadModel", "model", TINY, f"image_proj/{NET}", f"audio_proj/{NET}", " does not hold a ImageProjection"),
        ("MemoLoadVocalSeparator", "vocal_separator", TINY, VOCALS, truncate, " cannot be read as ONNX"),
        ("MemoLoadVocalSeparator", "vocal_separator", TINY, VOCALS, RECOGNISER, " is not an MDX vocal separator"),
        ("MemoLoadFaceAnalysis", "face_analysis", TINY, RECOGNISER, remove, " is missing"),
        ("MemoLoadFaceAnalysis", "face_analysis", TINY, DETECTOR, truncate, " cannot be opened as an ONNX model"),
        ("MemoLoadFaceAnalysis", "face_analysis", TINY, DETECTOR, RECOGNISER, ": expected a model for face detection"),
        ("MemoLoadAudioEncoder", "audio_encoder", WAV2VEC2, "model.safetensors", remove, " is missing"),
        ("MemoLoadAudioEncoder", "audio_encoder", WAV2VEC2, "model.safetensors", truncate, " cannot be read as model weights"),
        ("MemoLoadAudioEncoder", "audio_encoder", WAV2VEC2, "config.json", "preprocessor_config.json", ": model_type is None, expected 'wav2vec2'"),
        ("MemoLoadEmotionModel", "emotion2vec", EMOTION2VEC, "model.pt", truncate, " cannot be read as model weights"),
        ("MemoLoadEmotionModel", "classifier", TINY, CLASSIFIER, remove, " is missing"),
        ("MemoLoadEmotionModel", "classifier", TINY, CLASSIFIER, f"image_proj/{NET}", " is not an emotion classifier: 'layers.fc1"),
    ],
)
def test_bad_file_is_refused_by_name(comfyui_server, tiny_models, kind, name, folder, file, damage, message):
    """damage: what to do to the file, or another file of the folder to put in its place."""
    copy = comfyui_server.base / "models" / Path(folder).with_name("damaged")
    shutil.copytree(tiny_models / folder, copy)
    try:
        if callable(damage):
            damage(copy / file)
        else:
            shutil.copy(copy / damage, copy / file)
        expect_error(comfyui_server, kind, {name: "damaged"}, re.escape(str(copy / file)) + message)
    finally:
        shutil.rmtree(copy)


def test_an_emotion2vec_of_another_width_than_the_classifier_is_refused(comfyui_server, tiny_models):
    """As plus_base and plus_seed are; the tiny one has 128."""
    copy = comfyui_server.base / "models" / Path(TINY).with_name("damaged")
    shutil.copytree(tiny_models / TINY, copy)
    save_file(EmotionClassifier(Layers(), depth=2, width=8, d_in=64).state_dict(), copy / CLASSIFIER)
    try:
        message = r"model\.pt: expected 64 numbers per state, as .*damaged.* takes, got 128\. Use emotion2vec_plus_large"
        expect_error(comfyui_server, "MemoLoadEmotionModel", {"classifier": "damaged"}, message)
    finally:
        shutil.rmtree(copy)


HALF = "\ud83d"


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("MemoEmotionTimeline", {"timeline": f"0-1 {HALF}"}, 'timeline: "\\ud83d" in "0-1 \\ud83d" is not an emotion.'),
        ("MemoEmotionTimeline", {"timeline": f"{HALF}-1 sad"}, 'timeline: "\\ud83d" in "\\ud83d-1 sad" is not a time.'),
        ("MemoSampleToFile", {"filename_prefix": f"video/{HALF}"}, "in 'video/\\ud83d'."),
        ("MemoSampleToFile", {"filename_prefix": "video/\udcff"}, "in 'video/\\udcff'."),
        ("MemoLoadModel", {"model": f"tiny{HALF}"}, "is not among the models that were found"),
    ],
)
def test_half_an_emoji_does_not_end_comfyui(comfyui_server, kind, inputs, message):
    """In an error that is logged it would end the thread that runs prompts: nothing would run until a restart."""
    prompt = graph_to_file()
    if kind == "MemoEmotionTimeline":
        prompt = {"mood": node(kind, timeline=""), "end": node("PreviewAny", source=["mood", 0])}
    prompt[find(prompt, kind)]["inputs"] |= inputs
    with pytest.raises(ServerError, match=re.escape(message)):
        comfyui_server.run(prompt, timeout=120)
    working = {"mood": node("MemoSetEmotion", emotion="sad"), "end": node("PreviewAny", source=["mood", 0])}
    assert comfyui_server.run(working, timeout=120)


def test_a_broken_sound_is_refused_before_the_first_step(comfyui_server):
    record = Record()
    prompt = graph_to_file(filename_prefix="video/broken", sound=audio("1 1 8000", "nan"))
    with pytest.raises(ServerError, match="MemoSampleToFile: sound: 8000 of 8000 samples are NaN or infinite"):
        comfyui_server.run(prompt, record)
    assert find(prompt, "MemoSampleToFile") not in record.progress


def test_no_text_of_a_workflow_is_html_in_the_front_end(comfyui_server):
    """Front ends before 1.46 take what a node says for HTML, scripts and all."""
    prefix, record = "video/x<img src=x onerror=alert(1)>&amp;", Record()
    comfyui_server.run(graph_to_file(filename_prefix=prefix, sound=audio("1 1 8000", "32768"), codec="h264"), record)
    assert any("video/x‹img src=x onerror=alert(1)›＆amp;_0" in text for text in record.texts), record.texts
    assert any("is clipped in aac. Is it 16-bit integers" in text for text in record.texts), record.texts
    assert not [text for text in record.texts if set("<>&") & set(text)]


def test_a_link_that_leads_out_of_the_output_folder_is_called_one(comfyui_server, tmp_path):
    link, record = comfyui_server.base / "output" / "linked", Record()
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path, target_is_directory=True)
    try:
        with pytest.raises(ServerError, match="filename_prefix: 'linked' in ComfyUI's output folder is a link that leads out of it. Choose a folder"):
            comfyui_server.run(graph_to_file(filename_prefix="linked/video"), record)
    finally:
        link.unlink()
    assert list(tmp_path.iterdir()) == [] and not any(text.startswith("Clip") for text in record.texts)
