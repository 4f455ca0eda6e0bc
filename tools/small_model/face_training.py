"""Training of the small world's face detector and recogniser."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from memo_modules.weights.onnx_sessions import quiet
from tools.small_model.face_data import Portraits, Scene, Scenes, degrade
from tools.small_model.face_nets import CROP, EMBEDDING, SHRINK, Detector, Recogniser, Truth, detection_loss

DETECTOR_BATCH, RECOGNISER_BATCH = 16, 48

JITTER = 0.012
"""Error of the landmarks that the recogniser is trained with, in parts of the distance between the eyes and mouth: the detector's."""

Progress = Callable[[int, float], None]
"""Called with the number of the step and its loss."""


def train_detector(scenes: Scenes, steps: int, seed: int = 0, progress: Progress = lambda step, loss: None, batch: int = DETECTOR_BATCH) -> Detector:
    """A detector in evaluation mode, trained for ``steps`` batches of ``scenes``."""
    torch.manual_seed(seed)
    net = Detector()

    def losses() -> Iterator[Tensor]:
        while True:
            pixels, truth = collate([scenes.draw() for _ in range(batch)])
            yield detection_loss(net(pixels), truth)

    return _train(net, losses(), steps, 4e-3, progress)


def collate(scenes: list[Scene]) -> tuple[Tensor, Truth]:
    """Pixels (b 3 SIDE SIDE) as the detector takes them, and the truth in pixels of the canvas."""
    pixels = torch.from_numpy(np.stack([scene.picture for scene in scenes])).permute(0, 3, 1, 2).float()
    most = max([1, *(len(scene.boxes) for scene in scenes)])
    boxes, landmarks = torch.full((len(scenes), most, 4), -1e4), torch.full((len(scenes), most, 5, 2), -1e4)
    wanted = torch.zeros(len(scenes), most, dtype=torch.bool)
    for i, scene in enumerate(scenes):
        found = len(scene.boxes)
        boxes[i, :found] = torch.from_numpy(scene.boxes) * SHRINK
        landmarks[i, :found] = torch.from_numpy(scene.landmarks) * SHRINK
        wanted[i, :found] = torch.from_numpy(scene.wanted)
    return (pixels - 127.5) / 128, Truth(boxes, landmarks, wanted)


def train_recogniser(
    portraits: Portraits, steps: int, seed: int = 0, progress: Progress = lambda step, loss: None, batch: int = RECOGNISER_BATCH
) -> tuple[Recogniser, np.ndarray]:
    """A recogniser in evaluation mode that gives standardised vectors of characters, and the projection (d 512) of these to
    an embedding, whose entries have a variance of 1 over ``portraits`` on average."""
    torch.manual_seed(seed)
    random = np.random.RandomState(seed)
    vectors = standardised(portraits)
    net = Recogniser(vectors.shape[1])

    def losses() -> Iterator[Tensor]:
        order: list[int] = []
        while True:
            if len(order) < batch:
                order = random.permutation(len(portraits)).tolist()
            picked, order = order[:batch], order[batch:]
            crops = np.stack([degrade(aligned(portraits.pictures[i], shaken(portraits.landmarks[i], random)), random) for i in picked])
            yield (net(as_input(crops)) - vectors[picked]).square().mean()

    net = _train(net, losses(), steps, 3e-3, progress)
    sample = random.permutation(len(portraits))[:256]
    with torch.no_grad():
        seen = net(as_input(np.stack([aligned(portraits.pictures[i], portraits.landmarks[i]) for i in sample])))
    rows, _ = np.linalg.qr(random.standard_normal((EMBEDDING, vectors.shape[1])))  # columns at right angles keep all angles
    return net, (rows.T * np.sqrt(EMBEDDING / float(seen.var(dim=0).sum()))).astype(np.float32)


def standardised(portraits: Portraits) -> Tensor:
    """The characters' vectors with mean 0 and variance 1 in each number: float32 (n d)."""
    vectors = torch.from_numpy(portraits.vectors)
    return (vectors - vectors.mean(dim=0)) / vectors.std(dim=0).clamp_min(1e-3)


def shaken(landmarks: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Landmarks as the detector might find them: together a little off, and each by itself."""
    size = JITTER * np.linalg.norm(landmarks[4] - landmarks[0])
    return landmarks + size * (random.standard_normal((1, 2)) + random.standard_normal((5, 2)))


def aligned(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The crop that insightface gives its recogniser: uint8 (CROP CROP 3)."""
    from insightface.utils.face_align import norm_crop

    with quiet():
        return norm_crop(picture, landmarks, CROP)


def as_input(crops: np.ndarray) -> Tensor:
    """uint8 (b h w 3) as the recogniser takes it."""
    return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 127.5


def _train(net: nn.Module, losses: Iterator[Tensor], steps: int, learning_rate: float, progress: Progress) -> nn.Module:
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1)
    net.train().to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    for step in range(steps):
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, loss.item())
    return net.eval()
