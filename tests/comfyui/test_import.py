"""Loading the pack leaves ComfyUI, its files and its environment alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.comfyui_server import PACK, copy_pack

# imported when they are used; each takes seconds, or may not be there
HEAVY = {"audio_separator", "av", "cv2", "diffusers", "insightface", "librosa", "onnx", "onnxruntime", "scipy", "skimage", "soundfile",
         "torchaudio", "transformers"}  # fmt: skip


@pytest.fixture(scope="module")
def change(comfyui_path, tmp_path_factory) -> dict:
    """What loading the pack changed in a ComfyUI process that has everything of its own loaded."""
    base = tmp_path_factory.mktemp("import")
    pack = base / "custom_nodes" / PACK
    copy_pack(pack)
    command = [sys.executable, Path(__file__).resolve().parents[1] / "helpers" / "load_pack.py", pack, base]
    environment = os.environ | {"PYTHONPATH": str(comfyui_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=comfyui_path, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_pack_loads(change):
    assert change["loaded"] and "MemoSampler" in change["nodes"]


def test_sys_path_stays(change):
    assert change["same_path"]


def test_no_heavy_package_is_imported(change):
    assert HEAVY & set(change["packages"]) == set()


def test_no_socket_file_folder_or_program_is_opened(change):
    assert change["events"] == []
