"""Train MEMO on prepared videos.

    python scripts/train.py CONFIG.yaml [--resume latest|CHECKPOINT] [key=value ...]
    accelerate launch scripts/train.py CONFIG.yaml ...        on several GPUs or machines

CONFIG.yaml: see scripts/configs; key=value replaces a setting there, `section.key=value` one in a section.
Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 write a checkpoint and end, and so does every error; --resume latest continues after the last one, and
starts anew if there is none. The exit code is 0 when all steps are done, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM, 138 and 140.
Needs torch, diffusers, accelerate, pyyaml and av; tensorboard or wandb for curves.
"""

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import bootstrap  # noqa: F401
from memo_modules.clips import FPS, other_rates
from memo_modules.errors import InputError, MemoError, MissingPackageError
from memo_modules.files.documents import parse_json
from memo_modules.files.names import safe_name
from memo_modules.files.whole_files import storing, write_whole
from memo_modules.host import Host
from memo_modules.training.assembly import load_vae, make_trainer
from memo_modules.training.checkpoint_folders import alone
from memo_modules.training.dataset import read_metadata
from memo_modules.training.loop import StepLog
from memo_modules.training.samples import write_sample
from memo_modules.training.settings import TrainingSettings, plain, read_settings
from memo_modules.training.validation import Validation, ValidationLog
from memo_modules.vae import DiffusersVAE
from memo_modules.words import first_line, hours
from scripts import entry
from scripts.entry import run

AVERAGED = ("loss_all", "mask_rate", "grad_norm", "seconds")
VALIDATION = "validation_loss"


class Log:
    """A line on the screen for every step, and means over ``log_every`` steps in log.jsonl and the loggers."""

    def __init__(self, settings: TrainingSettings, accelerator, trainer):
        self.settings, self.accelerator, self.counters = settings, accelerator, lambda: trainer.counters
        self.path = settings.output_dir / "log.jsonl"
        self.window: list[StepLog] = []
        self.first, self.seconds = True, 0.0  # seconds of a step, averaged over all but the first, in which everything is slow
        self.validated: set[int] = set()
        if accelerator.is_main_process:
            settings.output_dir.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if self.path.exists() else []
            kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= trainer.counters.step]
            self.validated = {int(_step_of(line)) for line in kept if VALIDATION in parse_json(line)}
            self.path.write_text("".join(kept), encoding="utf-8")

    def step(self, log: StepLog) -> None:
        if not self.accelerator.is_main_process:
            return
        if not self.first:
            self.seconds = 0.95 * self.seconds + 0.05 * log.seconds if self.seconds else log.seconds
        self.first = False
        self.window.append(log)
        due = log.step % self.settings.log_every == 0 or log.step == self.settings.steps or log.stop
        if due:
            self._write(log)
        if due or sys.stdout.isatty():
            print(("\r" if sys.stdout.isatty() else "") + self._line(log), end="\n" if due else "", flush=True)

    def _line(self, log: StepLog) -> str:
        counters = self.counters()
        notes = f"  {counters.skipped} steps skipped" if counters.skipped else ""
        notes += f"  {counters.unreadable} unreadable" if counters.unreadable else ""
        seconds = self.seconds or log.seconds
        return (
            f"step {log.step}/{self.settings.steps}  loss {log.loss:.5f}  masked {log.mask_rate:4.0%}  grad {log.grad_norm:.3g}  "
            f"lr {log.learning_rate:.2e}  {seconds:.2f} s/step  {hours(seconds * (self.settings.steps - log.step))} left{notes}"
        )

    def _write(self, log: StepLog) -> None:
        means = {name: sum(getattr(each, name) for each in self.window) / len(self.window) for name in AVERAGED}
        kept = sum(1 - each.mask_rate for each in self.window)
        # of what the mask kept, also where that is more in one step than in another
        means["loss"] = sum((1 - each.mask_rate) * each.loss for each in self.window) / kept if kept else float("nan")
        values = {**means, "learning_rate": log.learning_rate, "skipped": self.counters().skipped, "unreadable": self.counters().unreadable}
        self.window = []
        self._add(log.step, values)

    def _add(self, step: int, values: dict[str, float]) -> None:
        line = {"step": step, "samples": self.counters().samples} | {name: _finite(value) for name, value in values.items()}
        with storing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.accelerator.log(values, step=step)

    def validation(self, log: ValidationLog) -> None:
        if not self.accelerator.is_main_process:
            return
        parts = len(log.levels)
        levels = {f"{VALIDATION}_sigma_{k / parts:.2f}_to_{(k + 1) / parts:.2f}": loss for k, loss in enumerate(log.levels)}
        self._add(log.step, {VALIDATION: log.loss, **levels})
        best = "the lowest so far" if log.best_step == log.step else f"the lowest was {log.best_loss:.5f} at step {log.best_step}"
        by_level = ", ".join(f"{loss:.5f}" for loss in log.levels)
        print(f"step {log.step}  validation loss {log.loss:.5f}, {best}; from little noise to much: {by_level}  {log.seconds:.1f} s", flush=True)


def _step_of(line: str) -> float:
    """Of a line of log.jsonl; without end where it is damaged."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, TypeError, LookupError):
        step = None
    return step if isinstance(step, int) else math.inf


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if abs(value) < float("inf") else None


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""That ask to stop: a terminal's, a launcher's or a container's, and those with which schedulers warn."""


class Interrupt:
    """Whether one of SIGNALS has asked to stop after the current step; a second Ctrl-C stops at once."""

    def __init__(self):
        self.asked: int | None = None
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame) -> None:
        self.asked = self.asked or number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        return self.asked is not None

    @property
    def exit_code(self) -> int:
        """Of a process that a signal has ended; one that ends with others, of which one was asked, ends as by SIGTERM."""
        return 128 + (self.asked or signal.SIGTERM)


class Samples:
    """The sample videos that are made again and again; each process makes some of them."""

    def __init__(self, settings: TrainingSettings, trainer, vae):
        self.settings, self.trainer = settings, trainer
        self.vae = DiffusersVAE(vae.autoencoder, batch=1)  # training leaves no room for more
        self.videos = read_metadata(settings.samples.metadata)[: settings.samples.videos]

    def step(self, log: StepLog) -> None:
        settings, accelerator = self.settings, self.trainer.accelerator
        if not self.videos or log.step % settings.samples.every or log.stop:
            return
        folder = settings.output_dir / "samples" / f"step-{log.step}"
        with self.trainer.processes.together(), self.trainer.averaged():
            for number in range(accelerator.process_index, len(self.videos), accelerator.num_processes):
                video = self.videos[number]
                path = folder / f"{number}-{safe_name(video.video.stem)}.mp4"
                try:
                    write_sample(path, self.trainer.nets, self.vae, video, settings.data, settings.samples)
                except Exception:  # of whatever kind: no training is to end for a picture of itself
                    logging.exception("samples: %s of step %d could not be made.", video.video, log.step)
        accelerator.print(folder)


def make_accelerator(settings: TrainingSettings):
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingPackageError(f"Training needs accelerate ({error}): pip install -r requirements-training.txt") from error
    loggers = settings.loggers
    if loggers is None:
        loggers = ("tensorboard",) if find_spec("tensorboard") else ()
    for name in loggers:
        if not find_spec(name):
            raise MissingPackageError(f"loggers: {name} is not installed: pip install {name}")
    options = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    # DeepSpeed casts what it trains to this; without it the nets have their dtype and nothing else is to change it
    mixed = "bf16" if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and settings.dtype == "bf16" else "no"
    accelerator = Accelerator(mixed_precision=mixed, kwargs_handlers=[options], log_with=list(loggers) or None, project_dir=settings.output_dir)
    if int(os.environ.get("WORLD_SIZE", 1)) != accelerator.num_processes:  # each would train alone into the same folder
        raise InputError(f"accelerate: {os.environ['WORLD_SIZE']} processes do not find each other. On CPUs set ACCELERATE_USE_CPU=true.")
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    return accelerator


def start_loggers(settings: TrainingSettings, accelerator, step: int, resume: str | None) -> None:
    """The curves of a training that is resumed after ``step`` continue: TensorBoard's in its folder, wandb's in its run."""
    run_file = settings.output_dir / "wandb.json"
    wandb: dict[str, str] = {"name": settings.output_dir.name}
    if accelerator.is_main_process and "wandb" in [tracker_name(each) for each in accelerator.log_with]:
        identity = parse_json(run_file.read_text(encoding="utf-8"))["id"] if resume and run_file.is_file() else uuid4().hex[:8]
        write_whole(run_file, json.dumps({"id": identity}))
        wandb |= {"id": identity, "resume": "allow", "dir": str(settings.output_dir)}
    accelerator.init_trackers("memo", flat(plain(settings)), {"tensorboard": {"purge_step": step + 1}, "wandb": wandb})


def flat(settings: Mapping[str, Any], section: str = "") -> dict[str, int | float | str]:
    """Hyperparameters as loggers take them: `section.key` to a number or a text."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{section}{key}.")
        else:
            found[f"{section}{key}"] = value if isinstance(value, int | float | str) else json.dumps(value)
    return found


def tracker_name(tracker: Any) -> str:
    return str(getattr(tracker, "value", tracker))


def train(settings: TrainingSettings, resume: str | None) -> int:
    """Returns the exit code."""
    accelerator = make_accelerator(settings)
    with alone(settings.output_dir) if accelerator.is_main_process else nullcontext():
        return _train(settings, accelerator, resume)


def _train(settings: TrainingSettings, accelerator, resume: str | None) -> int:
    def on_cached(done: int, total: int) -> None:
        if done == total or sys.stdout.isatty():
            what = "trajectories made" if settings.distil else "videos encoded"
            accelerator.print(f"\r{done} of {total} {what}", end="\n" if done == total else "", flush=True)

    vae = load_vae(settings, accelerator.device)
    trainer = make_trainer(settings, accelerator, vae, resume, Host(on_cached))
    if said := other_rates([getattr(video, "fps", None) for video in trainer.stream.dataset.videos]):  # trajectories have none
        accelerator.print(f"{said} What is learned from them moves at another pace: prepare them with --fps {FPS}.")
    step = trainer.counters.step
    accelerator.print(
        f"{sum(weight.numel() for weight in trainer.trained.values()):,} parameters train on {len(trainer.stream.dataset)} videos, "
        f"{trainer.share.samples_per_step} samples a step" + (f", from step {step} on" if step else "")
    )
    log = Log(settings, accelerator, trainer)
    start_loggers(settings, accelerator, step, resume)
    samples, validation, interrupt = Samples(settings, trainer, vae), Validation(trainer, vae), Interrupt()

    def validate() -> None:
        if validation.is_due(trainer.counters.step) and (result := validation.validate(interrupt)):
            log.validation(result)

    def on_step(result: StepLog) -> None:
        log.step(result)
        samples.step(result)
        if not result.stop or trainer.counters.step == trainer.last_step:
            validate()

    if not trainer.processes.gather(step in log.validated)[0]:  # before the first step, and where a training was stopped before it
        validate()
    try:
        trainer.run(on_step, lambda folder: accelerator.print(folder), interrupt)
    except Exception:
        if interrupt.asked is None:
            raise
        logging.exception("An error after the signal to stop:")
    accelerator.end_training()
    return 0 if trainer.counters.step >= trainer.last_step else interrupt.exit_code


def main(argv: list[str], check: Callable[[TrainingSettings], None] = lambda settings: None) -> int:
    """check: raises InputError for settings that are not meant for the program."""
    parser = entry.parser(__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="the settings, see scripts/configs")
    parser.add_argument("--resume", metavar="latest|CHECKPOINT", help="continue after a checkpoint of this trainer")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those in CONFIG.yaml")
    arguments = parser.parse_intermixed_args(argv)
    settings = read_settings(arguments.config, arguments.overrides)
    check(settings)
    try:
        return train(settings, arguments.resume)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise MemoError(
            f"the GPU has too little memory ({first_line(error)}). Lower batch_size, data.width and data.height, or leave out ema_decay; "
            "--resume latest continues from the last checkpoint."
        ) from error


if __name__ == "__main__":
    run("train.py", partial(main, sys.argv[1:]), "stopped. --resume latest continues from the last checkpoint.")
