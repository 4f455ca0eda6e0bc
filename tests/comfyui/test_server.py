"""The pack in a running ComfyUI: it imports, lists its nodes and leaves ComfyUI as it was."""

import json
import subprocess
import sys

import pytest

from comfyui_memo.scripts.comfyui_server import PACK, ComfyUIServer, ServerError, copy_pack

EMPTY_IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 0}}

# Loads the pack as ComfyUI does, behind the imports that ComfyUI has made by then. Processor time, since a busy
# machine says nothing about the pack, and no garbage collection: a full one, over all that ComfyUI has imported, takes
# 0.3 s and falls into the pack's import or not by chance.
IMPORT_PACK = """
import gc, importlib.util, json, sys, time
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy_api.latest, comfy.model_patcher, comfy.ldm.modules.attention
gc.disable()
paths, modules, start = list(sys.path), set(sys.modules), time.process_time()
spec = importlib.util.spec_from_file_location("pack", PACK + "/__init__.py", submodule_search_locations=[PACK])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
seconds = time.process_time() - start
heavy = (set(sys.modules) - modules) & {"diffusers", "insightface", "audio_separator", "onnxruntime", "cv2"}
print(json.dumps({"seconds": seconds, "same_path": sys.path == paths, "heavy": sorted(heavy)}))
"""


def test_pack_imports(comfyui_server):
    assert PACK in comfyui_server.log
    assert "IMPORT FAILED" not in comfyui_server.log


def test_import_is_quick_and_leaves_sys_path_alone(comfyui_path, tmp_path):
    copy_pack(tmp_path / PACK)
    script = IMPORT_PACK.replace("PACK", repr(str(tmp_path / PACK)))
    run = subprocess.run([sys.executable, "-c", script], cwd=comfyui_path, check=True, capture_output=True, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["seconds"] < 0.5
    assert found["same_path"]
    assert found["heavy"] == []


def test_nodes_are_listed(comfyui_server):
    nodes = comfyui_server.get("/object_info")
    assert {"MemoLoadModel", "MemoSampler"} <= nodes.keys()
    assert nodes["MemoLoadModel"]["python_module"] == f"custom_nodes.{PACK}"


def test_graph_runs_and_shows_its_progress(comfyui_server):
    events = []
    prompt = {"1": EMPTY_IMAGE, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain"}}}
    outputs = comfyui_server.run(prompt, lambda kind, data: events.append((kind, data.get("node"))))
    assert comfyui_server.output_file(outputs["2"]["images"][0]).stat().st_size > 0
    assert ("executing", "2") in events


def test_refused_graph_says_why(comfyui_server):
    with pytest.raises(ServerError, match="prompt_no_outputs"):
        comfyui_server.run({"1": EMPTY_IMAGE})


def test_failing_node_is_named(comfyui_server):
    # A portrait of pure black: the tiny detector finds no face in it.
    prompt = {
        "1": EMPTY_IMAGE | {"inputs": EMPTY_IMAGE["inputs"] | {"width": 128, "height": 128}},
        "2": {"class_type": "MemoLoadFaceAnalysis", "inputs": {"face_analysis": "tiny"}},
        "3": {"class_type": "MemoEmbedFace", "inputs": {"face_analysis": ["2", 0], "image": ["1", 0], "index": 0, "allow_no_face": False}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }
    with pytest.raises(ServerError, match="MemoEmbedFace: image: "):
        comfyui_server.run(prompt)


def test_server_that_does_not_start_shows_its_log(comfyui_path, tmp_path):
    with pytest.raises(ServerError, match="unrecognized arguments: --no-such-argument"), ComfyUIServer(
        comfyui_path, tmp_path, arguments=("--no-such-argument",)
    ):
        pass
