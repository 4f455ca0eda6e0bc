"""Distillation: a student reaches in a few passes without guidance what its teacher reaches in many with it.

The teacher is the checkpoint that training starts from. Before the first step it makes trajectories: the latents of a clip at each of the noise
levels between which the student will step. The student learns the straight way from each to the next. What a trajectory starts from
is a sample of prepared videos, of which the clip itself is not used, or a portrait and a voice, see pairs.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..files.whole_files import whole_file
from ..host import SILENT, Host
from ..sampler.sampling import MemoNets
from ..sampler.solvers import euler, even_sigmas
from ..weights.checkpoints import NETS, read_weights
from ..weights.fingerprints import weights_digest
from ..weights.tensor_saving import save_tensors
from .dataset import ClipLayout
from .draws import NO_RATES, PictureDraws, StepDraws
from .objective import Pasts, TrainingBatch, TrainingLoss, past_frames, predict_velocity
from .schedule import LOGIT_NORMAL, FlowSchedule
from .stream import SampleStream, draws_at

if TYPE_CHECKING:  # it takes the pipeline along, which no training of videos needs
    from .pairs import PairSource

TRAJECTORIES = "trajectories"
"""Their folder in the output_dir of a training."""

STORED = torch.float16
"""Rounds by at most 2^-11 of a value: far less than what two steps differ from twenty."""


@dataclass(frozen=True)
class DistilSettings:
    """steps: of the student, evenly spaced. teacher_steps: a multiple of them. guidance_scale: of the teacher; 1 or less for none.
    trajectories: how many are made, and then trained on again and again. past_every: see SamplerSettings; of the student's recipe alone.
    pairs: a manifest of portraits and voices that take the place of prepared videos, and models: the folder of what they need; see pairs.
    clips: that follow each other of one pair.
    """

    steps: int = 2
    teacher_steps: int = 20
    guidance_scale: float = 3.5
    trajectories: int = 2000
    past_every: int = 4
    pairs: Path | None = None
    models: Path | None = None
    clips: int = 4

    def __post_init__(self):
        for name in ("steps", "trajectories", "past_every", "clips"):
            if getattr(self, name) < 1:
                raise InputError(f"distil.{name}: expected at least 1, got {getattr(self, name)}.")
        if self.teacher_steps < self.steps or self.teacher_steps % self.steps:
            raise InputError(f"distil.teacher_steps: expected a multiple of distil.steps, which is {self.steps}, got {self.teacher_steps}.")
        if not 0 <= self.guidance_scale <= 100:
            raise InputError(f"distil.guidance_scale: expected a number from 0 to 100, got {self.guidance_scale}.")
        if self.pairs and not self.models:
            raise InputError("distil.models: expected the `models` folder of a ComfyUI with distil.pairs, for faces, voices and moods.")

    @property
    def recipe(self) -> dict[str, Any]:
        """SamplerSettings under which the student is to run."""
        return {"steps": self.steps, "guidance_scale": 1.0, "schedule": "even", "solver": "euler", "past_every": self.past_every}


@dataclass(frozen=True)
class TrajectoryBatch(TrainingBatch):
    """trajectory: float32 (b steps+1 f c h w), from noise to ``latents``, which are its last."""

    trajectory: Tensor

    def clip(self, k: int, clips: int) -> TrainingBatch:
        return self


def distillation_loss(
    nets: MemoNets, batch: TrajectoryBatch, draws: StepDraws, checkpointing: bool = False, pasts: Pasts | None = None
) -> TrainingLoss:
    """Mean squared error of the velocity that leads from one level of a trajectory to the next. ``draws.sigmas`` choose the level."""
    steps = batch.trajectory.shape[1] - 1
    level = ((1 - draws.sigmas) * steps).long().clamp(max=steps - 1)
    rows = torch.arange(len(level), device=level.device)
    start, end = batch.trajectory[rows, level], batch.trajectory[rows, level + 1]
    sigmas = even_sigmas(steps).to(level.device)[level]
    velocity = predict_velocity(nets, batch, _step(nets, sigmas, False), start, checkpointing, pasts)
    per_sample = (velocity - (start - end) * steps).square().flatten(1).mean(dim=1)
    kept = torch.ones_like(per_sample, dtype=torch.bool)
    return TrainingLoss(per_sample.mean(), per_sample.detach(), per_sample.detach(), kept)


@torch.no_grad()
def trajectory(nets: MemoNets, batch: TrainingBatch, noise: Tensor, settings: DistilSettings) -> Tensor:
    """The teacher's latents (b steps+1 f c h w), from ``noise`` (b f c h w) on, with each branch's own face in its past (reference_order
    "aligned")."""
    kept, every = [noise], settings.teacher_steps // settings.steps
    ones = torch.ones(len(noise), device=noise.device)
    branches = [False] if settings.guidance_scale <= 1 else [True, False]
    pasts = {branch: past_frames(nets, batch, _step(nets, ones, branch)) for branch in branches}

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        of_branch = [predict_velocity(nets, batch, _step(nets, sigma * ones, branch), latents, pasts=pasts[branch]) for branch in branches]
        if len(of_branch) == 1:
            return of_branch[0]
        unconditional, conditional = of_branch
        return unconditional + settings.guidance_scale * (conditional - unconditional)

    sigmas = even_sigmas(settings.teacher_steps).to(noise.device)
    for step in range(0, settings.teacher_steps, every):
        kept.append(euler(velocity, kept[-1], sigmas[step : step + every + 1], lambda done: None))
    return torch.stack(kept, dim=1)


def _step(nets: MemoNets, sigmas: Tensor, unconditional: bool) -> StepDraws:
    """Draws of nothing: clips at ``sigmas`` (b,), all of them with their conditions or none."""
    none, norms = torch.zeros_like(sigmas, dtype=torch.bool), nets.diffusion_net.emotion_norms
    without = ~none if unconditional else None
    return StepDraws(sigmas * 1000, sigmas, sigmas, none, none, none.expand(norms, -1), without, without)


@dataclass(frozen=True)
class StoredTrajectory:
    """Its file, by the name that the videos of other data sets have."""

    video: Path


class TrajectoryDataset(Dataset):
    """Trajectories in files, see TrajectoryBatch: trajectory (steps+1 f c h w), reference_latents, face_emb, audio_emb, audio_emotion."""

    def __init__(self, files: Sequence[Path]):
        self.videos = [StoredTrajectory(file) for file in files]

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        number, _ = item
        return read_weights(self.videos[number].video)  # which a DataLoader's worker copies


def trajectory_batch(sample: Mapping[str, Tensor], draws: PictureDraws) -> TrajectoryBatch:
    """A collated batch of TrajectoryDataset in the form that the objective takes; there is nothing to draw for it."""
    whole = {name: tensor.float() for name, tensor in sample.items() if name != "audio_emotion"}
    return TrajectoryBatch(whole["trajectory"][:, -1], **whole, audio_emotion=sample["audio_emotion"][:, 0])


@dataclass(frozen=True)
class Source:
    """Where samples come from. make_batch: see loop.MakeBatch. latent: (c h w) of a picture."""

    stream: SampleStream
    make_batch: Callable[[dict[str, Tensor], PictureDraws], TrainingBatch]
    layout: ClipLayout
    latent: tuple[int, int, int]

    def key(self) -> list:
        videos = [(str(video.video), video.frames) for video in self.stream.dataset.videos]
        return [self.stream.seed, asdict(self.layout), self.latent, videos]

    chain = 1
    """Samples that follow each other, of which one process makes all."""

    def sample(self, number: int, nets: MemoNets, before: Path | None = None) -> tuple[TrainingBatch, Tensor]:
        """A batch of sample ``number`` alone and the noise of its clip, on the nets' device."""
        norms, device = nets.diffusion_net.emotion_norms, nets.device
        held = {name: torch.as_tensor(value)[None].to(device) for name, value in self.stream[number].items() if name != "unreadable"}
        drawn = draws_at(self.stream.seed, [number], self.layout, self.latent, norms, LOGIT_NORMAL, FlowSchedule.make(), NO_RATES)
        pictures, [draws] = drawn
        batch = self.make_batch(held, PictureDraws(**{name: tensor.to(device) for name, tensor in vars(pictures).items()}))
        return batch.to(device), draws.noise.to(device)


def trajectory_files(settings: DistilSettings, nets: MemoNets, source: "Source | PairSource", folder: Path) -> list[Path]:
    """Where the trajectories lie: those of other weights, settings and data have other names."""
    weights = weights_digest(*(getattr(nets, name) for name in NETS))
    of_source = ("pairs", "models", "clips")  # whose key says what it depends on
    chosen = {name: value for name, value in asdict(settings).items() if name not in of_source}
    key = hashlib.sha256(json.dumps([weights, chosen, source.key()]).encode()).hexdigest()[:16]
    return [folder / f"{key}-{number:06}.safetensors" for number in range(settings.trajectories)]


def make_trajectories(
    settings: DistilSettings,
    nets: MemoNets,
    source: "Source | PairSource",
    files: Sequence[Path],
    process: int = 0,
    processes: int = 1,
    host: Host = SILENT,
) -> None:
    """Make the share of ``process`` of those ``files`` that are not there, with ``nets`` as the teacher. ``host`` gets the progress, and may
    interrupt before each one. Raises InputError for samples that cannot be read."""
    mine = [number for number in range(len(files)) if number // source.chain % processes == process]
    for done, number in enumerate(mine, start=1):
        host.check_interrupt()
        file = files[number]
        if not file.is_file():
            batch, noise = source.sample(number, nets, files[number - 1] if number % source.chain else None)
            with whole_file(file) as partial:
                save_tensors(partial, _stored(batch, trajectory(nets, batch, noise, settings)))
        host.progress(done, len(mine))


def _stored(batch: TrainingBatch, latents: Tensor) -> dict[str, Tensor]:
    """The one sample of ``batch``, as TrajectoryDataset gives it."""
    small = {"trajectory": latents, "reference_latents": batch.reference_latents, "audio_emb": batch.audio_emb}
    held = {name: tensor[0].to("cpu", STORED).contiguous() for name, tensor in small.items()}
    return held | {"face_emb": batch.face_emb[0].cpu(), "audio_emotion": batch.audio_emotion.cpu()}
