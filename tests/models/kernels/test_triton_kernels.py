"""The pack's kernels against torch's operations, run by Triton's interpreter on the CPU, and built for GPUs."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memo_modules.models.kernels.geglu import geglu
from memo_modules.models.kernels.group_norm_silu import group_norm_silu
from memo_modules.models.kernels.memory_attention import ONES, memory_attention
from memo_modules.models.layers import sdpa
from memo_modules.types import AttentionMemory

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it has no wheels for this system")
HEADS, ROWS, POSITIONS = 2, 2, 3
HEAD_DIMS = (4, 16, 40, 80, 160)  # 4: of the small nets; the last three: of the published model
FRAMES = (5, 16, 24)
TOKENS = ((64, 128), (150, 100), (32, 4))  # queries and keys: whole blocks, parts of them, and keys as few as a face's


def tokens(head_dim: int, queries: int, keys: int, dtype: torch.dtype = torch.float32) -> tuple:
    """q, k and v, the last two as parts of one tensor."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(ROWS, queries, HEADS * head_dim, generator=generator).mul(2).to(dtype)
    return "attention", q, *torch.randn(ROWS, keys, 2 * HEADS * head_dim, generator=generator).to(dtype).chunk(2, dim=-1), HEADS


def frames(head_dim: int, frames: int, dtype: torch.dtype = torch.float32, in_time: bool = False, ones: int = 0) -> tuple:
    """q, k and v as parts of one tensor, a memory as large as that of a long video, what is added by frame or None, and columns of ones."""
    generator = torch.Generator().manual_seed(0)
    d = HEADS * head_dim
    qkv = torch.randn(ROWS, frames, POSITIONS, 3 * d, generator=generator).mul(3).to(dtype)
    kv = torch.randn(ROWS * POSITIONS, HEADS, head_dim, head_dim, generator=generator).to(dtype)
    z = torch.rand(ROWS * POSITIONS, HEADS, head_dim, generator=generator).mul(9).to(dtype)
    added = torch.randn(frames, 3 * d, generator=generator).mul(3).to(dtype) if in_time else None
    return "memory attention", *qkv.chunk(3, dim=-1), kv, z, added, ones, HEADS


def tokens_laid_out_apart() -> tuple:
    kind, q, k, v, heads = tokens(8, 6, 9)
    return kind, q, k, v.contiguous(), heads


def frames_laid_out_apart() -> tuple:
    kind, q, k, v, kv, z, *rest = frames(8, 6)
    return kind, q, k, v.contiguous(), kv.mT.contiguous().mT, z.repeat_interleave(2, dim=-1)[..., ::2], *rest


def halves(n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple:
    """What a feed-forward's gate takes; rows and columns are whole blocks of the kernel or not."""
    return "gate", torch.randn(n, 2 * d, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)


def pictures(
    positions: int, c: int, groups: int, silu: bool = True, dtype: torch.dtype = torch.float32, mean: float = 1.0, ahead: bool = False
) -> tuple:
    """What a group norm takes: positions and channels are whole blocks of the kernels or not."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, positions, c, generator=generator).mul(3).add(mean).to(dtype)
    weight, bias, off = torch.randn(3, c, generator=generator).to(dtype)
    return "norm", x, weight, bias, 5 * off if ahead else None, 1e-5, silu, groups


def by_channel(kind: str, q: Tensor, k: Tensor, v: Tensor, *rest) -> tuple:
    return kind, *(x.mT.contiguous().mT for x in (q, k, v)), *rest


# the interpreter has no products of bfloat16
CASES = {
    **{f"{d} channels, {q} queries, {k} keys": tokens(d, q, k) for d in HEAD_DIMS for q, k in TOKENS},
    **{f"half, {d} channels, tokens": tokens(d, 64, 100, torch.float16) for d in HEAD_DIMS},
    "compiled, tokens": tokens(8, 6, 9),
    "tokens laid out apart": tokens_laid_out_apart(),
    "tokens laid out by channel": by_channel(*tokens(8, 6, 9)),
    **{f"{d} channels, {count} frames": frames(d, count) for d in HEAD_DIMS for count in FRAMES},
    **{f"{d} channels, {count} frames in time": frames(d, count, in_time=True, ones=ONES) for d, count in ((4, 5), (40, 16), (160, 24))},
    **{f"half, {d} channels, frames": frames(d, 16, torch.float16, in_time=True, ones=ONES) for d in HEAD_DIMS},
    "compiled, frames": frames(8, 6, ones=ONES),
    "frames laid out apart": frames_laid_out_apart(),
    "frames laid out by channel": by_channel(*frames(8, 6)),
    **{f"gate, {n} rows of {d}": halves(n, d) for n, d in ((8, 1280), (6, 300), (1, 16))},
    "gate, rows laid out by channel": ("gate", halves(8, 16)[1].mT.contiguous().mT),
    "half, gate": halves(8, 1280, torch.float16),
    **{f"norm, {positions} positions of {c}": pictures(positions, c, 32) for positions, c in ((64, 320), (150, 960), (1, 64))},
    "norm, 5 groups of 7": pictures(30, 35, 5),
    **{f"norm, {positions} positions of {c}, with what is ahead": pictures(positions, c, 32, ahead=True) for positions, c in ((64, 320), (150, 96))},
    "norm alone": pictures(30, 64, 8, silu=False),
    "norm of a mean far off": pictures(100, 64, 8, mean=1000.0),
    "norm of a large picture": pictures(64 * 64 + 3, 8, 2),
    **{f"half, norm, silu: {silu}": pictures(100, 64, 8, silu, torch.float16) for silu in (True, False)},
}  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, Tensor]:
    """What the kernels make of every case."""
    folder = tmp_path_factory.mktemp("kernels")
    torch.save(CASES, folder / "cases.pt")
    child = Path(__file__).resolve().parents[2] / "helpers" / "triton_child.py"
    subprocess.run([sys.executable, child, folder / "cases.pt", folder / "outputs.pt"], check=True)
    return torch.load(folder / "outputs.pt", weights_only=True)


IN_TORCH = {
    "attention": sdpa,
    "memory attention": lambda q, k, v, kv, z, *rest: memory_attention(q, k, v, AttentionMemory(kv, z), *rest),
    "gate": lambda x: geglu(x.clone()),
    "norm": group_norm_silu,
}


def in_torch(kind: str, *case) -> Tensor:
    return IN_TORCH[kind](*case)


def error(out: Tensor, case: tuple) -> float:
    """Relative to what torch computes in float64."""
    exact = in_torch(*(each.double() if isinstance(each, Tensor) else each for each in case))
    return ((out.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("half", "compiled"))])
def test_computes_what_torch_computes(outputs, name):
    case = CASES[name]
    assert error(outputs[name], case) < max(1e-6, 2 * error(in_torch(*case), case))  # a mean far off leaves fewer digits


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("half")])
def test_rounds_little_more_than_torch_in_half_precision(outputs, name):
    assert outputs[name].dtype == torch.float16
    assert error(outputs[name], CASES[name]) <= 1.1 * error(in_torch(*CASES[name]), CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("compiled")])
def test_is_one_operation_for_a_compiler(outputs, name):
    assert error(outputs[name] / 2, CASES[name]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("head_dim", [40, 80, 160])
@pytest.mark.parametrize("kind", ["attention", "memory_attention"])
def test_is_built_for_a_card_without_spilling_registers(kind, head_dim, capability, tmp_path):
    module = import_module(f"memo_modules.models.kernels.{kind}_triton")
    sizes = module.kernel_sizes(head_dim, capability == 90 if kind == "attention" else 16)
    options = {name: sizes.pop(name) for name in ("num_warps", "num_stages") if name in sizes}
    constants = {"heads": 8, "head_dim": head_dim} | ({"even": True} if kind == "attention" else {"ones": ONES}) | sizes
    build(module._kernel, constants, capability, options, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_the_gate_is_built_for_a_card_and_moves_sixteen_bytes_at_a_time(capability, tmp_path):
    module = import_module("memo_modules.models.kernels.geglu_triton")
    ptx = build(module._kernel, {"rows": module.ROWS, "columns": module.COLUMNS}, capability, {}, tmp_path)
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_the_norm_is_built_for_a_card_and_moves_sixteen_bytes_at_a_time(capability, tmp_path):
    module = import_module("memo_modules.models.kernels.group_norm_silu_triton")
    blocks = {"rows": module.ROWS, "columns": module.COLUMNS}
    assert "ld.global.v4.b32" in build(module._moments_kernel, blocks, capability, {}, tmp_path)
    build(module._statistics_kernel, {"width": 128, "rows": module.ROWS, "at_once": 32}, capability, {}, tmp_path)
    ptx = build(module._apply_kernel, {"silu": True} | blocks, capability, {}, tmp_path)
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


def build(kernel, constants: dict, capability: int, options: dict, folder: Path) -> str:
    """The kernel's PTX, of which the assembler says that it keeps all in registers."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    types = {name: "*bf16" if name.endswith("_ptr") else "fp32" if name in ("scale", "decay", "eps") else "i32" for name in names}
    types |= {name: "*fp32" for name in ("moments_ptr", "statistics_ptr") if name in types}
    any_size = {name for name in names if types[name] == "fp32"} | {"chunks", "groups", "group", *constants}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if name not in any_size}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants, aligned)
    ptx = compile(source, GPUTarget("cuda", capability, 32), options).asm["ptx"]
    (folder / "kernel.ptx").write_text(ptx)
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    command = [get_ptxas(capability).path, "-v", f"-arch={architecture}", folder / "kernel.ptx", "-o", folder / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in report
    return ptx
