"""What the browser tests share: a Chromium, a ComfyUI with all that the workflows name, its front end with an empty canvas."""

from pathlib import Path

import pytest

from tools.chromium import find_chromium
from tools.comfyui_server import ComfyUIServer
from tools.front_end import SETTINGS, FrontEnd
from tools.make_tiny_checkpoint import write_tiny_checkpoint

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.fixture(scope="session")
def chromium() -> str:
    return find_chromium() or pytest.skip("no Chromium found; on Debian and Ubuntu: apt install chromium")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base directory of ComfyUI, the tiny nets in it under the published name; test files put more there."""
    base = tmp_path_factory.mktemp("comfyui")
    write_tiny_checkpoint(base / "models", "memo")
    return base


@pytest.fixture(scope="module")
def server(chromium, comfyui_path, base):
    """A ComfyUI with the portrait and the voice that the workflows name."""
    with ComfyUIServer(comfyui_path, base) as server:
        for file in ("portrait.jpg", "speech.wav"):
            server.add_input(ASSETS / file)
        server.post("/settings", SETTINGS)
        yield server


@pytest.fixture(params=["canvas", "Vue"])
def renderer(request) -> str:
    """Who draws the nodes: the canvas, or Vue ("Nodes 2.0")."""
    return request.param


@pytest.fixture
def page(chromium, server, renderer, tmp_path):
    """The front end with an empty canvas; how a test left it is screenshot.png in the test's temporary folder."""
    server.post("/settings", {"Comfy.VueNodes.Enabled": renderer == "Vue"})
    server.free()  # or a node that the other renderer has run says nothing
    with FrontEnd(chromium, tmp_path / "profile", server.url) as page:
        yield page
        page.screenshot(tmp_path / "screenshot.png")


@pytest.fixture
def clicks(page, monkeypatch) -> list:
    """Grows with each click."""
    found, click = [], page.click
    monkeypatch.setattr(page, "click", lambda *place, **how: (found.append(place), click(*place, **how)))
    return found
