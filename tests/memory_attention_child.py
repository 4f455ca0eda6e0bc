"""python memory_attention_child.py CASES OUTPUTS: runs the kernel of the memory attention on every case of the file CASES.

A process of its own, since Triton interprets on the CPU only what it has imported with TRITON_INTERPRET set.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import conftest  # noqa: F401, the pack as a package
import torch

from comfyui_memo.memo_modules.models.memory_attention_triton import memory_attention
from comfyui_memo.memo_modules.types import AttentionMemory


def doubled(q, k, v, memory, heads):
    return 2 * memory_attention(q, k, v, memory, heads)


cases, outputs = torch.load(sys.argv[1], weights_only=True), {}
for name, (q, k, v, kv, z, heads) in cases.items():
    run = torch.compile(doubled, backend="aot_eager", fullgraph=True) if name == "compiled" else memory_attention
    outputs[name] = run(q, k, v, AttentionMemory(kv, z), heads)
torch.save(outputs, sys.argv[2])
