"""Memory modes, and core's samplers and schedules, on the sampler node."""

import re

import numpy as np
import pytest

from tests.helpers.graphs import PORTRAIT, find, frames_of, node, saving_frames, talking_portrait, write_wav
from tools.comfyui_server import ServerError


@pytest.fixture(scope="module")
def sample(comfyui_server, tmp_path_factory):
    """Frames (f h w 3) of 0 to 255 that the sampler makes in two clips of two steps, given more inputs (None: without it)
    and nodes, and weights of another ``dtype``."""
    image = {"image": comfyui_server.add_input(PORTRAIT)}
    audio = {"audio": comfyui_server.add_input(write_wav(tmp_path_factory.mktemp("voice") / "two_clips.wav", 14000, 16000))}

    def run(inputs: dict | None = None, dtype: str = "auto", **nodes) -> np.ndarray:
        prompt = talking_portrait(LoadImage=image, LoadAudio=audio, MemoSampler={"steps": 2})
        prompt[find(prompt, "MemoLoadModel")]["inputs"]["weight_dtype"] = dtype
        sampler = prompt[find(prompt, "MemoSampler")]
        sampler["inputs"] = {name: value for name, value in (sampler["inputs"] | (inputs or {})).items() if value is not None}
        return frames_of(comfyui_server, comfyui_server.run(saving_frames(prompt) | nodes)).astype(int)

    return run


@pytest.fixture(scope="module")
def plain(sample) -> np.ndarray:
    return sample()


def test_low_memory_makes_the_same_frames(sample, plain):
    assert len(plain) == 27
    assert np.abs(sample({"memory_mode": "low"}) - plain).max() <= 1


@pytest.mark.parametrize("memory_mode", ["normal", "low"])
def test_weights_in_8_bits_with_scales_make_nearly_the_same_frames(sample, plain, memory_mode):
    difference = np.abs(sample({"memory_mode": memory_mode}, "int8_scaled") - plain)
    assert 0 < difference.mean() < 8


@pytest.mark.parametrize("memory_mode", ["normal", None])
def test_prompts_from_before_the_option_run(sample, plain, memory_mode):
    assert np.array_equal(sample({"memory_mode": memory_mode}), plain)


def test_cores_euler_on_the_published_sigmas_makes_the_same_frames(sample, plain):
    euler = node("KSamplerSelect", sampler_name="euler")
    assert np.abs(sample({"sampler": ["euler", 0]}, euler=euler) - plain).max() <= 1


def test_other_samplers_and_schedules_run(sample, plain):
    inputs = {"sampler": ["chosen", 0], "sigmas": ["schedule", 0]}
    schedule = node("KarrasScheduler", steps=3, sigma_max=1.0, sigma_min=0.001, rho=3.0)
    made = [sample(inputs, chosen=node("KSamplerSelect", sampler_name=name), schedule=schedule) for name in ("heun", "euler_ancestral")]
    for frames in (plain, *made):
        assert frames.shape == plain.shape and frames.std() > 5
    assert all(np.abs(frames - plain).max() > 10 for frames in made)
    assert np.array_equal(sample(inputs, chosen=node("KSamplerSelect", sampler_name="euler_ancestral"), schedule=schedule), made[1])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"sampler": ["cfg_pp", 0]}, "sampler: this one controls guidance itself"),
        ({"sigmas": ["schedule", 0]}, "sigmas: expected at least two falling numbers between 1 and 0"),
    ],
)
def test_what_the_flow_cannot_follow_is_refused(sample, inputs, message):
    nodes = {
        "cfg_pp": node("KSamplerSelect", sampler_name="euler_cfg_pp"),
        "schedule": node("KarrasScheduler", steps=3, sigma_max=14.6, sigma_min=0.03, rho=7.0),
    }
    with pytest.raises(ServerError, match=message):
        sample(inputs, **nodes)


def test_a_preset_replaces_the_steps_and_says_what_it_costs(sample, plain, comfyui_server):
    fast, sixth = sample({"preset": "fast", "steps": 9}), sample({"preset": "draft", "guidance_scale": 1.0})
    assert fast.shape == sixth.shape == plain.shape and fast.std() > 5
    assert np.abs(fast - plain).max() > 10 and np.abs(sixth - fast).max() > 10
    euler = sample({"preset": "fast", "sampler": ["euler", 0]}, euler=node("KSamplerSelect", sampler_name="euler"))
    assert euler.shape == plain.shape and np.abs(euler - fast).max() > 1, "core's sampler takes the place of the preset's own"
    assert re.search(r"MEMO: 6 steps, [\d.e+-]+ TFLOP per frame, [\d.]+ times less than published", comfyui_server.log)


def test_a_small_decoder_makes_other_frames_of_the_same_clips(sample, plain):
    small = sample({"decoder": "small"})
    assert small.shape == plain.shape and small.std() > 5
    assert np.abs(small - plain).max() > 10


def test_turbo_asks_for_a_model_that_was_distilled(sample):
    with pytest.raises(ServerError, match="preset: turbo needs a model that was distilled"):
        sample({"preset": "turbo"})
