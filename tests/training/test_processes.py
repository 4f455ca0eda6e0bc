"""Processes of a training wait for each other, and never for one that has failed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from memo_modules.errors import InputError, MemoError
from memo_modules.training.processes import Processes


def one_of_two(number: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=2)
    processes = Processes(SimpleNamespace(num_processes=2))
    assert processes.gather(10 + number) == [10, 11]
    with processes.together():
        pass
    error, words = (InputError, "^no such file$") if number == 1 else (MemoError, "process 1 of 2 failed: no such file")
    with pytest.raises(error, match=words), processes.together():
        if number == 1:
            raise InputError("no such file")
    torch.distributed.destroy_process_group()


def test_what_fails_in_one_process_fails_in_all(tmp_path):
    torch.multiprocessing.start_processes(one_of_two, (tmp_path,), nprocs=2, start_method="fork")


def test_one_process_waits_for_none():
    processes = Processes(SimpleNamespace(num_processes=1))
    assert processes.gather("own") == ["own"]
    with pytest.raises(InputError, match="^own$"), processes.together():
        raise InputError("own")
