"""The precisions of the library: which there are, and how near their frames are to those in float32."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from memo_modules.audio.emotion import constant_emotion
from memo_modules.errors import InputError
from memo_modules.models import layers as layers_module
from memo_modules.pipeline import DTYPES, Conditioning, MemoPipeline, layers_of
from memo_modules.types import AudioFeatures, Face, SamplerSettings

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SMALL, CARTOON = ASSETS / "models", ASSETS / "cartoon.png"
SIDE, FRAMES = 64, 2
SETTINGS = SamplerSettings(steps=2, num_init_past_frames=2, num_past_frames=2)

pytestmark = pytest.mark.usefixtures("one_thread")


def frames(dtype: str) -> torch.Tensor:
    pipeline = MemoPipeline.from_models(SMALL, dtype=dtype)
    generator, nets = torch.Generator().manual_seed(0), pipeline.nets
    face = Face(torch.randn(1, nets.image_proj.d_face, generator=generator), None, 0.0)
    values = torch.randn(FRAMES, nets.audio_proj.d_in // (5 * 64), 64, generator=generator)
    audio = AudioFeatures(values, Fraction(30), FRAMES, FRAMES)
    portrait, _ = pipeline.portrait(CARTOON, (SIDE, SIDE))
    return pipeline.sample(Conditioning(portrait, face, audio, constant_emotion(3)), SETTINGS).frames()


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return frames("fp32")


@pytest.mark.parametrize(("dtype", "most"), [("int8_scaled", 0.01), ("fp8_e4m3fn_scaled", 0.02)])
def test_frames_in_8_bits_are_near_those_in_float32(exact, dtype, most, monkeypatch):
    monkeypatch.setattr(layers_module, "SMALLEST", 0)  # all of the small model, too
    found = frames(dtype)
    assert 0 < (found - exact).abs().mean() < most, "of 1"


def test_a_stream_in_float32_may_be_asked_for(exact):
    assert (frames("fp16_fp32") - exact).abs().mean() < 0.01


def test_every_name_of_the_node_but_fp8_alone_is_known():
    """Which is stored without a scale, and only as exact as ComfyUI's products with --fast."""
    cpu = torch.device("cpu")
    made = {name: layers_of(name, cpu) for name in DTYPES}
    assert {name: (layers.dtype, layers.storage, layers.stream) for name, layers in made.items()} == {
        "auto": (torch.float32, None, None),
        "bf16": (torch.bfloat16, None, None),
        "fp16": (torch.float16, None, None),
        "fp32": (torch.float32, None, None),
        "fp16_fp32": (torch.float16, None, torch.float32),
        "fp8_e4m3fn_scaled": (torch.float32, torch.float8_e4m3fn, None),
        "int8_scaled": (torch.float32, torch.int8, None),
    }
    assert layers_of(torch.float16, cpu).dtype == torch.float16 and layers_of(None, cpu).dtype == torch.float32


def test_another_precision_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(InputError, match="^dtype: expected one of auto, bf16, .*, int8_scaled, got 'int4'.$"):
        MemoPipeline.from_models(tmp_path, dtype="int4")
    with pytest.raises(InputError, match="^dtype: mps does not support fp8_e4m3fn_scaled. Choose int8_scaled.$"):
        MemoPipeline.from_models(tmp_path, device="mps", dtype="fp8_e4m3fn_scaled")
