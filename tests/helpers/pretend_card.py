"""Run by test_memory.py in a process of its own: sessions under the memory management of a ComfyUI that takes its CPU for a GPU.

Arguments: the pack's folder, a face analysis folder, whether onnxruntime is to run "on the GPU" or "on the CPU".
Prints in JSON {when: size, what of it counts as loaded, whether the sessions are open}.
"""

import json
import sys
import types
from pathlib import Path

pack, folder, where = sys.argv[1:]
sys.argv = ["main.py"]

import comfy.options

comfy.options.enable_args_parsing()

from comfy.cli_args import args

args.cpu = True

import comfy.model_management as management
import comfy.model_patcher
import torch

package = types.ModuleType("memo_pack")
package.__path__ = [pack]
sys.modules["memo_pack"] = package

from memo_pack.memo_modules.portrait import face
from memo_pack.memo_modules.weights import onnx_sessions
from memo_pack.nodes import comfy_adapter as adapter

CARD, ROOM = torch.device("cuda", 0), 4 * 2**30

management.get_torch_device = lambda: CARD
management.get_all_torch_devices = lambda: [CARD]
management.get_free_memory = lambda device=None, torch_free_too=False: (ROOM, ROOM) if torch_free_too else ROOM
management.vram_state = management.VRAMState.NORMAL_VRAM
onnx_sessions.cuda_starts = lambda: where == "on the GPU"
onnx_sessions._CUDA = onnx_sessions._CPU  # what would open on the GPU opens here

patcher = adapter.open_sessions(face.FaceAnalyzer, Path(folder))
seen = {}


def look(when: str) -> None:
    seen[when] = [patcher.model_size(), patcher.loaded_size(), patcher.model.is_open]


def load(size: int) -> None:
    """Load a model that says it has ``size`` bytes."""
    other = comfy.model_patcher.ModelPatcher(torch.nn.Identity(), CARD, torch.device("cpu"), size)
    other.partially_load = lambda *_, **__: 0
    management.load_models_gpu([other])


look("loaded")
management.unload_all_models()
look("unloaded")
adapter.bring_in(patcher)
look("brought in")
load(2**20)
look("with a small model")
load(ROOM)
look("with a large model")
print(json.dumps(seen))
