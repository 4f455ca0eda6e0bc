"""How far a video is, in words, and the contact sheet of what it has become."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from memo_modules.progress import SIDE, TILES, clips_done, contact_sheet
from memo_modules.video.provenance import COMMENT, DIGITAL_SOURCE_TYPE, SOFTWARE, write_png

CLIP = 16


def grey_clips(frames: int, height: int, width: int) -> torch.Tensor:
    """Frames whose grey is the number of their clip, in 255ths, after a first one that is brighter by 100."""
    clips = torch.arange(frames) // CLIP / 255
    first = (torch.arange(frames) % CLIP == 0) * 100 / 255
    return (clips + first).reshape(-1, 1, 1, 1).expand(-1, height, width, 3)


def tiles(sheet: Image.Image, columns: int, rows: int) -> list[int]:
    """The grey in the middle of each tile, less than that of a first frame: the number of its clip."""
    pixels = np.asarray(sheet)[..., 0]
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    middles = pixels[height // 2 :: height, width // 2 :: width]
    return [int(grey) - 100 for grey in middles.flatten()]


@pytest.mark.parametrize(
    ("done", "before", "seconds", "said"),
    [
        (1, 0, 60, "Clip 1 of 9"),
        (2, 0, 60, "Clip 2 of 9, 0:03:30 left"),
        (6, 5, 9, "Clip 6 of 9"),
        (7, 5, 9000, "Clip 7 of 9, 2:30:00 left"),
        (9, 0, 60, "Clip 9 of 9"),
    ],
)
def test_the_time_left_is_told_from_the_second_clip_on(done, before, seconds, said):
    assert clips_done(9, done, before, seconds) == said


@pytest.mark.parametrize(("frames", "columns", "rows"), [(1, 1, 1), (17, 2, 1), (100, 3, 3), (25 * CLIP, 5, 5)])
def test_the_sheet_shows_the_first_frame_of_each_clip(frames, columns, rows):
    sheet = contact_sheet(grey_clips(frames, 64, 64), CLIP, Fraction(30))
    assert sheet.size == (columns * 64, rows * 64)
    clips = -(-frames // CLIP)
    assert tiles(sheet, columns, rows) == [*range(clips), *[-100] * (columns * rows - clips)]


def test_of_many_clips_some_are_shown_from_the_first_to_the_last():
    sheet = contact_sheet(grey_clips(121 * CLIP, 32, 32), CLIP, Fraction(30))
    assert tiles(sheet, 5, 5) == list(range(0, 121, 5)) and TILES == 25


@pytest.mark.parametrize(("height", "width"), [(512, 512), (768, 512), (64, 2048)])
def test_the_sheet_is_small_and_keeps_the_shape_of_its_pictures(height, width, tmp_path):
    noise = torch.rand(1, height, width, 3).expand(25 * CLIP, -1, -1, -1)
    sheet = contact_sheet(noise, CLIP, Fraction(30))
    assert SIDE - 5 <= max(sheet.size) <= SIDE
    assert sheet.width / sheet.height == pytest.approx(width / height, rel=0.25 if height == 64 else 0.02)
    write_png(tmp_path / "sheet.png", sheet)
    assert (tmp_path / "sheet.png").stat().st_size < 1.3e6


def test_a_tile_is_marked_with_its_time():
    sheet = contact_sheet(torch.full((33, 256, 256, 3), 0.5), CLIP, Fraction(25))
    pixels = np.asarray(sheet).astype(int)
    marked = [np.abs(pixels[top : top + 32, left : left + 100] - 128).max() > 100 for top in (0, 256) for left in (0, 256)]
    assert marked[:3] == [True] * 3
    corners = [pixels[top : top + 20, left : left + 60] for top, left in ((0, 0), (0, 256), (256, 0))]
    assert not np.array_equal(corners[0], corners[1]) and not np.array_equal(corners[1], corners[2])


def test_a_png_says_that_it_is_synthetic(tmp_path):
    write_png(tmp_path / "sheet.png", Image.new("RGB", (8, 8)))
    with Image.open(tmp_path / "sheet.png") as picture:
        assert (picture.text["Comment"], picture.text["Software"]) == (COMMENT, SOFTWARE)
        assert f'DigitalSourceType="{DIGITAL_SOURCE_TYPE}"' in picture.text["XML:com.adobe.xmp"]
