"""Reads mood, character and eyes in pictures of the small world: a net trained on true pictures of other characters.

The model under test has no part in it. Its training takes a few minutes on one core, once: it is kept in a file.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from memo_modules.types import EMOTIONS
from tools.small_world import MOODS, Tracks, character, make_clip
from tools.small_world.faces import render

SIZE = 64
"""Pixels of a side of what the net sees; other sizes are scaled to it."""

VERSION = 1
"""Increases with every change to what it learns, so that nobody continues with an older one."""

WORLD = 901_000_000
"""Seeds of the characters that it learns from start here; those of the evaluation lie below."""

GROUP = 8
"""Pictures of a character, each of another moment."""

SHUT_BELOW = 0.25
"""Opening of the eyes below which they are shut: no mood narrows them that far."""


@dataclass(frozen=True)
class Training:
    """characters, held_out: whose pictures it learns from, and is examined on. clips: performances that moments are taken
    from. seed: of weights and order."""

    characters: int = 1000
    held_out: int = 100
    clips: int = 80
    epochs: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Seen:
    """What is seen in pictures. moods: float32 (n 4), log-probabilities of MOODS. identity: float32 (n d), a point whose
    distance to another is 1 on average where the characters are two. eyes: float32 (n), opening in [0, 1]."""

    moods: np.ndarray
    identity: np.ndarray
    eyes: np.ndarray


class _Net(nn.Module):
    """(n 3 64 64) in [0, 1] to moods (n 4), character (n d), eyes (n 1)."""

    def __init__(self, d: int):
        super().__init__()
        widths, stages = (3, 24, 48, 64, 96), []
        for c_in, c_out in pairwise(widths):
            stages += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.GroupNorm(8, c_out), nn.SiLU()]
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(96 * (SIZE // 16) ** 2, 192)
        self.moods, self.character, self.eyes = nn.Linear(192, len(MOODS)), nn.Linear(192, d), nn.Linear(192, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.silu(self.hidden(self.stages(pictures * 2 - 1).flatten(1)))
        return self.moods(x), self.character(x), self.eyes(x)


class Reader:
    """A trained net with its figures on true pictures of characters that it has not seen.

    figures: mood_accuracy (of single pictures), character_r2, eyes_mae, same_character (mean distance between two pictures
    of one, where that of two characters is 1).
    """

    def __init__(self, net: _Net, stranger: float, figures: dict[str, float]):
        self.net, self.stranger, self.figures = net.eval(), stranger, figures

    @torch.inference_mode()
    def see(self, frames: np.ndarray) -> Seen:
        """frames: uint8 (n size size 3), RGB."""
        parts = [self.net(_pictures(frames[i : i + 64])) for i in range(0, len(frames), 64)]
        moods, points, eyes = (torch.cat(part) for part in zip(*parts, strict=True))
        return Seen(moods.log_softmax(dim=1).numpy(), points.numpy() / self.stranger, eyes[:, 0].clamp(0, 1).numpy())


def obtain_reader(path: Path, training: Training = Training(), say: Callable[[str], None] = lambda line: None) -> Reader:
    """The reader in ``path``; where there is none, or one of another training, a new one is trained and put there."""
    signature = json.dumps(asdict(training) | {"version": VERSION})
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if file.metadata().get("training") == signature:
                return load_reader(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # or it would be trained for minutes and have no place to go
    reader = train_reader(training, say)
    metadata = {"training": signature, "stranger": repr(reader.stranger), "figures": json.dumps(reader.figures)}
    save_file(reader.net.state_dict(), path, metadata=metadata)
    return reader


def load_reader(path: Path) -> Reader:
    """The reader that ``obtain_reader`` left in ``path``."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    net = _Net(weights["character.bias"].shape[0])
    net.load_state_dict(weights)
    return Reader(net, float(metadata["stranger"]), json.loads(metadata["figures"]))


def train_reader(training: Training, say: Callable[[str], None] = lambda line: None) -> Reader:
    """A reader trained on true pictures; the same training gives the same reader on the same machine."""
    say(f"reader: drawing {training.characters + training.held_out} characters")
    pictures, moods, vectors, eyes = _true_pictures(training)
    torch.manual_seed(training.seed)
    count = training.characters * GROUP
    mean, std = vectors[:count].mean(0), vectors[:count].std(0).clamp(min=1e-3)
    vectors = (vectors - mean) / std
    net = _Net(vectors.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    batches = count // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(1, training.epochs * batches))
    generator = torch.Generator().manual_seed(training.seed)
    for epoch in range(training.epochs):
        order, losses = torch.randperm(count, generator=generator), []
        for rows in order[: batches * 32].split(32):
            out = net(_worn(_pictures(pictures[rows.numpy()]), generator))
            loss = F.cross_entropy(out[0], moods[rows]) + F.mse_loss(out[1], vectors[rows]) + 4 * F.mse_loss(out[2][:, 0], eyes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        say(f"reader: epoch {epoch + 1} of {training.epochs}, loss {np.mean(losses):.3f}")
    held = slice(count, None)
    return _examined(net, pictures[held], moods[held], vectors[held], eyes[held])


def _examined(net: _Net, pictures: np.ndarray, moods: Tensor, vectors: Tensor, eyes: Tensor) -> Reader:
    """The reader with its figures on pictures held out."""
    reader = Reader(net, 1.0, {})
    seen, truth = reader.see(pictures), vectors.numpy()
    same = _distance(seen.identity, np.roll(seen.identity.reshape(-1, GROUP, truth.shape[1]), 1, axis=1).reshape(truth.shape)).mean()
    reader.stranger = float(_distance(seen.identity, np.roll(seen.identity, GROUP, axis=0)).mean())
    reader.figures = {
        "mood_accuracy": float((seen.moods.argmax(1) == moods.numpy()).mean()),
        "character_r2": float(1 - ((seen.identity - truth) ** 2).mean() / truth.var(axis=0).mean()),
        "eyes_mae": float(np.abs(seen.eyes - eyes.numpy()).mean()),
        "same_character": float(same / reader.stranger),
    }
    return reader


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1)


def _true_pictures(training: Training) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
    """uint8 (n 64 64 3), mood (n), character (n d), opening of the eyes (n); GROUP of each character, those held out last."""
    random = np.random.RandomState(training.seed)
    performances = [make_clip(WORLD + i, 3, MOODS[i % len(MOODS)]).tracks for i in range(training.clips)]
    tracks = Tracks(**{name: np.concatenate([getattr(p, name) for p in performances]) for name in vars(performances[0])})
    border = len(tracks) * 4 // 5  # of moments, too, those after it are held out
    pictures, rows, vectors = [], [], []
    for i in range(training.characters + training.held_out):
        who = character(WORLD + 100_000 + i)
        group = random.randint(*((0, border) if i < training.characters else (border, len(tracks))), size=GROUP)
        pictures.append(render(who, tracks[group], SIZE))
        rows.append(group)
        vectors.append(who.vector()[None].repeat(GROUP, axis=0))
    moments = tracks[np.concatenate(rows)]
    moods = [MOODS.index(EMOTIONS[e]) for e in moments.emotion]
    return np.concatenate(pictures), torch.tensor(moods), torch.from_numpy(np.concatenate(vectors)), torch.from_numpy(moments.eyes)


def _pictures(frames: np.ndarray) -> Tensor:
    """uint8 (n size size 3) to (n 3 64 64) in [0, 1]."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1).float() / 255
    return pictures if pictures.shape[-1] == SIZE else F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", antialias=True)


def _worn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """As a net might have made them: softer, noisier, a little off in brightness and colour; each batch in its own way."""
    amounts = torch.rand(4, generator=generator)
    if amounts[0] < 0.5:
        side = int(SIZE * (0.5 + 0.9 * amounts[0]))
        pictures = F.interpolate(F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True), size=(SIZE, SIZE), mode="bilinear")
    tint = 1 + 0.06 * torch.randn((len(pictures), 3, 1, 1), generator=generator)
    noise = 0.04 * amounts[1] * torch.randn(pictures.shape, generator=generator)
    shift = [int(s) for s in (amounts[2:] * 5 - 2.5).round()]
    return (pictures * tint + noise).clamp(0, 1).roll(shift, dims=(2, 3))
