"""python triton_child.py CASES OUTPUTS: runs the kernels on every case of the file CASES.

A process of its own, since Triton interprets on the CPU only what it has imported with TRITON_INTERPRET set.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import conftest  # noqa: F401, the pack as a package
import torch

from comfyui_memo.memo_modules.models.attention_triton import attention_for
from comfyui_memo.memo_modules.models.gating_triton import gating
from comfyui_memo.memo_modules.models.memory_attention_triton import memory_attention
from comfyui_memo.memo_modules.types import AttentionMemory


def run(*case):
    return gating(case[0].clone()) if len(case) == 1 else attend(*case)


def attend(q, k, v, *memory_and_heads):
    *memory, heads = memory_and_heads
    if memory:
        return memory_attention(q, k, v, AttentionMemory(*memory), heads)
    return attention_for((9, 0))(q, k, v, heads)


def doubled(*case):
    return 2 * run(*case)


cases, outputs = torch.load(sys.argv[1], weights_only=True), {}
for name, case in cases.items():
    function = torch.compile(doubled, backend="aot_eager", fullgraph=True) if name.startswith("compiled") else run
    outputs[name] = function(*case)
torch.save(outputs, sys.argv[2])
