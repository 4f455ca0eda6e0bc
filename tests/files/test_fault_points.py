"""Each system call of each writer fails, is cut short, or never comes back: nothing finished is lost, and running again completes it.

See faults/fault_points.py. Some of all cases here, all of them with -m slow.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.faults.fault_points import Report, points

FAULTS = Path(__file__).resolve().parents[1] / "helpers" / "faults"
WRITERS = re.findall(r'^    "(.+)": Writer', (FAULTS / "fault_writers.py").read_text(encoding="utf-8"), re.MULTILINE)
THINNED = 47
pytestmark = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")


def test_every_writer_is_among_them():
    """One that opens a file to write, or gives it its name, has a case here, or says in this list why not."""
    root = Path(__file__).parents[2] / "memo_modules"
    writing = re.compile(r"whole_file\(|write_whole\(|new_file\(|_move\(|save_tensors\(|storing\(")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if writing.search(path.read_text(encoding="utf-8"))}
    assert found == {
        "files/locks.py",
        "files/remote.py",  # a fetched input: whole_file, as "one file"
        "files/whole_files.py",
        "portrait/pasting.py",
        "preparation/folder.py",
        "preparation/tensor_files.py",
        "preparation/rewriting.py",  # PyAV within whole_file, as "a pasted video"
        "rendering/carrying.py",  # what a job takes along, in a folder that goes with it
        "rendering/folder.py",  # has no case here: tests/rendering kills it
        "store/bfloat16_copies.py",  # tensors within whole_file, as "safetensors of a pickle"
        "store/converting.py",
        "store/fetching.py",  # the sum next to a file: write_whole, as "one file"
        "training/checkpoint_folders.py",
        "training/distillation.py",  # tensors within whole_file, as "safetensors of a pickle"
        "training/sheets.py",  # a picture within whole_file, as "one file"
        "video/files.py",
        "video/journal.py",
        "video/long_videos.py",
        "video/provenance.py",
        "video/unfinished.py",
        "weights/lora.py",  # a file of a checkpoint
        "weights/tensor_saving.py",
    }


def check(reports: dict[str, Report]) -> None:
    for writer, report in reports.items():
        print(f"{writer}: {sum(report.calls.values())} calls ({dict(report.calls)}), {report.runs} runs")
    calls, runs = (sum(each) for each in zip(*((sum(report.calls.values()), report.runs) for report in reports.values()), strict=True))
    print(f"{len(reports)} writers, {calls} calls, {runs} runs")
    assert not [problem for report in reports.values() for problem in report.problems]
    assert all(report.runs and {"open", "write", "fsync"} <= report.calls.keys() for report in reports.values())


def test_a_call_that_fails_loses_nothing_and_a_careless_writer_is_found_out(tmp_path):
    reports = points({**dict.fromkeys(WRITERS, THINNED), "careless": 1}, tmp_path)
    said = "\n".join(reports.pop("careless").problems)
    assert "a.txt is not whole" in said and "OSError" in said and "others.mp4 is not whole" in said
    check(reports)


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_no_call_that_fails_loses_anything(tmp_path, writer):
    check(points({writer: 1}, tmp_path))
