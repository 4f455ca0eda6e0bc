"""The training set: metadata and files that data preparation writes, frames of real videos, and the clips made of them."""

import logging
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from memo_modules.errors import InputError
from memo_modules.preparation.tensor_files import read_rows, write_tensor
from memo_modules.training.dataset import ClipDataset, ClipLayout, centre_crop, clip_indices, covering_size, draw_clip, read_metadata, training_pixels
from memo_modules.video.reading import read_frames, stream_frames
from tests.helpers.prepared_files import LAYOUT, prepare, states, write_metadata


def numbered_pictures(path: Path, numbers, convert) -> torch.Tensor:
    """ReadFrames of pictures that are all of their frame's number."""
    return torch.stack([convert(torch.full((3, 8, 8), number, dtype=torch.uint8)) for number in numbers])


def numbers_in(pixels: torch.Tensor) -> list[int]:
    return ((pixels[:, 0, 0, 0] + 1) / 2 * 255).round().int().tolist()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_clip_holds_what_its_indices_name(tmp_path, suffix):
    (video,) = read_metadata([write_metadata(tmp_path, prepare(tmp_path, suffix=suffix), "")])
    data = ClipDataset([video], 8, 8, LAYOUT, numbered_pictures)
    clip = data.clip(video, clip_indices(LAYOUT, 5, 9, still_past=False, cut_audio=False))
    assert numbers_in(clip["pixel_values"]) == [5, 6, 7, 8]
    assert numbers_in(clip["pixel_values_ref_img"]) == [9, 2, 3, 4]
    assert clip["audio_emb"].shape == (4, 5, 2, 3) and clip["audio_emb"][0, :, 0, 0].tolist() == [3, 4, 5, 6, 7]
    assert clip["audio_emotion"] == 2 and torch.equal(clip["face_emb"], torch.ones(5))
    clip = data.clip(video, clip_indices(LAYOUT, 5, 6, still_past=True, cut_audio=True))
    assert numbers_in(clip["pixel_values_ref_img"]) == [6, 5, 5, 5]
    assert clip["audio_emb"][:, :, 0, 0].tolist() == [[5, 5, 5, 6, 7], [5, 5, 6, 7, 8], [5, 6, 7, 8, 9], [6, 7, 8, 9, 10]]


def test_what_the_reference_implementation_prepared_is_read_as_it_is(tmp_path):
    """Paths count from where it ran, and a face is an array of numpy; written to the description of its scripts/prepare_data.py."""
    folder = tmp_path / "data" / "embedding"
    for part in ("face_emb", "audio_emb", "audio_emotion"):
        (folder / part).mkdir(parents=True)
    entry = {part: f"data/embedding/{part}/a.pt" for part in ("face_emb", "audio_emb", "audio_emotion")} | {"video": "data/a.mp4"}
    (tmp_path / "data" / "a.mp4").write_bytes(b"")
    face = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    torch.save(face, tmp_path / entry["face_emb"])
    torch.save(states(20), tmp_path / entry["audio_emb"])
    torch.save(torch.arange(20, dtype=torch.int32), tmp_path / entry["audio_emotion"])
    (video,) = read_metadata([write_metadata(folder, entry)])
    assert video.frames == 20 and video.video == tmp_path / "data" / "a.mp4"
    assert torch.equal(read_rows(video.face_emb, "face_emb"), torch.from_numpy(face))
    clip = ClipDataset([video], 8, 8, LAYOUT, numbered_pictures)[0, 1]
    assert torch.equal(clip["face_emb"], torch.from_numpy(face)) and clip["audio_emb"].shape == (4, 5, 2, 3)


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">f4"), np.array([None, "x"]), np.arange(12).reshape(3, 4).astype("U1")], ids=["other order", "objects", "texts"]
)
def test_an_array_that_is_none_of_numbers_is_refused(tmp_path, array):
    torch.save(array, tmp_path / "a.pt")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "a.pt", "face_emb")


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i4", "i8", "u1"])
def test_arrays_of_numpy_are_read_in_any_shape(tmp_path, kind):
    for number, array in enumerate((np.arange(24).reshape(2, 3, 4), np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros(0))):
        torch.save(array.astype(kind, order="K"), tmp_path / f"{number}.pt")
        found = read_rows(tmp_path / f"{number}.pt", "face_emb")
        assert np.array_equal(found.numpy(), array.astype(kind)) and found.numpy().dtype == kind


def test_a_sample_of_two_clips_continues_where_the_first_ends(tmp_path):
    layout = replace(LAYOUT, clips=2)
    videos = read_metadata([write_metadata(tmp_path, prepare(tmp_path, "a", layout.shortest_video), prepare(tmp_path, "b", LAYOUT.shortest_video))])
    data = ClipDataset(videos, 8, 8, layout, numbered_pictures)
    assert [video.video.name for video in data.videos] == ["a.mp4"] and list(layout.starts(layout.shortest_video)) == [3, 4, 5]
    sample = data.clip(videos[0], clip_indices(layout, 5, 4, still_past=False, cut_audio=True))
    assert numbers_in(sample["pixel_values"]) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert numbers_in(sample["pixel_values_ref_img"]) == [4, 2, 3, 4]
    assert sample["audio_emb"][[0, 4, 7], :, 0, 0].tolist() == [[5, 5, 5, 6, 7], [7, 8, 9, 10, 11], [10, 11, 12, 13, 14]]
    assert sample["audio_emotion"].tolist() == [2, 3]
    (batch,) = DataLoader(data)
    assert batch["audio_emotion"].shape == (1, 2) and batch["audio_emotion"].dtype == torch.int64
    with pytest.raises(InputError, match="clips: expected at least one"):
        replace(layout, clips=0)


def test_batches_come_from_torchs_loader(tmp_path):
    videos = read_metadata([write_metadata(tmp_path, prepare(tmp_path, "a"), prepare(tmp_path, "b"))])
    (batch,) = DataLoader(ClipDataset(videos, 8, 8, LAYOUT, numbered_pictures), batch_size=2)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == {
        "pixel_values": (2, 4, 3, 8, 8),
        "pixel_values_ref_img": (2, 4, 3, 8, 8),
        "face_emb": (2, 5),
        "audio_emb": (2, 4, 5, 2, 3),
        "audio_emotion": (2,),
    }
    assert batch["audio_emotion"].dtype == torch.int64 and batch["pixel_values"].dtype == torch.float32


def test_a_seed_means_the_same_clip_in_any_worker(tmp_path):
    (video,) = read_metadata([write_metadata(tmp_path, prepare(tmp_path))])
    data, items = ClipDataset([video], 8, 8, LAYOUT, numbered_pictures), [(0, seed) for seed in range(8)]
    alone = [numbers_in(data[item]["pixel_values"]) for item in items]
    torch.manual_seed(1)
    batches = DataLoader(data, sampler=items, num_workers=2)
    assert [numbers_in(batch["pixel_values"][0]) for batch in batches] == alone
    assert len({tuple(clip) for clip in alone}) > 1


def test_draws_reach_both_ends_of_their_range_and_perturb_at_their_rate():
    generator = torch.Generator().manual_seed(0)
    clips = [draw_clip(LAYOUT, 20, generator, perturbation_rate=0.25) for _ in range(2000)]
    for found in ({clip.frames[0] for clip in clips}, {clip.reference for clip in clips}):
        assert found == set(range(3, 14))
    assert any(clip.reference != clip.frames[0] for clip in clips)
    still = torch.tensor([clip.past[0] == clip.frames[0] for clip in clips])
    cut = torch.tensor([clip.windows[0, 0].item() == clip.frames[0] for clip in clips])
    assert still.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert cut.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert not torch.equal(still, cut)
    assert draw_clip(LAYOUT, LAYOUT.shortest_video, generator).windows.max() < LAYOUT.shortest_video


def test_videos_too_short_are_left_out_and_a_set_without_others_is_refused(tmp_path, caplog):
    short, shortest = LAYOUT.shortest_video - 1, LAYOUT.shortest_video
    videos = read_metadata([write_metadata(tmp_path, prepare(tmp_path, "short", short), prepare(tmp_path, "long", shortest))])
    with caplog.at_level(logging.WARNING):
        data = ClipDataset(videos, 8, 8, LAYOUT, numbered_pictures)
    assert [video.video.name for video in data.videos] == ["long.mp4"] and "1 of 2 videos" in caplog.text
    data[0]
    with pytest.raises(InputError, match="none of 1 videos has the 12 frames"):
        ClipDataset(videos[:1], 8, 8, LAYOUT, numbered_pictures)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{not json", "line 2: expected a JSON object"),
        ("[1]", "line 2: expected a JSON object, got list"),
        ("[" * 100_000, r"line 2: expected a JSON object, got '\[\[\[.* \(nested too deeply\)"),
        ("x" * 10**6, r"line 2: expected a JSON object, got 'xxx"),
        ({"audio_emb": ["x" * 1000] * 1000}, r"line 2: expected a path in 'audio_emb', got \['xxx"),
        ({"video": "x" * 5000}, "line 2: video .*is missing"),
        ({"video": "a\0b"}, "line 2: video .*is missing"),
        ({"video": "."}, "line 2: video .*is missing"),
        ({"audio_emb": None}, "line 2: expected a path in 'audio_emb', got None"),
        ({"video": "elsewhere.mp4"}, "line 2: video .*elsewhere.mp4 is missing"),
        ({"audio_emotion": "a_face_emb.safetensors"}, "expected a tensor 'audio_emotion', found face_emb"),
        ({"audio_emb": "a.mp4"}, "a.mp4 cannot be read"),
    ],
)
def test_a_bad_line_is_named(tmp_path, broken, message):
    good = prepare(tmp_path)
    bad = broken if isinstance(broken, str) else {**good, **broken}
    with pytest.raises(InputError, match=message) as error:
        read_metadata([write_metadata(tmp_path, good, bad)])
    assert len(str(error.value)) <= 4000


def test_features_and_labels_of_different_length_are_refused(tmp_path):
    entry = prepare(tmp_path)
    write_tensor(tmp_path / entry["audio_emotion"], "audio_emotion", torch.zeros(19, dtype=torch.int32))
    with pytest.raises(InputError, match=r"line 1: expected audio_emb .* got \(20, 2, 3\) and \(19,\)"):
        read_metadata([write_metadata(tmp_path, entry)])


def test_a_pickle_of_more_than_a_tensor_is_refused(tmp_path):
    (tmp_path / "face.pt").write_bytes(pickle.dumps(Path("anything"), protocol=2))
    with pytest.raises(InputError, match="face.pt cannot be read .torch.save did not write it"):
        read_rows(tmp_path / "face.pt", "face_emb")
    torch.save({"face_emb": torch.zeros(3)}, tmp_path / "face.pt")
    with pytest.raises(InputError, match="face.pt: expected a tensor alone, found dict"):
        read_rows(tmp_path / "face.pt", "face_emb")


def test_windows_that_begin_before_the_video_are_refused():
    with pytest.raises(InputError, match="as many past frames as the audio margin"):
        ClipLayout(frames=16, past_frames=0, audio_margin=2)


def test_pictures_cover_the_size_whatever_their_shape():
    assert covering_size(36, 50, 16, 16) == (16, 22) and covering_size(50, 36, 16, 16) == (22, 16)
    assert covering_size(60, 40, 32, 16) == (32, 21) and covering_size(40, 60, 32, 16) == (32, 48)
    for h, w in ((36, 50), (50, 36), (7, 91)):
        assert training_pixels(torch.zeros(1, 3, h, w, dtype=torch.uint8), 24, 16).shape == (1, 3, 24, 16)
    assert centre_crop(torch.arange(7.0).view(1, 7), 1, 4).tolist() == [[2, 3, 4, 5]]  # 1.5 goes to 2, and 0.5 to 0
    assert centre_crop(torch.arange(5.0).view(1, 5), 1, 4).tolist() == [[0, 1, 2, 3]]


@pytest.fixture(scope="module", params=["few keyframes, mp4", "many keyframes, mp4", "many keyframes, mkv"])
def video(request, tmp_path_factory) -> Path:
    """Sixty frames with B frames between keyframes; frame k is a grey of 4k."""
    import av
    import numpy as np

    keyframes, container_format = request.param.split(", ")
    scene_cuts = {"few keyframes": {"sc_threshold": "1000000000"}, "many keyframes": {}}[keyframes]
    path = tmp_path_factory.mktemp("video") / f"grey.{container_format}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"bf": "2", "g": "25", **scene_cuts})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 32, 32, "yuv420p", 4_000_000
        for k in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 4 * k, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("numbers", [[0], [59], [24, 25, 26], [3, 30, 31, 32, 58], list(range(60))])
def test_frames_are_those_asked_for(video, numbers):
    pictures = read_frames(video, numbers)
    assert pictures.shape == (len(numbers), 3, 32, 32) and pictures.dtype == torch.uint8
    assert [round(picture.float().mean().item() / 4) for picture in pictures] == numbers


def test_frames_one_after_the_other_are_the_same(video):
    assert torch.equal(torch.stack(list(stream_frames(video))), read_frames(video, range(60)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
def test_a_process_forked_after_a_reading_one_reads_too(video):
    """Like data workers, after sample videos and everything else that the trainer read itself."""
    read_frames(video, [0])
    child = multiprocessing.get_context("fork").Process(target=read_frames, args=(video, [59]))
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0


def test_a_video_that_cannot_be_read_is_named(video, tmp_path):
    with pytest.raises(InputError, match="grey.* has 60 frames, but frame 60 was asked for"):
        read_frames(video, [59, 60])
    (tmp_path / "text.mp4").write_text("no video")
    for read in (lambda path: read_frames(path, [0]), lambda path: next(stream_frames(path))):
        with pytest.raises(InputError, match="text.mp4: it is not a video that can be read"):
            read(tmp_path / "text.mp4")
