"""Pictures to train the face models of the small world on, and where the faces in them are."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from memo_modules.types import EMOTIONS
from tools.small_world.canvas import DEPTH, Canvas
from tools.small_world.characters import SKINS, Character, character
from tools.small_world.eyes import EYES_V
from tools.small_world.faces import MOUTH_V, NARROW, WIDE, render
from tools.small_world.hair import FOREHEAD, paint_behind
from tools.small_world.performance import FPS, FRAMING, Tracks, perform
from tools.small_world.scenery import backdrop, paint_body
from tools.small_world.seeds import random_state

TRAINING, TESTING = 910_000_000, 920_000_000
"""First seeds of the characters that are trained on and of those that are measured on; a --seed of the command adds millions."""

NOSE_V = 0.14
JAW_DROP, SMILE = 0.055, 0.075 * 0.55
"""How far an open mouth lowers the chin, and a smile lifts the corners of the widest mouth, in head units."""

SIDE = 160
"""Pixels of a side of the detector's canvas as its network sees it, a quarter of insightface's 640."""

CELLS, CELL_ODDS = (1, 2, 3, 4, 5), (0.62, 0.16, 0.1, 0.07, 0.05)
"""Pictures along a side of a scene."""

FEWEST_SEEN, NONE_SEEN = 0.75, 0.2
"""Shares of a face's box inside a picture from which on it is to be found, and below which it is none; between them either is right."""


@dataclass(frozen=True)
class Portraits:
    """Pictures of characters: pictures (n size size 3) uint8 RGB, boxes (n 4) and landmarks (n 5 2) in pixels as in
    memo_modules.face.Detection, vectors (n d) as Character.vector gives them, seeds (n) of the characters. Arrays, or
    lists of the like where sizes differ."""

    pictures: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    vectors: np.ndarray
    seeds: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)


def find_face(who: Character, tracks: Tracks, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the face is in each frame of ``size`` pixels: box (frames 4), x1 y1 x2 y2 from the hairline to the chin and over
    the width of the face, and landmarks (frames 5 2): eyes, tip of the nose and corners of the mouth, left before right."""
    half = NARROW + (WIDE - NARROW) * tracks.width
    corners = MOUTH_V - SMILE * tracks.corners * half / WIDE
    x, y, roll, scale, yaw, pitch = tracks.pose.T

    def on_picture(u, v, depth: float) -> np.ndarray:
        u, v = u + depth * DEPTH * yaw, v + depth * DEPTH * pitch
        right, down = x + scale * (np.cos(roll) * u - np.sin(roll) * v), y + scale * (np.cos(roll) * v + np.sin(roll) * u)
        return (np.stack((right, down), axis=-1) + 1) * (size / 2)

    landmarks = [
        on_picture(-who.eye_distance, EYES_V, 1.0),
        on_picture(who.eye_distance, EYES_V, 1.0),
        on_picture(0.0, NOSE_V, 1.7),
        on_picture(-half, corners, 1.0),
        on_picture(half, corners, 1.0),
    ]
    chin = who.face_height + JAW_DROP * tracks.opening
    middle = on_picture(0.0, (FOREHEAD + chin) / 2, 0.0)
    reach = np.stack((who.face_width * scale, (chin - FOREHEAD) / 2 * scale), axis=-1) * (size / 2)
    return np.concatenate((middle - reach, middle + reach), axis=1).astype(np.float32), np.stack(landmarks, axis=1).astype(np.float32)


def draw_portraits(seeds: Iterable[int], frames: int, size: int = 128) -> Portraits:
    """``frames`` pictures of each character, in any mood and with any mouth, one after the other."""
    drawn = []
    for seed in seeds:
        who, tracks = character(seed), _moments(seed, frames)
        boxes, landmarks = find_face(who, tracks, size)
        drawn.append((render(who, tracks, size), boxes, landmarks, who.vector()[None].repeat(frames, axis=0), np.full(frames, seed)))
    return Portraits(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))


def _moments(seed: int, frames: int) -> Tracks:
    """Rows picked from a silent performance with a mood for each second, each with a mouth of its own."""
    random = random_state(seed, "moments")
    moods = np.repeat(random.randint(len(EMOTIONS), size=12), FPS)
    tracks = perform(np.zeros(1600), moods, seed)
    rows = random.choice(len(tracks), frames, replace=False)
    picked = Tracks(**{name: track[rows] for name, track in vars(tracks).items()})
    opening, width = (random.uniform(0, 1, frames).astype(np.float32) for _ in range(2))
    return replace(picked, opening=opening * (random.uniform(size=frames) < 0.8), width=width)


def draw_empty(seeds: Iterable[int], size: int = 128) -> np.ndarray:
    """uint8 (n size size 3): backdrops, every second one with a body, hair behind it or not, and no head."""
    drawn = []
    for i, seed in enumerate(seeds):
        who, pose = character(seed), _moments(seed, 1).pose
        canvas = Canvas(backdrop(who, size), pose)
        if i % 2:
            if i % 4 == 1:
                paint_behind(canvas, who)
            paint_body(canvas.following(np.array([[0, 0, 0, 0.6 + 0.4 * FRAMING, 0, 0]], dtype=np.float32)), who)
        drawn.append(canvas.frames())
    return np.concatenate(drawn)


@dataclass(frozen=True)
class Scene:
    """A canvas of the detector: picture (SIDE SIDE 3) uint8 RGB; boxes (n 4) and landmarks (n 5 2) of the faces in it, in
    its pixels; wanted (n): whether a face is to be found, or may be missed, as too much of it is cut off."""

    picture: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    wanted: np.ndarray


class Scenes:
    """Scenes without end from portraits and empty pictures: one face or many, near or far, whole or cut, or none."""

    def __init__(self, portraits: Portraits, empty: np.ndarray, seed: int):
        self.portraits, self.empty, self.random = portraits, empty, random_state(seed, "scenes")

    def draw(self) -> Scene:
        random = self.random
        cells = random.choice(CELLS, p=CELL_ODDS)
        picture = self._nothing(SIDE) if random.uniform() < 0.5 else np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        edges = np.round(np.linspace(0, SIDE, cells + 1)).astype(int)
        faces = []
        busy = random.choice((0.0, 0.4, 0.9), p=(0.2, 0.2, 0.6))
        for top, bottom in pairwise(edges):
            for left, right in pairwise(edges):
                if random.uniform() < busy:
                    cell, box, landmarks, seen = self._portrait(right - left, bottom - top)
                    picture[top:bottom, left:right] = cell
                    if seen > NONE_SEEN:
                        faces.append((box + (left, top, left, top), landmarks + (left, top), seen > FEWEST_SEEN))
                elif random.uniform() < 0.5:
                    picture[top:bottom, left:right] = self._nothing(max(right - left, bottom - top))[: bottom - top, : right - left]
        boxes, landmarks, wanted = (np.array([face[i] for face in faces], dtype=np.float32) for i in range(3))
        scene = Scene(picture, boxes.reshape(-1, 4), landmarks.reshape(-1, 5, 2), wanted > 0)
        if random.uniform() < 0.3:
            scene = self._letterbox(scene)
        if cells <= 2 and random.uniform() < 0.3:
            scene = _margin(scene)
        return replace(scene, picture=degrade(scene.picture, random))

    def _portrait(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """A cell (height width 3) with a face in it, its box and landmarks there, and the share of the box that is seen."""
        import cv2

        random, i = self.random, self.random.randint(len(self.portraits))
        picture, box, landmarks = (getattr(self.portraits, name)[i] for name in ("pictures", "boxes", "landmarks"))
        if random.uniform() < 0.5:
            picture, box, landmarks = mirror(picture, box, landmarks)
        plain = random.uniform() < 0.4  # the whole picture fills the cell, as users' pictures do
        scale = min(width, height) / len(picture) * (1.0 if plain else np.exp(random.uniform(np.log(0.6), np.log(1.75))))
        if scale < 1:
            smaller = round(len(picture) * scale)
            picture, box, landmarks = cv2.resize(picture, (smaller, smaller), interpolation=cv2.INTER_AREA), box * scale, landmarks * scale
            scale = 1.0
        # About the middle of the picture; a cell that is narrower than the picture is aimed at the face.
        middle = np.full(2, len(picture) / 2) if plain else (box[:2] + box[2:]) / 2 + random.normal(0, 0.1, 2) * (box[2:] - box[:2])
        matrix = cv2.getRotationMatrix2D(tuple(middle.tolist()), 0.0 if plain else float(random.normal(0, 7)), scale)
        matrix[:, 2] += np.array((width, height)) / 2 - middle
        cell = self._nothing(max(width, height))[:height, :width].copy()
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # cv2 counts from the middle of a pixel
        cv2.warpAffine(picture, shifted, (width, height), dst=cell, borderMode=cv2.BORDER_TRANSPARENT)
        centre, reach = matrix @ (*((box[:2] + box[2:]) / 2), 1), scale * (box[2:] - box[:2]) / 2
        box = np.concatenate((centre - reach, centre + reach))
        return cell, box, landmarks @ matrix[:, :2].T + matrix[:, 2], seen_share(box, width, height)

    def _nothing(self, side: int) -> np.ndarray:
        """uint8 (side side 3) without a face."""
        import cv2

        random = self.random
        kind = random.randint(6)
        if kind <= 1:
            picture = self.empty[random.randint(len(self.empty))]
        elif kind == 2:  # a face in pieces is none
            picture = self.portraits.pictures[random.randint(len(self.portraits))]
            tiles = [tile for row in np.split(picture, 4) for tile in np.split(row, 4, axis=1)]
            order = random.permutation(16)
            picture = np.concatenate([np.concatenate([tiles[i] for i in order[row : row + 4]], axis=1) for row in range(0, 16, 4)])
        elif kind == 3:
            picture = np.full((8, 8, 3), random.randint(0, 256, 3), dtype=np.uint8)
        elif kind == 4:
            cells = 2 ** random.randint(1, 8)
            picture = random.randint(0, 256, (cells, cells, 3)).astype(np.uint8)
        else:
            picture = self._shapes()
        return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if side < len(picture) else cv2.INTER_LINEAR)

    def _shapes(self) -> np.ndarray:
        """Ellipses of skin and other colours on a flat one."""
        import cv2

        random = self.random
        picture = np.full((SIDE, SIDE, 3), random.randint(0, 256, 3), dtype=np.uint8)
        for _ in range(random.randint(1, 8)):
            colour = np.array(SKINS[random.randint(len(SKINS))]) * 255 if random.uniform() < 0.5 else random.randint(0, 256, 3)
            place, axes = random.randint(0, SIDE, 2), random.randint(4, SIDE // 2, 2)
            cv2.ellipse(picture, place.tolist(), axes.tolist(), float(random.uniform(0, 360)), 0, 360, [float(c) for c in colour], -1, cv2.LINE_AA)
        return picture

    def _letterbox(self, scene: Scene) -> Scene:
        """Black from a row or a column on, as below or next to a picture that is not square."""
        picture, keep = scene.picture.copy(), int(self.random.uniform(0.4, 1.0) * SIDE)
        width, height = (SIDE, keep) if self.random.uniform() < 0.5 else (keep, SIDE)
        picture[height:], picture[:, width:] = 0, 0
        seen = np.array([seen_share(box, width, height) for box in scene.boxes]).reshape(-1)
        kept = seen > NONE_SEEN
        return Scene(picture, scene.boxes[kept], scene.landmarks[kept], (scene.wanted & (seen > FEWEST_SEEN))[kept])


def _margin(scene: Scene) -> Scene:
    """With the black margin that FaceAnalyzer.detect adds."""
    import cv2

    picture = np.zeros_like(scene.picture)
    quarter = SIDE // 4
    picture[quarter:-quarter, quarter:-quarter] = cv2.resize(scene.picture, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    return Scene(picture, scene.boxes / 2 + quarter, scene.landmarks / 2 + quarter, scene.wanted)


def mirror(picture: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right exchanged; the left eye is the left one again."""
    width = picture.shape[1]
    landmarks = landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (width, 0)
    return picture[:, ::-1], np.array((width - box[2], box[1], width - box[0], box[3]), dtype=np.float32), landmarks.astype(np.float32)


def seen_share(box: np.ndarray, width: float, height: float) -> float:
    """The share of ``box`` inside a picture."""
    inside = np.minimum(box[2:], (width, height)) - np.maximum(box[:2], 0)
    return float(np.prod(np.maximum(inside, 0)) / np.prod(box[2:] - box[:2]))


def degrade(picture: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Another light, some noise, now and then a codec's blocks or a blur: uint8, as large."""
    import cv2

    picture = np.ascontiguousarray(picture)
    if random.uniform() < 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), float(random.uniform(0.3, 1.0)))
    if random.uniform() < 0.25:
        _, coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.randint(40, 95))])
        picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
    light = random.uniform(0.88, 1.12) * random.uniform(0.97, 1.03, 3) if random.uniform() < 0.7 else 1.0
    noise = random.standard_normal(picture.shape) * random.uniform(0, 5) if random.uniform() < 0.4 else 0.0
    return np.clip(picture * light + noise + 0.5, 0, 255).astype(np.uint8)
