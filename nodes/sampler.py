"""The node that makes the frames, and what every node that samples has in common."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from comfy_api.latest import io, ui

from ..memo_modules.host import Host
from ..memo_modules.models import acceleration
from ..memo_modules.portrait.pictures import prepare_portrait, squash_note
from ..memo_modules.progress import clips_done, contact_sheet, video_done
from ..memo_modules.sampler import recipes
from ..memo_modules.sampler.cost import Cost
from ..memo_modules.sampler.footprint import MEMORY_MODES
from ..memo_modules.sampler.noise import NOISES
from ..memo_modules.sampler.reference_order import REFERENCE_ORDERS
from ..memo_modules.sampler.sampling import SampledClip, sample_video
from ..memo_modules.small_decoder import DECODERS
from ..memo_modules.types import AudioFeatures, SamplerSettings, VideoState
from ..memo_modules.video import journal
from ..memo_modules.video.journal import Inputs, Journal
from ..memo_modules.video.unfinished import DAY
from ..memo_modules.weights.fingerprints import block_values, some_values, tensor_digest, weights_digest
from . import comfy_adapter as adapter
from . import comfy_output
from . import comfy_sockets as sockets
from .comfy_lists import Item, ListNode
from .socket_types import AudioFeaturesSocket, EmotionSocket, FaceSocket, MemoModelSocket, VideoStateSocket

KEPT_DAYS, KEPT_BYTES = 14, 50 * 10**9
"""How long unfinished videos are kept, and how much of them."""

_log = logging.getLogger(__name__)


def denoising_inputs() -> list[io.Input]:
    """What each clip is sampled with."""
    return [
        io.Int.Input(
            "steps", default=20, min=1, max=1000, tooltip="Denoising steps per clip. More take proportionally longer; past 20 little changes."
        ),
        io.Float.Input(
            "guidance_scale",
            default=3.5,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How strictly face, voice and mood are followed. Higher values give more motion; too high looks harsh. "
            "At 1 or below guidance is off and sampling takes half the time.",
        ),
        io.Int.Input(
            "seed",
            default=42,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Seed of the noise. The same seed gives the same frames.",
        ),
    ]


def sampling_inputs() -> list[io.Input]:
    """What a node takes that samples, see Sampling; noise_input goes with them."""
    return [
        MemoModelSocket.Input("model", tooltip="From Load MEMO Model."),
        io.Vae.Input("vae", tooltip="A Stable Diffusion 1 VAE, from Load MEMO VAE or any other loader; MEMO was made with sd-vae-ft-mse."),
        io.Image.Input("image", tooltip="The portrait, one RGB picture. It is squashed if its aspect ratio is not that of width by height."),
        FaceSocket.Input("face", tooltip="The identity, from MEMO Embed Face."),
        AudioFeaturesSocket.Input("audio", tooltip="What is said: from MEMO Encode Audio. Sets length and frame rate."),
        EmotionSocket.Input("emotion", tooltip="The mood: from MEMO Detect Emotion, MEMO Set Emotion or MEMO Emotion Timeline."),
        io.Int.Input(
            "width",
            default=512,
            min=64,
            max=2048,
            step=8,
            tooltip="Width of the video in pixels. MEMO was trained at 512; time and memory grow faster than the area.",
        ),
        io.Int.Input("height", default=512, min=64, max=2048, step=8, tooltip="Height of the video in pixels. MEMO was trained at 512."),
        *denoising_inputs(),
        io.Int.Input(
            "num_init_past_frames",
            default=16,
            min=1,
            max=16,
            tooltip="Copies of the portrait that the first clip remembers. Fewer let it move sooner, more keep it closer to the portrait.",
            **adapter.known(io.Int.Input, advanced=True),
        ),
        io.Combo.Input(
            "reference_order",
            options=list(REFERENCE_ORDERS),
            default=REFERENCE_ORDERS[0],
            tooltip="How face contexts are paired with reference pictures. upstream: as in every published sample. aligned: as in training.",
            **adapter.known(io.Combo.Input, advanced=True),
        ),
        io.Combo.Input(
            "memory_mode",
            options=list(MEMORY_MODES),
            default=MEMORY_MODES[0],
            optional=True,
            tooltip="normal: everything in VRAM, 14 GiB at 512 x 512. low: runs the two guidance branches one after the "
            "other and keeps the memory of past frames in RAM, for a GPU with 8 GB. auto: low where normal does not fit.",
        ),
        io.Sampler.Input("sampler", optional=True, tooltip="From KSamplerSelect or another sampler node. Without one: Euler, as MEMO was published."),
        io.Sigmas.Input("sigmas", optional=True, tooltip="Noise levels falling from 1 to 0; replaces steps. Default: MEMO's own, evenly spaced."),
        VideoStateSocket.Input(
            "state", optional=True, tooltip="Continues the video of another sampler node without a seam; width and height must match."
        ),
        io.Float.Input(
            "lead_in",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.1,
            optional=True,
            tooltip="Seconds from the start of the audio to sample first and discard, so that the face is already moving at the first word. "
            "Try 0.5 to 1 if the first second looks frozen.",
            **adapter.known(io.Float.Input, advanced=True),
        ),
    ]


def noise_input() -> io.Input:
    """Goes with sampling_inputs, last of all: widgets of saved workflows are told by their place."""
    return io.Combo.Input(
        "noise",
        options=list(NOISES),
        default=NOISES[0],
        optional=True,
        tooltip="independent: each clip starts from noise of its own, as MEMO was published. smooth: neighbouring clips share noise, "
        "so the face does not jump where they meet.",
        **adapter.known(io.Combo.Input, advanced=True),
    )


def preset_input() -> io.Input:
    """Goes with noise_input, after it."""
    return io.Combo.Input(
        "preset",
        options=list(recipes.PRESETS),
        default=recipes.PRESETS[0],
        optional=True,
        tooltip="exact: as MEMO was published, with the steps set here. fast: 6 better steps with less work in each, 1/4 of the time. draft: "
        "1/6. Without guidance 1/7 and 1/11. turbo: as the model says that was distilled for it. All but exact replace steps.",
    )


def decoder_input() -> io.Input:
    """The last one of a node that samples."""
    return io.Combo.Input(
        "decoder",
        options=list(DECODERS),
        default=DECODERS[0],
        optional=True,
        tooltip="What makes pictures of latents. full: the VAE. small: taesd_decoder.safetensors in models/vae_approx, coarser, for drafts; it "
        "takes a quarter off draft without guidance. What later clips remember is the same with both.",
        **adapter.known(io.Combo.Input, advanced=True),
    )


class Sampling:
    """What the inputs of a node that samples ask for. Raises InputError for those that cannot be used."""

    def __init__(
        self,
        model,
        vae,
        image,
        face,
        audio: AudioFeatures,
        emotion,
        width,
        height,
        steps,
        guidance_scale,
        seed,
        num_init_past_frames=16,
        reference_order=REFERENCE_ORDERS[0],
        memory_mode="auto",
        sampler=None,
        sigmas=None,
        state: VideoState | None = None,
        lead_in=0.0,
        noise=NOISES[0],
        preset=recipes.PRESETS[0],
        decoder=DECODERS[0],
    ):
        self.decoder = adapter.small_decoder() if decoder == "small" else None
        self.model, self.vae, self.face, self.audio, self.emotion = model, sockets.CoreVAE(vae), face, audio, emotion
        settings = SamplerSettings(
            steps, guidance_scale, seed, num_init_past_frames=num_init_past_frames, reference_order=reference_order, noise=noise
        )
        self.settings = recipes.apply(preset, settings, model.recipe)
        self.portrait, self.memory_mode, self.sampler, self.sigmas = prepare_portrait(image, width, height), memory_mode, sampler, sigmas
        self.state, self.lead_in = state, math.ceil(lead_in * audio.fps / audio.clip_frames)
        self.notes = [note] if (note := squash_note((image.shape[2], image.shape[1]), (width, height))) else []
        """For adapter.host."""

    def clips(self, state: VideoState | None, done: int, host: Host) -> Iterator[SampledClip]:
        """The clips after ``state`` and the first ``done``. Where the VRAM does not suffice, it says so and continues in
        low-memory mode."""
        memory_mode, size = self.memory_mode, self.vae.latent_size(self.portrait)
        if self.sampler is None and self.sigmas is None:  # how many passes another sampler makes is its own affair
            self._log_cost(size)
        while True:
            nets, low_memory = adapter.memo_nets(self.model, size, self.settings, self.audio.clip_frames, memory_mode)
            least = low_memory and not nets.resident_share
            try:
                for clip in sample_video(
                    nets,
                    self.vae,
                    self.portrait,
                    self.face,
                    self.audio,
                    self.emotion,
                    self.settings,
                    host=host,
                    state=state,
                    done=done,
                    lead_in=self.lead_in,
                    solver=None if self.sampler is None else sockets.CoreSolver(self.sampler, self.settings.seed + (state.clips if state else 0)),
                    sigmas=self.sigmas,
                    low_memory=low_memory,
                    decoder=self.decoder,
                ):
                    state, done = clip.state, done + 1
                    yield clip
                return
            except Exception as error:
                if least or not adapter.is_out_of_memory(error):
                    raise
                memory_mode = "low"
            # outside of the handler, whose traceback holds what the failed clip had allocated
            host.say(f"Out of memory in clip {done + 1}. Continuing in low-memory mode, which is slower.")
            nets = None
            adapter.free_memory()

    def keep_kernels(self, kept: Journal) -> None:
        """Which kernels are the fastest is found anew at each start, and each rounds in its own way: a video that continues takes those that it
        was begun with."""
        nets = self.model.reference_net.model, self.model.diffusion_net.model
        acceleration.keep_choices(kept.kernels, *nets)

    def shown(self, latents: torch.Tensor, frames: int) -> torch.Tensor:
        """The first ``frames`` of a clip that was made before, (f 3 H W) in [0, 1]."""
        return self.vae.decode(latents)[:frames] if self.decoder is None else self.decoder(latents[:frames])

    def _log_cost(self, size: tuple[int, int]) -> None:
        frames, settings = self.audio.clip_frames, self.settings
        cost = Cost(self.model.config, size, settings, frames, DECODERS[self.decoder is not None]).per_frame
        published = Cost(self.model.config, size, recipes.published(settings), frames).per_frame
        _log.info("MEMO: %d steps, %.3g TFLOP per frame, %.2g times less than published.", settings.steps, cost * 1e-12, published / cost)

    def inputs(self) -> Inputs:
        """What tells this video from every other."""
        audio, emotion, settings = self.audio, self.emotion, recipes.named(self.settings)
        exact = {
            **{name: str(value) for name, value in settings.items()},
            "model": self.model.digest(),
            "vae": self.vae.digest(),
            "image": tensor_digest(self.portrait),
            "audio": f"{audio.frame_count} {audio.start} {audio.fps} {audio.timing}",
            "emotion": json.dumps([emotion.starts, emotion.labels, emotion.samples, emotion.sample_rate]),
            "memory_mode": self.memory_mode,
            "sampler": "" if self.sampler is None else sockets.sampler_name(self.sampler),
            "sigmas": "" if self.sigmas is None else tensor_digest(self.sigmas.cpu()),
            "lead_in": str(self.lead_in),
            "state": "" if self.state is None else f"{self.state.clips} {self.state.last_frames}",
        }
        computed = {
            "face": self.face.embedding,
            "audio": some_values(audio.hidden_states),
            "audio.blocks": block_values(audio.hidden_states, check_interrupt=adapter.check_interrupt),
        }
        if audio.heard:
            exact["audio.heard"] = audio.heard
        if self.decoder is not None:
            exact["decoder"] = weights_digest(self.decoder.net)
        if self.state is not None:
            exact["state.generator"] = tensor_digest(self.state.generator)
            computed["state"] = some_values(self.state.latents)
            computed["state.blocks"] = block_values(torch.cat([*self.state.past_latents, self.state.latents]))
        return Inputs(exact, {name: tensor.float().cpu() for name, tensor in computed.items()})


def all_frames(sampling: Sampling, host: Host, kept: Journal | None = None) -> tuple[torch.Tensor, VideoState]:
    """The frames (f h w 3) in [0, 1], all of them in memory, and what it takes to continue. It says how far it is.

    kept: where clips are kept, for a video without a lead-in; those that are there are only decoded.
    Raises InputError when there is no room for them.
    """
    frames, (_, _, height, width) = sampling.audio.frame_count, sampling.portrait.shape
    adapter.check_room(
        frames * height * width * 3 * 4,
        f"images: {frames} frames of {width} x {height}",
        "Use MEMO Sample to File, also to paste back, or shorter audio.",
    )
    images, done, state = torch.empty(frames, height, width, 3), 0, sampling.state
    clips, began = sampling.lead_in + sampling.audio.clips, time.monotonic()
    number = here = len(kept.segments) if kept else 0
    with adapter.says_when_stopped(
        host, lambda: f"Stopped: Run continues after clip {number}" if kept else f"Stopped after clip {number} of {clips}: Run starts anew"
    ):
        for before in kept.made() if kept else ():
            host.check_interrupt()
            images[done : done + before.last_frames] = sampling.shown(before.latents, before.last_frames).movedim(1, -1)
            done += before.last_frames
        if kept:
            sampling.keep_kernels(kept)
            state = kept.state(state)
        for number, clip in enumerate(sampling.clips(state, here, host) if here < clips else (), start=here + 1):
            images[done : done + len(clip.frames)] = clip.frames.movedim(1, -1)
            done, state = done + len(clip.frames), clip.state
            if kept:
                kept.append(clip.state, None)
            host.say(clips_done(clips, number, here, time.monotonic() - began))
    host.say(video_done(frames, sampling.audio.fps))
    assert state is not None  # every audio has a clip
    return images, state


def overview(images: torch.Tensor, audio: AudioFeatures) -> ui.SavedImages:
    """What a node shows when it is done: a frame of each clip, where they are not too many, in one small picture."""
    return comfy_output.shown_picture(contact_sheet(images, audio.clip_frames, audio.fps))


class MemoSampler(ListNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSampler",
            display_name="MEMO Sampler",
            category="MEMO",
            **adapter.known(io.Schema, search_aliases=["talking frames", "ksampler"]),
            description="Makes the talking frames in clips of 16, each remembering all frames before it. "
            "Connect images and fps to Create Video, together with the audio as loaded. For long videos use MEMO Sample to File.",
            inputs=[*sampling_inputs(), noise_input(), preset_input(), decoder_input()],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, as many as the audio needs.", is_output_list=True),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video.", is_output_list=True),
                VideoStateSocket.Output(
                    display_name="state",
                    tooltip="What is needed to continue this video: connect it to the state of another sampler node.",
                    is_output_list=True,
                ),
            ],
            is_input_list=True,
        )

    @classmethod
    def prepare(cls, item, **inputs) -> "FramesToMake":
        return FramesToMake(Sampling(**inputs), item, "sampler")

    @classmethod
    def make(cls, prepared: "FramesToMake", notes) -> tuple[tuple, list]:
        sampling = prepared.sampling
        images, state, shown = prepared.frames(adapter.host(cls.hidden.unique_id, sampling.notes, notes))
        return (images, float(sampling.audio.fps), state), shown


@dataclass(frozen=True)
class FramesToMake:
    """A video that can be made and is handed on as frames. item: which of a list it is. node: begins the name of the folder with its clips."""

    sampling: Sampling
    item: Item
    node: str

    def frames(self, host: Host) -> tuple[torch.Tensor, VideoState, list]:
        """Those of all_frames, and what the node shows. Of one of a list its clips stay, see ``journal``."""
        keeps = self.item.count > 1 and not self.sampling.lead_in
        with self.journal() if keeps else nullcontext() as kept:
            images, state = all_frames(self.sampling, host, kept)
        return images, state, overview(images, self.sampling.audio).as_dict()["images"]

    def journal(self):
        """Where the clips are kept of a list in which another video may fail: they are not sampled again then."""
        return journal.opened(comfy_output.unfinished_folder("temp"), self.node, self.sampling.inputs(), KEPT_DAYS * DAY, KEPT_BYTES)


NODES = [MemoSampler]
