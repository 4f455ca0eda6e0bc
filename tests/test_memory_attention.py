"""The kernel of the memory attention against torch's operations, run by Triton's interpreter on the CPU."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from comfyui_memo.memo_modules.models.acceleration import fastest_memory_attention
from comfyui_memo.memo_modules.models.memory_attention import memory_attention
from comfyui_memo.memo_modules.types import AttentionMemory

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it has no wheels for this system")
HEADS, ROWS = 2, 2
HEAD_DIMS = (4, 16, 40, 80, 160)  # 4: of the small nets; the last three: of the published model
FRAMES = (5, 16, 24)


def make(head_dim: int, frames: int, dtype: torch.dtype = torch.float32) -> tuple:
    """q, k and v as parts of one tensor, and a memory as large as that of a long video."""
    generator = torch.Generator().manual_seed(0)
    d = HEADS * head_dim
    qkv = torch.randn(ROWS, frames, 3 * d, generator=generator).mul(3).to(dtype)
    kv = torch.randn(ROWS, HEADS, head_dim, head_dim, generator=generator).to(dtype)
    z = torch.rand(ROWS, HEADS, head_dim, generator=generator).mul(9).to(dtype)
    return *qkv.chunk(3, dim=-1), kv, z, HEADS


def laid_out_apart() -> tuple:
    q, k, v, kv, z, heads = make(8, 6)
    return q, k, v.contiguous(), kv.mT.contiguous().mT, z.repeat_interleave(2, dim=-1)[..., ::2], heads


def laid_out_by_channel() -> tuple:
    q, k, v, kv, z, heads = make(8, 6)
    return *(x.mT.contiguous().mT for x in (q, k, v)), kv, z, heads


CASES = {
    **{f"{head_dim}-{frames}": make(head_dim, frames) for head_dim in HEAD_DIMS for frames in FRAMES},
    **{f"half-{head_dim}": make(head_dim, 16, torch.float16) for head_dim in HEAD_DIMS},  # the interpreter has no bfloat16 products
    "laid out apart": laid_out_apart(),
    "laid out by channel": laid_out_by_channel(),
    "compiled": make(8, 6),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, Tensor]:
    """What the kernel makes of every case."""
    folder = tmp_path_factory.mktemp("kernel")
    torch.save(CASES, folder / "cases.pt")
    child = Path(__file__).with_name("memory_attention_child.py")
    subprocess.run([sys.executable, child, folder / "cases.pt", folder / "outputs.pt"], check=True)
    return torch.load(folder / "outputs.pt", weights_only=True)


def error(out: Tensor, case: tuple) -> float:
    """Relative to what torch computes in float64."""
    *tensors, heads = case
    q, k, v, kv, z = (tensor.double() for tensor in tensors)
    exact = memory_attention(q, k, v, AttentionMemory(kv, z), heads)
    return ((out.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("half", "compiled"))])
def test_computes_what_torch_computes(outputs, name):
    assert error(outputs[name], CASES[name]) < 1e-6


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rounds_no_more_than_torch_in_half_precision(outputs, head_dim):
    q, k, v, kv, z, heads = case = CASES[f"half-{head_dim}"]
    out = outputs[f"half-{head_dim}"]
    assert out.dtype == torch.float16
    assert error(out, case) <= error(memory_attention(q, k, v, AttentionMemory(kv, z), heads), case)


def test_is_one_operation_for_a_compiler(outputs):
    assert error(outputs["compiled"] / 2, CASES["compiled"]) < 1e-6


@pytest.mark.parametrize(("capability", "kernel"), [(None, False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_cards_that_can_build_it_get_it(capability, kernel):
    assert (fastest_memory_attention(capability) is not memory_attention) == kernel


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("head_dim", [40, 80, 160])
def test_is_built_for_a_card_without_spilling_registers(head_dim, capability, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource, compile

    from comfyui_memo.memo_modules.models import memory_attention_triton

    kernel, sizes = memory_attention_triton._kernel, memory_attention_triton.kernel_sizes(head_dim, 16)
    warps = sizes.pop("num_warps")
    constants = {"heads": 8, "head_dim": head_dim} | sizes
    types = dict.fromkeys(kernel.arg_names, "*bf16") | dict.fromkeys(("row_stride", "frame_stride", "frames"), "i32")
    types |= {"decay": "fp32"} | dict.fromkeys(constants, "constexpr")
    aligned = {(place,): [["tt.divisibility", 16]] for place, type in enumerate(types.values()) if type in ("*bf16", "i32")}
    source = ASTSource(kernel, types, constants, aligned)
    ptx = compile(source, GPUTarget("cuda", capability, 32), {"num_warps": warps}).asm["ptx"]
    (tmp_path / "kernel.ptx").write_text(ptx)
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    command = [get_ptxas(capability).path, "-v", f"-arch={architecture}", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in report
