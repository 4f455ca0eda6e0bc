"""The square around a face: where it lies, and what is in it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from memo_modules.errors import InputError
from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, FaceAnalyzer, embed_face
from memo_modules.portrait.framing import MARGIN, crop_portrait, cut, face_square
from memo_modules.types import Crop
from tools.tiny_onnx import TWO_FACES, write_detector, write_recogniser

YELLOW, BLUE = torch.tensor((255, 196, 0)) / 255, torch.tensor((0, 200, 255)) / 255


@pytest.fixture
def analyzer(tmp_path):
    write_detector(tmp_path / DETECTOR_FILE, TWO_FACES)
    write_recogniser(tmp_path / RECOGNISER_FILE)
    return FaceAnalyzer.load(tmp_path)


def slope(width: int, height: int) -> torch.Tensor:
    """(1 h w 3): red rises to the right, green downwards."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack((x, y, torch.full_like(x, 0.5)), dim=-1)[None]


@st.composite
def faces(draw):
    """A photo's size and a face's box, of which some of each side may lie outside."""
    width, height = draw(st.integers(64, 6000)), draw(st.integers(64, 6000))
    x, y = draw(st.floats(0, width)), draw(st.floats(0, height))
    half_width, half_height = draw(st.floats(4, 3000)), draw(st.floats(4, 3000))
    return (width, height), (x - half_width, y - half_height, x + half_width, y + half_height)


@given(faces(), st.floats(0, 2))
@settings(max_examples=300, deadline=None)
def test_the_square_holds_the_face_and_its_margin(face, margin):
    photo_size, (x1, y1, x2, y2) = face
    crop = face_square((x1, y1, x2, y2), photo_size, margin)
    longer = max(x2 - x1, y2 - y1)
    assert crop.left <= x1 and crop.top <= y1 and crop.left + crop.side >= x2 and crop.top + crop.side >= y2
    assert longer * (1 + 2 * margin) <= crop.side < longer * (1 + 2 * margin) + 3
    assert abs((x1 + x2) / 2 - (crop.left + crop.side / 2)) <= 1.5
    lower = (y1 + y2) / 2 - (crop.top + crop.side / 2)
    assert abs(lower - margin * longer / 4) <= 1.5
    rows, columns = crop.inside
    assert 0 <= rows.start < rows.stop <= photo_size[1] and 0 <= columns.start < columns.stop <= photo_size[0]


def test_a_face_takes_as_much_of_the_picture_as_in_published_samples():
    crop = face_square((1000.0, 900.0, 1400.0, 1500.0), (4000, 3000), MARGIN)
    assert 600 / crop.side == pytest.approx(0.556, abs=0.002)


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(8, 700), st.sampled_from([64, 128]), st.integers(64, 300), st.integers(64, 300))
@settings(max_examples=40, deadline=None)
def test_nothing_is_squashed_and_nothing_is_out_of_range(left, top, side, size, width, height):
    """Every place of the portrait that is in the photo shows that very place of the photo."""
    square = cut(slope(width, height), Crop(left, top, side, (width, height)), size)
    assert square.shape == (1, size, size, 3) and square.min() >= 0 and square.max() <= 1
    step = side / size
    x, y = (start + (torch.arange(size) + 0.5) * step for start in (left, top))
    edge = max(2.0, 3 * step)  # where the filter reaches past the photo, or past the square

    def shown(at, start, length):
        return (at > max(start, 0) + edge) & (at < min(start + side, length) - edge)

    columns, rows = shown(x, left, width), shown(y, top, height)
    seen = square[0][rows][:, columns]
    if seen.numel():
        assert (seen[..., 0] * width - x[columns]).abs().max() < 0.1  # pixels of the photo: what bilinear filtering leaves
        assert (seen[..., 1] * height - y[rows][:, None]).abs().max() < 0.1


def test_a_square_as_large_as_the_portrait_is_copied():
    photo = torch.rand(1, 200, 300, 3)
    assert torch.equal(cut(photo, Crop(17, 31, 128, (300, 200)), 128), photo[:, 31:159, 17:145])


def test_smaller_pictures_are_filtered_and_not_sampled():
    """A fine checkerboard becomes grey."""
    checkers = ((torch.arange(512)[:, None] + torch.arange(512)) % 2).float()[None, ..., None].expand(-1, -1, -1, 3)
    small = cut(checkers, Crop(0, 0, 512, (512, 512)), 64)
    assert (small - 0.5).abs().max() < 0.02
    photo = torch.rand(1, 256, 256, 3)
    expected = F.interpolate(photo.movedim(-1, 1), (64, 64), mode="bilinear", antialias=True).movedim(1, -1)
    assert torch.equal(cut(photo, Crop(0, 0, 256, (256, 256)), 64), expected)  # as prepare_portrait does it


def test_outside_of_the_photo_its_edge_continues_in_a_blur():
    photo = torch.zeros(1, 256, 256, 3)
    photo[:, :, ::2] = 1  # fine stripes that run out at the top
    photo[:, 100:] = torch.rand(1, 156, 256, 3)
    square = cut(photo, Crop(0, -128, 256, (256, 256)), 256)[0, :, :, 0]
    assert torch.equal(square[128:], photo[0, :128, :, 0])
    assert (square[127] - photo[0, 0, :, 0]).abs().max() < 0.02  # no seam
    spread = square[:, 8:-8].std(dim=1)
    assert spread[64] < 0.1 and spread[127] > 0.45
    assert (square[:64, 16:-16] - 0.5).abs().max() < 0.1  # nothing of what lies deeper in the photo


def test_photo_to_portrait(analyzer):
    photo = slope(640, 480)
    portrait, crop, preview = crop_portrait(analyzer, photo[0], size=128)
    x1, y1, x2, y2 = TWO_FACES[1]  # the larger, in a picture that fills the detector's canvas along its width
    assert crop == face_square((x1, y1, x2, y2), (640, 480), MARGIN)
    assert torch.equal(portrait, cut(photo, crop, 128))
    assert preview.shape[0] == 1 and preview.min() >= 0 and preview.max() <= 1


def test_faces_are_counted_as_in_embed_face(analyzer):
    photo = slope(640, 480)[0]
    for index in (0, 1):
        _, crop, _ = crop_portrait(analyzer, photo, index)
        assert crop == face_square(embed_face(analyzer, photo, index).box, (640, 480))
    with pytest.raises(InputError, match=r"^index: expected 0 to 1, since the picture has 2 faces, got 2"):
        crop_portrait(analyzer, photo, 2)


def test_a_photo_without_a_face(analyzer):
    with pytest.raises(InputError, match="^image: expected a face, found none in 96 x 64 pixels. Use a picture in which .* larger, or say with"):
        crop_portrait(analyzer, torch.zeros(64, 96, 3))


@pytest.mark.parametrize("size", [0, 32, 500])
def test_sizes_that_the_model_does_not_take(analyzer, size):
    with pytest.raises(InputError, match=f"^size: expected a multiple of 8 of at least 64, got {size}"):
        crop_portrait(analyzer, torch.ones(64, 64, 3), size=size)


@pytest.mark.parametrize("width, height, scale", [(640, 480, 1), (4000, 3000, 4000 / 1024)])
def test_the_preview_shows_the_square_and_the_faces_where_they_are(analyzer, width, height, scale):
    photo = 0.3 * slope(width, height)[0] + 0.4
    _, crop, preview = crop_portrait(analyzer, photo, margin=0.1)
    picture = preview[0]
    assert max(picture.shape[:2]) <= 1024 and picture.shape[1] / picture.shape[0] == pytest.approx(width / height, abs=0.01)
    for colour, box in ((YELLOW, (crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)), (BLUE, embed_face(analyzer, photo).box)):
        rows, columns = (found.numpy() for found in torch.nonzero((picture - colour).abs().sum(dim=-1) < 0.01).T)
        assert np.allclose((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), np.array(box) / scale, atol=1.5)


def test_the_preview_shows_all_of_a_square_that_leaves_the_photo(analyzer):
    _, crop, preview = crop_portrait(analyzer, slope(640, 480)[0], margin=0.8)
    assert crop.left < 0 and crop.top < 0
    assert preview.shape[1:3] == (max(480, crop.top + crop.side) - crop.top, max(640, crop.left + crop.side) - crop.left)
    ground = torch.tensor(48 / 255)
    assert (preview[0, 20, 20] - ground).abs().max() < 0.01
    assert (preview[0, -crop.top + 400, -crop.left + 600] - slope(640, 480)[0, 400, 600]).abs().max() < 0.02
