"""The small decoder: diffusers' class on the published names, what it replaces in a video and what it leaves alone, and files that are none."""

import shutil

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from memo_modules.errors import CheckpointError, InputError
from memo_modules.sampler.sampling import sample_video
from memo_modules.small_decoder import FILE, KIND, SmallDecoder, find_small_decoder, load_small_decoder
from memo_modules.types import SamplerSettings
from tests.helpers.tiny_video import FACE, HAPPY, PORTRAIT, speech

DRAFT = SamplerSettings(steps=1, guidance_scale=1.0, past_every=4)


@pytest.fixture
def sample(tiny_pipeline):
    def make(settings=DRAFT, frames=37, **options):
        nets, vae = tiny_pipeline.nets, tiny_pipeline.vae
        return list(sample_video(nets, vae, PORTRAIT, FACE, speech(frames), HAPPY, settings, **options))

    return make


@pytest.fixture
def decoded(tiny_vae, monkeypatch) -> list[int]:
    """How many pictures the VAE decodes at a time."""
    counts, decode = [], tiny_vae.decode
    monkeypatch.setattr(tiny_vae, "decode", lambda latents: (counts.append(len(latents)), decode(latents))[1])
    return counts


def test_the_published_file_is_diffusers_autoencoder_tiny(tiny_models):
    """Another way to the same pictures: its layers by diffusers' conversion, into the whole class."""
    path = tiny_models / KIND / FILE
    theirs = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    weights = {f"decoder.layers.{int(key.split('.')[0]) - 1}.{key.partition('.')[2]}": tensor for key, tensor in load_file(path).items()}
    assert theirs.load_state_dict(weights, strict=False).unexpected_keys == []
    latents = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        assert torch.equal(load_small_decoder(path)(latents), theirs.decode(latents).sample)


def test_it_changes_what_is_shown_and_no_latents(sample, tiny_pipeline, decoded):
    """The VAE decodes only what the next clip looks back on, and nothing for the last clip."""
    full = sample()
    counts, decoded[:] = decoded[:], []
    small = sample(decoder=tiny_pipeline.small_decoder)
    assert (counts, decoded) == ([16, 16, 16], [4, 4])
    for ours, theirs in zip(small, full, strict=True):
        assert ours.frames.shape == theirs.frames.shape
        torch.testing.assert_close(ours.state.latents, theirs.state.latents, rtol=1e-2, atol=2e-3)  # other batches round otherwise
        assert torch.equal(ours.frames, tiny_pipeline.small_decoder(ours.state.latents[: len(ours.frames)]))
    assert (small[0].frames - full[0].frames).abs().max() > 0.05


def test_a_video_that_continues_equals_one_run(sample, tiny_pipeline):
    """Also after a video that ended within a clip: the frames after its end were never seen."""
    small = {"decoder": tiny_pipeline.small_decoder}
    whole = sample(frames=21, **small)
    [rest] = sample(frames=21, state=whole[0].state, done=1, **small)
    assert torch.equal(rest.frames, whole[1].frames) and torch.equal(rest.state.latents, whole[1].state.latents)
    [after], [full] = sample(frames=16, state=rest.state, **small), sample(frames=16, state=rest.state)
    torch.testing.assert_close(after.state.past_latents[-1], full.state.past_latents[-1], rtol=1e-2, atol=2e-3)
    assert len(after.state.past_latents[-1]) == 5


def test_a_vae_that_fails_at_the_past_alone_is_named(sample, tiny_pipeline, tiny_vae, monkeypatch):
    monkeypatch.setattr(tiny_vae, "decode", lambda latents: torch.full((len(latents), 3, *PORTRAIT.shape[2:]), float("nan")))
    with pytest.raises(InputError, match="vae: the past of clip 2 came out as NaN or infinite. Its weights are damaged"):
        sample(frames=20, decoder=tiny_pipeline.small_decoder)


def test_the_front_door_takes_it_by_its_name(tiny_pipeline):
    with pytest.raises(InputError, match="decoder: expected one of full, small, got 'tiny'"):
        tiny_pipeline.sample(None, decoder="tiny")


def test_a_missing_file_is_named_with_its_folder(tmp_path):
    with pytest.raises(CheckpointError, match="decoder: small needs taesd_decoder.safetensors, which is not there. Fetch .* into .*vae_app"):
        find_small_decoder([tmp_path / KIND])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {"encoder": torch.zeros(1)}, "is not taesd's decoder for Stable Diffusion 1: '1.weight' is not a convolution of 4 channels"),
        (lambda w: w | {"1.weight": torch.zeros(8, 16, 3, 3)}, "'1.weight' is not a convolution of 4 channels"),
        (lambda w: {key: tensor for key, tensor in w.items() if key != "18.conv.4.bias"}, "missing, first 'layers.17.conv.4.bias'"),
        (lambda w: w | {"20.weight": torch.zeros(1)}, "not of this model, first 'layers.19.weight'"),
        (lambda w: w | {"²": torch.zeros(1)}, "not of this model, first '²'"),
        (lambda w: w | {"7.weight": torch.zeros(8, 8, 1, 1)}, "has shape"),
        (lambda w: w | {"1.bias": torch.zeros(8, dtype=torch.int8)}, "is of int8, expected float16"),
    ],
)
def test_other_files_are_refused(tiny_models, tmp_path, change, said):
    save_file(change(load_file(tiny_models / KIND / FILE)), tmp_path / FILE)
    with pytest.raises(CheckpointError, match=said):
        load_small_decoder(tmp_path / FILE)


def test_a_file_that_makes_nothing_usable_is_named(sample, tiny_models, tmp_path):
    path = tmp_path / FILE
    shutil.copy(tiny_models / KIND / FILE, path)
    save_file(load_file(path) | {"19.bias": torch.full((3,), float("nan"))}, path)
    with pytest.raises(InputError, match="decoder: the frames of clip 1 came out as NaN or infinite. Fetch its file again, or choose full"):
        sample(frames=16, decoder=SmallDecoder(load_small_decoder(path)))
