"""Which attention backend is best for the shapes of this model, padding of the heads included."""

import warnings
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from memo_modules.models.acceleration import attention_backends
from tools.benchmarking.device import Device

HEADS = 8
FACE_TOKENS = 4
LEVELS = ((4096, 40, (64,)), (1024, 80, (96, 128)), (256, 160, (192, 256)))
"""Tokens of a picture at 512x512, channels of a head, and the channels that a kernel may rather see."""

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@torch.inference_mode()
def attention_table(device: Device, dtype: torch.dtype, repeats: int = 20) -> list[dict]:
    """One entry for each shape, backend and padding: ms and TFLOP/s, None where the backend refuses.

    ms: with heads that are padded already, as padded weights would give them. ms_with_padding: with the copies that pad
    them before and the cut after. FLOPs are those of the unpadded heads.
    """
    entries = []
    for tokens, d, paddings in LEVELS:
        # both branches; the guided branch, which sees the portrait too; both to the face
        for rows, keys in ((32, tokens), (16, 2 * tokens), (32, FACE_TOKENS)):
            q, k, v = (torch.randn(rows, t, HEADS * d, device=device.torch, dtype=dtype) for t in (tokens, keys, keys))
            flops = 4 * rows * tokens * keys * HEADS * d
            for name, backend in BACKENDS.items():
                for head_dim in (d, *paddings):
                    ms, ms_with_padding = _milliseconds(device, backend, (q, k, v), d, head_dim, repeats)
                    entries.append({
                        "rows": rows, "queries": tokens, "keys": keys, "head_dim": d, "padded_to": head_dim, "backend": name,
                        "ms": ms, "ms_with_padding": ms_with_padding, "tflops": flops / ms * 1e-9 if ms else None,
                    })  # fmt: skip
            if own := attention_backends(device.capability).get("Triton"):
                try:
                    ms = 1000 * device.median_seconds(partial(own, q, k, v, HEADS), repeats)
                except Exception as error:  # a compiler's errors have no common base
                    print(f"Triton, heads of {d}: {error}")
                    ms = None
                entries.append({
                    "rows": rows, "queries": tokens, "keys": keys, "head_dim": d, "padded_to": d, "backend": "Triton",
                    "ms": ms, "ms_with_padding": ms, "tflops": flops / ms * 1e-9 if ms else None,
                })  # fmt: skip
    return entries


def _milliseconds(
    device: Device, backend: SDPBackend, qkv: tuple[Tensor, ...], d: int, head_dim: int, repeats: int
) -> tuple[float | None, float | None]:
    def pad() -> list[Tensor]:
        heads = (x.unflatten(-1, (HEADS, -1)) for x in qkv)  # b t h d
        return [F.pad(x, (0, head_dim - d)).transpose(1, 2) for x in heads]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=d**-0.5)

    padded = pad()
    try:
        with sdpa_kernel(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backend that refuses gives all its reasons
            alone = device.median_seconds(lambda: attend(*padded), repeats)
            whole = device.median_seconds(lambda: attend(*pad())[..., :d].transpose(1, 2).flatten(2), repeats)
    except RuntimeError:  # this backend has no kernel for it
        return None, None
    return alone * 1000, whole * 1000
