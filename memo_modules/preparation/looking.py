"""What preparation checks is what training will look at: one face, the same all through, large enough, in the square that training cuts.

A single look that finds no face, or no likeness, is forgiven: faces blur and turn away. Two in a row are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..portrait.face import FaceAnalyzer
from ..portrait.framing import face_square
from ..types import Crop

Box = tuple[float, float, float, float]

SAME_PERSON = 0.25
"""Cosine of two embeddings from which on they are of the same person. Of two people it is about 0, of one who turns the head 0.3 and more."""

_INSIDE = 0.9
"""Share of a face's box that has to lie in the square: the box of a face that leans reaches beyond it."""

_SMALLEST = 0.2
"""Side of a face, as a share of the square's. In MEMO's own samples it is 0.5 to 0.65; below this one its mouth is a few latents wide."""

_FEWEST_PIXELS = 32
"""Side of a face that is cropped: a smaller one would be blown up until training sees blur."""

_TURNS = 2
"""How many looks tell which way up a face is: it takes as long as one to three more of them."""

_LEAST_CHANGE, _OUTSTANDING = 8.0, 3.0
"""Mean difference of 0 to 255 between two frames, and how many times that of its neighbours, of a cut."""


@dataclass(frozen=True)
class Look:
    """What was seen in a frame. time: seconds after the first. boxes: of faces, x1 y1 x2 y2. embedding: (512,) of the only face. turn: degrees
    by which the picture has to be turned for a face to be upright, or to be found; looked for in the first pictures alone."""

    frame: int
    time: Fraction
    boxes: tuple[Box, ...]
    embedding: Tensor | None
    turn: int = 0


class Looks:
    """Looks at frames as read_video shows them; ``seen`` is what it saw."""

    def __init__(self, analyzer: FaceAnalyzer):
        self._analyzer = analyzer
        self.seen: list[Look] = []

    def __call__(self, frame: int, time: Fraction, picture: np.ndarray) -> None:
        faces = self._analyzer.detect(picture)
        embedding = self._analyzer.embed(picture, faces[0])[0] if len(faces) == 1 else None
        turn = 0
        if len(self.seen) < _TURNS and len(faces) <= 1:
            turn = self._analyzer.turn(picture, faces[0] if faces else None)
        self.seen.append(Look(frame, time, tuple(face.box for face in faces), embedding, turn))

    def between(self, start: int, stop: int) -> list[Look]:
        """What was seen in the frames start..stop-1."""
        return [look for look in self.seen if start <= look.frame < stop]


def check_face(looks: Sequence[Look], size: tuple[int, int], crop: bool) -> tuple[Tensor, Crop | None]:
    """The embedding (512,) of the face, from the first look that shows it, and the square to crop, None where the middle square will do.

    size: (width, height) of the pictures. crop: whether one may be cropped. Raises InputError, with the time, for anything else than
    one face of one person, and for a face that lies outside of the square or is too small in it.
    """
    for look in looks:
        if len(look.boxes) > 1:
            raise InputError(f"{len(look.boxes)} faces: a picture shows {len(look.boxes)}, expected exactly one, at {_clock(look)}.")
    faces = [(look, look.embedding) for look in looks if look.embedding is not None]
    turn = looks[0].turn if looks and all(look.turn == looks[0].turn for look in looks[:_TURNS]) else 0
    turned = f" There is one when the video is turned by {turn} degrees." if turn else ""
    if not faces:
        raise InputError(f"no face: none was found in {len(looks)} pictures, looked for twice a second.{turned}")
    if turn and looks[0].embedding is not None:
        raise InputError(f"its face {'is upside down' if turn == 180 else 'lies on its side'}: turn the video by {turn} degrees.")
    for before, look in pairwise(looks):
        if before.embedding is None and look.embedding is None:
            raise InputError(f"no face from {_clock(before)} to {_clock(look)} at least.{turned}")
    first, face = faces[0]
    likenesses = [(look, float(torch.cosine_similarity(face, other, dim=0))) for look, other in faces]
    for (look, one), (_, two) in pairwise(likenesses):
        if (likeness := max(one, two)) < SAME_PERSON:
            raise InputError(f"another person: the face at {_clock(look)} is not that at {_clock(first)} (likeness {likeness:.2f} of 1).")
    shown = [look for look, _ in faces]
    try:
        _checked(shown, _middle_square(size), "the middle square, which is all that training sees")
    except InputError as error:
        if not crop:
            raise InputError(f"{error} Crop it, or use --crop face.") from None
        return face, _cropped(shown, size)
    return face, None


def check_cuts(changes: Sequence[float], times: Sequence[Fraction]) -> None:
    """Raises InputError when the picture is cut somewhere."""
    if frames := cuts(changes):
        more = f" and {len(frames) - 1} more" if len(frames) > 1 else ""
        raise InputError(f"a cut at {float(times[frames[0]] - times[0]):.2f} s{more}: use --split, which makes a clip of each part.")


def cuts(changes: Sequence[float]) -> list[int]:
    """The frames with which another shot begins: each changes far more from the one before it than its neighbours do. A flash changes
    twice, and is none."""
    found = []
    for k in range(1, len(changes)):
        around = [*changes[max(1, k - 3) : k], *changes[k + 1 : k + 4]]
        if changes[k] > max(_LEAST_CHANGE, _OUTSTANDING * max(around, default=0)):
            found.append(k)
    return found


def _checked(shown: Sequence[Look], square: Crop, name: str) -> None:
    """Raises InputError unless the only face of each look is in the square, and large enough."""
    for look in shown:
        [box] = look.boxes
        inside = _share_inside(box, square)
        if inside < _INSIDE:
            raise InputError(f"its face lies outside of {name}, at {_clock(look)} ({inside:.0%} of it is inside).")
        if (share := _longer(box) / square.side) < _SMALLEST:
            raise InputError(f"its face is too small in {name}, at {_clock(look)}: {share:.0%} of its side, expected {_SMALLEST:.0%} or more.")


def _cropped(shown: Sequence[Look], size: tuple[int, int]) -> Crop:
    """The square around wherever the face is, within the picture, of even side."""
    x1, y1, x2, y2 = zip(*(look.boxes[0] for look in shown), strict=True)
    wanted, (width, height) = face_square((min(x1), min(y1), max(x2), max(y2)), size), size
    side = min(wanted.side, width, height) // 2 * 2
    left, top = wanted.left + (wanted.side - side) // 2, wanted.top + (wanted.side - side) // 2
    square = Crop(min(max(left, 0), width - side), min(max(top, 0), height - side), side, size)
    _checked(shown, square, "any square of the picture that stays where it is")
    smallest = min(shown, key=lambda look: _longer(look.boxes[0]))
    if (pixels := _longer(smallest.boxes[0])) < _FEWEST_PIXELS:
        raise InputError(f"its face is too small to crop, at {_clock(smallest)}: {pixels:.0f} pixels, expected {_FEWEST_PIXELS} or more.")
    return square


def _middle_square(size: tuple[int, int]) -> Crop:
    width, height = size
    side = min(size)
    return Crop(round((width - side) / 2), round((height - side) / 2), side, size)


def _share_inside(box: Box, square: Crop) -> float:
    x1, y1, x2, y2 = box
    across = max(0.0, min(x2, square.left + square.side) - max(x1, square.left))
    down = max(0.0, min(y2, square.top + square.side) - max(y1, square.top))
    return across * down / max((x2 - x1) * (y2 - y1), 1e-9)


def _longer(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _clock(look: Look) -> str:
    return f"{float(look.time):.1f} s"
