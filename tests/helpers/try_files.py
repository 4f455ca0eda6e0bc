"""Run by test_files.py in a process of its own: asks for names of new files, and hands sound through core's socket; prints in
JSON what came.

Arguments: the pack's folder and ComfyUI's base directory.
"""

import importlib.util
import json
import sys
from pathlib import Path

pack, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]

import comfy.options

comfy.options.enable_args_parsing()

import torch

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from pack.memo_modules.errors import InputError
from pack.memo_modules.files.whole_files import new_file
from pack.memo_modules.types import Audio
from pack.nodes import comfy_output
from pack.nodes.comfy_sockets import from_audio, to_audio

output = Path(base, "output")
output.mkdir(exist_ok=True)
SUFFIX = ".mp4"


def longest() -> dict:
    """Prefixes of every length up to what a disk takes: those that are let through, and those whose video then was written."""
    let_through, written = [], []
    for length in range(200, 260):
        for letter in ("a", "ü"):
            prefix = letter * (length // len(letter.encode()))
            try:
                target = comfy_output.output_file(prefix, SUFFIX, 64, 64)
            except InputError:
                continue
            let_through.append(f"{letter}{length}")
            path = new_file(target(), lambda partial: partial.write_bytes(b"video"), target)
            written += [f"{letter}{length}"] if path.read_bytes() == b"video" else []
    return {"let_through": let_through, "written": written}


def unwritable() -> dict[str, str]:
    found = {}
    (output / "circle").symlink_to(output / "circle")
    for prefix in ("half \ud83d", "video/\udcff", "\ud800/MEMO", "circle/MEMO"):
        try:
            comfy_output.output_file(prefix, SUFFIX, 64, 64)
            found[ascii(prefix)] = "nothing"
        except InputError as error:
            found[ascii(prefix)] = str(error)
    return found


def probing() -> dict:
    """What another process finishes just where this one looks whether a file can be made."""
    target = comfy_output.output_file("probe/MEMO", SUFFIX, 64, 64)
    first = target()
    first.write_bytes(b"theirs")
    touch = Path.touch

    def finishing(path, *given, **options):
        for number in range(2, 6):
            first.with_name(f"MEMO_{number:05}_{SUFFIX}").write_bytes(b"theirs")
        return touch(path, *given, **options)

    Path.touch = finishing
    try:
        target = comfy_output.output_file("probe/MEMO", SUFFIX, 64, 64)
    finally:
        Path.touch = touch
    path = new_file(first, lambda partial: partial.write_bytes(b"ours"), target)
    return {"ours": path.name, "there": {each.name: each.read_text() for each in sorted(first.parent.iterdir())}}


def sounds() -> dict:
    """What is said of vocals once they have gone through core's socket."""
    vocals = from_audio(Audio(torch.rand(1, 1000), 16000, "the mix"))
    copied = {**vocals, "waveform": vocals["waveform"][..., :900]}
    touched = {**vocals, "waveform": vocals["waveform"].clone()}
    touched["waveform"][0, 0, 7] += 1e-6
    forged = [{**vocals, "memo_made_of": value} for value in (5, ("a",), ("a", "b"), ["a", None], {})]
    plain = from_audio(Audio(torch.rand(1, 1000), 16000))
    return {
        "vocals": to_audio(vocals).made_of,
        "others": [to_audio(each).made_of for each in (copied, touched, plain, *forged)],
        "plain": sorted(plain),
    }


print(json.dumps({"longest": longest(), "unwritable": unwritable(), "probing": probing(), "sounds": sounds()}))
