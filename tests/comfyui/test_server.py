"""The pack in a running ComfyUI: it imports, lists its nodes and leaves nothing else changed."""

import re
import subprocess
import sys

import pytest

from comfyui_memo.scripts.comfyui_server import PACK, ComfyUIServer, ServerError


def test_pack_imports_quickly(comfyui_server):
    assert "IMPORT FAILED" not in comfyui_server.log
    seconds = re.search(rf"([\d.]+) seconds: .*{PACK}", comfyui_server.log)
    assert float(seconds[1]) < 0.5


def test_every_node_is_listed(comfyui_server):
    nodes = [node for node in comfyui_server.get("/object_info") if node.startswith("Memo")]
    assert {"MemoLoadModel", "MemoSampler"} <= set(nodes)


def test_core_graph_runs(comfyui_server):
    events = []
    outputs = comfyui_server.run(
        {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain"}},
        },
        lambda kind, data: events.append(kind),
    )
    assert comfyui_server.output_file(outputs["2"]["images"][0]).stat().st_size > 0
    assert "executing" in events


def test_refused_graph_says_why(comfyui_server):
    with pytest.raises(ServerError, match="prompt_no_outputs"):
        comfyui_server.run({"1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 0}}})


def test_server_that_does_not_start_shows_its_log(comfyui_path, tmp_path):
    with pytest.raises(ServerError, match="unrecognized arguments: --no-such-argument"):
        with ComfyUIServer(comfyui_path, tmp_path, arguments=("--no-such-argument",)):
            pass


def test_skips_are_counted_last_and_can_be_failures(tmp_path):
    """A run without a ComfyUI, which COMFYUI_PATH and the home folder decide."""
