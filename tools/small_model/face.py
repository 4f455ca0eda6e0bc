"""Train the small model's face detector and face recogniser on the small world, and measure them on unseen characters.

    python -m tools.small_model.face MODELS_DIR [--minutes 10] [--seed 0]

Writes MODELS_DIR/memo/small/misc/face_analysis/models/*.onnx, at the paths and with the inputs and outputs of the
published ones, and face_analysis/training_log.json next to that folder: losses, figures, seconds, versions. Needs torch,
numpy, onnx, onnxruntime, insightface and OpenCV.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, FaceAnalyzer
from tools.small_model.face_data import TESTING, TRAINING, Portraits, Scenes, draw_empty, draw_portraits
from tools.small_model.face_onnx import write_detector, write_recogniser
from tools.small_model.face_report import Readout, measure
from tools.small_model.face_training import train_detector, train_recogniser

FOLDER = Path("memo/small/misc/face_analysis/models")
CHARACTERS, FRAMES, EMPTY = 1500, 3, 400
"""Trained on: characters, pictures of each, and pictures without a head."""

UNSEEN = 100
"""Characters that are measured."""

DETECTOR_STEPS, RECOGNISER_STEPS = 90, 80
"""Per minute asked for, on one slow core. A number of steps and not of seconds, so that a seed gives the same nets everywhere."""

LOGGED = 20
"""Steps that a logged loss is the mean of."""


class Log:
    """Losses by the name of a net, and a line of progress."""

    def __init__(self, steps: dict[str, int]):
        self.steps, self.losses, self.began = steps, {name: [] for name in steps}, time.monotonic()
        self._since: list[float] = []

    def progress(self, name: str):
        def step_done(step: int, loss: float) -> None:
            self._since.append(loss)
            if step % LOGGED == 0 or step == self.steps[name]:
                self.losses[name].append(round(float(np.mean(self._since)), 5))
                self._since = []
                print(f"{name}: step {step} of {self.steps[name]}, loss {self.losses[name][-1]:.4f}, {self.seconds} s", flush=True)

        return step_done

    @property
    def seconds(self) -> int:
        return round(time.monotonic() - self.began)


def train(
    models: Path, minutes: float = 10.0, seed: int = 0, characters: int = CHARACTERS, empty_pictures: int = EMPTY, unseen_characters: int = UNSEEN
) -> dict:
    """Train both nets, write them below ``models``, measure them; returns what is logged."""
    steps = {"detector": max(1, round(minutes * DETECTOR_STEPS)), "recogniser": max(1, round(minutes * RECOGNISER_STEPS))}
    log, first = Log(steps), TRAINING + seed * 1_000_000
    portraits = draw_portraits(range(first, first + characters), FRAMES)
    empty = draw_empty(range(first + characters, first + characters + empty_pictures))
    print(f"{len(portraits)} pictures of {characters} characters, {log.seconds} s", flush=True)
    folder = models / FOLDER
    write_detector(folder / DETECTOR_FILE, train_detector(Scenes(portraits, empty, seed), steps["detector"], seed, log.progress("detector")))
    recogniser, projection = train_recogniser(portraits, steps["recogniser"], seed, log.progress("recogniser"))
    write_recogniser(folder / RECOGNISER_FILE, recogniser, projection)
    trained = log.seconds
    figures = measure(FaceAnalyzer.load(folder), range(TESTING, TESTING + unseen_characters), _readout(portraits, projection))
    logged = {
        "seed": seed,
        "minutes": minutes,
        "characters": characters,
        "empty_pictures": empty_pictures,
        "unseen_characters": unseen_characters,
        "steps": steps,
        "losses": {"every": LOGGED, **log.losses},
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))},
        "figures": figures,
        "seconds": {"training": trained, "all": log.seconds, "threads": torch.get_num_threads()},
        "versions": _versions(),
    }
    (folder.parent / "training_log.json").write_text(json.dumps(logged, indent=2) + "\n", encoding="utf-8")
    return logged


def _readout(portraits: Portraits, projection: np.ndarray) -> Readout:
    return Readout(portraits.vectors.mean(axis=0), portraits.vectors.std(axis=0), projection)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": sys.version.split()[0], **{name: version(name) for name in ("torch", "numpy", "onnx", "onnxruntime", "insightface")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="MODELS_DIR", help="the models folder of a ComfyUI")
    parser.add_argument("--minutes", type=float, default=10.0, help="about how long to train on one core (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of characters, pictures and weights (default: 0)")
    arguments = parser.parse_args()
    if not 0 < arguments.minutes < 10_000:
        parser.error(f"--minutes: expected a number above 0, got {arguments.minutes}")
    logged = train(arguments.models, arguments.minutes, arguments.seed)
    print(json.dumps(logged["figures"], indent=2))
    print(arguments.models / FOLDER)


if __name__ == "__main__":
    main()
