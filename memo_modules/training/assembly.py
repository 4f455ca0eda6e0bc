"""From settings to a training that can be run."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..errors import InputError
from ..host import SILENT, Host
from ..models.layers import Layers
from ..sampler.sampling import MemoNets
from ..vae import DiffusersVAE, load_autoencoder
from ..weights.checkpoints import NETS, check_fit, load_net
from .checkpoint_folders import resume_from
from .dataset import ClipDataset, PreparedClips, read_metadata
from .distillation import TRAJECTORIES, Source, TrajectoryDataset, make_trajectories, trajectory_batch, trajectory_files
from .draws import NO_RATES
from .loop import MakeBatch, Trainer, check_frames, check_sample
from .objective import encode_batch
from .posteriors import PosteriorDataset, cache_posteriors, grey_posterior, place_weights, sample_posteriors, vae_key
from .processes import Processes
from .settings import DataSettings, TrainingSettings
from .stream import SampleStream

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_nets(checkpoint: Path, device: torch.device, dtype: torch.dtype) -> MemoNets:
    """The four nets to train, their weights in memory of their own. Raises CheckpointError, see load_net."""
    nets = {}
    for name in NETS:
        layers = Layers(dtype=torch.float32 if name in ("image_proj", "audio_proj") else dtype)
        # what is loaded is mapped, and on the CPU it would stay the file's
        nets[name] = copy.deepcopy(load_net(checkpoint, name, layers)).to(device)
    check_fit(checkpoint, nets)
    return MemoNets(**nets, device=device, dtype=dtype)


def load_vae(settings: TrainingSettings, device: torch.device) -> DiffusersVAE:
    """The VAE in the nets' dtype, a clip of pictures at once."""
    return DiffusersVAE(load_autoencoder(settings.vae, DTYPES[settings.dtype], fewer_levels=True).to(device), batch=settings.data.frames)


def make_trainer(settings: TrainingSettings, accelerator, vae: DiffusersVAE, resume: str | None = None, host: Host = SILENT) -> Trainer:
    """The training that ``settings`` describe, from its start or from a checkpoint, see resume_from.

    accelerator: see Trainer. vae: see load_vae. host: gets the progress in videos of this process, as their posteriors are
    stored, or in trajectories. Raises InputError and CheckpointError for settings and files that cannot be used.
    """
    processes, data = Processes(accelerator), settings.data
    with processes.together():
        checkpoint = resume_from(settings.output_dir, resume)
        dataset: PreparedClips | TrajectoryDataset | None = None
        if data.metadata:
            dataset = ClipDataset(read_metadata(data.metadata), data.height, data.width, data.layout)
        nets = load_nets(settings.checkpoint, accelerator.device, DTYPES[settings.dtype])
        check_frames(nets, data.frames)
        if dataset:
            check_sample(nets, SampleStream(dataset, settings.seed)[0])
        config = vae.autoencoder.config
        factor = vae.factor
        if data.width % factor or data.height % factor:
            raise InputError(f"data.width and data.height: expected multiples of {factor}, got {data.width} and {data.height}.")
        latent = (config.latent_channels, data.height // factor, data.width // factor)
        make_batch, places = partial(encode_batch, vae), None
    if data.cache_dir and dataset:
        key, clips = vae_key(vae), dataset
        with processes.together():  # each makes its part
            mine = clips.videos[accelerator.process_index :: accelerator.num_processes]
            cache_posteriors(mine, vae, data.height, data.width, data.cache_dir, key, host)
        with processes.together():
            cached, make_batch = _stored(data, data.cache_dir, key, clips, vae, accelerator)
            if settings.motion_weight and not settings.distil:
                places = place_weights(cached, settings.motion_weight).to(accelerator.device)
            dataset = cached
    if settings.distil:
        with processes.together():
            source = _source(settings, dataset, make_batch, vae, latent)
            files = trajectory_files(settings.distil, nets, source, settings.output_dir / TRAJECTORIES)
            make_trajectories(settings.distil, nets, source, files, accelerator.process_index, processes.count, host)
        dataset, make_batch, settings = TrajectoryDataset(files), trajectory_batch, replace(settings, rates=NO_RATES)
    assert dataset is not None  # which settings without data have
    trainer = Trainer(settings, nets, dataset, make_batch, latent, accelerator, processes, places)
    with processes.together():
        if checkpoint:
            trainer.load(checkpoint)
    steps = processes.gather(trainer.counters.step)
    if len(set(steps)) > 1:
        raise InputError(f"output_dir: the processes find checkpoints of different steps there ({steps}). Name a folder that all machines share.")
    return trainer


def _source(settings: TrainingSettings, dataset: PreparedClips | None, make_batch: MakeBatch, vae: DiffusersVAE, latent: tuple[int, int, int]):
    """Where trajectories start: videos, or portraits and voices."""
    data, distil = settings.data, settings.distil
    if dataset is not None:
        return Source(SampleStream(dataset, settings.seed), make_batch, data.layout, latent)
    from .pairs import PairSource, read_pairs  # and with them the whole pipeline

    assert distil and distil.pairs and distil.models  # else there are videos
    return PairSource(read_pairs(distil.pairs), distil.models, vae, (data.width, data.height), data.layout, distil.clips, settings.seed)


def _stored(data: DataSettings, folder: Path, key: str, clips: PreparedClips, vae: DiffusersVAE, accelerator) -> tuple[PosteriorDataset, MakeBatch]:
    """The same clips as posteriors, once all of them are stored in ``folder``."""
    mean, std = (part.to(accelerator.device) for part in grey_posterior(vae, data.height, data.width))
    return PosteriorDataset(clips.videos, folder, data.height, data.width, key, data.layout), partial(sample_posteriors, grey=(mean, std))
