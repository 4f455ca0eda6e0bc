"""Drives a checkout of the reference implementation (memoavatar/memo), imported from the folder that the user names, which stays unchanged.

It runs without xformers: its own attention on torch's scaled_dot_product_attention, and the processor of its motion
memory, which only its xformers switch would choose, set by hand.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from memo_modules.sampler.sampling import MemoNets
from memo_modules.types import NO_EMOTION, SamplerSettings
from tools.benchmarking import random_nets


class Reference:
    """The reference implementation on the weights of ``nets`` (shared where they lie on the device as it wants them) and
    on the same VAE. Raises ValueError when ``checkout`` does not hold it.
    """

    def __init__(self, checkout: Path, size: str, nets: MemoNets, autoencoder: nn.Module):
        from diffusers import FlowMatchEulerDiscreteScheduler

        _import_package(checkout)
        load = importlib.import_module
        with _without_xformers():
            classes = {
                "reference_net": load("memo.models.unet_2d_condition").UNet2DConditionModel,
                "diffusion_net": load("memo.models.unet_3d").UNet3DConditionModel,
                "image_proj": load("memo.models.image_proj").ImageProjModel,
                "audio_proj": load("memo.models.audio_proj").AudioProjModel,
            }
            pipeline = load("memo.pipelines.video_pipeline").VideoPipeline
            memory = load("memo.models.attention_processor").MemoryLinearAttnProcessor
            attention = load("memo.models.motion_module").MemoryLinearAttention
        places = {"audio_proj": ("cpu", torch.float32)}  # the one that its script does not move
        built = {}
        for component, cls in classes.items():
            place = places.get(component, (nets.device, nets.dtype))
            weights = {key: tensor.to(*place).contiguous() for key, tensor in getattr(nets, component).state_dict().items()}
            with torch.device("meta"):
                net = cls(**random_nets.options(component, size))
            net.load_state_dict(weights, assign=True)
            built[component] = net.eval().requires_grad_(False)
        for net in ("reference_net", "diffusion_net"):
            built[net].register_to_config(center_input_sample=False)  # read from the published config.json
        for module in built["diffusion_net"].modules():
            if isinstance(module, attention):
                module.set_processor(memory())
        self.audio_proj = built.pop("audio_proj")
        self.pipeline = pipeline(vae=autoencoder, scheduler=FlowMatchEulerDiscreteScheduler(), **built)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def clips(self, inputs: random_nets.Inputs, settings: SamplerSettings, seed: int, after_step: Callable[[], None]) -> Iterator[Tensor]:
        """Frames (f 3 H W) in [0, 1] of one clip after the other. seed: of the noise, as in ``seeded_noise``."""
        generator = torch.Generator().manual_seed(seed)
        portrait, frames = inputs.portrait, None
        size, clip_frames = portrait.shape[-1], inputs.audio.clip_frames
        emotion = torch.full((clip_frames,), inputs.emotion.labels[0], dtype=torch.int)
        for start in range(0, inputs.audio.frame_count, clip_frames):
            first = portrait.repeat(settings.num_init_past_frames, 1, 1, 1)
            past = first if frames is None else frames[-settings.num_past_frames :] * 2 - 1
            video = self.pipeline(
                ref_image=torch.cat([portrait, past])[None],
                audio_tensor=self.audio_proj(inputs.audio.windows(start, start + clip_frames)[None]),
                audio_emotion=emotion,
                emotion_class_num=NO_EMOTION,
                face_emb=inputs.face.embedding,
                width=size,
                height=size,
                video_length=clip_frames,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=generator,
                is_new_audio=start == 0,
                callback=lambda *_: after_step(),
            ).videos
            frames = video[0].transpose(0, 1)  # b c f h w -> f c h w
            yield frames


def check_checkout(checkout: Path) -> None:
    """Raises ValueError when there is no reference implementation in ``checkout``."""
    if not (checkout / "memo" / "pipelines" / "video_pipeline.py").is_file():
        raise ValueError(f"--reference: {checkout} is no checkout of memoavatar/memo (memo/pipelines/video_pipeline.py is missing).")


def _import_package(checkout: Path) -> None:
    """Put its package `memo` among the loaded modules, without a change to sys.path."""
    folder = checkout / "memo"
    spec = importlib.util.spec_from_file_location("memo", folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules["memo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["memo"])


@contextmanager
def _without_xformers() -> Iterator[None]:
    """If xformers is not installed, an empty module of that name satisfies imports that are not needed."""
    names = () if importlib.util.find_spec("xformers") else ("xformers", "xformers.ops")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    if names:
        sys.modules["xformers"].ops = sys.modules["xformers.ops"]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
