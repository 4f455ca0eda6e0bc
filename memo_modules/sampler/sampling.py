"""The sampler: clip by clip, with the memory of all past frames carried from one clip to the next.

Whatever is constant over a video or a clip is computed once, outside the steps. Paper: MEMO (arXiv 2412.04448), section 3; the order
of operations is that of the published sampler.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import InputError
from ..host import SILENT, Host
from ..models.diffusion_net import DiffusionNet, LayerBiases, SpatialContexts
from ..models.projections import AudioProjection, ImageProjection
from ..models.reference_net import ReferenceNet
from ..small_decoder import Decode
from ..types import (
    DEFAULT_SETTINGS,
    NO_EMOTION,
    AudioFeatures,
    EmotionTrack,
    Face,
    ReferenceFeatures,
    SamplerSettings,
    VideoState,
    clip_label,
    frame_labels,
)
from ..vae import MULTIPLE, VideoVAE
from ..weights.checkpoints import NETS
from ..weights.checks import not_finite
from ..weights.fingerprints import weights_digest
from ..words import quoted
from . import solvers
from .guidance import ClipConditioning, GuidedVelocity
from .noise import NOISES, clip_noise
from .preview import LatentPreview
from .reference_order import REFERENCE_ORDERS, face_context, portrait_branches
from .streaming import HostTensors, StreamedMemory

CHOICES = {"reference_order": REFERENCE_ORDERS, "noise": NOISES, "schedule": tuple(solvers.SCHEDULES), "solver": tuple(solvers.SOLVERS)}
"""Settings that are a word."""

REPLAYED_CLIPS = 24
"""Clips that a rebuilt memory replays: 0.9^(16·24) is below half a unit in the last place of float32."""


@dataclass(frozen=True)
class MemoNets:
    """The four nets. The UNets compute in ``dtype`` on ``device``, the projections in float32.

    bring_in: called before a phase of the work, so that a host which manages memory can bring the phase's nets to ``device``. Phase
        "reference" runs reference_net and image_proj, "diffusion" runs diffusion_net and audio_proj. The second argument says whether a
        motion memory exists.
    resident_share: the share of the motion memory that may stay on ``device`` in low-memory mode. eight_bits: whether the rest, in RAM, is
        rounded to 8 bits, which halves it.
    """

    reference_net: ReferenceNet
    diffusion_net: DiffusionNet
    image_proj: ImageProjection
    audio_proj: AudioProjection
    device: torch.device
    dtype: torch.dtype
    bring_in: Callable[[str, bool], None] = lambda phase, remembers: None
    resident_share: float = 0.0
    eight_bits: bool = False


@dataclass(frozen=True)
class SampledClip:
    """frames: float32 (f 3 H W) in [0, 1], cut to the length of the audio, without those of the lead-in. state: to continue from here."""

    frames: Tensor
    state: VideoState


@torch.inference_mode()
def sample_video(
    nets: MemoNets,
    vae: VideoVAE,
    portrait: Tensor,
    face: Face,
    audio: AudioFeatures,
    emotion: EmotionTrack,
    settings: SamplerSettings = DEFAULT_SETTINGS,
    *,
    host: Host = SILENT,
    state: VideoState | None = None,
    done: int = 0,
    lead_in: int = 0,
    noise: Callable[[int], Tensor] | None = None,
    solver: solvers.Solver | None = None,
    sigmas: Tensor | None = None,
    low_memory: bool = False,
    decoder: Decode | None = None,
) -> Iterator[SampledClip]:
    """Sample the video of a voice, one clip after the other.

    Args:
        portrait: (1 3 H W) in [-1, 1].
        host: its progress is called after each step with the number of steps done, of all steps, and a preview: after the last step of a
            clip one of its frames (3 H W) in [0, 1], before that now and then a small picture (3 h w) of it, otherwise None. Before the
            last step of a clip is reported, its clip_done is called. It may interrupt before each step.
        state: continue after the video that ends with it.
        done: how many of that video's last clips were made from this same audio, counting the lead-in first.
        lead_in: number of clips from the beginning of the audio that are made first and not shown, so that the face is already
            moving when the voice begins.
        noise: from the number of clips before this one to its noise (f c h w); by default it is drawn from the seed.
        solver: see solvers.Solver; replaces ``settings.solver``.
        sigmas: falling from 1 to 0, one more than there are steps; replaces ``settings.steps`` and ``schedule``.
        low_memory: the same frames up to rounding, with the guidance branches one after the other and the motion memory in RAM.
        decoder: makes the frames that are shown; the VAE then decodes only those that the next clip looks back on. Up to rounding latents,
            and so states, are the same with and without one.

    Raises:
        InputError: settings are out of range, the state belongs to another model or size, or the nets compute NaN or infinity.
    """
    check_inputs(nets, face, audio, settings)
    sigmas = solvers.SCHEDULES[settings.schedule](settings.steps) if sigmas is None else sigmas
    solvers.check_sigmas(sigmas)
    solver = solver or solvers.SOLVERS[settings.solver]
    model = weights_digest(nets.reference_net, nets.diffusion_net)
    if state is not None:
        if lead_in and not done:
            raise InputError(f"lead_in: expected 0 when state continues a video, got {lead_in}.")
        check_state(state, model, portrait, audio)
    video = _Video(nets, vae, portrait, face, audio, emotion, settings, noise, low_memory, model, decoder)
    yield from video.sample(clip_order(audio.clips, lead_in), done, state, solver, sigmas, host)


def clip_order(clips: int, lead_in: int) -> list[tuple[int, bool]]:
    """The clips of the audio in the order in which they are made, each with whether it is shown."""
    return [(clip % clips, False) for clip in range(lead_in)] + [(clip, True) for clip in range(clips)]


def check_state(state: VideoState, model: str, portrait: Tensor, audio: AudioFeatures) -> None:
    """Raises InputError if a video that ended with ``state`` cannot continue with this model, size or audio."""
    frames, _, h, w = state.latents.shape
    height, width = h * MULTIPLE, w * MULTIPLE
    if portrait.shape[2:] != (height, width):
        raise InputError(
            f"state: its video is {width} x {height}, but this one is {portrait.shape[3]} x {portrait.shape[2]}. Set width and height to match."
        )
    if frames != audio.clip_frames:
        raise InputError(f"state: its clips have {frames} frames, but those of the audio have {audio.clip_frames}.")
    if state.model != model:
        raise InputError("state: its video was made with another model, or with the same one in another weight_dtype. Continue with that one.")


def check_inputs(nets: MemoNets, face: Face, audio: AudioFeatures, settings: SamplerSettings) -> None:
    """Raises InputError, naming the input, if one cannot be used with these nets."""
    for name in ("num_init_past_frames", "num_past_frames", "unconditional_every", "past_every", "whole_every"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name}: expected at least 1, got {getattr(settings, name)}.")
    if not math.isfinite(settings.guidance_scale):
        raise InputError(f"guidance_scale: expected a number, got {settings.guidance_scale}.")
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            raise InputError(f"{name}: expected one of {', '.join(choices)}, got {getattr(settings, name)!r}.")
    d_face = nets.image_proj.d_face
    if face.embedding.shape != (1, d_face):
        raise InputError(f"face: expected an embedding of shape [1, {d_face}], got {list(face.embedding.shape)}. Use MEMO Embed Face.")
    motion = nets.diffusion_net.config.motion_module_kwargs
    longest = motion.temporal_position_encoding_max_len
    if motion.temporal_position_encoding and audio.clip_frames > longest:
        raise InputError(f"audio: its clips have {audio.clip_frames} frames, but this model makes at most {longest} at a time.")
    values = audio.windows(0, 1).numel()
    if values != nets.audio_proj.d_in:
        raise InputError(
            f"audio: the audio encoder gives {values} numbers per five-frame window, but this model takes {nets.audio_proj.d_in}. "
            "Load the audio encoder that belongs to the model (wav2vec2-base-960h for the published one)."
        )


_VAE_REMEDY = "Its weights are damaged, or it leaves the range of float16: fetch it again, or start ComfyUI with --fp32-vae."


def _not_finite(clip: int, nets: MemoNets) -> str:
    """Reading all weights takes seconds, so it is done when something is known to be wrong."""
    damaged = (f"{net}: {quoted(key)}" for net in NETS for key in not_finite(getattr(nets, net)))
    if first := next(damaged, None):
        remedy = f"The weight {first} holds such numbers: fetch that file again."
    elif nets.dtype == torch.float16:
        wider = "fp16_fp32" if nets.diffusion_net.stream is None else "fp32"
        remedy = f"It leaves the range of float16: choose weight_dtype {wider} in Load MEMO Model, or bf16 where the GPU has it."
    else:
        remedy = "All weights are finite. If sampler or sigmas are connected, try without."
    return f"model: clip {clip + 1} came out as NaN or infinite. {remedy}"


def _finite_at_first(velocity: solvers.Velocity, reason: Callable[[], str]) -> solvers.Velocity:
    """``velocity``, whose first result raises InputError where it is not finite: what leaves float16 mostly does so at once, and a clip may
    take minutes. Later results are not looked at one by one, which would have the device wait each time."""
    looked = False

    def checked(latents: Tensor, sigma: Tensor) -> Tensor:
        nonlocal looked
        value = velocity(latents, sigma)
        if not looked and not value.isfinite().all():
            raise InputError(reason())
        looked = True
        return value

    return checked


@dataclass(frozen=True)
class _Clip:
    """latents: (f c h w). frames: (f 3 H W) in [0, 1], as the VAE decodes them; None where it has not."""

    latents: Tensor
    frames: Tensor | None


class _Video:
    """Everything that is constant over one video, and the loop over its clips."""

    def __init__(
        self,
        nets: MemoNets,
        vae: VideoVAE,
        portrait: Tensor,
        face: Face,
        audio: AudioFeatures,
        emotion: EmotionTrack,
        settings: SamplerSettings,
        noise: Callable[[int], Tensor] | None,
        low_memory: bool,
        model: str,
        decoder: Decode | None,
    ):
        self.nets, self.vae, self.audio, self.settings, self.model, self.decoder = nets, vae, audio, settings, model, decoder
        self.branches = settings.branches
        self.labels = frame_labels(emotion, len(audio.hidden_states), audio.fps, audio.timing)[audio.start :]
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.noise = noise or self._draw_noise
        self.portrait_latents = self._encode(portrait)
        if not self.portrait_latents.isfinite().all():
            raise InputError(f"vae: the portrait came out as NaN or infinite. {_VAE_REMEDY}")
        self.preview = LatentPreview(portrait, self.portrait_latents)
        nets.bring_in("reference", False)
        embedding = face.embedding.to(nets.device, torch.float32)
        self.face_tokens = nets.image_proj(torch.cat([torch.zeros_like(embedding), embedding]) if self.branches == 2 else embedding).to(nets.dtype)
        # encoded once per face context; every clip selects some of them
        self.portrait_features = nets.reference_net(self.portrait_latents.to(nets.dtype).expand(self.branches, -1, -1, -1), self.face_tokens)
        every = tuple(range(self.branches))
        self.passes = [(branch,) for branch in every] if low_memory else [every]
        self.streamed = low_memory and nets.device.type != "cpu"
        if self.streamed:
            modules = len(self.portrait_features.layers)
            self.memories = StreamedMemory.split(modules, len(self.passes), nets.device, nets.resident_share, nets.eight_bits)
        else:
            self.memories = [nets.diffusion_net.empty_memory() for _ in self.passes]
        self.remembers = False
        self.spatial: dict[tuple, SpatialContexts] = {}
        self.biases: Sequence[LayerBiases] | None = None

    def sample(
        self,
        clips: Sequence[tuple[int, bool]],
        done: int,
        state: VideoState | None,
        solver: solvers.Solver,
        sigmas: Tensor,
        host: Host,
    ) -> Iterator[SampledClip]:
        audio, nets, steps = self.audio, self.nets, len(sigmas) - 1
        last = None
        if state is not None:
            self.generator.set_state(state.generator)
            last = self._clip(state.latents.to(nets.device), state.last_frames)
            for past_latents in state.past_latents:
                host.check_interrupt()
                self._remember(past_latents)
        for number, (clip, shown) in enumerate(clips[done:], start=done):
            host.check_interrupt()
            past_latents = self._past_latents(last)
            if not past_latents.isfinite().all():
                raise InputError(f"vae: the past of clip {number + 1} came out as NaN or infinite. {_VAE_REMEDY}")
            self._remember(past_latents)
            passes = self._conditioning(clip, len(past_latents))
            guided = GuidedVelocity(nets.diffusion_net, passes, self.settings, audio.clip_frames)
            velocity = self.preview.watch(_finite_at_first(guided, partial(_not_finite, number, nets)))

            def after_step(step: int, before: int = number * steps) -> None:
                if step < steps:
                    host.progress(before + step, len(clips) * steps, self.preview.picture(step))
                    host.check_interrupt()

            noise = self.noise(state.clips if state else 0).to(nets.device, torch.float32)
            latents = solver(velocity, noise, sigmas.to(nets.device, torch.float32), after_step)
            if not latents.isfinite().all():  # later clips remember this one, and would be the same
                raise InputError(_not_finite(number, nets))
            kept = min(audio.clip_frames, audio.frame_count - clip * audio.clip_frames)
            last = self._clip(latents, kept)
            frames = last.frames if self.decoder is None else self.decoder(last.latents).cpu()
            assert frames is not None  # which they are without a decoder
            if not frames.isfinite().all():
                maker, remedy = ("vae", _VAE_REMEDY) if self.decoder is None else ("decoder", "Fetch its file again, or choose full.")
                raise InputError(f"{maker}: the frames of clip {number + 1} came out as NaN or infinite. {remedy}")
            host.clip_done(frames, audio.fps)
            host.progress((number + 1) * steps, len(clips) * steps, frames[0])
            state = self._next_state(state, past_latents, latents, kept)
            yield SampledClip(frames if shown else frames[:0], state)

    def _draw_noise(self, clip: int) -> Tensor:
        return clip_noise(self.settings.noise, self.generator, clip, self.audio.clip_frames, self.portrait_latents.shape[1:])

    def _clip(self, latents: Tensor, kept: int) -> "_Clip":
        """The first ``kept`` frames of a clip. Without a decoder all are shown, and decoded at once as they always were."""
        return _Clip(latents[:kept], self._decode(latents)[:kept] if self.decoder is None else None)

    def _past_latents(self, last: "_Clip | None") -> Tensor:
        """What the clip after ``last`` looks back on, once through the VAE; at the start of a video the portrait."""
        if last is None:
            return self.portrait_latents.expand(self.settings.num_init_past_frames, -1, -1, -1)
        past = slice(-self.settings.num_past_frames, None)
        seen, stands_for = self._seen(len(last.latents[past]))
        frames = self._decode(last.latents[past][seen]) if last.frames is None else last.frames[past][seen]
        return self._encode(frames * 2 - 1).repeat_interleave(torch.tensor(stands_for, device=self.nets.device), dim=0)

    def _seen(self, frames: int) -> tuple[list[int], list[int]]:
        """Which of so many past frames are looked at, the newest of each group, and how many each of them stands for."""
        seen = [*range(frames - 1, -1, -self.settings.past_every)][::-1]
        return seen, [frame - before for before, frame in pairwise([-1, *seen])]

    def _remember(self, past_latents: Tensor) -> None:
        """Add the past frames of a clip to the memory, and leave the nets of the diffusion phase on the device."""
        seen, stands_for = self._seen(len(past_latents))
        past_latents = past_latents[seen]
        self.nets.bring_in("reference", self.remembers)
        features = [self._put_by(self._past_features(past_latents, branches)) for branches in self.passes]
        self.nets.bring_in("diffusion", self.remembers)
        for memory in self.memories:
            self.nets.diffusion_net.update_memory(features.pop(0), memory, len(seen), stands_for if self.settings.past_every > 1 else None)
        self.remembers = True

    def _put_by(self, features: ReferenceFeatures) -> ReferenceFeatures:
        """Move features to RAM in low-memory mode, to make room for the nets of the next phase."""
        return ReferenceFeatures(HostTensors(features.layers, self.nets.device)) if self.streamed else features

    def _past_features(self, past_latents: Tensor, branches: tuple[int, ...]) -> ReferenceFeatures:
        """Features of the past frames for some guidance branches; each distinct pair (picture, face context) is encoded once."""
        n, order = len(past_latents), self.settings.reference_order
        wanted = [(k, face_context(self.branches, branch, k + 1, n + 1, order)) for branch in branches for k in range(n)]
        if torch.equal(past_latents, self.portrait_latents.to(past_latents.device).expand_as(past_latents)):  # already encoded
            return self.portrait_features.select([context for _, context in wanted])
        distinct = list(dict.fromkeys(wanted))
        pictures = torch.stack([past_latents[k] for k, _ in distinct]).to(self.nets.device, self.nets.dtype)
        features = self.nets.reference_net(pictures, torch.stack([self.face_tokens[context] for _, context in distinct]))
        return features if distinct == wanted else features.select([distinct.index(pair) for pair in wanted])

    def _conditioning(self, clip: int, past_frames: int) -> list[ClipConditioning]:
        """The conditioning of each pass for this clip."""
        nets, audio = self.nets, self.audio
        start, stop = clip * audio.clip_frames, (clip + 1) * audio.clip_frames
        tokens = nets.audio_proj(audio.windows(start, stop).to(nets.device, torch.float32)).to(nets.dtype)
        labels = [NO_EMOTION, clip_label(self.labels[start:stop])][-self.branches :]
        if self.biases is None:
            self.biases = nets.diffusion_net.layer_biases(tokens)
        passes = []
        for branches, memory in zip(self.passes, self.memories, strict=True):
            audio_tokens = torch.cat([tokens if self._is_guided(branch) else torch.zeros_like(tokens) for branch in branches])
            emotion = torch.tensor([labels[branch] for branch in branches], device=nets.device)
            modulations = nets.diffusion_net.emotion_modulations(emotion, nets.dtype)
            passes.append(ClipConditioning(audio_tokens, self._spatial_contexts(branches, past_frames), modulations, memory, self.biases))
        return passes

    def _is_guided(self, branch: int) -> bool:
        return branch == self.branches - 1

    def _spatial_contexts(self, branches: tuple[int, ...], past_frames: int) -> SpatialContexts:
        order, face_tokens = self.settings.reference_order, self.face_tokens[list(branches)]
        contexts = ()
        if self._is_guided(branches[-1]):
            contexts = tuple(
                face_context(self.branches, branch, 0, past_frames + 1, order)
                for branch in portrait_branches(self.branches, 1, self.audio.clip_frames, order)
            )
        if (branches, contexts) not in self.spatial:
            reference = self.portrait_features.select(list(contexts)) if contexts else None
            self.spatial[branches, contexts] = self.nets.diffusion_net.spatial_contexts(face_tokens, reference)
        return self.spatial[branches, contexts]

    def _next_state(self, state: VideoState | None, past_latents: Tensor, latents: Tensor, last_frames: int) -> VideoState:
        before, clips = (state.past_latents, state.clips) if state else ((), 0)
        past = (*before, past_latents.cpu())[-REPLAYED_CLIPS:]
        return VideoState(past, latents.cpu(), last_frames, clips + 1, self.generator.get_state(), self.model)

    def _encode(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).to(self.nets.device)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).cpu()
