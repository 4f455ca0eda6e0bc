"""ComfyUI's own VAE is made of files that were checked: what is wrong with one is said in words, and costs no memory."""

import shutil
from pathlib import Path

import pytest

from memo_modules.vae import autoencoder_shapes, own_name
from tests.helpers.in_comfyui import found_by
from tests.helpers.vae_cases import SPOILT, config, write_blank
from tools.comfyui_server import copy_pack

MOST_MB = 150
"""By which loading of a VAE of 2 MB may grow the process."""


@pytest.fixture(scope="module")
def said(comfyui_path, tiny_models, tmp_path_factory) -> dict[str, list]:
    """What load_vaes.py found of each VAE."""
    base = tmp_path_factory.mktemp("vaes")
    copy_pack(base / "custom_nodes" / "ComfyUI-MEMO")
    for name, (spoil, _) in {"as it is": (config(), ""), **SPOILT}.items():
        spoil(Path(shutil.copytree(tiny_models / "vae" / "sd-vae-ft-mse", base / "vaes" / name)))
    published = autoencoder_shapes({"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2})
    own = {own_name(key): (*shape, 1, 1) if len(shape) == 2 else shape for key, shape in published.items()}
    write_blank(base / "vaes" / "published.safetensors", published)
    write_blank(base / "vaes" / "own.safetensors", own)
    write_blank(base / "vaes" / "larger.safetensors", own | {"encoder.conv_in.weight": (500, 3, 3, 3)})
    write_blank(base / "vaes" / "foreign.safetensors", published | {"vquantizer.codebook.weight": (9, 9)})
    return found_by("load_vaes.py", comfyui_path, base / "custom_nodes" / "ComfyUI-MEMO", base / "vaes", cwd=base)


@pytest.mark.parametrize("name", SPOILT)
def test_a_folder_that_cannot_be_is_refused_in_words(said, name):
    kind, text, memory = said[name]
    assert kind == "CheckpointError" and name in text and SPOILT[name][1] in text
    assert memory < MOST_MB


def test_what_can_be_loads(said):
    assert said["as it is"][0] == "loaded" and said["as it is"][2] < MOST_MB
    assert said["published.safetensors"][:2] == said["own.safetensors"][:2] and said["own.safetensors"][0] == "loaded"


def test_single_files_that_cannot_be_are_refused_in_words(said):
    assert said["larger.safetensors"][0] == "CheckpointError" and "has shape [500, 3, 3, 3], expected [128, 3, 3, 3]" in said["larger.safetensors"][1]
    assert said["foreign.safetensors"][0] == "CheckpointError" and "1 not of this model" in said["foreign.safetensors"][1]
