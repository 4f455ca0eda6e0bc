"""A training that ends, for whatever reason, ends with a checkpoint of its last whole step, and continues to the same weights."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from memo_modules.errors import InputError, StorageError
from memo_modules.training import checkpoint_folders, loop, reading
from memo_modules.training.assembly import load_vae, make_trainer
from memo_modules.training.checkpoint_folders import checkpoints
from memo_modules.training.dataset import read_metadata
from memo_modules.training.loop import Trainer
from memo_modules.training.settings import read_settings
from scripts import train
from tests.helpers.training_world import write_training

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = ("steps=4", "save_every=100", "lora.rank=2", "optimizer.learning_rate=1e-2")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_training(tmp_path_factory.mktemp("rescue"), checkpointing=False)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(reading, "_PAUSE", 0)
    monkeypatch.setattr(reading, "_named", set())


def make(config: Path, output_dir: Path, *overrides: str, resume: str | None = None) -> Trainer:
    settings = read_settings(config, [f"output_dir={output_dir}", *STEPS, *overrides])
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    return make_trainer(settings, accelerator, load_vae(settings, accelerator.device), resume)


def run(trainer: Trainer) -> list:
    """As train.py does, which keeps the folder for itself."""
    logs = []
    with checkpoint_folders.alone(trainer.settings.output_dir):
        trainer.run(logs.append, lambda folder: None, lambda: False)
    return logs


def contents(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> dict[str, bytes]:
    """The last checkpoint of the uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    run(make(config, folder))
    return contents(folder / "checkpoint-4")


def fails_in(step: int, error: BaseException):
    """A function that raises ``error`` the ``step``-th time that it is called, and otherwise does what the one that it gets does."""

    def replacing(function):
        calls = []

        def called(*arguments, **options):
            calls.append(None)
            if len(calls) == step:
                raise error
            return function(*arguments, **options)

        return called

    return replacing


PLACES = {
    "a batch": (lambda trainer: (trainer, "make_batch"), InputError("no such sample")),
    "a forward pass": (lambda trainer: (trainer.updates, "module"), RuntimeError("out of memory")),
    "a backward pass": (lambda trainer: (trainer.updates, "backward"), MemoryError()),
    "Ctrl-C twice": (lambda trainer: (trainer.updates, "backward"), KeyboardInterrupt()),
}


@pytest.mark.parametrize("place", [pytest.param(place, marks=pytest.mark.slow if place in ("a batch", "a forward pass") else ()) for place in PLACES])
def test_an_error_ends_with_a_checkpoint_that_continues_to_the_same_weights(config, whole, tmp_path, monkeypatch, place):
    where, error = PLACES[place]
    trainer = make(config, tmp_path)
    monkeypatch.setattr(*where(trainer), fails_in(3, error)(getattr(*where(trainer))))
    with pytest.raises(type(error)) as raised:
        run(trainer)
    assert raised.value is error and list(checkpoints(tmp_path)) == [2]
    run(make(config, tmp_path, resume="latest"))
    assert contents(tmp_path / "checkpoint-4") == whole


def test_weights_that_are_half_updated_are_not_written(config, tmp_path, monkeypatch, caplog):
    trainer = make(config, tmp_path, "save_every=2")
    monkeypatch.setattr(trainer.updates, "step", fails_in(4, RuntimeError("out of memory"))(trainer.updates.step))
    with pytest.raises(RuntimeError):
        run(trainer)
    assert list(checkpoints(tmp_path)) == [2] and "there is no checkpoint of step 4" in caplog.text


def test_a_checkpoint_that_is_there_is_not_written_again(config, tmp_path, monkeypatch):
    trainer = make(config, tmp_path, "save_every=2")
    monkeypatch.setattr(trainer, "make_batch", fails_in(3, InputError("no"))(trainer.make_batch))
    written = []
    monkeypatch.setattr(loop, "write_checkpoint", lambda *arguments: written.append(arguments) or checkpoint_folders.write_checkpoint(*arguments))
    with pytest.raises(InputError):
        run(trainer)
    assert len(written) == 1 and list(checkpoints(tmp_path)) == [2]


def damage(config: Path, folder: Path, videos: tuple[int, ...]) -> Path:
    """The metadata of a copy of the prepared videos, of which those of these numbers cannot be read."""
    data = shutil.copytree(Path(read_settings(config).data.metadata[0]).parent, folder / "data")
    for number in videos:
        (data / f"{number}.mp4").write_bytes(b"no video")
    return data / "metadata.jsonl"


def test_what_cannot_be_read_is_tried_three_times_skipped_counted_and_named(config, tmp_path, monkeypatch, caplog):
    metadata = damage(config, tmp_path, (1, 3))
    tried, read = [], loop.SampleStream.__getitem__.__globals__["read_or_none"]

    def counted(function, name):
        return read(lambda: tried.append(name) or function(), name)

    monkeypatch.setitem(loop.SampleStream.__getitem__.__globals__, "read_or_none", counted)
    overrides = (f"data.metadata=[{metadata}]", "batch_size=3")
    trainer = make(config, tmp_path / "a", *overrides)
    tried.clear()
    with caplog.at_level(logging.WARNING):
        logs = run(trainer)
    damaged = [name for name in tried if name.endswith(("1.mp4", "3.mp4"))]
    assert len(logs) == 4 and trainer.counters.unreadable == len(damaged) / 3 >= 4, "12 samples are two epochs of five videos and more"
    assert len([record for record in caplog.records if "cannot be read and is skipped" in record.message]) == 2
    first = make(config, tmp_path / "b", *overrides, "until=2")
    run(first)
    resumed = make(config, tmp_path / "b", *overrides, resume="latest")
    run(resumed)
    assert contents(tmp_path / "b" / "checkpoint-4") == contents(tmp_path / "a" / "checkpoint-4")
    assert resumed.counters == trainer.counters


def test_a_disk_that_is_not_there_is_no_set_of_unreadable_videos(config, tmp_path):
    metadata = damage(config, tmp_path, tuple(range(len(read_metadata(read_settings(config).data.metadata)))))
    with pytest.raises(InputError, match="17 videos in a row cannot be read"):
        make(config, tmp_path / "out", f"data.metadata=[{metadata}]")


def test_there_is_room_for_a_checkpoint_before_the_first_step(config, tmp_path, monkeypatch):
    trainer = make(config, tmp_path)
    monkeypatch.setattr(checkpoint_folders, "disk_usage", lambda path: SimpleNamespace(free=trainer.checkpoint_size))
    monkeypatch.setattr(trainer, "step", None)
    with pytest.raises(StorageError, match=r"a checkpoint takes 0\.00 GB, .* lower keep"):
        run(trainer)


def test_a_checkpoint_is_as_large_as_it_is_counted(config, tmp_path):
    for overrides in (("lora.rank=64",), ("lora.rank=64", "ema_decay=0.9"), ("lora=null", "dtype=bf16", "ema_decay=0.9")):
        folder = tmp_path / str(len(overrides))
        trainer = make(config, folder, *overrides, "steps=1")
        run(trainer)
        held = sum(path.stat().st_size for path in (folder / "checkpoint-1").rglob("*.safetensors"))
        assert 0.8 * held < trainer.checkpoint_size < 1.05 * held  # the names of tensors take some, too


def test_a_disk_that_fills_up_ends_with_a_checkpoint_while_there_is_room(config, whole, tmp_path, monkeypatch):
    trainer = make(config, tmp_path)
    free = iter((10, 1.05))
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda path: SimpleNamespace(free=trainer.checkpoint_size * next(free)))
    with pytest.raises(StorageError, match="--resume latest continues"):
        run(trainer)
    monkeypatch.undo()
    assert list(checkpoints(tmp_path)) == [2]
    run(make(config, tmp_path, resume="latest"))
    assert contents(tmp_path / "checkpoint-4") == whole


@pytest.mark.parametrize("number", train.SIGNALS)
def test_a_signal_ends_with_a_checkpoint_and_its_exit_code(config, tmp_path, monkeypatch, number):
    handlers = [signal.getsignal(each) for each in train.SIGNALS]
    settings = read_settings(config, [f"output_dir={tmp_path}", *STEPS])
    step = Trainer.step

    def signalled(trainer, should_stop):
        if trainer.counters.step == 1:
            os.kill(os.getpid(), number)
        return step(trainer, should_stop)

    monkeypatch.setattr(Trainer, "step", signalled)
    try:
        assert train.train(settings, None) == 128 + number
    finally:
        for each, handler in zip(train.SIGNALS, handlers, strict=True):
            signal.signal(each, handler)
    assert list(checkpoints(tmp_path)) == [2]


@pytest.mark.slow
def test_two_processes_of_which_one_fails_leave_a_checkpoint(config, tmp_path):
    """In a forward pass, for which the other one waits."""
    script = tmp_path / "fails.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path[:0] = [{str(Path(train.__file__).parent)!r}, {str(Path(train.__file__).parents[1])!r}]\n"
        "from memo_modules.training import loop\n"
        "from scripts import train\n"
        "run = loop.Trainer._pass\n"
        "def failing(trainer, *rest, **options):\n"
        "    if os.environ['RANK'] == '1' and trainer.counters.step == 2:\n"
        "        raise RuntimeError('broken')\n"
        "    return run(trainer, *rest, **options)\n"
        "loop.Trainer._pass = failing\n"
        "train.main(sys.argv[1:])\n",
        encoding="utf-8",
    )
    launch = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, script, config, f"output_dir={tmp_path / 'out'}", *STEPS]
    result = subprocess.run(
        [*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0 and "broken" in result.stderr
    assert json.loads((tmp_path / "out" / "checkpoint-2" / "trainer.json").read_text(encoding="utf-8"))["counters"]["step"] == 2
