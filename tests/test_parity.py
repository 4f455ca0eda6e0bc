"""The nets and the sampler compute what the reference implementation computes.

Walks the JSON files of tests/golden, or of MEMO_GOLDEN_DIR, and dispatches on `kind`.
"""

import json
import os
from itertools import product
from pathlib import Path

import pytest
import torch

from memo_modules.models.kernels import convolution
from tests.helpers import parity_audio, parity_nets
from tests.helpers.parity_case import Case

GOLDEN = Path(os.environ.get("MEMO_GOLDEN_DIR") or Path(__file__).parent / "golden")

CHECKS = {
    "image_proj": parity_nets.check_image_proj,
    "audio_proj": parity_nets.check_audio_proj,
    "reference_net": parity_nets.check_reference_net,
    "diffusion_net": parity_nets.check_diffusion_net,
    "pipeline": parity_nets.check_pipeline,
    "emotion_classifier": parity_audio.check_emotion_classifier,
    "wav2vec": parity_audio.check_wav2vec,
    "emotion_timeline": parity_audio.check_emotion_timeline,
    "emotion2vec": parity_audio.check_emotion2vec,
}

BLOCK_KINDS = {
    "memory_attention",
    "motion_module",
    "audio_transformer3d",
    "emo_ada_layernorm",
    "joint_block",
    "resnet3d",
    "spatial_transformer3d",
    "temporal_basic_block",
    "vae",
}
"""Parts of a net, there to find a mistake quickly; the nets that hold them are checked whole."""


def cases() -> list:
    kinds = {path: json.loads(path.read_text(encoding="utf-8")).get("kind") for path in sorted(GOLDEN.glob("*.json"))}
    return [pytest.param(kind, Case(path), id=path.stem) for path, kind in kinds.items() if kind]


@pytest.mark.parametrize("kind, case", cases())
def test_parity(kind: str, case: Case):
    if kind in BLOCK_KINDS:
        pytest.skip(f"{kind}: a part of a net that is checked whole")
    assert kind in CHECKS, f"{case.path.name}: unknown kind {kind!r}"
    with torch.inference_mode():
        CHECKS[kind](case)


EXACT = {
    "fused": parity_nets.Exact(fused=True),
    "channels_last": parity_nets.Exact(channels_last=True),
    "low_memory": parity_nets.Exact(low_memory=True),
    "conv as matmul": parity_nets.Exact(conv_as_matmul=True),
    "all of a CPU": parity_nets.Exact(fused=True, conv_as_matmul=True, low_memory=True),
    "all of a GPU": parity_nets.Exact(fused=True, channels_last=True, conv_as_matmul=True, low_memory=True),
    "compiled": parity_nets.Exact(fused=True, channels_last=True, conv_as_matmul=True, compiled=True),
}
NETS = ("reference_net", "diffusion_net", "pipeline")


def exact_cases() -> list:
    """The nets under every exact option: all of them by default, the pipeline as on a GPU; each alone and compiled, which takes minutes, if slow."""
    by_default = {*product(NETS[:2], ("all of a CPU", "all of a GPU")), ("pipeline", "all of a GPU")}
    return [
        pytest.param(*case.values[:2], exact, id=f"{case.id}-{name}", marks=[] if (case.values[0], name) in by_default else pytest.mark.slow)
        for case in cases()
        for name, exact in EXACT.items()
        if case.values[0] in NETS and (case.values[0] == "pipeline" or name != "low_memory")
    ]


@pytest.mark.parametrize("kind, case, exact", exact_cases())
def test_parity_holds_under_exact_options(kind: str, case: Case, exact: parity_nets.Exact, monkeypatch):
    monkeypatch.setattr(convolution, "_OUTPUTS_PER_POSITION", 0)  # nets this narrow have no convolution of few positions
    if exact.compiled:
        torch._dynamo.reset()  # what was compiled for other cases counts against the limit of this one
    with torch.inference_mode():
        CHECKS[kind](case, exact)


def test_there_are_cases():
    assert cases(), f"no golden case in {GOLDEN}"
