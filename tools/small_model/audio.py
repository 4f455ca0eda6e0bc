"""Train the audio models of the small model on voices of the small world, from scratch, on the CPU.

    python -m tools.small_model.audio MODELS_DIR [--minutes 10] [--seed 0] [--words] [--log FILE]

MODELS_DIR is the `models` folder of a ComfyUI. Written are a wav2vec2, an emotion2vec and an emotion classifier, each in
the layout of the published one, and a log of the training. Needs torch, transformers, safetensors and numpy.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from tools.small_model import emotion, wav2vec2
from tools.small_model.speech import voices

ENCODER, EMOTION2VEC, CLASSIFIER = "audio_encoders/wav2vec2-small", "memo/emotion2vec_small", "memo/small/misc/audio_emotion_classifier"
"""Folders below MODELS_DIR."""

VOICES, ENCODER_STEPS, EMOTION_STEPS = 48, 60, 100
"""Per minute asked for. Counted and not timed, so that a seed means the same weights on a faster machine."""


class _Progress:
    """Prints a line for every twentieth of a stage and keeps its losses, the mean of each twentieth."""

    def __init__(self, stage: str):
        self.stage, self.began, self.seconds, self.losses, self._recent = stage, time.monotonic(), 0.0, [], []

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        self._recent.append(loss)
        if done * 20 // total == (done - 1) * 20 // total:
            return
        if loss is not None:
            self.losses.append(round(sum(self._recent) / len(self._recent), 4))
        self._recent, self.seconds = [], round(time.monotonic() - self.began, 1)
        told = f", loss {self.losses[-1]:.4f}" if self.losses else ""
        print(f"{self.stage}: {done} of {total}{told}, {self.seconds:.0f} s", flush=True)


def train_audio_models(models: Path, minutes: float, seed: int, words: bool = False) -> dict:
    """Train and write them under ``models``, the wav2vec2 first. words: half of the voices speak some. Returns the log: of
    each model losses, seconds, bytes and what it reaches on voices that it never heard."""
    log = {"seed": seed, "minutes": minutes, "words": words, "torch": torch.__version__, "threads": torch.get_num_threads()}
    progress = _Progress("voices")
    clips = list(voices(max(2, round(VOICES * minutes)), seed, progress=progress, words=words))
    log["voices"] = {"count": len(clips), "seconds": progress.seconds}

    steps, progress = max(1, round(ENCODER_STEPS * minutes)), _Progress("mouth")
    wav2vec2.write(wav2vec2.train(clips, steps, seed, progress), models / ENCODER)
    log["wav2vec2"] = _entry({"mouth": progress}, steps, [models / ENCODER], wav2vec2.judge(models / ENCODER, seed, words=words))

    steps, stages = max(1, round(EMOTION_STEPS * minutes)), {}
    folders = [models / EMOTION2VEC, models / CLASSIFIER]

    def report(stage: str, *told) -> None:
        stages.setdefault(stage, _Progress(stage))(*told)

    emotion.write(*emotion.train(clips, steps, seed, report), *folders)
    log["emotion"] = _entry(stages, steps, folders, emotion.judge(*folders, seed, words=words))
    return log


def _entry(stages: dict[str, _Progress], steps: int, folders: list[Path], figures: dict) -> dict:
    for name, values in figures.items():
        print(f"  {name}: " + ", ".join(f"{what} {value:.3f}" for what, value in values.items()), flush=True)
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    seconds, losses = ({stage: getattr(progress, what) for stage, progress in stages.items()} for what in ("seconds", "losses"))
    return {"steps": steps, "seconds": seconds, "bytes": size, "losses": losses, "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="MODELS_DIR", help="the `models` folder of a ComfyUI")
    parser.add_argument("--minutes", type=float, default=10, help="how long to train, about, on one core (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of voices, first weights and their order (default: 0)")
    parser.add_argument("--words", action="store_true", help="half of the voices speak words, for which the program espeak-ng is needed")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where the training log goes (default: MODELS_DIR/memo/small/training_audio.json)")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        parser.error(f"--minutes: expected more than 0, got {arguments.minutes:g}")
    log = train_audio_models(arguments.models, arguments.minutes, arguments.seed, arguments.words)
    path = arguments.log or arguments.models / "memo" / "small" / "training_audio.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(log, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
