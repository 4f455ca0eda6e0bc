"""Operations per layer by arithmetic against what torch counts in the nets."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from torch.utils.flop_counter import FlopCounterMode

from memo_modules.models.config import DiffusionNetConfig, MotionConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DeepFeatures, DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.sampler import recipes
from memo_modules.sampler.cost import SMALL_DECODE, Cost
from memo_modules.types import SamplerSettings

FRAMES, SIZE = 8, (16, 24)
SIZES = {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 48}
CONFIG = DiffusionNetConfig(**SIZES, out_channels=4, audio_attention_dim=96, use_inflated_groupnorm=True, motion_module_kwargs=MotionConfig())
COST = Cost(CONFIG, SIZE, SamplerSettings(num_past_frames=6), FRAMES)


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    layers = Layers(device="meta")
    net, reference = DiffusionNet(CONFIG, layers), ReferenceNet(ReferenceNetConfig(**SIZES), layers)
    counts = {}

    def count(name: str, call):
        with FlopCounterMode(display=False) as counter:
            result = call()
        counts[name] = counter.get_total_flops()
        return result

    with torch.no_grad():
        past = count("reference", lambda: reference(meta(6, 4, *SIZE), meta(6, 4, 48)))
        memory = net.empty_memory()
        count("remembering", lambda: net.update_memory(past, memory, 6))
        emotion = net.emotion_modulations(torch.empty(1, device="meta", dtype=torch.int), torch.float32)
        for name, portrait in (("conditional", past.select([0])), ("unconditional", None)):
            spatial = net.spatial_contexts(meta(1, 4, 48), portrait)
            given = (meta(FRAMES, 4, *SIZE), meta(1), meta(FRAMES, 32, 96), spatial, emotion, memory, FRAMES)
            deep = DeepFeatures()
            count(name, lambda given=given, deep=deep: net(*given, deep=deep))
            count(f"{name} shallow", lambda given=given, deep=deep: net(*given, deep=deep))
        both = net.spatial_contexts(meta(2, 4, 48), past.select([0]))
        memory, emotion = net.empty_memory(), net.emotion_modulations(torch.empty(2, device="meta", dtype=torch.int), torch.float32)
        net.update_memory(reference(meta(12, 4, *SIZE), meta(12, 4, 48)), memory, 6)
        given, deep = (meta(FRAMES, 4, *SIZE), meta(1), meta(2 * FRAMES, 32, 96), both, emotion, memory, FRAMES), DeepFeatures()
        count("guided", lambda: net(*given, deep=deep))
        count("guided shallow", lambda: net(*given, deep=deep))
    return counts


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("conditional", COST.a_pass()),
        ("unconditional", COST.a_pass(conditional=False)),
        ("conditional shallow", COST.a_pass(shallow=True)),
        ("unconditional shallow", COST.a_pass(shallow=True, conditional=False)),
        ("guided", COST.guided()),
        ("guided shallow", COST.guided(shallow=True)),
        ("reference", 6 * COST.reference()),
        ("remembering", 6 * COST.remembering()),
    ],
)
def test_operations_are_those_that_torch_counts(counted, name, ours):
    assert ours == pytest.approx(counted[name], rel=0.005)  # the time embedding is left out


FULL = DiffusionNetConfig(
    cross_attention_dim=768, out_channels=4, use_inflated_groupnorm=True, motion_module_kwargs=MotionConfig(num_transformer_block=1)
)

PUBLISHED = 1275e12
"""Operations of a clip at 512 x 512 in the reference implementation, with what it computes more than once."""


@pytest.mark.parametrize(("preset", "guidance_scale", "cheaper"), [("fast", 3.5, 4.5), ("fast", 1.0, 7.0), ("draft", 3.5, 6.0), ("draft", 1.0, 10.0)])
def test_presets_are_as_much_cheaper_as_their_help_says(preset, guidance_scale, cheaper):
    settings = recipes.apply(preset, SamplerSettings(guidance_scale=guidance_scale))
    assert PUBLISHED / Cost(FULL, (64, 64), settings).clip >= cheaper


def test_the_small_decoder_costs_what_torch_counts_and_saves_what_the_page_says():
    with torch.device("meta"):
        net = DecoderTiny(4, 3, (3, 3, 3, 1), (64, 64, 64, 64), 2, "relu", "nearest")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(meta(1, 4, 64, 64))
    assert pytest.approx(counter.get_total_flops(), rel=0.005) == 64 * 64 * SMALL_DECODE
    student = replace(SamplerSettings(guidance_scale=1.0), steps=2, schedule="even", past_every=4)
    presets = [recipes.apply(preset, SamplerSettings(guidance_scale=scale)) for preset in ("fast", "draft") for scale in (3.5, 1.0)]
    costs = [Cost(FULL, (64, 64), settings, decoder="small").clip for settings in (*presets, student)]
    assert [cost / 16e12 for cost in costs] == pytest.approx([15.7, 9.4, 10.9, 5.5, 4.5], abs=0.05)
    assert [PUBLISHED / cost for cost in costs] == pytest.approx([5.1, 8.5, 7.3, 14.6, 17.7], abs=0.05)


def test_the_exact_path_costs_what_was_counted():
    cost = Cost(FULL, (64, 64), SamplerSettings())
    assert cost.guided() == pytest.approx(49.79e12, rel=0.001)
    assert cost.clip == pytest.approx(1080.6e12, rel=0.001)


def test_each_setting_saves_what_it_leaves_out():
    exact = Cost(FULL, (64, 64), SamplerSettings())
    changes = ({"past_every": 4}, {"unconditional_every": 2}, {"steps": 10}, {"guidance_scale": 1.0}, {"whole_every": 2})
    saved = [exact.clip - replace(exact, settings=replace(exact.settings, **change)).clip for change in changes]
    assert saved == pytest.approx([34e12, 244e12, 508e12, 502e12, 347e12], rel=0.1)


def test_the_page_has_these_numbers():
    page = (Path(__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    for preset in ("exact", "fast", "draft"):
        settings = [recipes.apply(preset, SamplerSettings(guidance_scale=scale)) for scale in (3.5, 1.0)]
        costs = [Cost(FULL, (64, 64), each).clip for each in settings]
        frames, cheaper = (
            ", ".join(f"{Decimal(value).quantize(Decimal(1).scaleb(digits), ROUND_HALF_UP)}" for value, digits in row) for row in _rows(costs)
        )
        [row] = [line for line in page.splitlines() if line.startswith(f"| {preset} |")]
        assert frames in row.replace(" with guidance", "").replace(" without", "") and cheaper in row


def _rows(costs: list[float]) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    ratios = [PUBLISHED / cost for cost in costs]
    return [(cost / 16e12, -1) for cost in costs], [(ratio, -1 if ratio < 10 else 0) for ratio in ratios]
