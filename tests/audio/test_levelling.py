"""A voice that changes its loudness, made equally loud."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.audio.features import encode_audio
from memo_modules.audio.io import decode
from memo_modules.audio.levelling import levelled
from memo_modules.pipeline import MemoPipeline
from memo_modules.types import Audio, SamplerSettings
from tools.small_world import measure_mouth

ASSETS = Path(__file__).resolve().parents[2] / "assets"
RATE = 16000


def voice(seconds: float, seed: int = 0, rate: int = RATE) -> torch.Tensor:
    """Syllables of noise, four a second, with a gap of a tenth of a second after each."""
    samples = round(seconds * rate)
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1
    return noise * (torch.arange(samples) % (rate // 4) < 0.15 * rate)


def loudness(samples: torch.Tensor) -> float:
    """Decibels."""
    return 10 * float(torch.log10(samples.double().square().mean()))


@pytest.mark.parametrize("fainter", [6, 20, 30])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_speaker_who_walks_away_stays_as_loud(fainter, rate):
    whole = voice(8, rate=rate)
    walking = whole.clone()
    walking[len(whole) // 2 :] *= 10 ** (-fainter / 20)
    made = levelled(Audio(walking[None], rate)).waveform[0]
    assert made.shape == walking.shape
    near, far = made.chunk(2)
    assert loudness(near) - loudness(far) == pytest.approx(0, abs=1.5)
    away = slice(len(whole) // 2 + 2 * rate, None)
    assert (made[away] - whole[away]).abs().max() < 0.15 * whole.abs().max()


def test_slow_fading_is_undone():
    whole = voice(12)
    fading = whole * 10 ** (-torch.linspace(0, 24, len(whole)) / 20)
    parts = [loudness(part) for part in levelled(Audio(fading[None], RATE)).waveform[0].chunk(6)]
    assert max(parts) - min(parts) < 3


def test_two_speakers_of_whom_one_is_faint():
    turns = torch.cat([voice(2, seed) * (0.1 if seed % 2 else 1) for seed in range(4)])
    parts = [loudness(part) for part in levelled(Audio(turns[None], RATE)).waveform[0].chunk(4)]
    assert max(parts) - min(parts) < 1.5


def test_an_even_voice_stays_as_it_is():
    whole = voice(4)
    assert (levelled(Audio(whole[None], RATE)).waveform[0] - whole).abs().max() < 0.1 * whole.abs().max()


def test_a_pause_is_raised_no_more_than_the_words_around_it():
    hiss = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(9)) * 1e-4
    made = levelled(Audio(torch.cat([voice(3), hiss, voice(3, 1)])[None], RATE)).waveform[0]
    assert loudness(made[4 * RATE : 5 * RATE]) < loudness(hiss) + 2


def test_silence_and_the_shortest_sounds_stay_finite():
    for samples in (1, 7, 480, 481, RATE):
        assert torch.equal(levelled(Audio(torch.zeros(2, samples), RATE)).waveform, torch.zeros(1, samples))
        assert torch.isfinite(levelled(Audio(torch.full((1, samples), 1e-9), RATE)).waveform).all()


def test_it_can_be_cancelled():
    class Cancelled(Exception):
        pass

    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        levelled(Audio(voice(1)[None], RATE), cancel)


def test_channels_that_cancel_each_other_are_levelled_as_one():
    whole = voice(2)
    assert torch.equal(levelled(Audio(torch.stack([whole, -whole]), RATE)).waveform, levelled(Audio(whole[None], RATE)).waveform)
    assert np.isfinite(levelled(Audio(torch.stack([whole, -whole]), RATE)).waveform.numpy()).all()


@pytest.mark.slow
def test_the_mouth_of_the_small_model_opens_as_before(one_thread):
    """Of a speaker who is 20 dB fainter in the second half: in that half, it opens half as much without levelling."""
    pipeline = MemoPipeline.from_models(ASSETS / "models")
    settings = SamplerSettings(steps=4, seed=1, guidance_scale=1.0, num_init_past_frames=2, noise="smooth")
    said = decode(ASSETS / "cartoon.wav")
    even = Audio(said.waveform[:, : 24 * RATE // 10], RATE)
    walking = Audio(even.waveform * torch.where(torch.arange(24 * RATE // 10) < 12 * RATE // 10, 1.0, 0.1), RATE)
    conditioning = pipeline.condition(ASSETS / "cartoon.png", even, size=(128, 128), emotion="neutral", separate=False)

    def opening_far_away(audio: Audio, level: bool) -> float:
        heard = replace(conditioning, audio=encode_audio(pipeline.audio_encoder, audio, Fraction(30), level=level))
        frames = (pipeline.sample(heard, settings).frames() * 255).round().byte().movedim(1, -1).numpy()
        return float(measure_mouth(frames)[0][36:].mean())

    expected = opening_far_away(even, level=False)
    assert opening_far_away(walking, level=False) < 0.6 * expected
    assert opening_far_away(walking, level=True) == pytest.approx(expected, rel=0.2)
