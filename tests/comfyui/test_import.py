"""Loading the pack leaves ComfyUI, its files and its environment alone."""

import pytest

from tests.helpers.in_comfyui import found_by
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
    return found_by("load_pack.py", comfyui_path, pack, base)


def test_pack_loads(change):
    assert change["loaded"] and "MemoSampler" in change["nodes"]


def test_sys_path_stays(change):
    assert change["same_path"]


def test_no_heavy_package_is_imported(change):
    assert HEAVY & set(change["packages"]) == set()


def test_no_socket_file_folder_or_program_is_opened(change):
    assert change["events"] == []
