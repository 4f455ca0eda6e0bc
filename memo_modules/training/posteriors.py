"""Encodes every frame once: the VAE is frozen and the crop is fixed, so a frame's posterior is the same in every step.

Mean and standard deviation are stored, from which each step draws its own sample.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files.names import safe_name
from ..host import SILENT, Host
from ..preparation.tensor_files import read_rows, write_tensor
from ..vae import DiffusersVAE
from ..video.reading import stream_frames
from .dataset import ClipIndices, ClipLayout, PreparedClips, PreparedVideo, training_pixels
from .draws import PictureDraws
from .objective import TrainingBatch, with_past_noise, with_starts

FIELD = "posterior"

STORED = torch.float16
"""Rounds by at most 2^-11 of a value, an eighth of what the published trainer's bfloat16 VAE rounds by. Measured on a narrow
VAE trained for two minutes on 64×64 pictures, the means are off by 1 % of the posterior's deviation (root mean square),
and by two thirds of what the 8 bits of the pictures themselves are off. A step's noisy latents and its target share it."""

Posterior = tuple[Tensor, Tensor]
"""Mean and standard deviation, (.. c h w) each, scaled as DiffusersVAE.posterior scales."""


def vae_key(vae: DiffusersVAE) -> str:
    """Identifies a VAE: a hash of its config and of its weights in their dtype."""
    autoencoder = vae.autoencoder
    config = {name: value for name, value in autoencoder.config.items() if not name.startswith("_")}
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def posterior_file(folder: Path, video: PreparedVideo, height: int, width: int, key: str) -> Path:
    """Where the posteriors of a video lie: another path, content, size of pictures or VAE (``key``: its vae_key) has
    another name. Raises InputError when the video is gone."""
    try:
        stat = video.video.stat()
    except OSError as error:
        raise InputError(f"{video.video} cannot be read ({error.strerror}).") from error
    source = (str(video.video.resolve()), stat.st_size, stat.st_mtime_ns, video.frames, height, width, key)
    return folder / f"{safe_name(video.video.stem[:40])}-{hashlib.sha256(repr(source).encode()).hexdigest()[:24]}.safetensors"


def cache_posteriors(
    videos: Sequence[PreparedVideo],
    vae: DiffusersVAE,
    height: int,
    width: int,
    folder: Path,
    key: str,
    host: Host = SILENT,
) -> None:
    """Write the posteriors of all frames of ``videos`` to ``folder``, one file for each, see posterior_file.

    A file is float16 (frames 2 c h w), mean and standard deviation, and there whole or not at all: those that are there
    are not touched, so a run that was stopped continues where it was. With several processes each takes videos of its own.

    Args:
        height, width: of the pictures, in pixels.
        key: see vae_key.
        host: gets the progress in videos, and may interrupt before each batch of the VAE.

    Raises:
        InputError: a video cannot be decoded or has fewer frames than its features.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for done, video in enumerate(videos, start=1):
        file = posterior_file(folder, video, height, width, key)
        if not file.exists():
            write_tensor(file, FIELD, torch.cat(list(_posteriors(video, vae, height, width, host.check_interrupt))))
        host.progress(done, len(videos))


def _posteriors(video: PreparedVideo, vae: DiffusersVAE, height: int, width: int, check_interrupt: Callable[[], None]) -> Iterator[Tensor]:
    """Posteriors (vae.batch 2 c h w) of the frames that the audio features of a video count, batch by batch."""
    frames, found = islice(stream_frames(video.video), video.frames), 0
    while pictures := list(islice(frames, vae.batch)):
        check_interrupt()
        found += len(pictures)
        yield torch.stack(vae.posterior(torch.cat([training_pixels(picture[None], height, width) for picture in pictures])), dim=1).to("cpu", STORED)
    if found < video.frames:
        raise InputError(f"{video.video}: {found} of {video.frames} frames can be decoded. Prepare this video again.")


class PosteriorDataset(PreparedClips):
    """PreparedClips as posteriors that cache_posteriors wrote, instead of pictures.

    latent_mean, latent_std: float16 (f c h w); reference_mean, reference_std: float16 (1+n c h w), reference picture
    first; all else as in ClipDataset. Raises InputError when a video has no posteriors in ``folder``.
    """

    def __init__(self, videos: Sequence[PreparedVideo], folder: Path, height: int, width: int, key: str, layout: ClipLayout):
        super().__init__(videos, layout)
        self.files = {video: posterior_file(folder, video, height, width, key) for video in self.videos}
        missing = [video.video for video, file in self.files.items() if not file.is_file()]
        if missing:
            raise InputError(f"{folder} has no posteriors of {len(missing)} videos, first {missing[0]}. Cache them for this size and VAE.")

    def pictures(self, video: PreparedVideo, indices: ClipIndices) -> dict[str, Tensor]:
        first = min(indices.frames[0], indices.past[0])
        rows = read_rows(self.files[video], FIELD, first, indices.frames[-1] + 1)
        reference = read_rows(self.files[video], FIELD, indices.reference, indices.reference + 1)
        latent = rows[[i - first for i in indices.frames]]
        past = torch.cat([reference, rows[[i - first for i in indices.past]]])
        return {"latent_mean": latent[:, 0], "latent_std": latent[:, 1], "reference_mean": past[:, 0], "reference_std": past[:, 1]}


def place_weights(dataset: PosteriorDataset, motion_weight: float, videos: int = 64) -> Tensor:
    """float32 (h w): the weights of the places of a picture, 1 on average; 1 + ``motion_weight`` times how much the latents
    change there within a video, relative to the mean over all places. From the first ``videos``, the same at each start.

    They depend on nothing in a clip, so what the nets learn to expect at a place is the same as without.
    """
    spreads = [read_rows(dataset.files[video], FIELD, 0, video.frames)[:, 0].float().var(dim=0).mean(dim=0) for video in dataset.videos[:videos]]
    motion = torch.stack(spreads).mean(dim=0).sqrt()
    weights = 1 + motion_weight * motion / motion.mean().clamp(min=1e-12)
    return weights / weights.mean()


def grey_posterior(vae: DiffusersVAE, height: int, width: int) -> Posterior:
    """Of a mid-grey picture, which is what past frames are at the start of a video: (c h w) each, float32 on the CPU."""
    mean, std = vae.posterior(torch.zeros(1, 3, height, width))
    return mean[0].float().cpu(), std[0].float().cpu()


def sample_posteriors(sample: dict[str, Tensor], draws: PictureDraws, grey: Posterior) -> TrainingBatch:
    """A collated batch of PosteriorDataset in the form that encode_batch makes from pictures, up to the rounding of STORED.

    Sample, draws and grey, see grey_posterior, on one device.
    """
    mean, std = (with_starts(sample[f"reference_{part}"].float(), draws, value) for part, value in zip(("mean", "std"), grey, strict=True))
    return TrainingBatch(
        _drawn(sample["latent_mean"].float(), sample["latent_std"].float(), draws.frames),
        with_past_noise(_drawn(mean, std, draws.reference), draws),
        sample["face_emb"],
        sample["audio_emb"],
        sample["audio_emotion"],
    )


def _drawn(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    return mean + std * noise
