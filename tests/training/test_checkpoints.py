"""The folder of a training and the row of its samples."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from memo_modules.errors import CheckpointError, InputError, StorageError
from memo_modules.training import checkpoint_folders
from memo_modules.training.dataset import ClipLayout
from memo_modules.training.draws import Rates
from memo_modules.training.schedule import FlowSchedule, TimestepSampling
from memo_modules.training.stream import SampleStream, Share, draws_at, epoch_order


def write(folder: Path) -> None:
    checkpoint_folders.write_state(folder, {"step": 1}, {"a": torch.ones(1)})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_old_checkpoints_go_when_the_new_one_is_there_and_nothing_else_does(tmp_path):
    foreign = {"checkpoint-1", "checkpoint-x", "checkpoint-5-best", "my-checkpoint-6", "checkpoint"}
    for name in foreign:  # checkpoint-1 is named like ours, but is none of this trainer
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-9").write_text("a file", encoding="utf-8")
    for step in (2, 4, 6):
        checkpoint_folders.write_checkpoint(tmp_path, step, 2, write)
    assert names(tmp_path) == foreign | {"checkpoint-9", "checkpoint-4", "checkpoint-6"}
    assert checkpoint_folders.checkpoints(tmp_path) == {4: tmp_path / "checkpoint-4", 6: tmp_path / "checkpoint-6"}

    def fail(folder: Path) -> None:
        write(folder)
        assert names(tmp_path) >= {"checkpoint-4", "checkpoint-6"}, "nothing is deleted before the new one is whole"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint_folders.write_checkpoint(tmp_path, 8, 1, fail)
    assert list(checkpoint_folders.checkpoints(tmp_path)) == [4, 6], "a part of a checkpoint is none"
    checkpoint_folders.write_checkpoint(tmp_path, 8, 1, write)
    assert names(tmp_path) == foreign | {"checkpoint-9", "checkpoint-8"}


def test_what_a_killed_process_left_of_any_step_goes(tmp_path):
    checkpoint_folders.write_checkpoint(tmp_path, 2, 2, write)
    rests = {"checkpoint-2.former", "checkpoint-3.partial", "checkpoint-4.former"}
    kept = {"checkpoint-x.partial", "my-checkpoint-5.partial", "checkpoint-3.former"}  # the last is all that there is of its step
    for name in rests | kept:
        (tmp_path / name).mkdir()
    checkpoint_folders.write_checkpoint(tmp_path, 4, 2, write)
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-4"} | kept


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_before_others_go(tmp_path, monkeypatch):
    checkpoint_folders.write_checkpoint(tmp_path, 1, 1, write)
    done = []
    for module, name in ((os, "fsync"), (os, "replace"), (shutil, "rmtree")):
        former = getattr(module, name)

        def noted(*given, name=name, former=former, **options):
            path = os.readlink(f"/proc/self/fd/{given[0]}") if name == "fsync" else given[0]
            done.append((name, Path(path).name))
            return former(*given, **options)

        monkeypatch.setattr(module, name, noted)
    checkpoint_folders.write_checkpoint(tmp_path, 2, 1, write)
    renamed, gone = done.index(("replace", "checkpoint-2.partial")), done.index(("rmtree", "checkpoint-1"))
    assert {("fsync", name) for name in (checkpoint_folders.STATE, checkpoint_folders.TENSORS, "checkpoint-2.partial")} <= set(done[:renamed])
    assert ("fsync", tmp_path.name) in done[renamed:gone]


def test_a_checkpoint_written_again_replaces_the_former_and_leaves_later_ones(tmp_path):
    for step in (2, 4):
        checkpoint_folders.write_checkpoint(tmp_path, step, 2, write)
    checkpoint_folders.write_checkpoint(tmp_path, 2, 2, lambda folder: checkpoint_folders.write_state(folder, {"step": "again"}, {}))
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-4"}
    assert checkpoint_folders.read_state(tmp_path / "checkpoint-2")[0] == {"step": "again"}


def test_a_checkpoint_that_was_set_aside_when_the_process_was_killed_is_resumed(tmp_path):
    """Between its old content and its new one it has no name for a moment."""
    for step in (2, 4):
        checkpoint_folders.write_checkpoint(tmp_path, step, 2, write)
    (tmp_path / "checkpoint-4").rename(tmp_path / "checkpoint-4.former")
    assert checkpoint_folders.resume_from(tmp_path, "latest") == tmp_path / "checkpoint-4"
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-4"}


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name == "nt" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        checkpoint_folders.write_checkpoint(disk, 2, 1, write)
        with pytest.raises(StorageError, match="checkpoint-4 could not be written .No space left on device"):
            checkpoint_folders.write_checkpoint(disk, 4, 1, lambda folder: checkpoint_folders.write_state(folder, {}, {"a": torch.ones(100_000)}))
        assert names(disk) == {"checkpoint-2"} and checkpoint_folders.read_state(disk / "checkpoint-2")[0] == {"step": 1}
    finally:
        subprocess.run(["umount", disk], check=True)


def test_where_a_training_starts_from(tmp_path):
    assert checkpoint_folders.resume_from(tmp_path / "new", None) is None and checkpoint_folders.resume_from(tmp_path / "new", "latest") is None
    for step in (9, 10):
        checkpoint_folders.write_checkpoint(tmp_path, step, 5, write)
    assert checkpoint_folders.resume_from(tmp_path, "latest") == tmp_path / "checkpoint-10"
    assert checkpoint_folders.resume_from(tmp_path, f"{tmp_path}/checkpoint-9/") == tmp_path / "checkpoint-9"
    with pytest.raises(InputError, match="checkpoint-10 of an earlier training"):
        checkpoint_folders.resume_from(tmp_path, None)
    with pytest.raises(InputError, match="latest"):
        checkpoint_folders.resume_from(tmp_path, "checkpoint-9")
    (tmp_path / "checkpoint-10" / checkpoint_folders.TENSORS).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="another checkpoint"):
        checkpoint_folders.read_state(tmp_path / "checkpoint-10")


def test_one_training_at_a_time_is_at_work_in_a_folder(tmp_path):
    folder = tmp_path / "new"
    busy = r"output_dir: another training is at work in .*new\. Wait for it"
    with checkpoint_folders.alone(folder), pytest.raises(InputError, match=busy), checkpoint_folders.alone(folder):
        pass
    with checkpoint_folders.alone(folder):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file could not be written"), checkpoint_folders.alone(tmp_path / "file"):
        pass


class Numbers(torch.utils.data.Dataset):
    """Five videos, whose clips are their number and the seed they were asked for with."""

    videos = [SimpleNamespace(video=Path(f"{number}.mp4")) for number in range(5)]

    def __len__(self):
        return 5

    def __getitem__(self, item):
        return dict(zip(("video", "seed"), item, strict=True))


def test_an_epoch_has_every_video_once_and_its_own_order_and_clips():
    samples = [SampleStream(Numbers(), 7)[position] for position in range(15)]
    orders = [[sample["video"] for sample in samples[start : start + 5]] for start in (0, 5, 10)]
    assert all(sorted(order) == list(range(5)) for order in orders) and len({tuple(order) for order in orders}) > 1
    assert len({sample["seed"] for sample in samples}) == 15
    assert samples[7] == SampleStream(Numbers(), 7)[7] != SampleStream(Numbers(), 8)[7]
    assert epoch_order(7, 0, 5) != epoch_order(8, 0, 5)


@pytest.mark.parametrize(("batch_size", "accumulation", "processes"), [(4, 1, 1), (2, 1, 2), (1, 2, 2), (2, 2, 1), (1, 4, 1)])
def test_each_step_takes_the_next_samples_whoever_takes_them(batch_size, accumulation, processes):
    shares = [Share(batch_size, accumulation, process, processes) for process in range(processes)]
    assert all(share.samples_per_step == 4 for share in shares)
    batches = [share.batches(8) for share in shares]
    for first in (8, 12):
        taken = [position for share in batches for _ in range(accumulation) for position in next(share)]
        assert sorted(taken) == list(range(first, first + 4))


def test_what_is_drawn_for_a_sample_hangs_on_its_position_alone():
    def draw(*positions: int, seed: int = 0):
        rates = Rates(0.5, 0.5, 0.5, 0.5, unconditional=0.5, face_drop=0.5)
        return draws_at(seed, positions, ClipLayout(3, 2, 2, clips=2), (4, 2, 2), 8, TimestepSampling(), FlowSchedule.make(), rates)

    (pictures, (steps, second)), (alone, (step, _)) = draw(3, 4), draw(4)
    assert pictures.frames.shape == (2, 6, 4, 2, 2) and pictures.reference.shape == (2, 3, 4, 2, 2)
    assert steps.noise.shape == (2, 3, 4, 2, 2) and steps.emotion_drop.shape == (8, 2) and not torch.equal(steps.noise, second.noise)
    for both, one in ((pictures, alone), (steps, step)):
        for name, value in vars(one).items():
            part = getattr(both, name)
            assert torch.equal(part[:, 1:] if name == "emotion_drop" else part[1:], value)
    assert not torch.equal(pictures.frames[0], pictures.frames[1]) and not torch.equal(step.noise, draw(4, seed=1)[1][0].noise)


def test_labels_can_be_dropped_for_a_whole_sample():
    rates = Rates(emotion_drop=0.5, emotion_drop_per="sample")
    (drawn,) = draws_at(0, range(40), ClipLayout(1, 2), (1, 1, 1), 8, TimestepSampling(), FlowSchedule.make(), rates)[1]
    assert drawn.emotion_drop.shape == (8, 40) and 5 < drawn.emotion_drop[0].sum() < 35
    assert torch.equal(drawn.emotion_drop, drawn.emotion_drop[:1].expand(8, -1))
