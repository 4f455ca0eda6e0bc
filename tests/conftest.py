"""Imports the pack as ComfyUI would, under a name of its own, and finds the ComfyUI that server tests run in."""

import os
import shutil
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The pack's own `nodes` must never shadow ComfyUI's nodes.py: the root leaves sys.path, and a bare package of the
# name comfyui_memo stands for the folder without running its __init__.py (which needs a ComfyUI).
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
_package = types.ModuleType("comfyui_memo")
_package.__path__ = [str(ROOT)]
sys.modules.setdefault("comfyui_memo", _package)

from tools import environment

_COMFYUI = environment.find_comfyui()
_REQUIRED = os.environ.get("MEMO_REQUIRE_COMFYUI") == "1"
_NO_COMFYUI = "no ComfyUI found: set COMFYUI_PATH to its folder, or put it at ~/comfy/ComfyUI"


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The folder of the ComfyUI that server and node tests use; a test that asks for it is a server test."""
    return _COMFYUI


@pytest.fixture(scope="module")
def one_thread():
    """For tests of nets so small that threads, waiting for each other on a busy machine, take several times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A `models` folder with the tiny checkpoint, named `tiny`."""
    from tools.make_tiny_checkpoint import write_tiny_checkpoint

    models = tmp_path_factory.mktemp("tiny") / "models"
    write_tiny_checkpoint(models)
    return models


@pytest.fixture(scope="session")
def tiny_nets(tiny_models):
    """The nets of the tiny checkpoint, float32 on the CPU."""
    import torch

    from memo_modules.models.layers import Layers
    from memo_modules.sampler.sampling import MemoNets
    from memo_modules.weights.checkpoints import NETS, load_net

    loaded = {net: load_net(tiny_models / "memo" / "tiny", net, Layers(dtype=torch.float32)) for net in NETS}
    return MemoNets(**loaded, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_vae(tiny_models):
    """The VAE of the tiny checkpoint."""
    from diffusers import AutoencoderKL

    from memo_modules.vae import DiffusersVAE

    return DiffusersVAE(AutoencoderKL.from_pretrained(tiny_models / "vae" / "sd-vae-ft-mse"), batch=16)


@pytest.fixture(scope="session")
def comfyui_server(comfyui_path, tiny_models, tmp_path_factory):
    """A running ComfyUI with the pack, the tiny checkpoint and the tests' own nodes; the tests of a session share it."""
    from tools.comfyui_server import ComfyUIServer

    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    shutil.copy(ROOT / "tests" / "comfyui" / "probe_nodes.py", base / "custom_nodes")
    with ComfyUIServer(comfyui_path, base, tiny_models) as server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "comfyui_path" in item.fixturenames:
            item.add_marker(pytest.mark.server)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if _COMFYUI or not item.get_closest_marker("server"):
        return
    if _REQUIRED:
        pytest.fail(_NO_COMFYUI, pytrace=False)
    pytest.skip(_NO_COMFYUI)


def pytest_terminal_summary(terminalreporter):
    if skipped := sum(_NO_COMFYUI in str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())):
        terminalreporter.write_line(f"{skipped} server tests skipped: {_NO_COMFYUI}")
