"""What the pack knows of ComfyUI, with comfy_sockets, comfy_output and comfy_lists: model folders, ModelPatcher, memory, progress, interrupt."""

import gc
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import optimized_attention
from comfy.weight_adapter import LoRAAdapter
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..memo_modules.errors import InputError
from ..memo_modules.host import Host
from ..memo_modules.models import acceleration
from ..memo_modules.models.attention import held_weight
from ..memo_modules.models.kernels.in_place import Weights, own_weights
from ..memo_modules.models.layers import Layers
from ..memo_modules.models.motion import PositionTable
from ..memo_modules.sampler.footprint import Footprint
from ..memo_modules.sampler.sampling import MemoNets
from ..memo_modules.types import SamplerSettings
from ..memo_modules.weights.lora import Lora
from ..memo_modules.weights.onnx_sessions import OnnxModel
from ..memo_modules.words import harmless, memory_size, printable, quoted
from .socket_types import MemoModel

MODEL_FOLDER = "memo"
"""The kind under which folder_paths knows our models; extra_model_paths.yaml may add folders to it."""

WEIGHT_DTYPES = {
    "auto": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp16_fp32": torch.float16,
}
"""How the weights of the UNets are kept: auto as they compute best on the device, others cast as they are used. fp16_fp32: with a stream in
float32, see Layers.stream."""

_PREVIEW_SIZE = 512

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


def compute_dtype() -> torch.dtype:
    """What the UNets compute in: bfloat16, else float16, on GPUs that have it; float32 on the CPU, and on MPS, where ComfyUI does not know
    bfloat16 to work: what this net makes of float16 there nobody has seen."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cpu(device):
        return torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    if comfy.model_management.should_use_fp16(device) and not comfy.model_management.is_device_mps(device):
        return torch.float16
    return torch.float32


def layers(dtype: torch.dtype, computes_in: torch.dtype | None = None) -> Layers:
    """ComfyUI's cast operations and attention, for weights in ``dtype`` and arithmetic in the same or ``computes_in``;
    linears of one input are fused. In 8 bits are matrices and kernels alone."""
    computes_in = computes_in or dtype
    device = comfy.model_management.get_torch_device()
    # with --fast core would have its products in 8 bits cast weights in 16 at each use
    operations = comfy.ops.pick_operations(dtype, computes_in, load_device=device, disable_fast_fp8=dtype.itemsize > 1)
    layers = Layers(operations, _attention, fused=True, dtype=dtype, lender=_lend)
    return replace(layers, dtype=computes_in, storage=dtype) if dtype.itemsize == 1 else layers


@contextmanager
def _lend(layer: Any, x: Tensor) -> Iterator[Weights | None]:
    """A Lender: what ComfyUI makes of a layer's weights for one use, wherever they lie, with its LoRAs."""
    if not (layer.comfy_cast_weights or layer.weight_function or layer.bias_function):
        with own_weights(layer, x) as weights:
            yield weights
    elif type(layer).forward_comfy_cast_weights not in _USED_AS_LENT:
        yield None
    else:
        weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
        try:
            yield weight, bias
        finally:
            comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


_USED_AS_LENT = {getattr(comfy.ops.disable_weight_init, kind).forward_comfy_cast_weights for kind in ("Linear", "Conv2d", "GroupNorm")}
"""Of layers that cast their weights and then do what torch's do. Those of --fast compute in 8 bits, and cast x too."""


def unet_layers(weight_dtype: str) -> tuple[Layers, torch.dtype]:
    """Layers for UNets whose weights are kept as ``weight_dtype`` (see WEIGHT_DTYPES) says, and what they compute in;
    their attention is yet to be chosen, see ``accelerate``.

    Raises InputError for a dtype that the device does not know.
    """
    device, best, dtype = comfy.model_management.get_torch_device(), compute_dtype(), WEIGHT_DTYPES[weight_dtype]
    if dtype is None:
        dtype = computes_in = best
    else:
        if not comfy.model_management.supports_cast(device, dtype):
            raise InputError(f"weight_dtype: this device ({device}) does not support {weight_dtype}. Choose auto.")
        usable = {
            torch.float32: True,
            torch.bfloat16: best != torch.float32 and comfy.model_management.should_use_bf16(device),
            torch.float16: best != torch.float32 and comfy.model_management.should_use_fp16(device),
        }
        computes_in = dtype if usable.get(dtype) else best
    made = layers(dtype, computes_in)
    if weight_dtype == "fp16_fp32" and computes_in == torch.float16:
        made = replace(made, stream=torch.float32)
    return _for_device(made, device), computes_in


_WIDEST_QUANTISED_HEAD = 128
"""Channels of a head that attention in 8 bits takes; core writes an error into the log at each call with more, and computes exactly."""


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    exact = {"low_precision_attention": False} if q.shape[-1] // heads > _WIDEST_QUANTISED_HEAD else {}
    return optimized_attention(q, k, v, heads=heads, **exact)


_FORCED_ATTENTION = ("split_cross", "quad_cross", "pytorch_cross", "sage", "flash", "ck")


def _is_nvidia(device: torch.device) -> bool:
    return comfy.model_management.is_device_cuda(device) and torch.version.cuda is not None


def _for_device(layers: Layers, device: torch.device) -> Layers:
    """``layers`` with what is fastest here. An attention that the user forced on ComfyUI is the only one."""
    forced = args.force_upcast_attention or any(getattr(args, f"use_{name}_attention", False) for name in _FORCED_ATTENTION)
    capability = torch.cuda.get_device_capability(device) if _is_nvidia(device) else None
    attention = None if forced else {"ComfyUI": _attention}
    return acceleration.for_device(layers, capability, on_cpu=comfy.model_management.is_device_cpu(device), attention=attention)


def accelerate(nets: Mapping[str, Any], layers: Layers, dtype: torch.dtype, compiled: bool) -> dict[nn.Module, Callable]:
    """Choose the backends for what the UNets, built with ``layers``, compute in ``dtype`` on this device; returns the compiled regions of
    the diffusion net where they are asked for. The reference net runs once a clip, which does not pay the compiler."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cuda(device):
        comfy.model_management.free_memory(2**30, device)
        acceleration.autotune_kernels(layers, nets["diffusion_net"].config, device, dtype)
    return acceleration.compiled_regions(nets["diffusion_net"]) if compiled else {}


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
    if comfy.model_management.is_device_mps(device):  # whose memory is the RAM: a motion memory moved there would be there twice
        plan = replace(plan, resident_share=1.0, memory_on_device=footprint.motion_memory, memory_in_ram=0)
    elif plan.low_memory and not comfy.model_management.is_device_cpu(device):
        _log.info("Low-memory mode; %.0f %% of the motion memory stay in VRAM.", 100 * plan.resident_share)
        if plan.memory_in_ram > (free := comfy.model_management.get_free_memory(torch.device("cpu"))):
            needed, free = memory_size(plan.memory_in_ram), memory_size(free)
            _log.warning("Low-memory mode keeps %s of past frames in RAM, of which %s are free: frames of a smaller size need less.", needed, free)
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
    )
    return nets, plan.low_memory


def _room(device: torch.device) -> float:
    """Bytes of VRAM for us; without a limit on the CPU, where everything is in RAM in any mode."""
    if comfy.model_management.is_device_cpu(device):
        return math.inf
    return comfy.model_management.get_total_memory(device) - comfy.model_management.extra_reserved_memory()


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
    return Host(_Progress(), check_interrupt, say)


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


class _Progress:
    """The node's progress bar; a picture (3 h w) in [0, 1] becomes its preview."""

    def __init__(self):
        self.bar = comfy.utils.ProgressBar(1)

    def __call__(self, done: int, total: int, preview: Tensor | None = None) -> None:
        picture = None
        if preview is not None:
            pixels = (preview.movedim(0, -1) * 255).round().to(torch.uint8).cpu().numpy()
            picture = ("JPEG", Image.fromarray(pixels), _PREVIEW_SIZE)
        self.bar.update_absolute(done, total, picture)
