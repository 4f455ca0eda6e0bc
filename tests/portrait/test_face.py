"""Faces: the real insightface on small graphs of the published shapes."""

import builtins
import sys

import numpy as np
import pytest
import torch

from memo_modules.errors import CheckpointError, InputError, MissingPackageError
from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, FaceAnalyzer, embed_face
from tools.tiny_onnx import ONE_FACE, TWO_FACES, write_detector, write_recogniser


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "face analysis é" / "models"
    write_detector(folder / DETECTOR_FILE)
    write_recogniser(folder / RECOGNISER_FILE)
    return folder


@pytest.fixture
def picture():
    """RGB, 512 wide and 256 high, with other values in each channel and place."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 256), torch.linspace(0, 1, 512), indexing="ij")
    return torch.stack((0.3 + 0.7 * x, 0.2 + 0.3 * y, 0.6 * x * y), dim=-1)


def on_picture(box, picture):
    """A box of the detector's 640 x 640 canvas in pixels of the picture, which fills the canvas along its longer side."""
    return pytest.approx([v * max(picture.shape[:2]) / 640 for v in box], abs=1e-3)


def test_face_of_a_picture(folder, picture):
    face = embed_face(FaceAnalyzer.load(folder), picture)
    assert face.embedding.shape == (1, 512) and face.embedding.dtype == torch.float32
    assert face.box == on_picture(ONE_FACE[0], picture)
    assert 0.5 < face.score < 0.9


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated")
def test_embedding_is_what_insightface_gives_for_a_bgr_uint8_picture(folder, picture):
    from insightface.app import FaceAnalysis

    reference = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"])
    reference.prepare(ctx_id=0, det_size=(640, 640))
    bgr = np.ascontiguousarray((picture * 255).round().byte().numpy()[..., ::-1])
    (expected,) = reference.get(bgr)

    face = embed_face(FaceAnalyzer.load(folder), picture)
    assert np.array_equal(face.embedding[0].numpy(), expected.embedding)
    assert np.allclose(face.box, expected.bbox) and face.score == pytest.approx(float(expected.det_score))
    assert face.embedding.norm() == pytest.approx(float(expected.embedding_norm))  # as it is, not normalised
    mirrored = embed_face(FaceAnalyzer.load(folder), picture.flip(1))
    assert not torch.equal(face.embedding, mirrored.embedding)


def test_faces_are_counted_from_the_largest(folder, picture):
    write_detector(folder / DETECTOR_FILE, TWO_FACES)
    analyzer = FaceAnalyzer.load(folder)
    faces = [embed_face(analyzer, picture, index) for index in (0, 1)]
    assert faces[0].box == on_picture(TWO_FACES[1], picture)
    assert faces[1].box == on_picture(TWO_FACES[0], picture)
    assert faces[0].score < faces[1].score  # so it was not the score that decided
    assert not torch.equal(faces[0].embedding, faces[1].embedding)
    for index in (2, -1):
        with pytest.raises(InputError, match=r"^index: expected 0 to 1.*got " + str(index)):
            embed_face(analyzer, picture, index)


def test_a_picture_without_a_face(folder):
    analyzer = FaceAnalyzer.load(folder)
    black = torch.zeros(320, 480, 3)
    with pytest.raises(InputError, match="^image: expected a face, found none in 480 x 320"):
        embed_face(analyzer, black)
    face = embed_face(analyzer, black, allow_no_face=True)
    assert not face.embedding.any() and face.embedding.shape == (1, 512)
    assert face.box is None and face.score == 0


def test_a_face_that_fills_the_picture_is_found_on_a_padded_one(folder, picture):
    write_detector(folder / DETECTOR_FILE, needs_margin=True)
    face = embed_face(FaceAnalyzer.load(folder), picture)
    # 256 pixels around 512 x 256 make 1024 x 768, which the detector sees at 640 x 480
    assert face.box == pytest.approx([v * 1024 / 640 - 256 for v in ONE_FACE[0]], abs=1e-3)

    padded = torch.nn.functional.pad(picture, (0, 0, 256, 256, 256, 256))
    expected = embed_face(FaceAnalyzer.load(folder), padded).embedding
    assert (face.embedding - expected).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(64, 64, 4), (2, 64, 64, 3), (64, 64)])
def test_other_than_one_rgb_picture(folder, shape):
    with pytest.raises(InputError, match="^image: expected one RGB picture"):
        embed_face(FaceAnalyzer.load(folder), torch.ones(shape))


@pytest.mark.parametrize("name", [DETECTOR_FILE, RECOGNISER_FILE])
def test_missing_truncated_and_foreign_files_are_named(folder, name):
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name + " cannot be opened"):
        FaceAnalyzer.load(folder)
    other = DETECTOR_FILE if name == RECOGNISER_FILE else RECOGNISER_FILE
    file.write_bytes(content if name == other else (folder / other).read_bytes())
    with pytest.raises(CheckpointError, match=name + ": expected a model for face"):
        FaceAnalyzer.load(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=name + " is missing"):
        FaceAnalyzer.load(folder)


def test_released_sessions_reopen(folder, picture):
    analyzer = FaceAnalyzer.load(folder)
    before = embed_face(analyzer, picture)
    analyzer.release()
    after = embed_face(analyzer, picture)
    assert torch.equal(before.embedding, after.embedding)
    analyzer.release()
    (folder / DETECTOR_FILE).unlink()
    with pytest.raises(CheckpointError, match=DETECTOR_FILE):  # nothing was kept
        embed_face(analyzer, picture)


def test_missing_package(folder, monkeypatch):
    real_import = builtins.__import__

    def without_insightface(name, *args, **kwargs):
        if name.partition(".")[0] == "insightface":
            raise ModuleNotFoundError("No module named 'insightface'", name="insightface")
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "insightface", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_insightface)
    with pytest.raises(MissingPackageError, match="pip install --no-deps insightface.*pip install onnxruntime"):
        FaceAnalyzer.load(folder)
