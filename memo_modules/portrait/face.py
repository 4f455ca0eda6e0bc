"""Faces in a picture: detection and embedding with insightface."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, InputError, MissingPackageError
from ..types import Face
from ..weights.checkpoints import REPAIR
from ..weights.onnx_sessions import OnnxModel, check_graph, check_made, opening, quiet, running
from .pictures import eight_bits, rgb_picture

DETECTOR_FILE = "scrfd_10g_bnkps.onnx"
RECOGNISER_FILE = "glintr100.onnx"
"""MEMO was trained on the embeddings of this very recogniser; another one loads and gives faces that mean nothing to it."""

DETECTION_SIZE = (640, 640)
EMBEDDING_SIZE = 512

_NETWORKS = {
    "detection": ({None: (1, 3, None, None)}, [(..., width) for width in (1, 4, 10) for _ in range(3)]),
    "recognition": ({None: (None, 3, 112, 112)}, [(None, EMBEDDING_SIZE)]),
}
"""What the networks take and give: pictures, to scores, boxes and landmarks on three grids, and to the embedding."""


@dataclass(frozen=True)
class Detection:
    """A face found in a picture, in pixels of that picture; parts of it may lie outside.

    box: x1 y1 x2 y2. score: confidence in [0, 1]. landmarks: (5 2), eyes, nose and mouth corners.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray

    @property
    def area(self) -> float:
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


class FaceAnalyzer(OnnxModel):
    """The detector and the recogniser of a face analysis folder, `misc/face_analysis/models` of the published checkpoint.

    Its other files are left alone. On the CPU a picture takes well under a second.
    """

    def __init__(self, folder: Path, cuda: bool = False):
        super().__init__([folder / DETECTOR_FILE, folder / RECOGNISER_FILE], cuda)

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 RGB (h w 3) at full resolution, largest first.

        A face that fills the picture escapes the detector, so a picture without a face is searched again with a
        margin of half its longer side around it.
        """
        detector, _ = self.open()
        bgr = image[..., ::-1]
        margin = max(bgr.shape[:2]) // 2
        path, _ = self.files
        found = _detect(detector, bgr, 0, path) or _detect(detector, bgr, margin, path)
        return sorted(found, key=lambda face: face.area, reverse=True)

    def embed(self, image: np.ndarray, face: Detection) -> Tensor:
        """The embedding of a face of that picture: float32 (1 512), not normalised."""
        _, recogniser = self.open()
        _, path = self.files
        with running(path), quiet():  # insightface calls what scikit-image deprecates
            embedding = recogniser.get(np.ascontiguousarray(image[..., ::-1]), SimpleNamespace(kps=face.landmarks))
        check_made(embedding, (EMBEDDING_SIZE,), path)
        return torch.from_numpy(embedding)[None]

    def _open(self, providers: list[str]) -> tuple[Any, Any]:
        """insightface's detector and recogniser."""
        model_zoo = _import_model_zoo()
        detector, recogniser = (
            _open_model(model_zoo, path, task, providers) for path, task in zip(self.files, ("detection", "recognition"), strict=True)
        )
        detector.prepare(ctx_id=0, input_size=DETECTION_SIZE)
        return detector, recogniser


def embed_face(analyzer: FaceAnalyzer, image: Tensor, index: int = 0, allow_no_face: bool = False) -> Face:
    """Find a face of a picture and describe it to MEMO.

    image: float (h w 3), RGB in [0, 1], not resized before. index: which face, 0 the largest. allow_no_face: a picture
    without a face gives a zero embedding, as the reference implementation does. Raises InputError when the picture has
    no face or no such face, and when rgb_picture refuses it.
    """
    pixels = eight_bits(rgb_picture(image[None])[0].cpu())
    faces = analyzer.detect(pixels)
    if not faces and allow_no_face:
        return Face(torch.zeros(1, EMBEDDING_SIZE), None, 0.0)
    check_faces(faces, index, pixels, ", or allow a picture without a face")
    face = faces[index]
    return Face(analyzer.embed(pixels, face), face.box, face.score)


def check_faces(faces: Sequence[Detection], index: int, pixels: np.ndarray, otherwise: str = "") -> None:
    """Raises InputError when no face was found in ``pixels``, or none number ``index``. otherwise: what else may help."""
    if not faces:
        raise InputError(
            f"image: expected a face, found none in {pixels.shape[1]} x {pixels.shape[0]} pixels. "
            f"Use a picture in which the face is upright, well lit and larger{otherwise}."
        )
    if not 0 <= index < len(faces):
        raise InputError(f"index: expected 0 to {len(faces) - 1}, since the picture has {len(faces)} face(s), got {index}.")


def _detect(detector: Any, bgr: np.ndarray, margin: int, path: Path) -> list[Detection]:
    canvas = np.pad(bgr, ((margin, margin), (margin, margin), (0, 0)))
    with running(path), quiet():
        boxes, landmarks = detector.detect(canvas)
    check_made(boxes, (None, 5), path)
    check_made(landmarks, (len(boxes), 5, 2), path)
    return [Detection(tuple((box[:4] - margin).tolist()), float(box[4]), points - margin) for box, points in zip(boxes, landmarks, strict=True)]


def _open_model(model_zoo: ModuleType, path: Path, task: str, providers: list[str]) -> Any:
    check_graph(path, f"a model for face {task}", *_NETWORKS[task])
    with opening(path):
        # insightface 2 would open a second session for a fixed picture size
        model = model_zoo.get_model(str(path), providers=providers, static_shape_sessions=False)
    if model is None or model.taskname != task:
        kind = "one that insightface does not know" if model is None else model.taskname
        raise CheckpointError(f"{path}: expected a model for face {task}, got {kind}. {REPAIR}")
    return model


def _import_model_zoo() -> ModuleType:
    try:
        from insightface import model_zoo
    except ImportError as error:
        raise MissingPackageError(
            f"Face analysis needs insightface and an ONNX runtime ({error}): run `pip install --no-deps insightface`, "
            "and `pip install onnxruntime` (onnxruntime-gpu on CUDA) unless one of them is installed (README, Install)."
        ) from error
    return model_zoo
