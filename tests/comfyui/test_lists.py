"""Lists of portraits: the good ones are kept when one fails, which one it was is said before the first is sampled, and nothing is sampled twice."""

import io

import pytest
from PIL import Image

from tests.helpers.graphs import LOADED, Record, find, node, saving_frames, talking_portrait, to_file
from tools.comfyui_server import ServerError

NO_FACE = r"image: expected a face, found none in 96 x 96 pixels."
VOICE = node("HandMadeAudio", shape="1 1 9600", sample_rate=16000, value="noise")


def graph(values: str, audio: dict = VOICE, **inputs) -> dict:
    """Talking portraits, one for each value of grey; in black the tiny detector finds no face."""
    settings = {"resolution": 64, "fps": 30.0, "steps": 2, "guidance_scale": 1.0, "seed": 7}
    return {
        "audio": audio,
        "images": node("HandMadeImages", shape="1 96 96 3", values=values),
        "models": node("MemoLoadAll", **LOADED),
        "portrait": node("MemoTalkingPortrait", models=["models", 0], image=["images", 0], audio=["audio", 0], **settings | inputs),
        "video": node("SaveVideo", video=["portrait", 2], filename_prefix="video/list", format="auto", codec="auto"),
        "rate": node("PreviewAny", source=["portrait", 1]),
    }


def kept(server) -> list:
    return sorted((server.base / "temp" / "memo_unfinished").glob("talking_portrait-*"))


def test_the_good_ones_are_kept_and_not_sampled_twice(comfyui_server):
    events, record = [], Record()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress" and data["node"] == "portrait":
            events.append("a step")
        if kind == "progress_text":
            events.append(data["text"])
        record(kind, data)

    outputs = comfyui_server.run(graph("0.4 0.5 0.0 0.6"), listen)
    sentence = f"item 3 of 4: {NO_FACE}"
    assert len(outputs["video"]["images"]) == 3
    assert len(outputs["portrait"]["images"]) == 3 and len(outputs["rate"]["text"]) == 3
    [said] = outputs["portrait"]["text"]
    assert said.startswith(sentence) and said.endswith("It is left out.")
    sampled = [k for k, event in enumerate(events) if event.startswith("Clip 1 of 2")]
    assert next(k for k, event in enumerate(events) if sentence in event) < sampled[0] and len(sampled) == 3
    assert sentence in events[sampled[-1]], "it stays in the node"
    assert len(kept(comfyui_server)) == 3

    again = Record()
    outputs = comfyui_server.run(graph("0.4 0.5 0.55 0.6"), again)
    assert len(outputs["video"]["images"]) == 4 and "text" not in outputs["portrait"]
    assert [text[:11] for text in again.texts if text.startswith("Clip")] == ["Clip 1 of 2", "Clip 2 of 2"]
    assert kept(comfyui_server) == []


@pytest.mark.slow
def test_what_was_kept_is_what_would_be_sampled(comfyui_server):
    frames = {"frames": node("SaveImage", images=["portrait", 0], filename_prefix="list")}
    comfyui_server.run(graph("0.45 0.0") | frames)
    first = comfyui_server.run(graph("0.45 0.55") | frames)["frames"]["images"]
    alone = comfyui_server.run(graph("0.45") | frames)["frames"]["images"]
    assert len(first) == 2 * len(alone) == 36
    read = [[comfyui_server.output_file(entry).read_bytes() for entry in entries[:18]] for entries in (first, alone)]
    assert [_pixels(one) for one in read[0]] == [_pixels(one) for one in read[1]]


def _pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def test_a_single_portrait_fails_as_ever(comfyui_server):
    with pytest.raises(ServerError, match=f"MemoTalkingPortrait: {NO_FACE}"):
        comfyui_server.run(graph("0.0"))


def test_where_none_is_good_all_are_named(comfyui_server):
    with pytest.raises(ServerError, match=f"item 1 of 2: {NO_FACE}.* item 2 of 2: {NO_FACE}"):
        comfyui_server.run(graph("0.0 0.0"))


def test_a_sound_that_all_of_them_have_is_refused_before_the_first_is_sampled(comfyui_server):
    record = Record()
    broken = node("HandMadeAudio", shape="1 1 9600", sample_rate=16000, value="nan")
    with pytest.raises(ServerError, match="item 1 of 2: audio: 9600 of 9600 samples are NaN"):
        comfyui_server.run(graph("0.4 0.5", broken), record)
    assert "portrait" not in record.progress


def file_graph(values: str, **inputs) -> dict:
    """The same with MEMO Sample to File; a picture of NaN is refused."""
    prompt = to_file(talking_portrait(), filename_prefix="video/list_of_files", codec="h264", **inputs)
    prompt["images"] = node("HandMadeImages", shape="1 96 96 3", values=values)
    prompt["one"] = node("HandMadeImage", shape="1 96 96 3", value=0.5)
    prompt[find(prompt, "LoadAudio")] = VOICE
    prompt[find(prompt, "MemoEmbedFace")]["inputs"]["image"] = ["one", 0]
    prompt[find(prompt, "MemoSampleToFile")]["inputs"]["image"] = ["images", 0]
    return prompt


@pytest.mark.slow
def test_files_of_the_good_ones_are_kept_and_not_made_twice(comfyui_server):
    def files(prompt: dict, listener: Record) -> dict[str, bytes]:
        outputs = comfyui_server.run(prompt, listener)[find(prompt, "MemoSampleToFile")]
        assert outputs["animated"] == [True]
        return {entry["filename"]: comfyui_server.output_file(entry).read_bytes() for entry in outputs["images"]}

    def left() -> list:
        return sorted((comfyui_server.base / "output" / "memo_unfinished").glob("video_list_of_files-*"))

    record = Record()
    first = files(file_graph("0.4 0.5 nan 0.6"), record)
    assert len(first) == 3 and len(left()) == 3
    sampled = [k for k, text in enumerate(record.texts) if text.startswith("Clip 1 of 2")]
    sentence = next(k for k, text in enumerate(record.texts) if text.startswith("item 3 of 4: image: "))
    assert len(sampled) == 3 and sentence < sampled[0], "it is refused before the first is sampled"

    again = Record()
    second = files(file_graph("0.4 0.5 0.55 0.6"), again)
    assert sum(text.startswith("Clip 1 of 2") for text in again.texts) == 1
    assert len(second) == 4 and first.items() <= second.items() and left() == []

    louder = file_graph("0.4 nan")
    files(louder, Record())
    louder["louder"] = VOICE | {"inputs": VOICE["inputs"] | {"value": "0.5"}}
    louder[find(louder, "MemoSampleToFile")]["inputs"]["sound"] = ["louder", 0]
    record = Record()
    [(name, _)] = files(louder, record).items()
    assert name not in second and not any(text.startswith("Clip") for text in record.texts), "joined anew, with the other sound"
    louder["images"] = file_graph("0.4")["images"]
    assert list(files(louder, Record())) == [name] and left() == [], "it is the video that was made"


SHORT = node("HandMadeAudio", shape="1 1 4800", sample_rate=16000, value="noise")
"""A voice of one clip."""


def through_embed_face(values: str) -> dict:
    """The same, with the list going through MEMO Embed Face, too."""
    prompt = file_graph(values)
    prompt[find(prompt, "HandMadeAudio")] = SHORT
    prompt[find(prompt, "MemoEmbedFace")]["inputs"]["image"] = ["images", 0]
    prompt[find(prompt, "MemoSampleToFile")]["inputs"]["guidance_scale"] = 1.0
    return prompt


def test_a_portrait_without_a_face_is_left_out_by_single_nodes(comfyui_server):
    record = Record()
    prompt = through_embed_face("0.4 0.5 0.0 0.6")
    outputs = comfyui_server.run(prompt, record)
    ends, face = outputs[find(prompt, "MemoSampleToFile")], outputs[find(prompt, "MemoEmbedFace")]
    assert len(ends["images"]) == 3 and sum(text.startswith("Clip 1 of 1") for text in record.texts) == 3
    assert face["text"][0].startswith(f"item 3 of 4: {NO_FACE[:-1]}") and ends["text"][0].startswith(f"item 3 of 4: MEMO Embed Face: {NO_FACE[:-1]}")

    again = Record()
    prompt = through_embed_face("0.4 0.5 0.55 0.6")
    assert len(comfyui_server.run(prompt, again)[find(prompt, "MemoSampleToFile")]["images"]) == 4
    assert sum(text.startswith("Clip 1 of 1") for text in again.texts) == 1, "nothing is sampled twice"


def cropped(values: str) -> dict:
    """Portraits cut out, and frames put back in their photos, which a node does that gets one item after the other."""
    faces = {"faces": node("MemoLoadFaceAnalysis", face_analysis="tiny"), "images": node("HandMadeImages", shape="1 96 96 3", values=values)}
    crop = node("MemoCropPortrait", face_analysis=["faces", 0], image=["images", 0], index=0, margin=0.4, size=64)
    back = node("MemoPasteBack", photo=["images", 0], images=["crop", 0], crop=["crop", 1], feather=0.1, color_match="off")
    return faces | {"crop": crop, "back": back, "frames": node("SaveImage", images=["back", 0], filename_prefix="list")}


def test_the_first_of_a_list_is_left_out_and_the_others_keep_their_pairs(comfyui_server):
    outputs = comfyui_server.run(cropped("0.0 0.4 0.6"))
    assert outputs["crop"]["text"][0].startswith(f"item 1 of 3: {NO_FACE[:-1]}") and len(outputs["crop"]["images"]) == 2
    corners = [Image.open(comfyui_server.output_file(entry)).getpixel((0, 0))[0] for entry in outputs["frames"]["images"]]
    assert corners == [102, 153], "each in its own photo"


def frames_graph(values: str) -> dict:
    """A list of pictures through MEMO Sampler; one of NaN is refused."""
    prompt = saving_frames(talking_portrait(MemoSampler={"guidance_scale": 1.0}))
    prompt[find(prompt, "LoadAudio")] = SHORT
    prompt[find(prompt, "LoadImage")] = node("HandMadeImage", shape="1 96 96 3", value=0.5)
    prompt["images"] = node("HandMadeImages", shape="1 96 96 3", values=values)
    prompt[find(prompt, "MemoSampler")]["inputs"]["image"] = ["images", 0]
    return prompt


def test_the_sampler_keeps_the_good_ones_and_samples_none_twice(comfyui_server):
    def frames(values: str, listener: Record) -> tuple[list[bytes], dict]:
        outputs = comfyui_server.run(frames_graph(values), listener)
        return [_pixels(comfyui_server.output_file(entry).read_bytes()) for entry in outputs["frames"]["images"]], outputs

    def left() -> list:
        return sorted((comfyui_server.base / "temp" / "memo_unfinished").glob("sampler-*"))

    record, again = Record(), Record()
    first, outputs = frames("0.4 nan 0.6", record)
    [said] = outputs[find(frames_graph(""), "MemoSampler")]["text"]
    assert said.startswith("item 2 of 3: image: some values are NaN") and said.endswith("It is left out.")
    assert len(first) == 18 and len(left()) == 2 and sum(text.startswith("Clip 1 of 1") for text in record.texts) == 2
    sentence = next(k for k, text in enumerate(record.texts) if text.startswith("item 2 of 3: image: "))
    assert sentence < next(k for k, text in enumerate(record.texts) if text.startswith("Clip")), "before the first is sampled"
    second, _ = frames("0.4 0.5 0.6", again)
    assert sum(text.startswith("Clip 1 of 1") for text in again.texts) == 1 and left() == []
    alone, _ = frames("0.6", Record())
    assert first == second[:9] + second[18:] and second[18:] == alone and left() == []


@pytest.mark.slow
def test_a_list_that_was_stopped_continues(comfyui_server):
    prompt, record, again = frames_graph("0.4 0.5"), Record(), Record()
    sampler = find(prompt, "MemoSampler")
    prompt[sampler]["inputs"]["steps"] = 20

    def stop_in_the_second(kind: str, data: dict) -> None:
        record(kind, data)
        if kind == "progress" and data["node"] == sampler and "Done: 9 frames, 0:00.3" in record.texts:
            comfyui_server.interrupt()

    with pytest.raises(ServerError, match="execution interrupted in MemoSampler"):
        comfyui_server.run(prompt, stop_in_the_second)
    assert record.texts[-1] == "Stopped: Run continues after clip 0"
    assert len(comfyui_server.run(prompt, again)["frames"]["images"]) == 18
    assert sum(text.startswith("Clip 1 of 1") for text in again.texts) == 1, "the first is there"


def test_a_voice_that_cannot_be_used_is_left_out(comfyui_server):
    prompt = saving_frames(talking_portrait(MemoSampler={"guidance_scale": 1.0}))
    prompt["voices"] = node("HandMadeTexts", words="nan noise")
    prompt[find(prompt, "LoadAudio")] = SHORT | {"inputs": SHORT["inputs"] | {"value": ["voices", 0]}}
    prompt[find(prompt, "LoadImage")] = node("HandMadeImage", shape="1 96 96 3", value=0.5)
    record = Record()
    assert len(comfyui_server.run(prompt, record)["frames"]["images"]) == 9
    said = "item 1 of 2: MEMO Separate Vocals: audio: 4800 of 4800 samples are NaN"
    assert any(text.startswith(said) for text in record.texts), "said by the sampler"


def test_where_none_has_a_face_single_nodes_name_them_all(comfyui_server):
    with pytest.raises(ServerError, match=f"MemoEmbedFace: item 1 of 2: {NO_FACE}.* item 2 of 2: {NO_FACE}"):
        comfyui_server.run(through_embed_face("0.0 0.0"))


def test_a_node_that_gets_one_after_the_other_says_which_it_was(comfyui_server):
    prompt = cropped("0.4 0.5 0.6")
    prompt["photos"] = node("HandMadeImages", shape="1 96 96 3", values="0.5 0.5 nan")
    prompt["back"]["inputs"]["photo"] = ["photos", 0]
    with pytest.raises(ServerError, match="MemoPasteBack: item 3 of the list: photo: some values are NaN"):
        comfyui_server.run(prompt)


def test_what_another_pack_blocks_blocks_the_whole_list_as_the_help_pages_say(comfyui_server):
    """It is core that does so: a node that gets a list whole is skipped for all of its items."""
    prompt, record = cropped("0.4 0.5 0.6"), Record()
    prompt["blocked"] = node("BlockOne", images=["images", 0], number=1)
    prompt["crop"]["inputs"]["image"] = ["blocked", 0]
    outputs = comfyui_server.run(prompt, record)
    assert "crop" not in outputs and "frames" not in outputs and record.texts == []
