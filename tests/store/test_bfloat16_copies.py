"""bfloat16 copies next to float32 nets: taken where they fit, noticed where they do not, and the originals deleted only when asked."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.errors import CheckpointError, InputError
from memo_modules.host import Host
from memo_modules.models.layers import Layers
from memo_modules.store import obtain
from memo_modules.store.bfloat16_copies import keep_bfloat16
from memo_modules.store.catalogue import CATALOGUE
from memo_modules.store.finding import find
from memo_modules.weights.checkpoints import BFLOAT16_WEIGHTS, UNETS, load_net
from memo_modules.weights.fingerprints import weights_digest

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "diffusion_pytorch_model.safetensors"
BFLOAT16, FLOAT32 = (Layers(dtype=dtype, fused=True) for dtype in (torch.bfloat16, torch.float32))


@pytest.fixture
def checkpoint(tiny_models, tmp_path) -> Path:
    """In float32, as the published one is."""
    folder = shutil.copytree(tiny_models / "memo" / "tiny", tmp_path / "memo" / "tiny")
    for net in UNETS:
        file = folder / net / WEIGHTS
        save_file({key: tensor.float() for key, tensor in load_file(file).items()}, file)
    return folder


def test_a_copy_is_mapped_and_the_net_the_same(checkpoint, caplog):
    before = weights_digest(load_net(checkpoint, "diffusion_net", BFLOAT16))
    said = []
    assert keep_bfloat16(checkpoint, host=Host(say=said.append)) == [checkpoint / net / BFLOAT16_WEIGHTS for net in UNETS]
    assert "Keeping a bfloat16 copy" in said[0] and keep_bfloat16(checkpoint) == []
    caplog.clear()
    with caplog.at_level(logging.INFO):
        net = load_net(checkpoint, "diffusion_net", BFLOAT16)
    assert weights_digest(net) == before and not caplog.records
    file = load_file(checkpoint / "diffusion_net" / BFLOAT16_WEIGHTS)
    assert {tensor.dtype for tensor in file.values()} == {torch.bfloat16}
    assert torch.equal(net.conv_in.weight, file["conv_in.weight"])


def test_float32_comes_from_the_original(checkpoint):
    keep_bfloat16(checkpoint)
    own = load_file(checkpoint / "diffusion_net" / WEIGHTS)["conv_in.weight"]
    assert torch.equal(load_net(checkpoint, "diffusion_net", FLOAT32).conv_in.weight, own)


def test_the_log_offers_a_copy(checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        load_net(checkpoint, "diffusion_net", FLOAT32)
        assert not caplog.records
        load_net(checkpoint, "diffusion_net", BFLOAT16)
    assert f"scripts/convert.py {checkpoint} --beside" in caplog.text


@pytest.mark.parametrize("change", ["another checkpoint", "damaged"])
def test_a_copy_of_something_else_is_not_used_and_made_again(checkpoint, caplog, change):
    keep_bfloat16(checkpoint)
    folder = checkpoint / "diffusion_net"
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.weight"] = weights["conv_in.weight"] + 1
    if change == "damaged":
        (folder / BFLOAT16_WEIGHTS).write_bytes(b"x" * 100)
    save_file(weights, folder / WEIGHTS)
    net = load_net(checkpoint, "diffusion_net", BFLOAT16)
    assert torch.equal(net.conv_in.weight, weights["conv_in.weight"].bfloat16())
    assert f"{folder / BFLOAT16_WEIGHTS} is not used" in caplog.text
    assert keep_bfloat16(checkpoint) == [folder / BFLOAT16_WEIGHTS]
    assert torch.equal(load_file(folder / BFLOAT16_WEIGHTS)["conv_in.weight"], weights["conv_in.weight"].bfloat16())


def test_originals_are_deleted_when_asked_and_nothing_is_missing_then(checkpoint, monkeypatch):
    before = weights_digest(load_net(checkpoint, "reference_net", BFLOAT16), load_net(checkpoint, "diffusion_net", BFLOAT16))
    keep_bfloat16(checkpoint, delete_float32=True)
    assert not any((checkpoint / net / WEIGHTS).exists() for net in UNETS) and (checkpoint / "audio_proj" / WEIGHTS).exists()
    assert weights_digest(load_net(checkpoint, "reference_net", BFLOAT16), load_net(checkpoint, "diffusion_net", BFLOAT16)) == before
    assert load_net(checkpoint, "diffusion_net", FLOAT32).conv_in.weight.dtype == torch.float32
    assert find("nets", [checkpoint.parent]).found == {"tiny": checkpoint}
    assert keep_bfloat16(checkpoint, delete_float32=True) == []
    published = checkpoint.rename(checkpoint.with_name("memo"))
    (published / "image_proj" / WEIGHTS).unlink()
    _, files = obtain.missing(CATALOGUE["nets"], lambda kind: [published.parent])
    assert not {file.target for file in files} & {f"memo/{net}/{WEIGHTS}" for net in UNETS}
    assert f"memo/image_proj/{WEIGHTS}" in {file.target for file in files}


def test_an_original_stays_when_one_value_of_its_copy_is_another(checkpoint):
    """The last one of the last tensor: loading looks at the first ones."""
    keep_bfloat16(checkpoint)
    folder = checkpoint / "diffusion_net"
    copied = load_file(folder / BFLOAT16_WEIGHTS)
    last = max(copied, key=lambda key: copied[key].numel())
    copied[last].view(-1)[-1] += 1
    save_file(copied, folder / BFLOAT16_WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"is no copy of .*{WEIGHTS} \('{last}' is another one\), which is kept. Delete the copy"):
        keep_bfloat16(checkpoint, delete_float32=True)
    assert (folder / WEIGHTS).exists() and not (checkpoint / "reference_net" / WEIGHTS).exists()
    (folder / BFLOAT16_WEIGHTS).unlink()
    keep_bfloat16(checkpoint, delete_float32=True)
    assert not (folder / WEIGHTS).exists()


def test_comparing_is_told_and_can_be_stopped(checkpoint):
    keep_bfloat16(checkpoint)
    told = []

    def progress(done: int, values: int) -> None:
        told.append((done, values))
        if len(told) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_bfloat16(checkpoint, delete_float32=True, host=Host(progress))
    assert told[0][0] == 0 < told[1][0] < told[2][0] < told[2][1] and (checkpoint / "reference_net" / WEIGHTS).exists()


def test_weights_that_are_no_numbers_have_copies_too(checkpoint):
    file = checkpoint / "reference_net" / WEIGHTS
    weights = load_file(file)
    weights["conv_in.weight"][0, 0, 0, 0] = torch.nan
    save_file(weights, file)
    keep_bfloat16(checkpoint, delete_float32=True)
    assert not file.exists()


def test_cancel_leaves_nothing(checkpoint):
    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_bfloat16(checkpoint, delete_float32=True, host=Host(check_interrupt=cancel))
    assert sorted(path.name for path in (checkpoint / "reference_net").iterdir()) == ["config.json", WEIGHTS]


def test_what_is_no_folder_of_nets_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a checkpoint, with reference_net and diffusion_net in it"):
        keep_bfloat16(tmp_path / "memo.safetensors")


@pytest.mark.slow
def test_the_script(checkpoint):
    def convert(*arguments):
        return subprocess.run([sys.executable, ROOT / "scripts" / "convert.py", checkpoint, *arguments], capture_output=True, text=True)

    assert "--delete-float32 needs --beside" in convert("--delete-float32").stderr
    assert "takes a checkpoint folder" in convert("--beside", "--dtype", "bf16").stderr
    run = convert("--beside", "--delete-float32")
    assert run.returncode == 0 and run.stdout.split() == [str(checkpoint / net / BFLOAT16_WEIGHTS) for net in UNETS], run.stderr
    assert "has no float32 UNet without a copy" in convert("--beside").stdout
