"""The stages of a run of the sampler, timed while it runs."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from memo_modules.sampler.sampling import MemoNets
from memo_modules.types import MotionMemory, ReferenceFeatures
from memo_modules.vae import VideoVAE
from tools.benchmarking import random_nets
from tools.benchmarking.device import Device, Mark


def _rows(batch: Tensor, *_) -> int:
    return len(batch)


def _once(*_) -> int:
    return 1


# One call computes both guidance branches, or one of them if they take turns.


def _both(branches: Tensor, *_) -> float:
    return len(branches) / 2


def _both_of_frames(latents: Tensor, *_) -> float:
    return len(latents) / (2 * random_nets.CLIP_FRAMES)


def _both_of_past(past: ReferenceFeatures, _memory: MotionMemory, frames: int, _stands_for: Sequence[int] | None = None) -> float:
    return len(past.layers[0]) / (2 * frames)


@dataclass(frozen=True)
class Unit:
    """The unit by which the seconds of a stage are counted, and how many units one call of the stage does."""

    name: str
    count: Callable[..., float]


UNITS = {
    "reference_net": Unit("picture", _rows),
    "memory_update": Unit("clip", _both_of_past),
    "diffusion_step": Unit("step", _both_of_frames),
    "image_proj": Unit("video", _once),
    "audio_proj": Unit("clip", _once),
    "spatial_contexts": Unit("video", _both),
    "emotion_modulations": Unit("clip", _both),
    "vae_encode": Unit("frame", _rows),
    "vae_decode": Unit("frame", _rows),
    "bring_in": Unit("call", _once),
}


@dataclass(frozen=True)
class Call:
    """One call of a stage. units: how many of UNITS it did."""

    stage: str
    clip: int
    units: float
    seconds: float


class StageTimer:
    """Times the stages of a sampling run between marks on the device, so that the run never waits for it."""

    def __init__(self, device: Device):
        self.device = device
        self.calls: list[Call] = []
        self._marks: list[tuple[str, float, Mark, Mark]] = []
        self._clip = 0

    @contextmanager
    def attached(self, nets: MemoNets, vae: VideoVAE) -> Iterator[tuple[MemoNets, VideoVAE]]:
        """The nets and the VAE, timed as long as the context lasts."""
        diffusion_net = nets.diffusion_net
        methods = [
            ("reference_net", nets.reference_net, "forward"),
            ("memory_update", diffusion_net, "update_memory"),
            ("diffusion_step", diffusion_net, "forward"),
            ("image_proj", nets.image_proj, "forward"),
            ("audio_proj", nets.audio_proj, "forward"),
            ("spatial_contexts", diffusion_net, "spatial_contexts"),
            ("emotion_modulations", diffusion_net, "emotion_modulations"),
        ]
        for stage, net, method in methods:
            setattr(net, method, self.timed(stage, getattr(net, method)))  # found before the class's own
        try:
            yield replace(nets, bring_in=self.timed("bring_in", nets.bring_in)), _TimedVAE(self, vae)
        finally:
            for _, net, method in methods:
                delattr(net, method)

    def end_clip(self) -> None:
        """Everything since the last call belongs to one clip, and the device is done with it."""
        self.calls += [Call(stage, self._clip, units, self.device.seconds(start, stop)) for stage, units, start, stop in self._marks]
        self._marks.clear()
        self._clip += 1

    def stages(self) -> dict[str, dict]:
        """Seconds of each stage per unit (median over the calls after the first clip, where there are any) and per clip."""
        stages = {}
        for stage in dict.fromkeys(call.stage for call in self.calls):
            calls = [call for call in self.calls if call.stage == stage]
            later = [call for call in calls if call.clip > 0] or calls
            per_clip = defaultdict(float)
            for call in later:
                per_clip[call.clip] += call.seconds
            stages[stage] = {
                "unit": UNITS[stage].name,
                "s": statistics.median(call.seconds / call.units for call in later),
                "s_per_clip": statistics.median(per_clip.values()) if later is not calls or self._clip == 1 else 0.0,
            }
        return stages

    def timed(self, stage: str, function: Callable) -> Callable:
        """``function``, which does the work of a stage, timed."""

        def call(*args, **kwargs):
            start = self.device.mark()
            result = function(*args, **kwargs)
            stop = self.device.mark()  # before the counting, which may bring something to the device
            self._marks.append((stage, UNITS[stage].count(*args), start, stop))
            return result

        return call


class _TimedVAE:
    def __init__(self, timer: StageTimer, vae: VideoVAE):
        self.encode = timer.timed("vae_encode", vae.encode)
        self.decode = timer.timed("vae_decode", vae.decode)
