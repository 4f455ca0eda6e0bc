"""Files that are there wholly or not at all, and that take no other's name: also when many processes want the same one."""

import errno
import multiprocessing
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from memo_modules.errors import InputError, StorageError
from memo_modules.files import whole_files
from memo_modules.files.whole_files import move_new, new_file, remove_partial, whole_file, write_whole
from memo_modules.store.converting import to_single_files
from memo_modules.weights import tensor_saving
from memo_modules.weights.tensor_saving import save_tensors

NO_LINKS = [getattr(errno, name) for name in ("EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EACCES", "EINVAL") if hasattr(errno, name)]


def next_number(folder: Path) -> Path:
    """As ComfyUI's core numbers: the highest that there is, and one."""
    found = max((name for name in os.listdir(folder) if name.startswith("MEMO_")), default="MEMO_00000_")
    return folder / f"MEMO_{int(found[5:10]) + 1:05}_.mp4"


def finish(folder: Path, who: int, count: int, way: str, together) -> None:
    """Finish so many videos under one prefix, each at the same moment as all others do."""
    if way == "without links":
        os.link = refuse(errno.EPERM)
    journal = folder.parent / f"journal {who}"
    journal.mkdir()
    for number in range(count):
        content = f"{who} {number}"
        together.wait()
        if way == "written there":
            new_file(next_number(folder), lambda partial, content=content: partial.write_text(content), lambda: next_number(folder))
        else:
            (journal / "video.mp4").write_text(content)
            move_new(journal / "video.mp4", next_number(folder), (lambda: next_number(folder)) if way != "one name" else None)
    assert not any(journal.iterdir())


def refuse(number: int):
    def link(*_, **__):
        raise OSError(number, os.strerror(number))

    return link


def race(folder: Path, processes: int, count: int, way: str) -> None:
    folder.mkdir()
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    together = context.Barrier(processes)
    at_work = [context.Process(target=finish, args=(folder, who, count, way, together)) for who in range(processes)]
    for process in at_work:
        process.start()
    for process in at_work:
        process.join()
    assert [process.exitcode for process in at_work] == [0] * processes
    found = Counter(path.read_text() for path in folder.iterdir())
    assert found == Counter(f"{who} {number}" for who in range(processes) for number in range(count))
    assert all(path.suffix == ".mp4" for path in folder.iterdir())


WAYS = ["moved", "written there", "one name", "without links"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("processes", "count"), [(2, 100), (8, 15)])
def test_what_many_processes_finish_at_once_is_all_there(tmp_path, processes, count, way):
    race(tmp_path / "output", processes, count, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("processes", [2, 8])
def test_two_thousand_videos_of_each_of_them_are_all_there(tmp_path, processes, way):
    race(tmp_path / "output", processes, 200 if way == "one name" else 2000, way)  # from _2 on each time: it takes the square


def test_what_has_a_name_keeps_it(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("theirs")
    (tmp_path / "a_2.mp4").symlink_to(tmp_path / "nowhere")
    assert new_file(path, lambda partial: partial.write_text("ours")).name == "a_3.mp4"
    asked = iter([tmp_path / "b.mp4", tmp_path / "b.mp4"])
    (tmp_path / "b.mp4").write_text("theirs")
    assert new_file(path, lambda partial: partial.write_text("ours"), lambda: next(asked)).name == "b_2.mp4"
    with pytest.raises(InputError, match=r"a.mp4 already exists\. Remove it"), whole_file(path, replaces=False):
        pass
    with pytest.raises(InputError, match="c.mp4 already exists"), whole_file(tmp_path / "c.mp4", replaces=False) as partial:
        partial.write_text("ours")
        (tmp_path / "c.mp4").write_text("theirs")
    assert [(tmp_path / f"{name}.mp4").read_text() for name in "abc"] == ["theirs"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a_2.mp4", "a_3.mp4", "b.mp4", "b_2.mp4", "c.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="there a name is taken in another way")
@pytest.mark.parametrize("number", NO_LINKS)
def test_a_disk_without_links_keeps_names_too(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", refuse(number))
    (tmp_path / "a.mp4").write_text("theirs")
    assert new_file(tmp_path / "a.mp4", lambda partial: partial.write_text("ours")).name == "a_2.mp4"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.mp4": "theirs", "a_2.mp4": "ours"}


@pytest.mark.skipif(os.name == "nt", reason="there a name is taken in another way")
def test_a_network_disk_that_lost_its_answer_has_done_it(tmp_path, monkeypatch):
    """It then says that the file exists: it does, and is this one."""
    link = os.link

    def lose(source, path):
        link(source, path)
        raise FileExistsError(errno.EEXIST, "exists", str(source), str(path))

    monkeypatch.setattr(os, "link", lose)
    assert new_file(tmp_path / "a.mp4", lambda partial: partial.write_text("ours")).name == "a.mp4"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("length", [1, 5, 100, 200, 240, 250, 255])
@pytest.mark.parametrize("letter", ["a", "ü", "声"])
def test_a_name_that_a_disk_takes_can_be_written(tmp_path, length, letter):
    """What is written before it has the name must not need more room for its own."""
    name = letter * max(1, length // len(letter.encode()))
    with whole_file(tmp_path / name) as partial:
        partial.write_text("whole")
    assert (tmp_path / name).read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EFBIG])
def test_every_error_of_the_disk_names_the_file_and_leaves_nothing(tmp_path, number):
    with (
        pytest.raises(StorageError, match=f"a.mp4 could not be written .{re.escape(os.strerror(number))}"),
        whole_file(tmp_path / "a.mp4") as partial,
    ):
        partial.write_text("half")
        raise OSError(number, os.strerror(number), str(partial))
    assert not any(tmp_path.iterdir())


def test_an_error_of_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.mp4"):
        (tmp_path / "source" / "b.mp4").open()
    with pytest.raises(InputError), whole_file(tmp_path / "a.mp4"):
        raise InputError("of what is written")
    assert not any(tmp_path.iterdir())


def test_partial_files_of_others_stay(tmp_path):
    own, others = "a.txt.0123abcd.part", {"movie.mp4.part", "x.0123.part", "b.txt.0123abcd.part", "0123abcd.part"}
    for name in (own, *others):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / own).touch()
    remove_partial(tmp_path, "a.txt", below=False)
    assert {path.name for path in tmp_path.iterdir()} == others | {"below"} and (tmp_path / "below" / own).exists()
    remove_partial(tmp_path)
    assert not (tmp_path / "below" / own).exists() and {path.name for path in tmp_path.iterdir()} == others - {"b.txt.0123abcd.part"} | {"below"}


@pytest.mark.skipif(os.name == "nt", reason="it has no such permissions")
def test_tensors_get_the_permissions_of_every_new_file(tmp_path):
    """The newest safetensors makes them private, and whoever shares the folder could not read them."""
    save_tensors(tmp_path / "a.safetensors", {"weight": torch.ones(3)})
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name == "nt" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_tensors_on_a_full_disk_say_so(small_disk):
    refused = pytest.raises(StorageError, match=r"a.safetensors could not be written .No space left on device.*free some space")
    with refused, whole_file(small_disk / "a.safetensors") as partial:
        save_tensors(partial, {"weight": torch.ones(100_000)})
    assert not any(small_disk.iterdir())


def test_a_conversion_on_a_full_disk_says_so_and_leaves_nothing(tiny_models, small_disk):
    for target, each in ((small_disk / "single.safetensors", False), (small_disk / "single", True)):
        with pytest.raises(StorageError, match="could not be written .No space left on device"):
            to_single_files(tiny_models / "memo" / "tiny", target, one_per_net=each)
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_an_error_of_the_library_that_is_none_of_the_disk_stays(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def fail(*_):
        raise SafetensorError("Error while serializing: InvalidTensorView")

    monkeypatch.setattr(tensor_saving, "save_file", fail)
    with pytest.raises(SafetensorError), whole_file(tmp_path / "a.safetensors") as partial:
        save_tensors(partial, {})


def test_a_folder_that_may_not_be_looked_at_is_written_all_the_same(tmp_path, monkeypatch):
    former = os.open

    def forbid(path, flags, *rest, **options):
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, "no", str(path))
        return former(path, flags, *rest, **options)

    monkeypatch.setattr(whole_files.os, "open", forbid)
    write_whole(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
