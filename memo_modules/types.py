"""The values that travel between the steps of MEMO. All are immutable.

What another pack may have made has a method ``check``, which raises InputError when something in it can never have come from a
step of MEMO: it names the input, called ``name``, and the field. ``check_interrupt`` is called several times a second and may raise.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from .clips import FASTEST, SLOWEST, clip_count
from .errors import InputError
from .values import check_number, check_tensor, check_tuple, check_whole, described

EMOTIONS = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")
"""Emotion classes in the order of MEMO's classifier; index 9, one past the last, is "no emotion" (guidance)."""

NO_EMOTION = len(EMOTIONS)


TIMINGS = ("exact", "upstream")
"""How the states of a voice lie in time, see audio.features.encode_audio."""

MOST = 2**30
"""Of clips, pixels and samples of a voice at 16 kHz (18 hours): more is no number of them."""

_LATEST = 2**40
"""Sample at which a run of a track without end begins at the latest; a timeline is written up to 277 hours."""

LARGEST_CROP = 16
"""Sides of the photo that a crop's side is at most. A face that fills it, with the widest margin, makes ten."""


@dataclass(frozen=True)
class Audio:
    """A waveform: float32 (channels samples) in [-1, 1], on the CPU.

    made_of: digest of what it was computed from, where computing it again may round otherwise; see fingerprints.audio_digest.
    """

    waveform: Tensor
    sample_rate: int
    made_of: str = ""


_DIGEST = re.compile("(?:[0-9a-f]{64})?")


@dataclass(frozen=True)
class AudioFeatures:
    """wav2vec2 states at video rate, of a voice or of a part of it.

    hidden_states: float32 (frames layers d) of all of the voice, frames a multiple of ``clip_frames``.
    frame_count: frames to keep, ⌈samples · fps / sample_rate⌉ of the audio as it came in.
    timing: "exact" (no stretch) or "upstream" (the reference implementation's padding and stretch).
    start: the frame of the voice that the part begins with. What is before it and after its end is heard and not shown.
    heard: digest of the whole voice and of how it was heard, "" where that is not known.
    """

    hidden_states: Tensor
    fps: Fraction
    frame_count: int
    clip_frames: int
    timing: str = "exact"
    start: int = 0
    heard: str = ""

    def check(self, name: str, check_interrupt: Callable[[], None] = lambda: None) -> None:
        if not isinstance(self.fps, Fraction) or not SLOWEST <= self.fps <= FASTEST:
            raise InputError(f"{name}: fps: expected a fraction from {SLOWEST} to {FASTEST}, got {described(self.fps)}.")
        if not isinstance(self.timing, str) or self.timing not in TIMINGS:
            raise InputError(f"{name}: timing: expected one of {', '.join(TIMINGS)}, got {described(self.timing)}.")
        if not isinstance(self.heard, str) or not _DIGEST.fullmatch(self.heard):
            raise InputError(f"{name}: heard: expected a SHA-256 or nothing, got {described(self.heard)}.")
        check_tensor(self.hidden_states, f"{name}: hidden_states", ("frames", "layers", "d"), check_interrupt=check_interrupt)
        frames = len(self.hidden_states)
        check_whole(self.clip_frames, f"{name}: clip_frames", 1, frames)
        check_whole(self.start, f"{name}: start", 0, frames - 1)
        check_whole(self.frame_count, f"{name}: frame_count", 1, frames - self.start)
        for field, value in (("hidden_states", frames), ("start", self.start)):
            if value % self.clip_frames:
                raise InputError(f"{name}: {field}: expected whole clips of {self.clip_frames} frames, got {value}.")

    @property
    def clips(self) -> int:
        return clip_count(self.frame_count, self.clip_frames)

    def windows(self, start: int, stop: int) -> Tensor:
        """Five-frame windows (stop-start 5 layers d) around frames start..stop-1 of the part. They reach over the borders of
        clips and parts, and at the ends of the voice the outermost frame stands in. Cut when used: whole, ten minutes take 4 GB."""
        frames = torch.arange(start, stop)[:, None] + torch.arange(self.start - 2, self.start + 3)
        return self.hidden_states[frames.clamp(0, len(self.hidden_states) - 1)]

    def split(self, clips: int) -> tuple["AudioFeatures", "AudioFeatures"]:
        """The first ``clips`` clips and the rest. Raises InputError when one of them would be empty."""
        if not 0 < clips < self.clips:
            raise InputError(f"clips: expected 1 to {self.clips - 1}, since this audio has {self.clips}, got {clips}.")
        frames = clips * self.clip_frames
        first = replace(self, frame_count=frames)
        return first, replace(self, frame_count=self.frame_count - frames, start=self.start + frames)


@dataclass(frozen=True)
class EmotionTrack:
    """Emotion over time, as runs of equal label.

    starts: first sample of each run, ascending, starts[0] == 0. labels: one index into EMOTIONS per run.
    probabilities: one tuple of len(EMOTIONS) per run, None for a run that was set by hand; None where all were.
    samples: length of the audio, 0 for a track without end (one emotion set by hand).
    """

    starts: tuple[int, ...]
    labels: tuple[int, ...]
    probabilities: tuple[tuple[float, ...] | None, ...] | None
    samples: int
    sample_rate: int

    def check(self, name: str, check_interrupt: Callable[[], None] = lambda: None) -> None:
        check_whole(self.sample_rate, f"{name}: sample_rate", 1, 10**6)
        check_whole(self.samples, f"{name}: samples", 0, MOST)
        for field in ("starts", "labels"):
            check_tuple(getattr(self, field), f"{name}: {field}")
        check_tuple(self.labels, f"{name}: labels", len(self.starts))
        for start in self.starts:
            check_whole(start, f"{name}: starts", 0, (self.samples or _LATEST) - 1)
        if self.starts[0] or any(start >= following for start, following in pairwise(self.starts)):
            raise InputError(f"{name}: starts: expected rising numbers from 0, got {described(str(self.starts))}.")
        for label in self.labels:
            check_whole(label, f"{name}: labels", 0, len(EMOTIONS) - 1)
        if self.probabilities is not None:
            check_tuple(self.probabilities, f"{name}: probabilities", len(self.starts))
            for run in self.probabilities:
                if run is None:
                    continue
                check_tuple(run, f"{name}: probabilities", len(EMOTIONS))
                for probability in run:
                    check_number(probability, f"{name}: probabilities", 0, 1.001)  # softmax rounds


def frame_labels(track: EmotionTrack, frames: int, fps: Fraction, timing: str) -> list[int]:
    """One label for each of ``frames`` video frames.

    timing "exact": the label heard when the frame starts, the last one after the end of the audio. "upstream": the
    labels stretched over all frames, padding included, as the reference implementation does.
    """
    if timing == "upstream" and track.samples:
        lengths = torch.tensor(track.starts + (track.samples,)).diff()
        per_sample = torch.tensor(track.labels, dtype=torch.float32).repeat_interleave(lengths)
        # torch scales the index in float32, which moves some borders by a frame: so it is torch that does it.
        return F.interpolate(per_sample[None, None], size=frames, mode="nearest")[0, 0].int().tolist()
    samples = (i * track.sample_rate * fps.denominator // fps.numerator for i in range(frames))
    return [track.labels[bisect_right(track.starts, sample) - 1] for sample in samples]


def clip_label(labels: list[int]) -> int:
    """The most frequent label; of equally frequent ones the smallest."""
    return min(set(labels), key=lambda label: (-labels.count(label), label))


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    embedding: float32 (1 512), as the recogniser gives it, not normalised; zeros stand for "no face".
    box: x1 y1 x2 y2 in pixels of the picture, None for a zero embedding. score: detection confidence in [0, 1].
    """

    embedding: Tensor
    box: tuple[float, float, float, float] | None
    score: float

    def check(self, name: str, check_interrupt: Callable[[], None] = lambda: None) -> None:
        check_tensor(self.embedding, f"{name}: embedding", (1, "d"))
        if self.box is not None:
            check_tuple(self.box, f"{name}: box", 4)
            for value in self.box:
                check_number(value, f"{name}: box", -MOST, MOST)
        check_number(self.score, f"{name}: score", -MOST, MOST)


@dataclass(frozen=True)
class Crop:
    """A square of a photo, in its pixels; parts of the square may lie outside of the photo.

    left, top: where the square begins, negative outside. side: its width and height. photo_size: (width, height).
    """

    left: int
    top: int
    side: int
    photo_size: tuple[int, int]

    def check(self, name: str, check_interrupt: Callable[[], None] = lambda: None) -> None:
        check_tuple(self.photo_size, f"{name}: photo_size", 2)
        for length in self.photo_size:
            check_whole(length, f"{name}: photo_size", 1, MOST)
        check_whole(self.side, f"{name}: side", 1, LARGEST_CROP * max(self.photo_size))
        for field, length in zip(("left", "top"), self.photo_size, strict=True):
            check_whole(getattr(self, field), f"{name}: {field}", 1 - self.side, length - 1)  # some of it is in the photo

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and the columns of the photo that lie in the square."""
        width, height = self.photo_size
        return slice(max(self.top, 0), min(self.top + self.side, height)), slice(max(self.left, 0), min(self.left + self.side, width))


@dataclass(frozen=True)
class AttentionMemory:
    """What one linear-attention block remembers of all past frames.

    kv: (rows heads d d), z: (rows heads d), rows = guidance branches times picture positions.
    """

    kv: Tensor
    z: Tensor


MotionMemory = MutableSequence[tuple[AttentionMemory, ...] | None]
"""One tuple per motion module in forward order, holding one memory per attention block; None where no frame has passed.

A sequence whose items are replaced one by one, because two of it would not fit: 6.5 GiB at 512×512 in bfloat16."""


@dataclass(frozen=True)
class ReferenceFeatures:
    """What the reference net sees in pictures, one tensor per layer of the diffusion net in forward order.

    A layer with spatial attention has tokens (images t d), one without has a feature map (images c h w).
    """

    layers: Sequence[Tensor]

    def select(self, images: list[int]) -> "ReferenceFeatures":
        """The features of some images, in the order given; an image may be named more than once."""
        return ReferenceFeatures(tuple(torch.stack([layer[i] for i in images]) for layer in self.layers))


@dataclass(frozen=True)
class SamplerSettings:
    """steps: Euler steps per clip, at least 1. guidance_scale: 1 or less runs without the unconditional branch.
    seed: of the noise. num_init_past_frames: copies of the portrait that stand in for the past at the start.
    num_past_frames: frames of the previous clip that the next one remembers, at most a clip.
    reference_order: "upstream" pairs face contexts and pictures as every published sample was made,
    "aligned" as in training. noise: "independent" for each clip as published, or "smooth", see noise.clip_noise.

    What follows leaves out some of the work; sampler/recipes.py has sets of it that go together. schedule and solver: keys of
    solvers.SCHEDULES and SOLVERS. unconditional_every: the unconditional branch runs in every n-th pass, and its last result
    counts in those between. past_every: one of n past frames is looked at and stands for them. whole_every: the whole net runs in
    every n-th pass, its first and last two layers alone in those between (DeepCache, arXiv 2312.00858).
    """

    steps: int = 20
    guidance_scale: float = 3.5
    seed: int = 42
    num_init_past_frames: int = 16
    num_past_frames: int = 16
    reference_order: str = "upstream"
    noise: str = "independent"
    schedule: str = "published"
    solver: str = "euler"
    unconditional_every: int = 1
    past_every: int = 1
    whole_every: int = 1

    @property
    def guided(self) -> bool:
        """Whether guidance is on: at a scale of 1 or less the unconditional branch has no part in the result."""
        return self.guidance_scale > 1

    @property
    def branches(self) -> int:
        """Guidance branches that run side by side: unconditional and conditional, or the conditional alone."""
        return 2 if self.guided else 1


DEFAULT_SETTINGS = SamplerSettings()


@dataclass(frozen=True)
class VideoState:
    """What it takes to continue a video where it ended. The motion memory is not in it: 6.5 GiB at 512×512, it is
    rebuilt from ``past_latents``.

    past_latents: encoded past frames (n c h w) of the last clips exactly as they were used, oldest first; 24 clips at
    most, since the decay takes everything before below the resolution of float32. latents: what was sampled for the
    last clip (f c h w). last_frames: frames of it that the video has, fewer than f where the audio ended within it.
    clips: clips made so far. generator: state of the noise generator after the last clip. model: see
    fingerprints.weights_digest.
    """

    past_latents: tuple[Tensor, ...]
    latents: Tensor
    last_frames: int
    clips: int
    generator: Tensor
    model: str

    def check(self, name: str, check_interrupt: Callable[[], None] = lambda: None) -> None:
        check_tensor(self.latents, f"{name}: latents", ("frames", 4, "h", "w"))
        check_tuple(self.past_latents, f"{name}: past_latents")
        for past in self.past_latents:
            check_interrupt()
            check_tensor(past, f"{name}: past_latents", ("frames", *self.latents.shape[1:]))
        check_whole(self.last_frames, f"{name}: last_frames", 1, len(self.latents))
        check_whole(self.clips, f"{name}: clips", 1, MOST)
        if not isinstance(self.model, str):
            raise InputError(f"{name}: model: expected text, got {described(self.model)}.")
        check_tensor(self.generator, f"{name}: generator", ("bytes",), torch.uint8)
        try:
            torch.Generator().set_state(self.generator)
        except (RuntimeError, TypeError):
            raise InputError(f"{name}: generator: expected the state of a generator of torch, got other bytes.") from None
