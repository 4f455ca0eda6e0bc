"""Scripts end with one sentence and a number, whatever they are handed: a traceback is for what nobody expected."""

import ast
import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from memo_modules.errors import CheckpointError, InputError
from scripts import convert, prepare_data, train
from scripts.entry import run
from tools import evaluate, make_small_world

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ENDING_WELL = ("convert", "evaluate", "install_extras", "make_small_world", "prepare_data", "train")


def ended(capsys, name: str, main: Callable[[], int | None]) -> tuple[int, str]:
    """Number and stderr of a script."""
    with pytest.raises(SystemExit) as end:
        run(name, main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("script", ENDING_WELL)
def test_scripts_are_run_by_the_one_that_says_how_they_end(script):
    [file] = [file for file in (SCRIPTS / f"{script}.py", SCRIPTS.parent / "tools" / f"{script}.py") if file.is_file()]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [start] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"]
    [call] = start.body
    assert ast.unparse(call.value.func) in ("run", "run_script") and ast.unparse(call.value.args[0]) == f"'{script}.py'"


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "number", "words"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(InputError("no\ud83d")), 1, "a.py: no\\ud83d\n"),
        (raising(CheckpointError("x" * 10**6)), 1, "a.py: xxx"),
        (raising(FileNotFoundError(errno.ENOENT, "No such file or directory", "there")), 1, "a.py: 'there': No such file or directory."),
        (raising(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")), 1, "a.py: 'a' -> 'b': Invalid cross-device link."),
        (raising(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 10**6)), 1, "a.py: 'xxx"),
        (raising(OSError("odd")), 1, "a.py: odd.\n"),
        (raising(MemoryError()), 1, "a.py: this machine has too little memory for it"),
        (raising(KeyboardInterrupt()), 130, "a.py: stopped.\n"),
        (raising(SystemExit(2)), 2, ""),
    ],
    ids=range(11),
)
def test_how_a_script_ends(capsys, main, number, words):
    found, said = ended(capsys, "a.py", main)
    assert found == number and said.startswith(words) and bool(said) == bool(words)
    assert said.count("\n") <= 1 and len(said) < 3000


def test_what_nobody_expected_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run("a.py", lambda: 1 // 0)


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """As `| head` does."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(SCRIPTS.parent)!r})\nfrom scripts.entry import run\nrun('script.py', lambda: print('x\\n' * 10**6))\n"
    )
    ends = subprocess.run(["bash", "-c", f"{sys.executable} {script} | head -n 1"], capture_output=True, text=True, timeout=60, check=False)
    assert ends.stdout == "x\n" and ends.stderr == ""


LONG = "x" * 5000
DEEP = "[" * 100_000


def odd_files(folder: Path) -> None:
    """What lies where a file or a folder is expected."""
    (folder / "a_file").write_text("x")
    (folder / "empty").mkdir()
    (folder / "empty.pt").write_bytes(b"")
    (folder / "folder.pt").mkdir()
    (folder / "text.pt").write_text("x" * 10**5)
    (folder / "deep.yaml").write_text(f"steps: {DEEP}")
    (folder / "list.yaml").write_text("[1]")
    least = "checkpoint: nowhere\nvae: nowhere\noutput_dir: out\ndata: {metadata: [nowhere.jsonl]}\n"
    (folder / "train.yaml").write_text(least)
    (folder / "into_a_file.yaml").write_text(least.replace("output_dir: out", "output_dir: a_file/out"))
    (folder / "long.yaml").write_text(least.replace("vae: nowhere", f"vae: {LONG}"))
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"memo": DEEP}}).encode()
    (folder / "deep.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for net in ("reference_net", "image_proj"):
        (folder / "checkpoint" / net).mkdir(parents=True)
        (folder / "checkpoint" / net / "config.json").write_text(DEEP)
        (folder / "checkpoint" / net / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100)
    os.mkfifo(folder / "pipe.yaml")


CALLS: dict[str, list[tuple[list[str], int, str]]] = {
    "convert": [
        (["nowhere"], 1, "nowhere"),
        (["/"], 1, "is the root of a disk"),
        (["."], 1, ""),
        (["empty"], 1, "holds none of"),
        (["a_file"], 1, "holds none of"),
        ([LONG], 1, "File name too long"),
        ([f"{LONG}.pt"], 1, "xxx ..."),
        (["nowhere.pt"], 1, "is missing"),
        (["empty.pt"], 1, "is empty"),
        (["folder.pt"], 1, "is a folder"),
        (["text.pt"], 1, "cannot be read"),
        (["deep.safetensors"], 1, "without configs in it"),
        (["deep.safetensors", "a_file/below"], 1, "without configs in it"),
        (["checkpoint"], 1, "nested too deeply"),
        (["checkpoint", "a_file"], 1, ""),
        (["checkpoint", "--dtype", "int8"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
    "prepare_data": [
        (["nowhere", "--durations"], 1, "nowhere"),
        (["a_file", "--durations"], 1, "a_file"),
        (["empty", "--durations"], 1, ""),
        ([LONG, "--durations"], 1, ""),
        (["empty", "--durations", "--checkpoint", "x"], 2, "expected --models MODELS with it"),
        (["empty", "out", "--models", LONG], 1, "File name too long"),
        (["empty", "out", "--models", "a_file"], 2, "is not a folder"),
        (["empty", "out", "--models", "empty"], 1, ""),
        (["empty", "out", "--models", "empty", "--checkpoint", LONG], 1, "File name too long"),
        (["empty", "out", "--models", "empty", "--device", "tpu"], 2, "--device: expected cpu, cuda, or several"),
        (["empty", "out", "--models", "empty", "--device", "xpu:7"], 1, "--device: xpu:7 is not there"),
        (["empty", "out", "--models", "empty", "--workers", "1000000000"], 2, "--workers: expected 1 to 1024"),
        (["empty", "out", "--models", "empty", "--fps", "x"], 2, "invalid float value"),
    ],
    "train": [
        (["nowhere.yaml"], 1, "nowhere.yaml cannot be read"),
        (["empty"], 1, "empty cannot be read"),
        (["/"], 1, "cannot be read"),
        ([LONG], 1, "xxx ..."),
        (["pipe.yaml"], 1, "it is a named pipe"),
        (["deep.yaml"], 1, "nested too deeply"),
        (["list.yaml"], 1, "expected keys and values, got list"),
        (["train.yaml", "steps"], 1, "expected key=value"),
        (["train.yaml", f"steps={DEEP}"], 1, "nested too deeply"),
        (["train.yaml", "steps=&a [*a]"], 1, "an alias stands in what it stands for"),
        (["train.yaml", "steps.x=1"], 1, "steps: expected a whole number"),
        (["train.yaml"], 1, "nowhere"),
        (["long.yaml"], 1, ""),
        (["into_a_file.yaml"], 1, ""),
        (["train.yaml", "--resume", LONG], 1, ""),
        ([], 2, "required"),
    ],
    "make_small_world": [
        (["a_file"], 1, "a_file"),
        (["a_file/below"], 1, "a_file"),
        ([LONG], 1, "File name too long"),
        (["w", "--seconds", "nan"], 2, "--seconds: expected at least one frame"),
        (["w", "--seconds", "inf"], 2, "--seconds: expected at least one frame"),
        (["w", "--size", "1000000000"], 2, "--size: expected an even number from 32 to 2048"),
        (["w", "--seed", "-1"], 2, "--seed: expected 0 to 1000000"),
        (["w", "--sheet", "x.exe"], 2, "--sheet: expected a file .png"),
        (["w", "--sheet", "nowhere/x.png"], 2, "in a folder that is there"),
    ],
    "evaluate": [
        (["--seconds", "nan"], 2, "--seconds: expected 0.6 to 600"),
        (["--workers", "1000000"], 2, "--workers: expected 1 to 256"),
        (["--size", "0"], 2, "--size: expected 32 to 2048"),
        (["--set", "steps=x"], 1, "--set: steps: expected a value of the kind int, got 'x'"),
        (["--set", f"{LONG}=1"], 1, "--set: expected NAME=VALUE"),
        (["--set", "steps=-1"], 1, "steps"),
        (["--variants", "none"], 2, "invalid choice"),
        (["--reader", "a_file/reader.safetensors", "--output", "out"], 1, "a_file"),
    ],
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(("script", "number"), [(script, number) for script, calls in CALLS.items() for number in range(len(calls))])
def test_what_a_script_is_handed(monkeypatch, tmp_path, capsys, script, number):
    arguments, status, words = CALLS[script][number]
    odd_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    mains = {"convert": convert, "prepare_data": prepare_data, "train": train, "make_small_world": make_small_world, "evaluate": evaluate}
    main = mains[script].main
    found, said = ended(capsys, f"{script}.py", main if script in ("prepare_data", "make_small_world") else partial(main, arguments))
    assert found == status and words in said and f"{script}.py: " in said
    assert len(said) < 6000 and (status == 2 or said.count("\n") == 1), said
