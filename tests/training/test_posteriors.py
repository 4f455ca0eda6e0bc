"""Stored posteriors: the same batches as from pictures, and never those of another video, size or VAE."""

import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from memo_modules.errors import InputError
from memo_modules.host import Host
from memo_modules.training import posteriors
from memo_modules.training.dataset import ClipDataset, PreparedVideo, clip_indices, read_metadata
from memo_modules.training.draws import Rates, draw_pictures
from memo_modules.training.objective import encode_batch
from memo_modules.vae import DiffusersVAE
from tests.helpers.prepared_files import LAYOUT, prepare, write_metadata

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES, SIZE = 20, (32, 16)


def tiny_vae(seed: int = 0) -> DiffusersVAE:
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.5)
    return DiffusersVAE(vae.eval().requires_grad_(False), batch=6)


def write_video(path: Path, frames: int, seed: int) -> None:
    """Coloured patches, in every frame others."""
    import av

    pictures = torch.randint(0, 256, (frames, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"g": "6", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 40, "yuv420p"
        for picture in pictures.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def videos(tmp_path) -> list[PreparedVideo]:
    entries = [prepare(tmp_path, stem, FRAMES) for stem in ("a", "b")]
    for seed, entry in enumerate(entries):
        write_video(tmp_path / entry["video"], FRAMES, seed)
    return read_metadata([write_metadata(tmp_path, *entries)])


def test_batches_from_posteriors_are_those_from_pictures(videos, tmp_path):
    vae, folder = tiny_vae(), tmp_path / "cache"
    posteriors.cache_posteriors(videos, vae, *SIZE, folder, posteriors.vae_key(vae))
    stored = posteriors.PosteriorDataset(videos, folder, *SIZE, posteriors.vae_key(vae), LAYOUT)
    pictures = ClipDataset(videos, *SIZE, LAYOUT)
    indices = [clip_indices(LAYOUT, 5, 12, still_past=False, cut_audio=False), clip_indices(LAYOUT, 13, 3, still_past=True, cut_audio=True)]
    given, expected = (default_collate([data.clip(*each) for each in zip(videos, indices, strict=True)]) for data in (stored, pictures))
    draws = draw_pictures(2, 4, 3, (4, 16, 8), Rates(past_noise=0.5), torch.Generator().manual_seed(0))
    for flags in ([False, True], [True, False]):
        draws.start_frame.copy_(torch.tensor(flags))
        draws.start_reference.copy_(~draws.start_frame)
        found = posteriors.sample_posteriors(given, draws, posteriors.grey_posterior(vae, *SIZE))
        direct = encode_batch(vae, expected, draws)
        for field in ("latents", "reference_latents"):
            difference = getattr(found, field) - getattr(direct, field)
            assert difference.abs().max() < 2**-11 * 5, "mean and drawn deviation are below 5 in all"
        for field in ("face_emb", "audio_emb", "audio_emotion"):
            assert torch.equal(getattr(found, field), getattr(direct, field))


def test_places_count_by_how_much_they_move(videos, tmp_path):
    vae, folder = tiny_vae(), tmp_path / "cache"
    posteriors.cache_posteriors(videos, vae, *SIZE, folder, posteriors.vae_key(vae))
    dataset = posteriors.PosteriorDataset(videos, folder, *SIZE, posteriors.vae_key(vae), LAYOUT)
    rows = torch.ones(FRAMES, 2, 4, 16, 8)
    rows[:, 0, :, 2, 3] = torch.arange(FRAMES).remainder(2)[:, None].float() * 4
    for video in videos:
        posteriors.write_tensor(dataset.files[video], posteriors.FIELD, rows.half())
    weights = posteriors.place_weights(dataset, 0.5)
    assert weights.shape == (16, 8) and weights.mean().item() == pytest.approx(1)
    still = weights[0, 0].item()
    assert weights[2, 3].item() == pytest.approx(still * (1 + 0.5 * 128), rel=1e-4) and (weights == still).sum() == 127


def test_a_stopped_run_leaves_whole_files_and_continues(videos, tmp_path):
    vae, folder = tiny_vae(), tmp_path / "cache"
    key, batches = posteriors.vae_key(vae), []

    def stop_at(count: int):
        def check() -> None:
            batches.append(1)
            if len(batches) == count:
                raise KeyboardInterrupt

        return check

    with pytest.raises(KeyboardInterrupt):
        posteriors.cache_posteriors(videos, vae, *SIZE, folder, key, host=Host(check_interrupt=stop_at(6)))
    (first,) = folder.iterdir()
    os.utime(first, (1, 1))
    batches.clear()
    done = []
    posteriors.cache_posteriors(videos, vae, *SIZE, folder, key, Host(lambda *counts: done.append(counts), stop_at(0)))
    assert len(batches) == 4, "of six frames at most, for the second video alone"
    assert done == [(1, 2), (2, 2)]
    assert len(list(folder.iterdir())) == 2 and first.stat().st_mtime == 1


def test_another_video_size_or_vae_is_never_mistaken(videos, tmp_path):
    vae, folder = tiny_vae(), tmp_path / "cache"
    key = posteriors.vae_key(vae)
    posteriors.cache_posteriors(videos, vae, *SIZE, folder, key)
    posteriors.PosteriorDataset(videos, folder, *SIZE, key, LAYOUT)
    assert posteriors.vae_key(tiny_vae(1)) != key == posteriors.vae_key(tiny_vae())
    with pytest.raises(InputError, match="no posteriors of 2 videos, first .*a.mp4"):
        posteriors.PosteriorDataset(videos, folder, *SIZE[::-1], key, LAYOUT)
    with pytest.raises(InputError, match="no posteriors of 2 videos"):
        posteriors.PosteriorDataset(videos, folder, *SIZE, posteriors.vae_key(tiny_vae(1)), LAYOUT)
    write_video(videos[1].video, FRAMES, seed=7)
    with pytest.raises(InputError, match="no posteriors of 1 videos, first .*b.mp4"):
        posteriors.PosteriorDataset(videos, folder, *SIZE, key, LAYOUT)


def test_a_video_shorter_than_its_features_is_named(videos, tmp_path):
    write_video(videos[1].video, FRAMES - 1, seed=1)
    vae, folder = tiny_vae(), tmp_path / "cache"
    with pytest.raises(InputError, match="b.mp4: 19 of 20 frames"):
        posteriors.cache_posteriors(videos, vae, *SIZE, folder, posteriors.vae_key(vae))
    assert len(list(folder.iterdir())) == 1
