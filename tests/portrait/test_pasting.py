"""Frames back into their photo: what changes, what does not, and how much memory it takes."""

import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memo_modules.errors import InputError
from memo_modules.host import Host
from memo_modules.portrait.framing import cut
from memo_modules.portrait.pasting import mask, paste, paste_to_file
from memo_modules.types import Audio, Crop
from memo_modules.video.files import write_video
from memo_modules.video.formats import VideoFormat
from memo_modules.video.provenance import COMMENT
from tests.helpers.video_files import pictures, sound

WHOLE = Crop(24, 16, 64, (160, 120))
RGB = VideoFormat("ffv1")


def photo_of(width: int = 160, height: int = 120, seed: int = 0) -> torch.Tensor:
    """(1 h w 3) in whole 255ths, smooth with some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").movedim(1, -1)
    return ((0.15 + 0.7 * smooth + 0.03 * torch.rand(1, height, width, 3, generator=generator)).clamp(0, 1) * 255).round() / 255


def frames_of(count: int = 3, size: int = 64, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


crops = st.builds(Crop, st.integers(-40, 90), st.integers(-40, 60), st.integers(64, 130), st.just((160, 120)))
feathers = st.sampled_from([0.0, 0.02, 0.1, 0.5])


@given(crops, feathers, st.sampled_from([64, 96]), st.sampled_from(["off", "border"]))
@settings(max_examples=40, deadline=None)
def test_outside_of_the_mask_every_bit_is_the_photos(crop, feather, size, color_match):
    photo = photo_of()
    pasted, weight = paste(photo, frames_of(2, size), crop, feather, color_match), mask(crop, feather)
    assert pasted.shape == (2, 120, 160, 3) and pasted.dtype == torch.float32
    assert pasted.min() >= 0 and pasted.max() <= 1
    outside = weight[0] == 0
    assert torch.equal(pasted[:, outside], photo[:, outside].expand(2, -1, -1))
    rows, columns = crop.inside
    assert outside.sum() == 160 * 120 - (rows.stop - rows.start) * (columns.stop - columns.start)
    assert (pasted != photo)[:, ~outside].float().mean() > 0.9


@given(crops, feathers, st.sampled_from(["off", "border"]))
@settings(max_examples=40, deadline=None)
def test_a_portrait_pasted_back_gives_the_photo(crop, feather, color_match):
    photo = photo_of()
    portrait = cut(photo, crop, crop.side)
    pasted = paste(photo, portrait.expand(2, -1, -1, -1), crop, feather, color_match)
    assert (pasted - photo).abs().max() <= (1e-6 if color_match == "off" else 1 / 255)


def test_without_feather_and_at_scale_1_frames_come_through_to_the_bit():
    frames = frames_of()
    pasted = paste(photo_of(), frames, WHOLE, feather=0)
    assert torch.equal(pasted[:, 16:80, 24:88], frames)
    assert mask(WHOLE, 0).sum() == 64 * 64 and set(mask(WHOLE, 0).unique().tolist()) == {0, 1}


def test_frames_of_any_size_take_the_same_place():
    y, x = torch.meshgrid(torch.arange(256) / 255, torch.arange(256) / 255, indexing="ij")
    large = torch.stack((x, y, 1 - x), dim=-1)[None]
    small = torch.nn.functional.interpolate(large.movedim(-1, 1), (128, 128), mode="area").movedim(1, -1)
    pasted = [paste(photo_of(), frames, WHOLE, feather=0)[0, 18:78, 26:86] for frames in (large, small)]
    assert (pasted[0] - pasted[1]).abs().max() < 0.02
    assert (pasted[0][:, :, 0] - (torch.arange(2, 62) + 0.5) / 64).abs().max() < 0.01


def test_the_mask_is_soft_at_the_border_and_whole_in_the_middle():
    weight = mask(WHOLE, 0.25)[0]
    row = weight[48, 24:88]
    assert (row[16:48] == 1).all() and 0 < row[0] < 0.01
    assert all(a < b for a, b in pairwise(row[:16].tolist())) and torch.allclose(row, row.flip(0), atol=1e-6)
    assert row[:16].diff().max() < 0.11
    assert torch.allclose(weight[16:80, 24:88], row[:, None] * row, atol=1e-6)


def test_there_is_no_soft_border_at_the_edge_of_the_photo():
    """Outside of it is nothing to blend into; what moves there would leave its old self behind."""
    weight = mask(Crop(-10, 56, 64, (160, 120)), 0.25)[0]
    assert (weight[80:120, :20] == 1).all()  # left and lower edge, where the lower ends exactly with the photo
    assert weight[57, :20].max() < 0.05 and weight[80:, 53].max() < 0.05


@pytest.mark.parametrize("crop", [WHOLE, Crop(-20, -30, 100, (160, 120))])
def test_colours_are_matched_along_the_border(crop):
    photo = photo_of(seed=4)
    portrait = cut(photo, crop, 96)
    tinted = (portrait * torch.tensor([0.8, 1.0, 0.9]) + torch.tensor([0.1, -0.05, 0.04])).repeat(3, 1, 1, 1)
    tinted[:, 24:72, 24:72] = torch.rand(3, 48, 48, 3, generator=torch.Generator().manual_seed(5))  # what moves in the middle changes nothing
    seam = {}
    for color_match in ("off", "border"):
        difference = (paste(photo, tinted, crop, 0, color_match) - paste(photo, portrait, crop, 0)).abs()
        rows, columns = crop.inside
        seam[color_match] = difference[:, rows.stop - 6 : rows.stop, columns].max()
    assert seam["border"] < 0.015 and seam["off"] > 0.05


def test_all_frames_are_matched_alike():
    """A frame that is darker stays so: else faces would flicker as they move."""
    frames = frames_of(2)
    frames[1] *= 0.5
    first, second = paste(photo_of(), frames, WHOLE, 0, "border")[:, 16:80, 24:88]
    assert first.mean() - second.mean() > 0.02


def test_flat_borders_keep_their_contrast():
    """The spread of nothing but noise says nothing about gain."""
    photo = torch.full((1, 120, 160, 3), 0.6) + 0.02 * torch.rand(1, 120, 160, 3)
    frames = torch.full((1, 64, 64, 3), 0.5)
    frames[:, 20:44, 20:44] = torch.rand(1, 24, 24, 3)
    pasted = paste(photo, frames, WHOLE, 0, "border")[0, 36:60, 44:68]
    assert 0.8 < pasted.std() / frames[0, 20:44, 20:44].std() < 1.3


def test_two_people_in_one_photo_talk_one_after_the_other():
    """Each is pasted into what the other's pasting gave: outside of both masks every bit is the photo's."""
    photo, left, right = photo_of(), Crop(4, 20, 64, (160, 120)), Crop(88, 30, 64, (160, 120))
    first, second = frames_of(3), frames_of(3, seed=2)
    both = paste(paste(photo, first, left, 0.1), second, right, 0.1)
    outside = (mask(left, 0.1) + mask(right, 0.1))[0] == 0
    assert torch.equal(both[:, outside], photo[:, outside].expand(3, -1, -1)) and 0.5 < outside.float().mean() < 0.6
    for frames, crop in ((first, left), (second, right)):
        rows, columns = crop.inside
        assert torch.equal(both[:, rows, columns], paste(photo, frames, crop, 0.1)[:, rows, columns])


def test_as_many_photos_as_frames_go_into_a_file(tmp_path):
    photos, frames = torch.cat([photo_of(seed=k) for k in range(3)]), frames_of(3)
    paste_to_file(tmp_path / "a.mp4", photos, frames, WHOLE, Fraction(25), RGB)
    with av.open(str(tmp_path / "a.mp4")) as container:
        written = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.array_equal(written, (paste(photos, frames, WHOLE) * 255).round().byte().numpy())


def test_the_users_own_tensors_stay():
    photo, frames = photo_of(), frames_of()
    before = photo.clone(), frames.clone()
    paste(photo, frames, WHOLE, 0.1, "border")
    assert torch.equal(photo, before[0]) and torch.equal(frames, before[1])


@pytest.mark.parametrize(
    ("photo", "frames", "sentence"),
    [
        (
            photo_of(120, 160),
            frames_of(),
            "photo: expected the picture that was cropped, 160 x 120 pixels, got 120 x 160. Connect the same photo to both nodes.",
        ),
        (photo_of(), torch.zeros(2, 64, 72, 3), "images: expected square frames, like the crop, got 72 x 64. Use equal width and height."),
        (photo_of().repeat(2, 1, 1, 1), frames_of(), "photo: expected one picture, or one for each of 3 frames, got 2."),
        (photo_of(), torch.zeros(2, 64, 64, 4), "images: expected RGB pictures (frames, height, width, 3), got shape [2, 64, 64, 4]."),
        (photo_of(), torch.zeros(0, 64, 64, 3), "images: expected one frame or more, got none."),
        (photo_of(), torch.full((1, 64, 64, 3), torch.nan), "images: some values are NaN or infinite."),
    ],
)
def test_what_cannot_be_pasted(photo, frames, sentence, tmp_path):
    for call in (lambda: paste(photo, frames, WHOLE), lambda: paste_to_file(tmp_path / "v.mp4", photo, frames, WHOLE, Fraction(30), RGB)):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).startswith(sentence)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", [23, 24, -11, 99])
@pytest.mark.parametrize("top", [16, 17, -9, 57])
@pytest.mark.parametrize(
    "format", [RGB, VideoFormat("ffv1", pixel_format="yuv444p"), VideoFormat("ffv1", pixel_format="yuv420p")], ids=lambda f: f.pixel_format
)
def test_the_file_holds_what_paste_gives(tmp_path, format, left, top):
    """Only the square is converted for each frame; odd places and colour that belongs to two pixels make no difference."""
    crop, photo, frames = Crop(left, top, 63, (160, 120)), photo_of(), frames_of(3, 64)
    paste_to_file(tmp_path / "a.mp4", photo, frames, crop, Fraction(25), format, feather=0.2)
    write_video(tmp_path / "b.mp4", paste(photo, frames, crop, 0.2).movedim(-1, 1), Fraction(25), None, format)
    assert np.array_equal(raw(tmp_path / "a.mp4"), raw(tmp_path / "b.mp4"))
    if format is RGB:
        shown, _ = pictures(tmp_path / "a.mp4")
        outside = mask(crop, 0.2)[0] == 0
        assert np.array_equal(shown[:, outside], np.broadcast_to((photo * 255).round().byte().numpy()[:, outside], (3, int(outside.sum()), 3)))


def raw(path: Path) -> np.ndarray:
    """The pictures of a file as they are stored."""
    with av.open(str(path)) as container:
        return np.stack([np.concatenate([np.frombuffer(p, np.uint8) for p in frame.planes]) for frame in container.decode(video=0)])


def test_a_file_with_sound_and_metadata(tmp_path):
    said = []
    voice = Audio(torch.rand(2, 16000) - 0.5, 16000)
    paste_to_file(
        tmp_path / "v.mp4", photo_of(), frames_of(20), WHOLE, Fraction(30000, 1001), VideoFormat(audio_codec="pcm"), voice, {"prompt": "{}"},
        host=Host(lambda *done: said.append(done)),
    )  # fmt: skip
    shown, times = pictures(tmp_path / "v.mp4")
    assert shown.shape == (20, 120, 160, 3) and times == [k / Fraction(30000, 1001) for k in range(20)]
    heard, rate = sound(tmp_path / "v.mp4")
    assert rate == 16000 and np.array_equal(heard, voice.waveform.numpy())
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.metadata["prompt"] == "{}" and container.metadata["comment"] == COMMENT
    assert said == [(k, 20) for k in range(1, 21)]


def test_an_odd_photo_loses_its_last_row_and_column_where_the_format_asks_for_it(tmp_path):
    photo, crop = photo_of(161, 121), Crop(110, 70, 64, (161, 121))
    paste_to_file(tmp_path / "v.mp4", photo, frames_of(2), crop, Fraction(25), VideoFormat("ffv1", pixel_format="yuv420p"))
    paste_to_file(tmp_path / "w.mp4", photo, frames_of(2), crop, Fraction(25), RGB)
    small, whole = pictures(tmp_path / "v.mp4")[0], pictures(tmp_path / "w.mp4")[0]
    assert small.shape == (2, 120, 160, 3) and whole.shape == (2, 121, 161, 3)
    assert np.abs(small.astype(int) - whole[:, :120, :160]).mean() < 12


def test_stopped_nothing_is_left(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paste_to_file(tmp_path / "v.mp4", photo_of(), frames_of(), WHOLE, Fraction(25), RGB, host=Host(stop))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_300_frames_onto_24_megapixels_take_less_than_2_gb(tmp_path):
    """All that there is: Python, torch, the photo and the frames, which take 1.2 GB themselves."""
    child = Path(__file__).resolve().parents[1] / "helpers" / "paste_child.py"
    run = subprocess.run([sys.executable, child, tmp_path / "v.mp4", "300"], check=True, capture_output=True, text=True)
    print(f"{int(run.stdout)} bytes at the peak")
    assert int(run.stdout) < 2e9
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].frames == 300 and container.streams.video[0].codec_context.width == 6000
