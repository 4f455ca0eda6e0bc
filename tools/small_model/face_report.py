"""What the trained face models are worth on characters they have not seen, through FaceAnalyzer as users have it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from memo_modules.portrait.face import FaceAnalyzer
from tools.small_model.face_data import draw_empty, find_face
from tools.small_world import Character, character, make_clip
from tools.small_world.characters import CHOICES

SIZES = (128, 192, 256, 512)
"""Pixels of the pictures that are measured, in turn."""

FRAMES = 4
"""Of each clip, evenly spread."""


@dataclass(frozen=True)
class Seen:
    """Frames of one character: pictures (FRAMES size size 3), the true boxes (FRAMES 4) and landmarks (FRAMES 5 2)."""

    who: Character
    pictures: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class Readout:
    """How to read Character.vector from an embedding: mean and scale (d) of the vectors, projection (d 512) to embeddings."""

    mean: np.ndarray
    scale: np.ndarray
    projection: np.ndarray

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """(n d) from (n 512)."""
        return self.mean + self.scale * (embeddings @ np.linalg.pinv(self.projection))


def measure(analyzer: FaceAnalyzer, seeds: Sequence[int], readout: Readout) -> dict[str, dict]:
    """All figures, four frames of each of the characters of ``seeds``; those of faces that are never found are left out."""
    people = [_look_at(seed, SIZES[i % len(SIZES)]) for i, seed in enumerate(seeds)]
    return {
        "whole_pictures": _found(analyzer, ((p, b, x) for s in people for p, b, x in zip(s.pictures, s.boxes, s.landmarks, strict=True))),
        "faces_that_fill_the_picture": _found(analyzer, (_close_up(s) for s in people)),
        "faces_of_60_pixels_on_the_canvas": _found(analyzer, (_far_away(s) for s in people)),
        "two_faces": _count(analyzer, _pairs(people), 2),
        "no_face": _count(analyzer, _without(seeds), 0),
        "embedding": _compare(analyzer, people, readout),
    }


def _look_at(seed: int, size: int) -> Seen:
    clip = make_clip(seed, 2.0)
    rows = np.linspace(0, len(clip) - 1, FRAMES).astype(int)
    boxes, landmarks = find_face(clip.who, clip.tracks, size)
    return Seen(clip.who, np.concatenate([clip.frames(size, row, row + 1) for row in rows]), boxes[rows], landmarks[rows])


def _close_up(seen: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first frame cut to its face's box."""
    x1, y1, x2, y2 = np.clip(seen.boxes[0], 0, len(seen.pictures[0])).round().astype(int)
    return seen.pictures[0, y1:y2, x1:x2], seen.boxes[0] - (x1, y1, x1, y1), seen.landmarks[0] - (x1, y1)


def _far_away(seen: Seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first frame in the corner of a picture so large that its face is 60 of the detector's 640 pixels wide."""
    size, width = len(seen.pictures[0]), seen.boxes[0, 2] - seen.boxes[0, 0]
    side = round(width * 640 / 60)
    picture = np.full((side, side, 3), 90, dtype=np.uint8)
    picture[side - size :, :size] = seen.pictures[0]
    return picture, seen.boxes[0] + (0, side - size, 0, side - size), seen.landmarks[0] + (0, side - size)


def _pairs(people: Sequence[Seen]) -> Iterator[np.ndarray]:
    """Two people of the same size next to each other, below each other, and two of different size."""
    for i, first in enumerate(people):
        alike = people[i % len(SIZES) :: len(SIZES)]
        second = alike[(i // len(SIZES) + 1) % len(alike)]
        a, b = first.pictures[0], second.pictures[-1]
        if i % 3 == 2:
            b = np.pad(b[::2, ::2], ((0, len(a) // 2), (0, 0), (0, 0)), mode="edge")
        yield np.concatenate((a, b), axis=0 if i % 3 == 1 else 1)


def _without(seeds: Sequence[int]) -> Iterator[np.ndarray]:
    """Backdrops and bodies of the characters, noise and flat colours."""
    yield from draw_empty(seeds, 128)
    random = np.random.RandomState(0)
    for i in range(len(seeds) // 2):
        yield random.randint(0, 256, (128 >> i % 5, 128 >> i % 5, 3)).repeat(1 << i % 5, axis=0).repeat(1 << i % 5, axis=1).astype(np.uint8)
        yield np.full((96, 128, 3), random.randint(0, 256, 3), dtype=np.uint8)


def _found(analyzer: FaceAnalyzer, pictures: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict:
    """Pictures with one face each, its box and landmarks. Errors are in parts of the true distance between the eyes."""
    once, overlaps, errors = [], [], []
    for picture, box, landmarks in pictures:
        faces = analyzer.detect(picture)
        once.append(len(faces) == 1)
        if faces:
            overlaps.append(_overlap(np.array(faces[0].box), box))
            errors.append(np.linalg.norm(faces[0].landmarks - landmarks, axis=1) / np.linalg.norm(landmarks[1] - landmarks[0]))
    figures = {"pictures": len(once), "exactly_one": _rounded(np.mean(once))}
    if not overlaps:
        return figures
    return {
        **figures,
        "box_iou_mean": _rounded(np.mean(overlaps)),
        "box_iou_worst": _rounded(np.min(overlaps)),
        "landmark_error_mean": _rounded(np.mean(errors)),
        "landmark_error_worst": _rounded(np.max(errors)),
    }


def _count(analyzer: FaceAnalyzer, pictures: Iterator[np.ndarray], expected: int) -> dict:
    counts = [len(analyzer.detect(picture)) for picture in pictures]
    return {"pictures": len(counts), "right": _rounded(np.mean(np.array(counts) == expected)), "faces_found": sum(counts)}


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))


def _compare(analyzer: FaceAnalyzer, people: Sequence[Seen], readout: Readout) -> dict:
    """Frames of the same and of different characters; and how much of the characters' vectors is in an embedding."""
    embeddings, owners = [], []
    for owner, seen in enumerate(people):
        for picture in seen.pictures:
            for face in analyzer.detect(picture)[:1]:
                embeddings.append(analyzer.embed(picture, face)[0].numpy())
                owners.append(owner)
    if not embeddings:
        return {}
    embeddings, owners = np.stack(embeddings), np.array(owners)
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = directions @ directions.T
    first, second = np.triu_indices(len(owners), 1)
    cosines, same = cosines[first, second], owners[first] == owners[second]
    thresholds = np.linspace(-1, 1, 401)
    # Same and different count alike, though there are far more of the latter.
    accuracies = np.array([((cosines[same] > t).mean() + (cosines[~same] <= t).mean()) / 2 for t in thresholds])
    truth = np.stack([people[owner].who.vector() for owner in owners])
    return {
        "entries_mean": _rounded(embeddings.mean()),
        "entries_standard_deviation": _rounded(embeddings.std()),
        "same_cosine_mean": _rounded(cosines[same].mean()),
        "same_cosine_worst_percent": _rounded(np.percentile(cosines[same], 1)),
        "different_cosine_mean": _rounded(cosines[~same].mean()),
        "different_cosine_worst_percent": _rounded(np.percentile(cosines[~same], 99)),
        "verification_accuracy": _rounded(accuracies.max()),
        "verification_threshold": _rounded(thresholds[accuracies.argmax()]),
        "r2": explained(readout.vectors(embeddings), truth),
    }


def explained(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """R^2 of each field of Character.vector, the mean over its numbers, and `all`, that over all numbers: (n d) of both.

    Numbers that are the same in all of ``truth`` are left out.
    """
    varying = truth.std(axis=0) > 0
    shares = 1 - np.square(predicted - truth).mean(axis=0)[varying] / truth.var(axis=0)[varying]
    names = np.array(_names())[varying]
    found = {name: _rounded(shares[names == name].mean()) for name in dict.fromkeys(names)}
    return {"all": _rounded(shares.mean()), **found}


def _names() -> list[str]:
    """The field that each number of Character.vector belongs to."""
    names, anyone = [], character(0)
    for field in fields(anyone):
        if field.name != "seed":
            value = getattr(anyone, field.name)
            names += [field.name] * (len(value) if isinstance(value, tuple) else len(CHOICES.get(field.name, [value])))
    return names


def _rounded(value: float) -> float:
    return round(float(value), 4)
