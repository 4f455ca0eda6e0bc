"""What the pack knows of ComfyUI, with the other comfy_*.py: model folders, ModelPatcher, memory, progress, interrupt."""

import gc
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter import LoRAAdapter
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor, nn

from ..memo_modules.errors import InputError
from ..memo_modules.host import Host
from ..memo_modules.models.attention import held_weight
from ..memo_modules.models.motion import PositionTable
from ..memo_modules.sampler.footprint import Footprint
from ..memo_modules.sampler.sampling import MemoNets
from ..memo_modules.small_decoder import KIND, SmallDecoder, find_small_decoder, load_small_decoder
from ..memo_modules.types import SamplerSettings
from ..memo_modules.weights.lora import Lora
from ..memo_modules.weights.onnx_sessions import OnnxModel
from ..memo_modules.words import harmless, memory_size, printable, quoted
from .comfy_preview import Preview
from .socket_types import MemoModel

MODEL_FOLDER = "memo"
"""The kind under which folder_paths knows our models; extra_model_paths.yaml may add folders to it."""


_log = logging.getLogger(__name__)


def known(kind: type, **options) -> dict:
    """Those of the options that a class of comfy_api takes in this version: 0.8 has no advanced inputs and no search aliases."""
    return {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}


# Model folders


def register_model_folder() -> None:
    """Make models/memo known to ComfyUI. Nothing is created on disk."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER))
    # ComfyUI lists every file of a kind without extensions
    folder_paths.folder_names_and_paths[MODEL_FOLDER][1].update({".safetensors", ".pt", ".bin", ".onnx"})


def model_folders(kind: str) -> list[Path]:
    """ComfyUI's folders of a kind, the one for new files first; of a kind that nobody registered the one it would have."""
    if kind in folder_paths.folder_names_and_paths:
        return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    return [Path(folder_paths.models_dir, kind)]


LORAS = "loras"


def lora_names() -> list[str]:
    """What ComfyUI lists in its folders of LoRAs."""
    return [name for name in folder_paths.get_filename_list(LORAS) if name.endswith(".safetensors")]


def lora_path(name: str) -> Path:
    """Raises InputError when no folder of LoRAs has a file of this name."""
    path = folder_paths.get_full_path(LORAS, name) if name in lora_names() else None
    if path is None:
        raise InputError(f"lora: {quoted(name)} is not in models/loras. Put it there, and press R.")
    return Path(path)


# Weights and memory


def small_decoder() -> SmallDecoder:
    """On the VAE's device; with 2 MB of weights it is nothing to manage. Raises CheckpointError when its file is missing or another one."""
    device = comfy.model_management.vae_device()
    dtype = comfy.model_management.vae_dtype(device, [torch.float16])
    return SmallDecoder(load_small_decoder(find_small_decoder(model_folders(KIND)), dtype).to(device))


def manage(module: nn.Module, whole: bool = False):
    """Put a module with weights on the CPU under ComfyUI's memory management; ``whole``: streamed only where the GPU has no
    room for it."""
    patcher = comfy.model_patcher.ModelPatcher
    if not whole:  # 0.33 puts another into this place, which streams all weights by itself; 0.8 has only the plain one
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", patcher)
    if hasattr(comfy.model_management, "archive_model_dtypes"):
        comfy.model_management.archive_model_dtypes(module)
    device, offload_device = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return patcher(module, load_device=device, offload_device=offload_device)


def with_lora(model: MemoModel, lora: Lora, strength: float, digest: str) -> MemoModel:
    """The nets of ``model``, whose weights ComfyUI changes by ``lora`` whenever it loads or streams them for this one. digest: of its file.

    Raises CheckpointError when it does not fit them.
    """
    patched = {}
    for net, layers in lora.nets.items():
        patcher = getattr(model, net)
        lora.check_fits(net, {key: weight.shape for key, weight in patcher.model.state_dict().items()})
        patched[net] = patcher.clone()
        for layer, factors in layers.items():
            key, part = held_weight(patcher.model, layer)
            if hasattr(patcher.model.get_submodule(key.removesuffix(".weight")), "row_scale"):
                # ComfyUI's patches would be rounded to 8 bits with the scale of the weight alone
                patched[net].add_weight_wrapper(key, partial(factors.add_to, strength=strength, part=part))
                continue
            adapter = LoRAAdapter(set(), (factors.up, factors.down, factors.alpha, None, None, None))
            # as add_patches does, which looks for names in state dicts, where fused linears have those of the checkpoint
            patched[net].patches.setdefault(key, []).append((strength, adapter, 1.0, part, None))
        patched[net].patches_uuid = uuid4()
    if not strength:
        return model
    return replace(model, **patched, loras=(*model.loras, (digest, strength)), distilled=lora.recipe or model.distilled)


def bring_in(*patchers, memory_required: int = 0, whole: bool = False) -> torch.device:
    """Load managed modules, with room for ``memory_required`` bytes besides their weights; returns their device.

    whole: never in part, for a module that is not made of ComfyUI's cast operations and so cannot be streamed.
    """
    comfy.model_management.load_models_gpu(list(patchers), memory_required=memory_required, force_full_load=whole)
    return patchers[0].load_device


def memo_nets(model: MemoModel, latent_size: tuple[int, int], settings: SamplerSettings, clip_frames: int, memory_mode: str) -> tuple[MemoNets, bool]:
    """The nets of ``model`` for the sampler, which brings them in with room for the motion memory and the activations,
    and whether it is to sample in low-memory mode; see footprint.MEMORY_MODES.

    Raises InputError when not even that mode has room for pictures of this size.
    """
    device, net = model.diffusion_net.load_device, model.diffusion_net.model
    phases = {"reference": (model.reference_net, model.image_proj), "diffusion": (model.diffusion_net, model.audio_proj)}
    footprint = Footprint(net.config, latent_size, settings, clip_frames, model.dtype.itemsize, net.stream and net.stream.itemsize)
    weights = {phase: sum(patcher.model_size() for patcher in patchers) for phase, patchers in phases.items()}
    plan = footprint.plan(weights, _room(device), memory_mode)
    eight_bits = False
    if comfy.model_management.is_device_mps(device):  # whose memory is the RAM: a motion memory moved there would be there twice
        plan = replace(plan, resident_share=1.0, memory_on_device=footprint.motion_memory, memory_in_ram=0)
    elif plan.low_memory and not comfy.model_management.is_device_cpu(device):
        _log.info("Low-memory mode; %.0f %% of the motion memory stay in VRAM.", 100 * plan.resident_share)
        eight_bits = footprint.needs_eight_bits(plan, _ram_for)
    patchers = model.patchers
    if getattr(model.diffusion_net, "is_dynamic", lambda: False)():  # ComfyUI loads the first one last, and takes from it last
        patchers = sorted(patchers, key=lambda patcher: patcher is not model.diffusion_net)
    warned = False

    def bring_in_nets(phase: str, remembers: bool) -> None:
        nonlocal warned
        if phase == "diffusion" and not plan.low_memory:
            return  # all came for the phase before, and looking through them takes a while
        # a memory that is alive already is no longer free memory
        remembered = 0 if remembers else plan.memory_on_device
        bring_in(*(phases[phase] if plan.low_memory else patchers), memory_required=plan.working[phase] + remembered)
        if plan.low_memory and phase == "reference":
            return  # the diffusion net is yet to come
        for table in net.modules():
            if isinstance(table, PositionTable):  # ComfyUI leaves it behind where a net comes in part, and each use would wait
                table.to(device)
        net.compiled = {} if _is_streamed(net) else model.compiled_regions
        if model.compiled_regions and not net.compiled and not warned:
            warned = True
            _log.warning("compiled is ignored: the diffusion net's weights are cast or streamed on use.")

    nets = MemoNets(
        model.reference_net.model,
        model.diffusion_net.model,
        model.image_proj.model,
        model.audio_proj.model,
        device,
        model.dtype,
        bring_in_nets,
        plan.resident_share,
        eight_bits,
    )
    return nets, plan.low_memory


def _ram_for(size: int) -> bool:
    """Whether ``size`` bytes of RAM are free; where ComfyUI keeps account of what it pins, after it has given back what it can."""
    if hasattr(comfy.model_management, "ensure_pin_budget"):  # not in 0.8
        return comfy.model_management.ensure_pin_budget(size)
    return size <= comfy.model_management.get_free_memory(torch.device("cpu"))


def _room(device: torch.device) -> float:
    """Bytes of VRAM for us; without a limit on the CPU, where everything is in RAM in any mode."""
    if comfy.model_management.is_device_cpu(device):
        return math.inf
    room = comfy.model_management.get_total_memory(device) - comfy.model_management.extra_reserved_memory()
    if not comfy.model_management.WINDOWS:
        return room
    # there the driver takes RAM for what does not fit, and slows down instead of failing: what other programs hold is no room
    ours = sum(loaded.model_loaded_memory() for loaded in comfy.model_management.current_loaded_models if loaded.device == device)
    return min(room, comfy.model_management.get_free_memory(device) + ours)


_OUT_OF_MEMORY = ("MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What errors say that are of no class of their own."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device that has memory of its own ran out of it."""
    if any(words in str(error) for words in _OUT_OF_MEMORY):
        return True
    if hasattr(comfy.model_management, "is_oom"):  # which knows more of CUDA's errors, and clears them
        return comfy.model_management.is_oom(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)


def free_memory() -> None:
    """Take all models off the GPU, and what torch keeps for itself."""
    gc.collect()
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def check_room(size: int, what: str, remedy: str) -> None:
    """Raises InputError when ``size`` bytes are more than the computer's free memory: systems that promise it all the same
    kill ComfyUI when it is used."""
    room = comfy.model_management.get_free_memory(torch.device("cpu"))
    if size > room:
        raise InputError(f"{what} need {memory_size(size)} of memory, but only {memory_size(room)} is free. {remedy}")


def _is_streamed(net: nn.Module) -> bool:
    """Whether weights of ``net`` come to the device layer by layer, when they are used."""
    return any(getattr(module, "comfy_cast_weights", False) for module in net.modules())


class SessionPatcher(comfy.model_patcher.ModelPatcher):
    """Holds an OnnxModel: ComfyUI opens its sessions by loading it, and closes them by unloading it, always all of them.

    ComfyUI unloads only what is on its own device, so this always is. Sessions that run on the CPU while there is a GPU hold
    nothing of the GPU's memory, and their size is 0.
    """

    def loaded_size(self) -> int:
        return self.model_size() if self.model.is_open else 0

    def partially_load(self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False) -> int:
        before = self.loaded_size()
        self.model.open()
        self.model.device = device_to
        return self.loaded_size() - before

    def partially_unload(self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False) -> int:
        return 0  # ComfyUI then unloads the whole

    def detach(self, unpatch_all: bool = True):
        if unpatch_all:
            self.model.release()
        return super().detach(unpatch_all)


def open_sessions(kind: Callable[..., OnnxModel], path: Path) -> SessionPatcher:
    """The OnnxModel at ``path``, open and under ComfyUI's memory management, on CUDA where both ComfyUI and onnxruntime are."""
    device = comfy.model_management.get_torch_device()
    model = kind(path, cuda=comfy.model_management.is_device_cuda(device))
    size = model.size if device.type == ("cuda" if model.on_cuda else "cpu") else 0
    patcher = SessionPatcher(model, device, torch.device("cpu"), size)
    bring_in(patcher)
    return patcher


# Progress and interrupt


def host(node_id: str | None = None, notes: Sequence[str] = (), before: Sequence[str] = ()) -> Host:
    """ComfyUI, as a node that runs: its progress bar, Cancel, and sentences in the log and in the node ``node_id``.

    notes: sentences that are said at once, and stay in the node after each one that follows; before: those that were said before, and stay.

    Front ends take them for HTML, and those before 1.46 run the scripts in it. Newer ones may show it as it is, too: entities would be read.
    """

    def show(*texts: str) -> None:
        if node_id is not None:
            PromptServer.instance.send_progress_text(harmless(" ".join(texts)), node_id)

    def say(text: str) -> None:
        _log.info("%s", printable(text))
        show(text, *notes, *before)

    if notes:
        _log.info("%s", printable(" ".join(notes)))
        show(*notes, *before)
    bar, preview = comfy.utils.ProgressBar(1), Preview()

    def progress(done: int, total: int, picture: Tensor | None = None) -> None:
        bar.update_absolute(done, total, None if picture is None else preview.picture(picture))

    return Host(progress, check_interrupt, say, preview.clip_done)


def running_node() -> str | None:
    """The id of the node that runs."""
    context = get_executing_context()
    return context and context.node_id


check_interrupt = comfy.model_management.throw_exception_if_processing_interrupted


@contextmanager
def says_when_stopped(host: Host, text: Callable[[], str]) -> Iterator[None]:
    """After Cancel the last sentence would stay in the node, as if it still ran: another one takes its place."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        host.say(text())
        raise
