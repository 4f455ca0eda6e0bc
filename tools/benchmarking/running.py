"""Runs of the sampler, alone or together with the reference implementation, and the times that are measured in them."""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import repeat
from threading import Condition

from torch import Tensor

from memo_modules.host import Host
from memo_modules.sampler.sampling import MemoNets, sample_video
from memo_modules.types import SamplerSettings
from memo_modules.vae import VideoVAE
from tools.benchmarking import random_nets
from tools.benchmarking.device import Device, resident_gib
from tools.benchmarking.reference import Reference
from tools.benchmarking.stages import StageTimer

NOISE_SEED = 2


@dataclass(frozen=True)
class Subject:
    """The subject of the measurement, ready to run."""

    nets: MemoNets
    vae: VideoVAE
    inputs: random_nets.Inputs
    settings: SamplerSettings
    size: str
    device: Device
    low_memory: bool


@dataclass(frozen=True)
class TimedClip:
    """step_seconds: of all steps but the first and the last, which include other work. Memory is what is held after the
    clip."""

    seconds: float
    step_seconds: list[float]
    allocated_gib: float | None
    resident_gib: float | None


@dataclass(frozen=True)
class Run:
    """clips: of the sampler; theirs: of the reference, each made after the sampler's clip of the same number, on the CPU in turns
    with it.

    differences: of each clip's frames from the reference's, the largest relative to the largest value.
    """

    clips: list[TimedClip]
    theirs: list[TimedClip]
    differences: list[float]


def run(subject: Subject, timer: StageTimer | None = None, reference: Reference | None = None) -> Run:
    """Make every clip of the inputs; ``timer`` also times the stages."""
    device, inputs, settings = subject.device, subject.inputs, subject.settings
    result, turns = Run([], [], []), _Turns() if reference and not device.is_cuda else None
    with timer.attached(subject.nets, subject.vae) if timer else nullcontext((subject.nets, subject.vae)) as (nets, vae):
        ours = _timed(device, lambda after_step: _clips(subject, nets, vae, after_step), turns and turns.first)
        theirs = repeat((None, None))
        if reference:
            theirs = _timed(device, lambda after_step: reference.clips(inputs, settings, NOISE_SEED, after_step), turns and turns.second)
        pairs = turns.pairs(ours, theirs) if turns else zip(ours, theirs, strict=False)
        for (clip, frames), (their_clip, their_frames) in pairs:
            result.clips.append(clip)
            if timer:
                timer.end_clip()
            if reference:
                result.theirs.append(their_clip)
                result.differences.append(((frames - their_frames).abs().max() / their_frames.abs().max()).item())
    return result


def _clips(subject: Subject, nets: MemoNets, vae: VideoVAE, after_step: Callable[[], None]) -> Iterator[Tensor]:
    """Frames of one clip after the other, on the noise that the reference draws."""

    def progress(done: int, total: int, preview: Tensor | None) -> None:
        if done % subject.settings.steps:  # the last step of a clip is reported when its frames are there
            after_step()

    inputs, noise = subject.inputs, random_nets.seeded_noise(subject.size, nets.dtype, NOISE_SEED)
    video = sample_video(
        nets,
        vae,
        inputs.portrait,
        inputs.face,
        inputs.audio,
        inputs.emotion,
        subject.settings,
        host=Host(progress),
        noise=noise,
        low_memory=subject.low_memory,
    )
    for clip in video:
        yield clip.frames


class _Turns:
    """Two computations that take turns after every step, so that a computer whose speed changes from minute to minute is equally fast for
    both."""

    def __init__(self):
        self._condition, self._running, self._ended = Condition(), 0, set()
        self.first, self.second = (lambda: self._hand_over(0)), (lambda: self._hand_over(1))

    def pairs(self, first: Iterator, second: Iterator) -> Iterator[tuple]:
        """One item of each after the other, the second's made in a thread of its own."""
        with ThreadPoolExecutor(1) as executor:
            while True:
                self._running, self._ended = 0, set()
                other = executor.submit(self._next, 1, second)
                items = self._next(0, first), other.result()
                if None in items:
                    return
                yield items

    def _next(self, side: int, items: Iterator) -> object | None:
        with self._condition:
            self._condition.wait_for(lambda: self._running == side)
        try:
            return next(items, None)
        finally:
            with self._condition:
                self._ended.add(side)
                self._running = 1 - side
                self._condition.notify_all()

    def _hand_over(self, side: int) -> None:
        with self._condition:
            if 1 - side in self._ended:
                return
            self._running = 1 - side
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._running == side)


def _timed(
    device: Device, sample: Callable[[Callable[[], None]], Iterator[Tensor]], hand_over: Callable[[], None] | None = None
) -> Iterator[tuple[TimedClip, Tensor]]:
    """Each clip that ``sample(after_step)`` makes, timed alone, and its frames. hand_over: waits between steps, in which time
    something else runs."""
    spans: list[list] = []

    def after_step() -> None:
        spans[-1].append(device.mark())
        if hand_over:
            hand_over()
        spans.append([device.mark() if hand_over else spans[-1][-1]])

    clips = sample(after_step)
    while True:
        spans.clear()
        device.synchronize()
        spans.append([device.mark()])
        frames = next(clips, None)
        if frames is None:
            return
        spans[-1].append(device.mark())
        device.synchronize()
        seconds = [device.seconds(*span) for span in spans]
        yield TimedClip(sum(seconds), seconds[1:-1], device.allocated_gib(), resident_gib()[0]), frames


def per_frame(clips: list[TimedClip]) -> float:
    """Seconds per frame, median over the clips after the first, which also computes everything that is constant over a video."""
    return statistics.median(clip.seconds for clip in clips[1:] or clips) / random_nets.CLIP_FRAMES


def per_step(clips: list[TimedClip]) -> float | None:
    """Seconds per step; None where there are too few steps to tell."""
    steps = [seconds for clip in clips[1:] or clips for seconds in clip.step_seconds]
    return statistics.median(steps) if steps else None


def comparison(compared: Run) -> dict:
    """Times of the reference and of the sampler in the same run; a ratio above 1 means that the sampler is faster."""
    ours, theirs = per_frame(compared.clips), per_frame(compared.theirs)
    our_step, their_step = per_step(compared.clips), per_step(compared.theirs)
    return {
        "s_per_frame": theirs,
        "s_per_step": their_step,
        "first_clip_s": compared.theirs[0].seconds,
        "beside_s_per_frame": ours,
        "beside_s_per_step": our_step,
        "ratio": theirs / ours,
        "step_ratio": their_step / our_step if our_step else None,
        "first_clip_ratio": compared.theirs[0].seconds / compared.clips[0].seconds,
        "difference": max(compared.differences),
        "differences": compared.differences,
    }


def against_length(clips: list[TimedClip]) -> dict:
    """Whether a clip costs the same at the end of a long video: clips 2 to 6 against the last five, memory from clip 3 on."""
    early, late = (statistics.median(clip.seconds for clip in some) for some in (clips[1:6], clips[-5:]))
    third, last = clips[2], clips[-1]
    return {
        "clips": len(clips),
        "early_s_per_frame": early / random_nets.CLIP_FRAMES,
        "late_s_per_frame": late / random_nets.CLIP_FRAMES,
        "late_to_early": late / early,
        "allocated_gib": [third.allocated_gib, last.allocated_gib],
        "resident_gib": [third.resident_gib, last.resident_gib],
    }
