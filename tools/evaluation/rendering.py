"""Videos as a workflow makes them: portrait and voice through the library, without a ComfyUI."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memo_modules.pipeline import Conditioning, MemoPipeline
from memo_modules.store.obtain import find_model
from memo_modules.types import Audio, SamplerSettings
from memo_modules.weights.checkpoints import NETS
from tools.evaluation.variants import Case, Variant
from tools.small_world import SAMPLE_RATE


class Forgetful:
    """A diffusion net that forgets all but the past frames of the clip at hand: once per clip, or again at each step."""

    def __init__(self, net: nn.Module, each_step: bool):
        self.net, self.each_step = net, each_step
        self.past = None

    def __getattr__(self, name: str):
        return getattr(self.net, name)

    def update_memory(self, past, memory, frames: int, stands_for: Sequence[int] | None = None) -> None:
        memory[:] = self.net.empty_memory()
        self.past = past, frames, stands_for
        self.net.update_memory(past, memory, *self.past[1:])

    def __call__(self, *inputs, **options) -> Tensor:
        if self.each_step:
            *_, memory, _ = inputs
            past, frames, stands_for = self.past
            memory[:] = self.net.empty_memory()
            self.net.update_memory(past, memory, frames, stands_for)
        return self.net(*inputs, **options)


@dataclass(frozen=True)
class Rendered:
    """frames: uint8 (f size size 3). seconds: per clip, in the order of the video; empty where nothing was sampled."""

    frames: np.ndarray
    seconds: tuple[float, ...]


def sound_of(case: Case) -> Audio:
    """The voice of a case."""
    return Audio(torch.from_numpy(case.clip().audio)[None], SAMPLE_RATE)


def weights_hash(models: Path, checkpoint: Path) -> str:
    """SHA-256 over the weights of nets and VAE."""
    digest = hashlib.sha256()
    for place in [*(checkpoint / net for net in NETS), find_model("vae", models, checkpoint.name)]:
        for file in [place] if place.is_file() else sorted(place.rglob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


class Model:
    """Everything that makes videos, loaded from a ComfyUI's ``models`` folder, see MemoPipeline.from_models."""

    def __init__(self, models: Path, checkpoint: Path, size: int, device: str = "cpu"):
        self.size = size
        self.pipeline = MemoPipeline.from_models(models, checkpoint, device=device, dtype=torch.float32)
        self.conditionings: dict[tuple[Case, bool], Conditioning] = {}

    def condition(self, case: Case, heard: bool) -> Conditioning:
        """What steers the sampler for a case, made once. heard: the mood is detected in its voice, not given."""
        if (case, heard) not in self.conditionings:
            portrait, mood = case.portrait(self.size), None if heard else case.mood
            self.conditionings[case, heard] = self.pipeline.condition(portrait, sound_of(case), size=(self.size, self.size), emotion=mood)
        return self.conditionings[case, heard]

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Frames, uint8 (f size size 3), encoded and decoded."""
        pictures = torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1
        return _pixels(self.pipeline.vae.decode(self.pipeline.vae.encode(pictures)))

    def render(self, case: Case, variant: Variant, settings: SamplerSettings) -> Rendered:
        """The video of a case. settings: those of the variant; the seed of the noise moves with the voice."""
        pipeline = self.pipeline
        if variant.memory != "carried":
            net = Forgetful(pipeline.nets.diffusion_net, each_step=variant.memory == "reset_step")
            pipeline = replace(pipeline, nets=replace(pipeline.nets, diffusion_net=net))
        settings = replace(settings, seed=settings.seed + case.voice)
        clips = pipeline.sample(self.condition(case, variant.mood == "heard"), settings)
        frames, seconds, began = [], [], time.perf_counter()
        for clip in clips:
            frames.append(_pixels(clip.frames))
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
        return Rendered(np.concatenate(frames), tuple(seconds))


def _pixels(frames: Tensor) -> np.ndarray:
    """(f 3 h w) in [0, 1] to uint8 (f h w 3)."""
    return (frames * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
