"""Compares the results of a GPU with torch in float64: every kernel of each operation, at the strides and sizes of a step, and clips in
low-memory mode with those in exact mode."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from memo_modules.models import acceleration
from memo_modules.models.kernels.memory_attention import ONES
from memo_modules.models.layers import sdpa
from memo_modules.sampler.sampling import MemoNets, sample_video
from memo_modules.types import AttentionMemory, SamplerSettings
from memo_modules.vae import VideoVAE
from memo_modules.words import first_line
from tools.benchmarking import random_nets
from tools.benchmarking.attention import FACE_TOKENS, HEADS, LEVELS
from tools.benchmarking.device import Device

AUDIO_TOKENS, FRAMES, GROUPS = 32, random_nets.CLIP_FRAMES, 32
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""The largest relative error that the dtype explains."""


def _attention_by_head(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """AttentionFunction for float64, whose scores torch keeps: those of one head of one row at a time."""
    rows = []
    for row in zip(q.split(1), k.split(1), v.split(1), strict=True):
        by_head = zip(*(x.chunk(heads, dim=-1) for x in row), strict=True)
        rows.append(torch.cat([sdpa(*each, 1) for each in by_head], dim=-1))
    return torch.cat(rows)


def forms_table(device: Device, dtype: torch.dtype, shrink: int = 1) -> list[dict]:
    """The relative error of each backend of what has several, for each shape. shrink: divides numbers of tokens."""
    entries = []
    attentions = {"torch": sdpa, **acceleration.attention_backends(device.capability)}
    kernels = acceleration.kernel_backends(device.capability)
    for tokens, d, _ in LEVELS:
        tokens, c = tokens // shrink, HEADS * d
        for queries, keys in ((tokens, tokens), (tokens, 2 * tokens), (tokens + AUDIO_TOKENS,) * 2, (AUDIO_TOKENS,) * 2, (tokens, FACE_TOKENS)):
            q = _random(device, dtype, 2, queries, c)
            k, v = _random(device, dtype, 2, keys, 2 * c).chunk(2, dim=-1)  # as parts of a fused matmul
            case = f"{queries} to {keys} tokens"
            entries += _errors("attention", case, d, attentions, lambda backend, *x: backend(*x, HEADS), (q, k, v), _attention_by_head)
        x = _random(device, dtype, 4 * tokens, 8 * c)
        entries += _errors("geglu", f"{len(x)} tokens", d, kernels["geglu"], lambda backend, x: backend(x.clone()), (x,))
        for width in (c, 3 * c):  # and with a skip concatenated
            x = _random(device, dtype, 2, tokens, width)
            weight, bias, ahead = (_random(device, dtype, width) for _ in range(3))
            entries += _errors(
                "norm",
                f"{tokens} x {width}",
                None,
                kernels["group_norm_silu"],
                lambda backend, *x: backend(*x, 1e-5, True, GROUPS),
                (x, weight, bias, ahead),
            )
        qkv = _random(device, dtype, 1, FRAMES, tokens, 3 * c).chunk(3, dim=-1)
        kv, z = _random(device, dtype, tokens, HEADS, d, d), _random(device, dtype, tokens, HEADS, d).abs()
        entries += _errors(
            "memory attention", f"{tokens} positions", d, kernels["memory_attention"],
            lambda backend, *x: backend(*x[:3], AttentionMemory(*x[3:5]), x[5], ONES, HEADS), (*qkv, kv, z, _random(device, dtype, FRAMES, 3 * c)),
        )  # fmt: skip
    return entries


def _errors(
    kind: str,
    case: str,
    d: int | None,
    backends: dict[str, Callable],
    call: Callable,
    tensors: tuple[Tensor, ...],
    exact_backend: Callable | None = None,
) -> list[dict]:
    exact, limit = call(exact_backend or backends["torch"], *(tensor.double() for tensor in tensors)), ROUNDING[tensors[0].dtype]
    entries = []
    for name, backend in backends.items():
        entry = {"what": kind, "case": case, "head_dim": d, "backend": name, "error": None, "limit": limit, "reason": None}
        try:
            entry["error"] = ((call(backend, *tensors) - exact).norm() / exact.norm()).item()
        except Exception as error:  # a compiler's errors have no common base
            entry["reason"] = first_line(error)
        entries.append(entry)
    return entries


def clips_table(nets: MemoNets, vae: VideoVAE, size: str, steps: int) -> list[dict]:
    """Two clips, so that the second remembers the first, with the motion memory streamed but for a part, and without."""
    nets = replace(nets, resident_share=0.4)
    inputs, settings = random_nets.random_inputs(size, 2), SamplerSettings(steps=steps)
    made = []
    for low_memory in (False, True):
        noise = random_nets.seeded_noise(size, torch.float32)
        clips = sample_video(nets, vae, inputs.portrait, inputs.face, inputs.audio, inputs.emotion, settings, noise=noise, low_memory=low_memory)
        made.append(torch.cat([clip.frames for clip in clips]))
    exact, low = made
    # frames, not numbers within a step: errors of the first clip are the past of the second
    error = ((low - exact).norm() / (exact - exact.mean()).norm()).item()
    return [{"what": "frames", "case": f"{size}, {steps} steps", "head_dim": None, "backend": "low memory", "error": error,
             "limit": 10 * ROUNDING[nets.dtype], "reason": None}]  # fmt: skip


def _random(device: Device, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device.torch, dtype)


def is_wrong(entry: dict) -> bool:
    return entry["error"] is not None and not entry["error"] <= entry["limit"]  # NaN is wrong


def report(entries: list[dict]) -> str:
    def line(entry: dict) -> str:
        heads = f"{HEADS} x {entry['head_dim']}" if entry["head_dim"] else ""
        found = entry["reason"] or f"{entry['error']:.1e}" + f"  WRONG, at most {entry['limit']:.0e} expected" * is_wrong(entry)
        return f"{entry['what']:18}{entry['case']:24}{heads:10}{entry['backend']:12}{found}"

    return "\n".join(map(line, entries))
