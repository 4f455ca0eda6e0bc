"""Finds the ComfyUI that server tests run in, and makes what many tests share."""

import os
import shutil
from pathlib import Path

import pytest

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
def tiny_pipeline(tiny_models):
    """Everything of the tiny checkpoint, float32 on the CPU."""
    from memo_modules.pipeline import MemoPipeline

    return MemoPipeline.from_models(tiny_models, "tiny")


@pytest.fixture(scope="session")
def tiny_nets(tiny_pipeline):
    """The nets of the tiny checkpoint, float32 on the CPU."""
    return tiny_pipeline.nets


@pytest.fixture(scope="session")
def tiny_vae(tiny_pipeline):
    """The VAE of the tiny checkpoint."""
    return tiny_pipeline.vae


@pytest.fixture(scope="session")
def comfyui_server(comfyui_path, tiny_models, tmp_path_factory):
    """A running ComfyUI with the pack, the tiny checkpoint and the tests' own nodes; the tests of a session share it."""
    from tools.comfyui_server import ComfyUIServer

    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    shutil.copy(Path(__file__).parent / "helpers" / "probe_nodes.py", base / "custom_nodes")
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
