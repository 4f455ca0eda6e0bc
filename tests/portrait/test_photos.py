"""Photos as people bring them, looked at by the small model's face detector: of any shape, turned, with small faces, with none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from memo_modules.errors import InputError
from memo_modules.host import Host
from memo_modules.pipeline import load_picture
from memo_modules.portrait.face import FaceAnalyzer, embed_face
from memo_modules.portrait.framing import crop_portrait, face_square, framed_portrait, inner_square
from memo_modules.portrait.pictures import prepare_portrait, squash_note

ASSETS = Path(__file__).resolve().parents[2] / "assets"
CARTOON = Image.open(ASSETS / "cartoon.png").convert("RGB")
SHAPES = [(576, 1024), (1024, 576), (640, 480), (400, 1200), (1000, 300), (513, 512), (900, 1200)]


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    return FaceAnalyzer(ASSETS / "models" / "memo" / "small" / "misc" / "face_analysis" / "models")


def photo(width: int, height: int, side: int | None = None, place: tuple[float, float] = (0.4, 0.3)) -> Image.Image:
    """The cartoon, ``side`` pixels large, somewhere in an even picture."""
    side = side or min(width, height) * 3 // 4
    picture = Image.new("RGB", (width, height), (90, 120, 150))
    picture.paste(CARTOON.resize((side, side), Image.Resampling.LANCZOS), (int((width - side) * place[0]), int((height - side) * place[1])))
    return picture


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).float()[None] / 255


def width_to_height(picture: torch.Tensor) -> float:
    """Of what ``with_disc`` has drawn on the face."""
    rows, columns = torch.nonzero((picture[0] - torch.tensor([1.0, 0.0, 1.0])).abs().amax(dim=-1) < 0.5, as_tuple=True)
    return float((columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1))


def with_disc(picture: Image.Image, analyzer: FaceAnalyzer) -> Image.Image:
    """The picture with a disc on the nose of its face, to be measured."""
    face = analyzer.detect(np.array(picture))[0]
    (x, y), radius = face.landmarks[2].tolist(), (face.box[2] - face.box[0]) / 6
    drawn = picture.copy()
    ImageDraw.Draw(drawn).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 0, 255))
    return drawn


def said(run: Callable) -> list[str]:
    sentences = []
    run(Host(say=sentences.append))
    return sentences


@pytest.mark.parametrize("shape", SHAPES)
def test_a_face_keeps_its_width_to_height_in_a_photo_of_any_shape(analyzer, shape):
    portrait, face = framed_portrait(analyzer, tensor(with_disc(photo(*shape), analyzer)), 512)
    assert portrait.shape == (1, 512, 512, 3) and face.embedding.any()
    assert width_to_height(portrait) == pytest.approx(1, abs=0.05)
    [found, *_] = analyzer.find((portrait[0] * 255).round().byte().numpy())
    assert 0.4 < (found.box[3] - found.box[1]) / 512 < 0.8


def test_without_the_crop_it_is_squashed(analyzer):
    picture = tensor(with_disc(photo(576, 1024), analyzer))
    portrait, _ = framed_portrait(analyzer, picture, 512, crop=False)
    assert torch.equal(portrait, picture)
    squashed = prepare_portrait(portrait, 512, 512).movedim(1, -1) / 2 + 0.5
    assert width_to_height(squashed) == pytest.approx(1024 / 576, abs=0.06)


def test_a_square_portrait_stays_as_it_is(analyzer):
    for side in (256, 512):
        picture = tensor(CARTOON.resize((side, side)))
        assert torch.equal(framed_portrait(analyzer, picture, 512)[0], picture)


def test_a_face_that_is_small_in_a_square_photo_is_cropped(analyzer):
    portrait, _ = framed_portrait(analyzer, tensor(photo(1000, 1000, 250)), 256)
    [found, *_] = analyzer.find((portrait[0] * 255).round().byte().numpy())
    assert portrait.shape == (1, 256, 256, 3) and (found.box[3] - found.box[1]) / 256 > 0.4


@pytest.mark.parametrize("margin", [0.0, 0.4, 2.0])
def test_a_portrait_that_was_cropped_before_stays_as_it_is(analyzer, margin):
    """Or its frames would not fit back into the photo."""
    portrait, _, _ = crop_portrait(analyzer, tensor(photo(1600, 1200))[0], margin=margin, size=256)
    assert torch.allclose(framed_portrait(analyzer, portrait, 256)[0], portrait, atol=1e-5)


@pytest.mark.parametrize("size", [(600, 200), (200, 600), (300, 300)])
def test_without_a_face_the_middle_is_used_where_that_is_allowed(analyzer, size):
    picture = torch.zeros(1, size[1], size[0], 3)
    picture[:, :, size[0] // 2 :] = 1
    with pytest.raises(InputError, match=r"^image: expected a face, found none in .* larger, or switch on allow_no_face\.$"):
        framed_portrait(analyzer, picture, 128)
    portrait, face = framed_portrait(analyzer, picture, 128, allow_no_face=True)
    assert not face.embedding.any() and portrait.shape[1] == portrait.shape[2]
    left, right = portrait.chunk(2, dim=2)
    assert left[:, :, :-2].amax() < 1e-3 and right[:, :, 2:].amin() > 1 - 1e-3


@pytest.mark.parametrize(
    ("picture", "way"),
    [
        (CARTOON, Image.Transpose.ROTATE_180),
        (photo(576, 1024), Image.Transpose.ROTATE_180),
        (photo(900, 700, 500), Image.Transpose.ROTATE_180),
        (photo(600, 800), Image.Transpose.ROTATE_180),
        (photo(600, 800), Image.Transpose.FLIP_TOP_BOTTOM),
    ],
    ids=["portrait", "9 x 16", "photo", "box beside the face", "mirrored"],
)
def test_a_face_that_is_upside_down_is_said(analyzer, picture, way):
    turned = tensor(picture.transpose(way))[0]
    expected = "image: the face is upside down. Turn the picture by 180 degrees with Rotate Image: Load Image misreads some photos of phones."
    assert said(lambda host: embed_face(analyzer, turned, host=host)) == [expected]
    assert said(lambda host: crop_portrait(analyzer, turned, host=host)) == [expected]
    assert said(lambda host: framed_portrait(analyzer, turned[None], 128, host=host)) == [expected]
    assert said(lambda host: embed_face(analyzer, tensor(picture)[0], host=host)) == []
    mirrored = tensor(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0]
    assert said(lambda host: embed_face(analyzer, mirrored, host=host)) == []


@pytest.mark.parametrize("counterclockwise", [90, 270])
def test_a_face_on_its_side_is_found_when_the_picture_is_turned_as_that_says(analyzer, counterclockwise):
    lying = CARTOON.rotate(counterclockwise)
    with pytest.raises(InputError, match="There is one when the picture is turned by") as error:
        embed_face(analyzer, tensor(lying)[0])
    degrees = int(str(error.value).split("turned by ")[1].split()[0])
    upright = torch.rot90(tensor(lying), k=degrees // 90, dims=[2, 1])  # as Rotate Image turns it
    assert embed_face(analyzer, upright[0]).embedding.any()


@pytest.mark.parametrize(("size", "side"), [((1600, 1200), 150), ((3000, 2000), 200), ((2000, 3000), 200)])
@pytest.mark.parametrize("place", [(0.66, 0.33), (0.02, 0.95), (0.5, 0.5)])
def test_a_face_too_small_for_the_detector_is_found_in_parts_of_the_picture(analyzer, size, side, place):
    pixels = np.array(photo(*size, side, place))
    assert analyzer.detect(pixels) == []
    [face] = analyzer.find(pixels)
    x, y = int((size[0] - side) * place[0]), int((size[1] - side) * place[1])
    expected = [start + share * side for start, share in ((x, 0.22), (y, 0.3), (x, 0.83), (y, 0.9))]
    assert np.abs(np.array(face.box) - expected).max() < 0.1 * side
    assert x < face.landmarks[:, 0].min() and face.landmarks[:, 0].max() < x + side


def test_two_small_faces_are_two(analyzer):
    picture = photo(3000, 2000, 200, (0.1, 0.5))
    picture.paste(CARTOON.resize((240, 240)), (2300, 900))
    faces = analyzer.find(np.array(picture))
    assert [face.box[0] > 1500 for face in faces] == [True, False]
    portrait, crop, _ = crop_portrait(analyzer, tensor(picture)[0], index=1, size=128)
    assert crop.left < 500 and portrait.shape == (1, 128, 128, 3)


def test_a_picture_without_a_face_has_none_in_its_parts(analyzer):
    generator = np.random.default_rng(0)
    for pixels in (np.zeros((900, 1400, 3), np.uint8), generator.integers(0, 256, (900, 1400, 3), dtype=np.uint8)):
        assert analyzer.find(pixels) == []


def test_the_search_in_parts_can_be_cancelled(analyzer):
    class Cancelled(Exception):
        pass

    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        analyzer.find(np.zeros((900, 1400, 3), np.uint8), Host(check_interrupt=cancel))


@pytest.mark.parametrize(
    ("box", "size", "square"),
    [
        ((100, 300, 300, 500), (576, 1024), (20, 200, 360)),  # there is room: as face_square
        ((150, 300, 550, 700), (576, 1024), (0, 172, 576)),  # narrower than the margin asks for
        ((0, 0, 300, 300), (576, 1024), (0, 0, 540)),  # in a corner
        ((276, 724, 576, 1024), (576, 1024), (36, 484, 540)),
        ((100, 10, 500, 390), (1000, 400), (100, 0, 400)),
    ],
)
def test_the_square_lies_inside_of_the_photo_where_that_has_room(box, size, square):
    found = inner_square(box, size)
    assert (found.left, found.top, found.side) == square
    assert found.left <= box[0] and found.top <= box[1] and box[2] <= found.left + found.side and box[3] <= found.top + found.side
    assert found.left >= 0 and found.top >= 0 and found.left + found.side <= size[0] and found.top + found.side <= size[1]


def test_a_face_larger_than_the_photo_is_not_cut(analyzer):
    assert inner_square((-20, 10, 420, 390), (400, 400)) == face_square((-20, 10, 420, 390), (400, 400))


def test_a_box_by_hand_takes_the_place_of_a_face(analyzer):
    drawing = torch.zeros(400, 700, 3)
    box = (300, 100, 400, 200)
    portrait, crop, preview = crop_portrait(analyzer, drawing, margin=0.4, size=128, box=box)
    assert crop == face_square(box, (700, 400), 0.4) and portrait.shape == (1, 128, 128, 3) and preview.shape[-1] == 3
    _, exact, _ = crop_portrait(analyzer, drawing, margin=0.0, size=128, box=box)
    assert (exact.left, exact.top, exact.side) == (300, 100, 100)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((700, 0, 750, 50), r"^box_x: expected 0 to 699, since the photo has 700 x 400 pixels, got 700\.$"),
        ((0, 400, 50, 450), r"^box_y: expected 0 to 399"),
        ((650, 0, 750, 100), r"^box_size: expected a box inside of the photo of 700 x 400 pixels, got one that ends at 750 of 700"),
        ((0, 0, 500, 500), r"^box_size: .* got one that ends at 500 of 400"),
    ],
)
def test_a_box_outside_of_the_photo_is_refused(analyzer, box, message):
    with pytest.raises(InputError, match=message):
        crop_portrait(analyzer, torch.zeros(400, 700, 3), box=box)


def test_a_photo_without_a_face_says_what_its_node_has(analyzer):
    with pytest.raises(InputError, match=r"larger, or say with box_x, box_y and box_size where it is\.$"):
        crop_portrait(analyzer, torch.zeros(400, 700, 3))


@pytest.mark.parametrize(
    ("picture", "size", "note"),
    [
        ((576, 1024), (512, 512), "image: 576 x 1024 squashed to 512 x 512, 1.78 times too wide: "),
        ((1024, 576), (512, 512), "image: 1024 x 576 squashed to 512 x 512, 1.78 times too narrow: "),
        ((512, 512), (512, 768), "image: 512 x 512 squashed to 512 x 768, 1.50 times too narrow: "),
        ((1000, 1050), (256, 256), "image: 1000 x 1050 squashed to 256 x 256, 1.05 times too wide: "),
        ((1000, 1004), (512, 512), ""),
        ((1920, 1080), (640, 360), ""),
        ((300, 300), (512, 512), ""),
    ],
)
def test_how_much_a_picture_is_squashed(picture, size, note):
    assert squash_note(picture, size) == (note and note + "MEMO Crop Portrait keeps its shape, with equal width and height.")


FILES = {
    "cmyk.jpg": lambda: CARTOON.convert("CMYK"),
    "grey of 16 bits.png": lambda: Image.fromarray(np.asarray(CARTOON.convert("L")).astype(np.uint16) * 257),
    "palette.gif": lambda: CARTOON.quantize(256),
    **{
        f"orientation {number}.png": lambda turn=turn: CARTOON.transpose(turn)
        for number, turn in ((2, 0), (3, 3), (4, 1), (5, 5), (6, 2), (7, 6), (8, 4))
    },
}
"""Names of files to their pictures; an orientation by the transpose that it undoes."""


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_kind_are_read_as_they_look(tmp_path, name):
    exif = Image.Exif()
    if name.startswith("orientation"):
        exif[0x0112] = int(name[12])
    FILES[name]().save(tmp_path / name, **({"exif": exif} if exif else {}))
    expected = np.asarray(CARTOON.convert("L").convert("RGB") if name.startswith("grey") else CARTOON)
    assert np.abs(load_picture(tmp_path / name).numpy() * 255 - expected).mean() < 3
