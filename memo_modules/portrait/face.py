"""Faces in a picture: detection and embedding with insightface."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..clips import ceil_div
from ..errors import CheckpointError, InputError, MissingPackageError
from ..host import SILENT, Host
from ..progress import counted
from ..types import Face
from ..weights.checks import REPAIR
from ..weights.onnx_sessions import OnnxModel, check_graph, check_made, opening, quiet, running
from .pictures import eight_bits, rgb_picture

DETECTOR_FILE = "scrfd_10g_bnkps.onnx"
RECOGNISER_FILE = "glintr100.onnx"
"""MEMO was trained on the embeddings of this very recogniser; another one loads and gives faces that mean nothing to it."""

DETECTION_SIZE = (640, 640)
EMBEDDING_SIZE = 512

_ALIKE, _NEAR, _SURER = 0.5, 0.25, 0.05
"""Two boxes are of the same face where this share of the smaller one lies in the other. A face is the other way up where the detector is by so
much surer of one near it in the picture turned: around a face that is upside down it draws a box that is shifted."""

_LOOKED_AT = 1280
"""Pixels of the longer side that do to see which way up a face is."""

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
    def turn(self) -> int:
        """Degrees, clockwise, by which the picture has to be turned for the mouth to be below the eyes: 0, 90, 180 or 270."""
        across, down = (self.landmarks[3:].mean(axis=0) - self.landmarks[:2].mean(axis=0)).tolist()
        if abs(down) >= abs(across):
            return 0 if down >= 0 else 180
        return 90 if across > 0 else 270

    def overlaps(self, box: tuple[float, float, float, float], share: float = _ALIKE) -> bool:
        x1, y1, x2, y2 = self.box
        across, down = min(x2, box[2]) - max(x1, box[0]), min(y2, box[3]) - max(y1, box[1])
        smaller = min(self.area, (box[2] - box[0]) * (box[3] - box[1]))
        return across > 0 and down > 0 and across * down > share * smaller

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

    def find(self, image: np.ndarray, host: Host = SILENT) -> list[Detection]:
        """``detect``, and where that finds nothing, a search for faces that are too small for it in overlapping squares of the picture: first
        of half its longer side, then of a quarter and an eighth, none with fewer pixels than the detector sees. It ends with the squares after
        those in which a face was found."""
        found = self.detect(image)
        longer, smallest = max(image.shape[:2]), DETECTION_SIZE[0]
        sides = [side for side in sorted({max(longer // parts, smallest) for parts in (2, 4, 8)}) if side < longer]
        while sides and not found:
            found = self._in_squares(image, sides.pop(), host)
            if found and sides:  # others may be smaller still
                found = _apart([*found, *self._in_squares(image, sides.pop(), host)])
        return found

    def _in_squares(self, image: np.ndarray, side: int, host: Host) -> list[Detection]:
        detector, _ = self.open()
        path, _ = self.files
        found = []
        for top in _starts(image.shape[0], side):
            for left in _starts(image.shape[1], side):
                host.check_interrupt()
                for face in _detect(detector, image[top : top + side, left : left + side, ::-1], 0, path):
                    x1, y1, x2, y2 = face.box
                    found.append(Detection((x1 + left, y1 + top, x2 + left, y2 + top), face.score, face.landmarks + (left, top)))
        return _apart(found)

    def turn(self, image: np.ndarray, face: Detection | None) -> int:
        """Degrees, clockwise, by which to turn the picture for ``face`` to be upright, or for one to be found where none was: 0, 90, 180 or
        270. Some detectors put eyes and mouth of a face that is upside down the right way up: they are surer of it when it is turned."""
        apart = max(1, max(image.shape[:2]) // _LOOKED_AT)
        reduced = np.ascontiguousarray(image[::apart, ::apart])
        if face is None:
            return next((turn for turn in (180, 90, 270) if self.detect(np.rot90(reduced, -turn // 90))), 0)
        if face.turn:
            return face.turn
        height, width = image.shape[:2]
        x1, y1, x2, y2 = face.box
        there = tuple(place / apart for place in (width - x2, height - y2, width - x1, height - y1))
        turned = self.detect(np.rot90(reduced, 2))
        surer = any(other.score > face.score + _SURER and not other.turn and other.overlaps(there, _NEAR) for other in turned)
        return 180 if surer else 0

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


def embed_face(analyzer: FaceAnalyzer, image: Tensor, index: int = 0, allow_no_face: bool = False, host: Host = SILENT) -> Face:
    """Find a face of a picture and describe it to MEMO.

    image: float (h w 3), RGB in [0, 1], not resized before. index: which face, 0 the largest. allow_no_face: a picture
    without a face gives a zero embedding, as the reference implementation does. ``host`` is told of a face that is not upright. Raises
    InputError when the picture has no face or no such face, and when rgb_picture refuses it.
    """
    pixels = eight_bits(rgb_picture(image[None])[0].cpu())
    return described_face(analyzer, pixels, analyzer.find(pixels, host), index, allow_no_face, host)


def described_face(
    analyzer: FaceAnalyzer, pixels: np.ndarray, faces: Sequence[Detection], index: int, allow_no_face: bool, host: Host = SILENT
) -> Face:
    """``embed_face`` of one of the ``faces`` that were found in ``pixels``."""
    if not faces and allow_no_face:
        return Face(torch.zeros(1, EMBEDDING_SIZE), None, 0.0)
    face = chosen_face(analyzer, pixels, faces, index, "switch on allow_no_face", host)
    return Face(analyzer.embed(pixels, face), face.box, face.score)


def chosen_face(analyzer: FaceAnalyzer, pixels: np.ndarray, faces: Sequence[Detection], index: int, otherwise: str, host: Host = SILENT) -> Detection:
    """Number ``index`` of the ``faces`` that were found in ``pixels``; ``host`` is told where it is not upright.

    Raises InputError when no face was found, or none of that number. otherwise: what else helps than another picture.
    """
    if not faces:
        turn = analyzer.turn(pixels, None)
        remedy = "Use a picture in which the face is upright, well lit and larger"
        if turn:
            remedy = f"There is one when the picture is turned by {turn} degrees: do so with Rotate Image"
        raise InputError(f"image: expected a face, found none in {pixels.shape[1]} x {pixels.shape[0]} pixels. {remedy}, or {otherwise}.")
    if not 0 <= index < len(faces):
        raise InputError(f"index: expected 0 to {len(faces) - 1}, since the picture has {counted(len(faces), 'face')}, got {index}.")
    if turn := analyzer.turn(pixels, faces[index]):
        lies = "is upside down" if turn == 180 else "lies on its side"
        host.say(f"image: the face {lies}. Turn the picture by {turn} degrees with Rotate Image: Load Image misreads some photos of phones.")
    return faces[index]


def _apart(faces: Sequence[Detection]) -> list[Detection]:
    """Of each face the detection that is surest, largest first."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda face: face.score, reverse=True):
        if not any(face.overlaps(other.box) for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: face.area, reverse=True)


def _starts(length: int, side: int) -> list[int]:
    """Where squares begin that cover ``length`` and overlap by half their side or more."""
    if length <= side:
        return [0]
    steps = ceil_div(2 * (length - side), side)
    return [round(k * (length - side) / steps) for k in range(steps + 1)]


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
