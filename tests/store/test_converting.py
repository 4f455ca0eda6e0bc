"""Conversions keep every bit, and nothing in a pickle is run."""

import json
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.errors import CheckpointError, InputError
from memo_modules.models.layers import Layers
from memo_modules.store.converting import pickle_to_safetensors, to_folder, to_single_files
from memo_modules.weights.checkpoints import CLASSIFIER, NETS, load_net, read_weights

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "diffusion_pytorch_model.safetensors"
FOLDERS = [*NETS, f"misc/{CLASSIFIER}"]


@pytest.fixture
def tiny(tiny_models) -> Path:
    return tiny_models / "memo" / "tiny"


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("one_per_net", [False, True])
def test_there_and_back(tiny, tmp_path, one_per_net):
    single = tmp_path / ("single" if one_per_net else "single.safetensors")
    written = to_single_files(tiny, single, one_per_net=one_per_net)
    assert len(written) == (5 if one_per_net else 1) and all(file.is_file() for file in written)
    to_folder(single, tmp_path / "back")
    for folder in FOLDERS:
        assert same(load_file(tmp_path / "back" / folder / WEIGHTS), load_file(tiny / folder / WEIGHTS))
        assert json.loads((tmp_path / "back" / folder / "config.json").read_text()) == json.loads((tiny / folder / "config.json").read_text())


@pytest.mark.parametrize("net", NETS)
def test_either_layout_loads_the_same_tensors(tiny, tmp_path, net):
    to_single_files(tiny, tmp_path / "single.safetensors")
    layers = Layers(dtype=torch.float32, fused=True)
    assert same(load_net(tmp_path / "single.safetensors", net, layers).state_dict(), load_net(tiny, net, layers).state_dict())


def test_dtype(tiny, tmp_path):
    to_single_files(tiny, tmp_path / "single.safetensors", torch.bfloat16)
    with safe_open(tmp_path / "single.safetensors", "pt") as file:
        keys = file.keys()
        assert {file.get_slice(key).get_dtype() for key in keys} == {"BF16"}
        key = "audio_proj.proj1.weight"
        assert torch.equal(file.get_tensor(key), load_file(tiny / "audio_proj" / WEIGHTS)["proj1.weight"].bfloat16())


@pytest.mark.parametrize("way", ["file per net", "folder of nets"])
def test_killed_between_two_names_the_next_run_continues(tiny, tmp_path, way):
    """And does not where what is there is something else, or all of it."""

    def convert():
        return to_single_files(tiny, tmp_path / "out", one_per_net=True) if way == "file per net" else to_folder(single, tmp_path / "out")

    single = tmp_path / "single.safetensors"
    to_single_files(tiny, single)
    convert()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    with pytest.raises(InputError, match="already exists"):
        convert()
    contents = {path: path.read_bytes() for path in written}
    for gone in (written[1:], written[:-1]):
        for path in gone:
            path.unlink()
        kept = {path: path.stat().st_mtime_ns for path in set(written) - set(gone)}
        convert()
        assert all(path.stat().st_mtime_ns == moment for path, moment in kept.items()) and len(list((tmp_path / "out").rglob("*.part"))) == 0
        assert [path.stat().st_size for path in written] == [len(content) for content in contents.values()]
    first, last = written[0], written[-1]
    for damaged in (contents[first][:-1] + b"x", contents[first] + b"x", contents[first][:-1], b"mine"):
        last.unlink(missing_ok=True)
        first.write_bytes(damaged)
        with pytest.raises(InputError, match="already exists"):
            convert()
        assert first.read_bytes() == damaged


def test_nothing_is_overwritten_and_nothing_half_made_stays(tiny, tmp_path):
    target = tmp_path / "single.safetensors"
    target.write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        to_single_files(tiny, target)
    assert target.read_text() == "mine" and list(tmp_path.iterdir()) == [target]


def test_a_damaged_component_is_named(tiny, tmp_path):
    folder = tmp_path / "memo" / "image_proj"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is empty"):
        to_single_files(tmp_path / "memo", tmp_path / "single.safetensors")
    with pytest.raises(CheckpointError, match="holds none of reference_net"):
        to_single_files(tmp_path, tmp_path / "single.safetensors")


def test_a_component_that_would_leave_the_folder(tmp_path):
    save_file({"../../evil.key": torch.zeros(3)}, tmp_path / "x.safetensors", {"memo": json.dumps({"../../evil": {}})})
    with pytest.raises(CheckpointError, match="is not a component of MEMO"):
        to_folder(tmp_path / "x.safetensors", tmp_path / "a" / "b" / "c")
    with pytest.raises(CheckpointError, match="holds no component of MEMO"):
        to_folder(tmp_path / "a", tmp_path / "b")


class Payload:
    """Pickles to a call."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


class Settings(dict):
    """What a training script leaves next to its weights: a class that nobody here has."""

    def __setstate__(self, state):
        raise AssertionError("made from a pickle")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_gives_its_tensors_and_runs_nothing(tmp_path, zipped):
    weights = OrderedDict(a=torch.randn(3, 4), b=torch.nn.Parameter(torch.randn(5)), c=torch.arange(3), half=torch.ones(2).half())
    weights["tied"] = weights["a"].T
    settings = Settings(rate=1)
    settings.extra = [1]
    held = {"model": weights, "cfg": settings, "payload": Payload(tmp_path / "it ran"), "numbers": __import__("numpy").ones(3)}
    torch.save(held, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / "model.pt"), {key: value.detach() for key, value in weights.items()})
    pickle_to_safetensors(tmp_path / "model.pt", tmp_path / "model.safetensors")
    assert same(load_file(tmp_path / "model.safetensors"), {key: value.detach() for key, value in weights.items()})
    assert not (tmp_path / "it ran").exists()


def test_the_published_emotion_model(tiny_models, tmp_path):
    source = tiny_models / "memo/emotion2vec_plus_large/model.pt"
    pickle_to_safetensors(source, tmp_path / "model.safetensors")
    assert same(load_emotion2vec(tmp_path / "model.safetensors").state_dict(), load_emotion2vec(source).state_dict())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x80\x02."])
def test_a_damaged_pickle_is_named(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.pt"):
        pickle_to_safetensors(tmp_path / "model.pt", tmp_path / "model.safetensors")


def test_the_script(tiny, tmp_path):
    def convert(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, ROOT / "scripts/convert.py", *arguments], capture_output=True, text=True, check=False)

    single = tmp_path / "memo.safetensors"
    (tmp_path / "memo").symlink_to(tiny)
    assert convert(tmp_path / "memo", "--dtype", "bf16").stdout == f"{single}\n"
    assert load_file(single)["image_proj.norm.weight"].dtype == torch.bfloat16
    assert convert(single, tmp_path / "back").returncode == 0 and (tmp_path / "back/audio_proj" / WEIGHTS).is_file()
    trained = tmp_path / "checkpoint-7"  # by the trainer, which keeps more than the nets
    shutil.copytree(tiny, trained)
    shutil.copy(single, trained / "trainer.safetensors")
    inside = subprocess.run([sys.executable, ROOT / "scripts/convert.py", "."], cwd=trained, capture_output=True, text=True, check=False)
    assert inside.stdout == f"{trained}.safetensors\n", inside.stderr
    again = convert(tmp_path / "memo")
    assert again.returncode == 1 and "convert.py:" in again.stderr and "already exists" in again.stderr
