"""The training loop on tiny nets: resumed, shared between processes, masked, and fed with what is not a number."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from memo_modules.errors import CheckpointError, InputError
from memo_modules.models.layers import Layers
from memo_modules.training.assembly import load_vae, make_trainer
from memo_modules.training.checkpoint_folders import alone, checkpoints, read_state
from memo_modules.training.draws import Rates
from memo_modules.training.loop import StepLog, Trainer, check_frames, check_sample
from memo_modules.training.parameters import OptimizerSettings
from memo_modules.training.schedule import TimestepSampling
from memo_modules.training.settings import DataSettings, SampleSettings, TrainingSettings, read_settings
from memo_modules.weights.checkpoints import NETS, load_net
from scripts import train
from tests.helpers.training_world import write_training

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = Path(train.__file__)
CHILD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_training(tmp_path_factory.mktemp("training"), checkpointing=False)


def make(config: Path, output_dir: Path, *overrides: str, resume: str | None = None) -> Trainer:
    settings = read_settings(config, [f"output_dir={output_dir}", *overrides])
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    return make_trainer(settings, accelerator, load_vae(settings, accelerator.device), resume)


def run(trainer: Trainer, until: int | None = None) -> list[StepLog]:
    """Train to the end, or have it stopped after step ``until``."""
    logs = []
    trainer.run(logs.append, lambda folder: None, lambda: trainer.counters.step + 1 == until)
    return logs


def numbers(log: StepLog) -> StepLog:
    return replace(log, seconds=0.0)


def contents(checkpoint: Path) -> dict[str, bytes]:
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in checkpoint.rglob("*.safetensors")}


ROUNDING = 2e-6


def largest_difference(found: Path, expected: Path) -> float:
    """Between the weights of two checkpoints, relative to the largest of a tensor."""
    found, expected = (load_file(checkpoint / "trainer.safetensors") for checkpoint in (found, expected))
    keys = [key for key in expected if key.startswith("weights.")]
    return max(((found[key] - expected[key]).abs().max() / expected[key].abs().max()).item() for key in keys)


EXACT = {
    "fp32": ("dtype=fp32", "optimizer.lr_schedule=cosine", "optimizer.warmup_steps=1"),
    "bf16, averaged": ("dtype=bf16", "ema_decay=0.9", "checkpointing=true"),
    "low-rank factors": ("lora.rank=2", "ema_decay=0.9", "checkpointing=true"),
    "bf16, low-rank factors": ("lora.rank=2", "dtype=bf16", "ema_decay=0.9", "checkpointing=true"),
}


@pytest.mark.parametrize(
    "overrides", [pytest.param(value, id=name, marks=pytest.mark.slow if name.startswith("bf16") else ()) for name, value in EXACT.items()]
)
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(config, tmp_path, overrides):
    overrides = ("steps=3", "save_every=100", "batch_size=2", *overrides)
    whole = run(make(config, tmp_path / "whole", *overrides))
    first = run(make(config, tmp_path / "parts", *overrides), until=1)
    assert first[-1].stop and list(checkpoints(tmp_path / "parts")) == [1]
    resumed = make(config, tmp_path / "parts", *overrides, "data.workers=1", resume="latest")
    assert [*map(numbers, whole)] == [*map(numbers, [replace(log, stop=False) for log in first] + run(resumed))]
    expected = tmp_path / "whole" / "checkpoint-3"
    assert contents(tmp_path / "parts" / "checkpoint-3") == contents(expected)
    assert read_state(expected)[0]["counters"] == {"step": 3, "samples": 6, "skipped": 0, "unreadable": 0}


def test_one_schedule_goes_through_stages(config, tmp_path):
    schedule = ("steps=4", "optimizer.lr_schedule=cosine")
    whole = run(make(config, tmp_path / "whole", *schedule))
    first = run(make(config, tmp_path / "stages", *schedule, "until=2"))
    assert list(checkpoints(tmp_path / "stages")) == [2]
    second = run(make(config, tmp_path / "stages", *schedule, "until=3", "batch_size=2", resume="latest"))
    assert [log.step for log in first + second] == [1, 2, 3]
    assert [numbers(log) for log in first] == [numbers(log) for log in whole[:2]]
    assert [log.learning_rate for log in first + second] == [log.learning_rate for log in whole[:3]]


def test_a_checkpoint_is_a_folder_of_nets_that_loads(config, tmp_path):
    trainer = make(config, tmp_path, "steps=1", "ema_decay=0.5")
    start = {name: weight.clone() for name, weight in trainer.updates.weights().items()}
    run(trainer)
    checkpoint, settings = tmp_path / "checkpoint-1", trainer.settings
    nets = {name: load_net(checkpoint, name, Layers()).state_dict() for name in NETS}
    held = {f"{name}.{key}": tensor for name, state in nets.items() for key, tensor in state.items()}
    before = {f"{name}.{key}": tensor for name in NETS for key, tensor in load_net(settings.checkpoint, name, Layers()).state_dict().items()}
    assert held.keys() == before.keys()
    changed = {name for name, tensor in held.items() if not torch.equal(tensor, before[name])}
    assert changed <= trainer.trained.keys() and len(changed) > 0.9 * len(trainer.trained)
    for name, weight in trainer.updates.weights().items():  # the average of the first step is 0.1 of the start
        torch.testing.assert_close(held[name], 0.1 * start[name] + 0.9 * weight, rtol=0, atol=1e-6)
        assert torch.equal(trainer.trained[name], weight), "the nets train on with their own weights"
    with pytest.raises(CheckpointError, match="trainable, lora and ema_decay"):
        make(config, tmp_path, "trainable={diffusion_net: [motion_modules]}", resume="latest")


@pytest.fixture(scope="module")
def masked(config, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """Two steps of four samples in one batch, some of them left out; the folder and the settings."""
    probe = make(config, tmp_path_factory.mktemp("probe"), "batch_size=4").step()
    # with the published eps, AdamW makes whole steps of biases in front of norms, whose gradients are nothing but rounding
    overrides = ("steps=2", f"robust_threshold={probe.loss}", "optimizer.learning_rate=1e-3", "optimizer.eps=1e-4")
    folder = tmp_path_factory.mktemp("masked")
    logs = run(make(config, folder, "batch_size=4", *overrides))
    assert 0 < logs[0].mask_rate < 1 and logs[0].loss < logs[0].loss_all
    assert logs[0].loss_all == pytest.approx(probe.loss_all)
    return folder, overrides


def test_micro_batches_are_parts_of_one_batch(config, masked, tmp_path):
    folder, overrides = masked
    run(make(config, tmp_path, "batch_size=1", "gradient_accumulation=4", *overrides))
    assert largest_difference(tmp_path / "checkpoint-2", folder / "checkpoint-2") < ROUNDING


def test_the_gradients_of_a_step_are_those_of_the_mean_over_what_it_kept(config, masked, tmp_path):
    _, overrides = masked
    trainer = make(config, tmp_path, "batch_size=2", "gradient_accumulation=2", *overrides, "optimizer.learning_rate=0")
    module, passes = trainer.updates.module, []
    trainer.updates.module = lambda *clips: passes.append(clips) or module(*clips)
    log = trainer.step()
    results = [module(*clips) for clips in passes]
    kept = sum(result.kept.sum() for result in results)
    assert log.mask_rate == 1 - kept / 4 and 0 < kept < 4
    (sum(result.loss * result.kept.sum() for result in results) / kept).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.trained.values()]).norm()
    assert log.grad_norm == pytest.approx(norm.item(), rel=1e-4)


def test_two_processes_train_as_one_does(config, masked, tmp_path):
    folder, overrides = masked
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # of the launcher's ways, the one for GPUs is that which starts several processes without MPI
    launch = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, SCRIPT, config, f"output_dir={tmp_path}", "batch_size=2", *overrides]
    on_cpus = {**CHILD, "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([*map(str, command)], env=on_cpus, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert largest_difference(tmp_path / "checkpoint-2", folder / "checkpoint-2") < ROUNDING
    logs = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["samples"] for line in logs] == [4, 8] and 0 < logs[0]["mask_rate"] < 1


def test_a_step_whose_gradients_are_not_finite_is_skipped_and_counted(config, tmp_path):
    trainer = make(config, tmp_path, "steps=3", "ema_decay=0.9", "batch_size=2")
    clean, batches = trainer.make_batch, []

    def poisoned(sample, pictures):
        batch = clean(sample, pictures)
        batches.append(batch)
        if len(batches) == 2:
            batch.latents[1, 0, 0, 0, 0] = float("nan")
        return batch

    trainer.make_batch = poisoned
    trainer.step()
    before = {
        name: weight.clone() for name, weight in [*trainer.updates.weights().items(), *(("average", each) for each in trainer.average.values())]
    }
    log = trainer.step()
    after = dict([*trainer.updates.weights().items(), *(("average", each) for each in trainer.average.values())])
    assert not log.stepped and trainer.counters.skipped == 1
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    assert trainer.step().stepped and (trainer.counters.step, trainer.counters.samples, trainer.counters.skipped) == (3, 6, 1)


def test_stored_posteriors_train_as_pictures_do(config, tmp_path):
    pictures = make(config, tmp_path / "a").step()
    stored = make(config, tmp_path / "b", f"data.cache_dir={tmp_path / 'cache'}").step()
    assert stored.loss == pytest.approx(pictures.loss, rel=1e-3) and stored.grad_norm == pytest.approx(pictures.grad_norm, rel=1e-3)
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_data_of_the_reference_implementation_trains_as_ours_does(config, tmp_path):
    """Pickled tensors, faces as arrays of numpy, and paths that count from where its script ran."""
    ours, theirs = config.parent / "data", tmp_path / "there" / "data" / "embedding"
    lines = []
    for line in map(json.loads, (ours / "metadata.jsonl").read_text(encoding="utf-8").splitlines()):
        entry = {"video": f"data/{line['video']}"}
        theirs.mkdir(parents=True, exist_ok=True)
        shutil.copy(ours / line["video"], theirs.parent)
        for field in ("face_emb", "audio_emb", "audio_emotion"):
            [tensor] = load_file(ours / line[field]).values()
            entry[field] = f"data/embedding/{field}/{Path(line['video']).stem}.pt"
            path = tmp_path / "there" / entry[field]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(tensor.numpy() if field == "face_emb" else tensor, path)
        lines.append(json.dumps(entry))
    (theirs / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    logs = [
        run(make(config, tmp_path / name, "steps=2", f"data.metadata=[{metadata / 'metadata.jsonl'}]"))
        for name, metadata in (("ours", ours), ("theirs", theirs))
    ]
    assert list(map(numbers, logs[0])) == list(map(numbers, logs[1])) and len(logs[0]) == 2


def test_every_setting_is_read(config, tmp_path, monkeypatch, capsys):
    kinds = {TrainingSettings, DataSettings, SampleSettings, OptimizerSettings, Rates, TimestepSampling}
    samples = [f"samples.metadata=[{config.parent / 'data' / 'metadata.jsonl'}]", "samples.every=1", "samples.videos=1", "samples.frames=5"]
    samples += ["samples.steps=1", "ema_decay=0.5"]
    settings = read_settings(
        config, [f"output_dir={tmp_path / 'out'}", "steps=2", f"data.cache_dir={tmp_path / 'cache'}", "loggers=[tensorboard]", *samples]
    )
    seen = set()

    def noted(self, name: str):
        if sys._getframe(1).f_globals["__name__"].rpartition(".")[2] not in ("dataclasses", "copy"):  # not where all are written down
            seen.add((type(self), name))
        return object.__getattribute__(self, name)

    for kind in kinds:
        monkeypatch.setattr(kind, "__getattribute__", noted)
    handlers = [signal.getsignal(number) for number in train.SIGNALS]
    try:
        assert train.train(settings, None) == 0
    finally:
        for number, handler in zip(train.SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    TimestepSampling("mode").draw(1)
    unread = [f"{kind.__name__}.{name}" for kind in kinds for name in kind.__dataclass_fields__ if (kind, name) not in seen]
    assert unread == []
    out = capsys.readouterr().out
    assert "step 2/2  loss" in out and "checkpoint-2" in out and "skipped" not in out
    assert [path.name for path in (tmp_path / "out").rglob("*tfevents*")]
    with av.open(str(tmp_path / "out" / "samples" / "step-1" / "0-0.mp4")) as made:
        assert sum(1 for _ in made.decode(video=0)) == 5 and made.streams.video[0].width == 32
        made.seek(0)
        assert sum(frame.samples for frame in made.decode(audio=0)) == pytest.approx(5 * 16000 / 30, abs=1024)


def test_a_second_training_in_the_same_folder_is_refused_before_it_loads_anything(config, tmp_path):
    settings = read_settings(config, [f"output_dir={tmp_path / 'out'}", "checkpoint=nowhere", "loggers=[]"])
    with alone(tmp_path / "out"), pytest.raises(InputError, match="another training is at work"):
        train.train(settings, None)
    assert not list((tmp_path / "out").iterdir())


def test_features_of_another_encoder_are_refused(config, tmp_path):
    nets = make(config, tmp_path).nets
    sample = {"face_emb": torch.zeros(8), "audio_emb": torch.zeros(3, 5, 2, 4)}
    check_sample(nets, sample)
    for field, tensor in (("face_emb", torch.zeros(512)), ("audio_emb", torch.zeros(3, 5, 12, 768))):
        with pytest.raises(InputError, match=r"these nets take (8|40)\b"):
            check_sample(nets, sample | {field: tensor})


def test_clips_longer_than_the_nets_make_are_refused(config, tmp_path):
    nets = make(config, tmp_path).nets
    longest = nets.diffusion_net.config.motion_module_kwargs.temporal_position_encoding_max_len
    check_frames(nets, longest)
    with pytest.raises(InputError, match=rf"data.frames: expected at most {longest}, .* got {longest + 1}"):
        check_frames(nets, longest + 1)


def test_a_sample_that_cannot_be_made_ends_no_training(config, tmp_path):
    metadata, damaged = tmp_path / "metadata.jsonl", tmp_path / "damaged.mp4"
    prepared = Path(read_settings(config).data.metadata[0])
    entry = json.loads(prepared.read_text(encoding="utf-8").splitlines()[0])
    files = {name: str(prepared.parent / value) for name, value in entry.items()}
    damaged.write_bytes(b"no video")
    metadata.write_text(json.dumps(files | {"video": str(damaged)}) + "\n", encoding="utf-8")
    process = child(config, tmp_path / "out", "steps=2", f"samples.metadata=[{metadata}]", "samples.every=1")
    _, errors = process.communicate()
    assert process.returncode == 0 and (tmp_path / "out" / "checkpoint-2").is_dir(), errors
    assert "damaged.mp4 of step 1 could not be made" in errors


def child(config: Path, output_dir: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, SCRIPT, config, f"output_dir={output_dir}", "steps=8", "save_every=2", "keep=1", *arguments]
    return subprocess.Popen([*map(str, command)], env=CHILD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, *train.SIGNALS])
def test_a_training_that_was_ended_at_any_time_continues_to_the_same_weights(config, tmp_path, ending):
    """Also when its launcher ends the whole group, data workers and all."""
    whole = tmp_path / "whole"
    assert child(config, whole).wait() == 0
    parts = tmp_path / "parts"
    for _ in range(2):
        process = child(config, parts, "--resume", "latest", "data.workers=1")
        for line in process.stdout:
            if line.startswith("step ") and not line.startswith("step 8"):
                break
        time.sleep(random.uniform(0, 2))
        os.killpg(process.pid, ending)
        _, errors = process.communicate()
        assert process.returncode in (-ending, 0) if ending == signal.SIGKILL else process.returncode in (128 + ending, 0), errors
    assert child(config, parts, "--resume", "latest").wait() == 0
    assert contents(parts / "checkpoint-8") == contents(whole / "checkpoint-8")
    assert {path.name for path in parts.iterdir()} - {"checkpoint-8.former"} == {"checkpoint-8", "log.jsonl"}
    steps = [json.loads(line)["step"] for line in (parts / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == list(range(1, 9))
    shutil.rmtree(parts)
