"""What other nodes hand over at core's sockets, as the library takes it: AUDIO, VAE, SAMPLER."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import CellType, SimpleNamespace

import comfy.model_management
import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch
from torch import Tensor, nn

from ..memo_modules.audio.io import validate
from ..memo_modules.errors import InputError
from ..memo_modules.sampler.solvers import Velocity
from ..memo_modules.types import Audio
from ..memo_modules.vae import MULTIPLE, SCALING_FACTOR, check_autoencoder, load_widened
from ..memo_modules.values import described, tensor_fault
from ..memo_modules.weights.fingerprints import tensor_digest, weights_digest

_check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted

_AT_ONCE = 2
"""Pictures that core's VAE is given: it takes as many at once as there is memory for, 1.1 GB each at 512 x 512, which pushes out the nets that
the next clip needs."""

_MADE_OF = "memo_made_of"
"""Next to a waveform of our own: what it is made of, and the digest of its samples."""


def to_audio(audio: Mapping, name: str = "audio") -> Audio:
    """ComfyUI's AUDIO as the library's; some packs leave out the batch, or the channels, of the waveform.

    Raises InputError naming the input when it is a batch, and when ``validate`` refuses it.
    """
    waveform, sample_rate = audio["waveform"], audio["sample_rate"]
    if fault := tensor_fault(waveform):
        raise InputError(f"{name}: waveform: {fault}")
    if not 1 <= waveform.ndim <= 3 or waveform.ndim == 3 and waveform.shape[0] != 1:
        raise InputError(
            f"{name}: waveform: expected one, of shape (1, channels, samples), got shape {list(waveform.shape)}. Pass one clip at a time."
        )
    waveform = _three_dimensional(waveform)
    whole = not isinstance(sample_rate, bool) and -1e9 < sample_rate < 1e9 and sample_rate == int(sample_rate)  # else validate refuses it
    sound = Audio(waveform[0].detach().resolve_neg().cpu(), int(sample_rate) if whole else sample_rate, _made_of(audio))
    validate(sound, name, _check_interrupt)
    return replace(sound, waveform=sound.waveform.float())  # what is heard does not depend on how it is kept


def _three_dimensional(waveform: Tensor) -> Tensor:
    return waveform[(None,) * (3 - waveform.ndim)]


def from_audio(audio: Audio) -> dict:
    made = {_MADE_OF: (audio.made_of, tensor_digest(audio.waveform, _check_interrupt))} if audio.made_of else {}
    return {"waveform": audio.waveform[None], "sample_rate": audio.sample_rate, **made}


def _made_of(audio: Mapping) -> str:
    """Audio.made_of, where these are still the samples of which it was said: other packs copy what is next to them."""
    match audio.get(_MADE_OF):
        case (str(made_of), str(samples)) if samples == tensor_digest(_three_dimensional(audio["waveform"])[0], _check_interrupt):
            return made_of
    return ""


def load_vae(place: Path):
    """core's VAE from a single file or from a folder as diffusers writes it, of any width. Raises CheckpointError when it is
    no VAE of Stable Diffusion 1, of which core's class would make what it can."""
    if not place.is_dir():
        check_autoencoder(place)
        weights, metadata = comfy.utils.load_torch_file(str(place), return_metadata=True)
        return comfy.sd.VAE(sd=weights, metadata=metadata)
    weights, config = load_widened(place)
    widths = config["block_out_channels"]
    sizes = {
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "z_channels": config["latent_channels"],
        "double_z": True,
        "in_channels": 3,
        "out_ch": 3,
        "resolution": 256,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": sizes, "embed_dim": config["latent_channels"]}})
    for module in vae.first_stage_model.modules():
        if isinstance(module, nn.GroupNorm):  # which core's class has with 32 groups
            module.num_groups = config["norm_num_groups"]
    return vae


class CoreVAE:
    """VideoVAE on ComfyUI's VAE. Raises InputError when it is not a Stable Diffusion 1 VAE."""

    def __init__(self, vae):
        if getattr(vae, "latent_channels", 4) != 4 or getattr(vae, "latent_dim", 2) != 2:
            raise InputError(
                f"vae: expected a Stable Diffusion 1 VAE (4 latent channels, pictures), got one with {getattr(vae, 'latent_channels', 4)} channels "
                f"in {getattr(vae, 'latent_dim', 2)} dimensions. Load sd-vae-ft-mse."
            )
        if vae.spacial_compression_encode() != MULTIPLE or not isinstance(getattr(vae, "first_stage_model", None), nn.Module):
            raise InputError("vae: expected a Stable Diffusion 1 VAE, got something of another make. Load sd-vae-ft-mse.")
        self.vae = vae

    def latent_size(self, portrait: Tensor) -> tuple[int, int]:
        """(h, w) of the latents of a portrait (1 3 H W)."""
        return portrait.shape[2] // MULTIPLE, portrait.shape[3] // MULTIPLE

    def digest(self) -> str:
        return weights_digest(self.vae.first_stage_model)

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([self._encode(some) for some in images.split(_AT_ONCE)])

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self._decode(some) for some in latents.split(_AT_ONCE)])

    def _encode(self, images: Tensor) -> Tensor:
        # core's VAE leaves the scale to the model
        n, _, height, width = images.shape
        latents = self.vae.encode(images.movedim(1, -1) / 2 + 0.5)
        return _of_shape(latents, (n, 4, height // MULTIPLE, width // MULTIPLE), "vae").float() * SCALING_FACTOR

    def _decode(self, latents: Tensor) -> Tensor:
        n, _, h, w = latents.shape
        return _of_shape(self.vae.decode(latents / SCALING_FACTOR), (n, h * MULTIPLE, w * MULTIPLE, 3), "vae").movedim(-1, 1).float()


def _of_shape(made: object, shape: tuple[int, ...], maker: str) -> Tensor:
    """What the input ``maker`` has made. Raises InputError when it is not of ``shape``."""
    if not isinstance(made, Tensor) or made.shape != shape:
        raise InputError(f"{maker}: expected it to make a tensor of shape {list(shape)}, got {described(made)}. Connect another one.")
    return made


def sampler_name(sampler) -> str:
    """Text that tells a SAMPLER of core's from others, in this process and in others."""
    return _described(type(sampler)) + _described(getattr(sampler, "__dict__", {}))


def _described(value, depth: int = 8) -> str:
    """``value`` in words, functions by their names and what they hold: their own words tell where they lie in memory."""
    if depth == 0:
        return type(value).__name__
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_described(held, depth - 1)}' for name, held in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_described(held, depth - 1) for held in value)}]"
    if isinstance(value, partial):
        return _described([value.func, value.args, value.keywords], depth)
    if hasattr(value, "__qualname__"):
        held = [getattr(value, name, None) for name in ("__defaults__", "__kwdefaults__")]
        held += [getattr(value.__self__, "__dict__", None)] if inspect.ismethod(value) else []
        held += [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if cell != CellType()]  # but empty ones
        return f"{value.__module__}.{value.__qualname__}{_described(held, depth - 1)}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


class CoreSolver:
    """solvers.Solver on a SAMPLER of core's. ``seed``: of the noise that some of them add, another one for each clip.

    Raises InputError for one that wants to steer guidance itself.
    """

    def __init__(self, sampler, seed: int):
        self.sampler, self.seed = sampler, seed

    def __call__(self, velocity: Velocity, noise: Tensor, sigmas: Tensor, after_step: Callable[[int], None]) -> Tensor:
        def callback(step: int, denoised: Tensor, latents: Tensor, steps: int) -> None:
            after_step(step + 1)

        extra_args = {"model_options": {}, "seed": self.seed % 2**64}
        self.seed += 1
        latents = self.sampler.sample(_FlowModel(velocity), sigmas, extra_args, callback, noise, torch.zeros_like(noise), None, True)
        return _of_shape(latents, noise.shape, "sampler")


class _FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """What core's samplers ask about a flow from noise at sigma 1 to latents at sigma 0."""


class _FlowModel:
    """What core's samplers take for a model: latents and sigmas to denoised latents."""

    cfg = 1.0  # guidance is in the velocity

    def __init__(self, velocity: Velocity):
        self.velocity = velocity
        sampling = _FlowSampling()
        self.inner_model = SimpleNamespace(model_sampling=sampling)
        self.model_patcher = SimpleNamespace(model=self, get_model_object={"model_sampling": sampling}.__getitem__)

    def __call__(self, latents: Tensor, sigma: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        if model_options:
            raise InputError("sampler: this one controls guidance itself (CFG++ and similar), which MEMO does not support. Choose another.")
        return latents - sigma.reshape(-1, 1, 1, 1) * self.velocity(latents, sigma.reshape(-1)[:1].float())
