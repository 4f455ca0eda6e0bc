"""The node that makes the frames."""

import torch
from comfy_api.latest import io

from ..memo_modules.portrait import prepare_portrait
from ..memo_modules.sampling import REFERENCE_ORDERS, sample_video
from ..memo_modules.solvers import euler
from ..memo_modules.types import SamplerSettings
from . import comfy_adapter as adapter
from .types import AudioFeaturesSocket, EmotionSocket, FaceSocket, MemoModelSocket, VideoStateSocket


class MemoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSampler",
            display_name="MEMO Sampler",
            category="MEMO",
            description="Makes the talking frames, clip by clip of 16, each remembering all frames before it. "
            "Wire IMAGE and fps to Create Video together with the audio as loaded.",
            inputs=[
                MemoModelSocket.Input("model", tooltip="From Load MEMO Model."),
                io.Vae.Input("vae", tooltip="A Stable Diffusion 1 VAE, from Load MEMO VAE or any other loader; MEMO was made with sd-vae-ft-mse."),
                io.Image.Input("image", tooltip="The portrait, one RGB picture. Another aspect ratio than width by height is squashed."),
                FaceSocket.Input("face", tooltip="Who it is: from MEMO Embed Face."),
                AudioFeaturesSocket.Input("audio", tooltip="What is said: from MEMO Encode Audio. Sets length and frame rate."),
                EmotionSocket.Input("emotion", tooltip="The mood: from MEMO Detect Emotion or MEMO Set Emotion."),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Of the video, in pixels. MEMO was trained at 512; time and memory grow faster than the area.",
                ),
                io.Int.Input("height", default=512, min=64, max=2048, step=8, tooltip="Of the video, in pixels. MEMO was trained at 512."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Denoising steps per clip. More take proportionally longer; past 20 little changes."),
                io.Float.Input(
                    "guidance_scale",
                    default=3.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strictly face, voice and mood are followed. Higher moves more, too high looks harsh. "
                    "1 or less runs without guidance, in half the time.",
                ),
                io.Int.Input("seed", default=42, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Of the noise: the same seed gives the same frames."),
                io.Int.Input(
                    "num_init_past_frames",
                    default=16,
                    min=1,
                    max=16,
                    tooltip="Copies of the portrait that the first clip remembers. Fewer let it move sooner, more keep it closer to the portrait.",
                ),
                io.Combo.Input(
                    "reference_order",
                    options=list(REFERENCE_ORDERS),
                    default=REFERENCE_ORDERS[0],
                    tooltip="How face contexts meet reference pictures. upstream: as in every published sample. aligned: as in training.",
                ),
                io.Combo.Input(
                    "memory_mode",
                    options=list(adapter.MEMORY_MODES),
                    default=adapter.MEMORY_MODES[0],
                    optional=True,
                    tooltip="normal: everything on the card, 14 GB at 512 x 512. low: half of the work at a time and the memory of past "
                    "frames in RAM, for cards of 8 GB. auto: low where normal does not fit.",
                ),
                io.Sampler.Input("sampler", optional=True, tooltip="From KSamplerSelect or another sampler node. Without one: Euler, as MEMO was published."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Falling from 1 to 0, in the place of steps. Without them: MEMO's own, evenly spaced."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, as many as the audio needs."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video."),
                VideoStateSocket.Output(display_name="state", tooltip="What it takes to go on with this video later."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        image,
        face,
        audio,
        emotion,
        width,
        height,
        steps,
        guidance_scale,
        seed,
        num_init_past_frames,
        reference_order,
        memory_mode="auto",
        sampler=None,
        sigmas=None,
    ) -> io.NodeOutput:
        settings = SamplerSettings(
            steps, guidance_scale, seed, num_init_past_frames=num_init_past_frames, reference_order=reference_order
        )
        portrait = prepare_portrait(image, width, height)
        core_vae = adapter.CoreVAE(vae)
        nets, low_memory = adapter.memo_nets(model, core_vae.latent_size(portrait), settings, audio.clip_frames, memory_mode)
        images, done, state = torch.empty(audio.frame_count, height, width, 3), 0, None
        clips = sample_video(
            nets,
            core_vae,
            portrait,
            face,
            audio,
            emotion,
            settings,
            progress=adapter.Progress(),
            check_interrupt=adapter.check_interrupt,
            solver=euler if sampler is None else adapter.CoreSolver(sampler, seed),
            sigmas=sigmas,
            low_memory=low_memory,
        )
        for clip in clips:
            images[done : done + len(clip.frames)] = clip.frames.movedim(1, -1)
            done, state = done + len(clip.frames), clip.state
        return io.NodeOutput(images, float(audio.fps), state)


NODES = [MemoSampler]
