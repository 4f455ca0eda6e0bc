"""The pack in a running ComfyUI: it imports, lists its nodes and leaves ComfyUI as it was."""

import pytest

from tools.comfyui_server import PACK, ComfyUIServer, ServerError

EMPTY_IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 0}}


def test_pack_imports(comfyui_server):
    assert PACK in comfyui_server.log
    assert "IMPORT FAILED" not in comfyui_server.log


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
    with (
        pytest.raises(ServerError, match="unrecognized arguments: --no-such-argument"),
        ComfyUIServer(comfyui_path, tmp_path, arguments=("--no-such-argument",)),
    ):
        pass
