"""Validation on tiny nets: the same clips and noise each time, a line in the log, and the weights of the lowest loss kept."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from memo_modules.errors import InputError
from memo_modules.training import validation
from memo_modules.training.assembly import load_vae, make_trainer
from memo_modules.training.checkpoint_folders import BEST, checkpoints, read_best
from memo_modules.training.settings import read_settings
from memo_modules.training.validation import Validation, ValidationLog
from scripts import train
from tests.helpers.training_world import write_training

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = ("batch_size=1", "lora.rank=2", "optimizer.learning_rate=1e-2", "validation.clips=2", "validation.levels=2")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """The last of its videos is held out."""
    folder = tmp_path_factory.mktemp("validation")
    path = write_training(folder, checkpointing=False)
    metadata = folder / "data" / "metadata.jsonl"
    *training, held_out = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
    metadata.write_text("".join(training), encoding="utf-8")
    metadata.with_name("held_out.jsonl").write_text(held_out, encoding="utf-8")
    return path


def settings_of(config: Path, output_dir: Path, *overrides: str):
    return read_settings(config, [f"output_dir={output_dir}", f"validation.metadata=[{config.parent / 'data' / 'held_out.jsonl'}]", *FEW, *overrides])


def make(config: Path, output_dir: Path, *overrides: str) -> Validation:
    settings = settings_of(config, output_dir, *overrides)
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    vae = load_vae(settings, accelerator.device)
    return Validation(make_trainer(settings, accelerator, vae), vae)


def numbers(log: ValidationLog | None) -> tuple:
    assert log is not None
    return log.loss, log.levels


def test_two_validations_differ_in_the_weights_alone(config, tmp_path):
    overrides = ("ema_decay=0.5", "validation.clips=1")
    held_out = make(config, tmp_path / "a", *overrides)
    first, trainer = held_out.validate(), held_out.trainer
    torch.manual_seed(5)
    assert numbers(first) == numbers(make(config, tmp_path / "b", *overrides).validate())
    trainer.step()
    after = numbers(held_out.validate())
    assert after != numbers(first)
    with torch.no_grad():
        for weight in trainer.trained.values():
            weight.fill_(float("nan"))
    assert numbers(held_out.validate()) == after, "of the average, not of the weights of the moment"


def test_each_level_is_a_part_of_the_noise(config, tmp_path, monkeypatch):
    seen, loss = [], validation.training_loss

    def noted(nets, clip, draws, *rest, **options):
        seen.append((draws.sigmas.item(), draws))
        return loss(nets, clip, draws, *rest, **options)

    monkeypatch.setattr(validation, "training_loss", noted)
    found = make(config, tmp_path, "validation.levels=4", "validation.clips=1").validate()
    assert [int(sigma * 4) for sigma, _ in seen] == [0, 1, 2, 3] and len(found.levels) == 4
    assert found.loss == pytest.approx(sum(found.levels) / 4)
    assert not any(flags.any() for _, draws in seen for flags in (draws.uncond_img, draws.uncond_audio, draws.emotion_drop))


def test_clips_are_divided_among_processes_and_the_mean_is_the_same(config, tmp_path, monkeypatch):
    whole = make(config, tmp_path, "validation.clips=3", "validation.levels=1")
    expected = numbers(whole.validate())
    theirs = {1: whole._losses(1)}
    del whole._clips[1]
    gather = {dict: theirs, int: 1, type(None): None, tuple: None}
    monkeypatch.setattr(whole.trainer.processes, "gather", lambda value: [value, gather[type(value)]])
    assert numbers(whole.validate()) == expected


def run(config: Path, output_dir: Path, *overrides: str, resume: str | None = None) -> list[dict]:
    """The lines of the log."""
    assert train.train(settings_of(config, output_dir, "validation.every=2", *overrides), resume) == 0
    return [json.loads(line) for line in (output_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def same_signals():
    """A training takes the signals of its process."""
    handlers = {number: signal.getsignal(number) for number in train.SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_resumed_training_has_the_log_and_the_best_of_the_uninterrupted_one(config, tmp_path, same_signals, capsys):
    overrides = ("steps=4", "keep=1", "validation.clips=1", "validation.levels=2")
    whole = [line for line in run(config, tmp_path / "whole", *overrides) if "validation_loss" in line]
    assert [line["step"] for line in whole] == [0, 2, 4] and {"validation_loss_sigma_0.00_to_0.50", "samples"} <= whole[0].keys()
    train.train(settings_of(config, tmp_path / "parts", "validation.every=2", *overrides, "until=2", "validation.metadata=[]"), None)
    parts = run(config, tmp_path / "parts", *overrides, resume="latest")
    assert [line for line in parts if "validation_loss" in line] == whole[1:], "of the step at which it was stopped, too"
    best = min(whole, key=lambda line: line["validation_loss"])
    assert (read_best(tmp_path / "whole")["step"], read_best(tmp_path / "whole")["loss"]) == (best["step"], best["validation_loss"])
    assert list(checkpoints(tmp_path / "whole")) == [4] and (tmp_path / "whole" / BEST / "lora.safetensors").is_file()
    assert f"validation loss {best['validation_loss']:.5f}, the lowest so far" in capsys.readouterr().out


def test_the_best_is_replaced_by_a_better_one_alone(config, tmp_path):
    held_out = make(config, tmp_path)
    assert held_out._keep_best(2, 0.5, ()) == (2, 0.5) and held_out._keep_best(4, 0.6, ()) == (2, 0.5)
    assert held_out._keep_best(5, float("nan"), ()) == (2, 0.5) and held_out._keep_best(6, 0.4, ()) == (6, 0.4)
    with pytest.raises(InputError, match="holds checkpoint-best of an earlier training"):
        make(config, tmp_path)
    other = make(config, tmp_path / "other", "validation.clips=1")
    shutil.copytree(tmp_path / BEST, tmp_path / "other" / BEST)
    assert other._keep_best(1, 0.9, ()) == (1, 0.9), "that of other clips says nothing about these"


def test_a_video_that_trains_is_none_to_validate_with(config, tmp_path):
    with pytest.raises(InputError, match=r"0.mp4 trains as well"):
        make(config, tmp_path, f"validation.metadata=[{config.parent / 'data' / 'metadata.jsonl'}]")
    with pytest.raises(InputError, match="expected none with distil"):
        settings_of(config, tmp_path, "distil={}")


def test_a_signal_ends_a_validation_without_a_result(config, tmp_path):
    assert make(config, tmp_path).validate(lambda: True) is None and read_best(tmp_path) is None
