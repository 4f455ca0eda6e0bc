"""python triton_child.py CASES OUTPUTS: runs the kernels on every case of the file CASES.

A process of its own, since Triton interprets on the CPU only what it has imported with TRITON_INTERPRET set.
"""

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project

import torch

from memo_modules.models.kernels.attention_triton import attention_for
from memo_modules.models.kernels.geglu_triton import geglu
from memo_modules.models.kernels.group_norm_silu_triton import group_norm_silu
from memo_modules.models.kernels.memory_attention_triton import memory_attention
from memo_modules.types import AttentionMemory

KERNELS = {
    "attention": attention_for((9, 0)),
    "memory attention": lambda q, k, v, kv, z, *rest: memory_attention(q, k, v, AttentionMemory(kv, z), *rest),
    "gate": lambda x: geglu(x.clone()),
    "norm": group_norm_silu,
}


def doubled(kind, *case):
    return 2 * KERNELS[kind](*case)


cases, outputs = torch.load(sys.argv[1], weights_only=True), {}
for name, (kind, *case) in cases.items():
    if name.startswith("compiled"):
        outputs[name] = torch.compile(doubled, backend="aot_eager", fullgraph=True)(kind, *case)
    else:
        outputs[name] = KERNELS[kind](*case)
torch.save(outputs, sys.argv[2])
