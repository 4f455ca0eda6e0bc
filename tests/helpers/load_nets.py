"""Run by test_store.py in a process of its own: loads a net as the loader does, for each weight_dtype, and compares what it
computes with the same net in float32 outside of ComfyUI.

Arguments: the pack's folder, a checkpoint folder. Prints in JSON what was found of each.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

pack, checkpoint = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]

import comfy.options

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: F401, I001  as main.py does before nodes.py puts a folder with a module utils in front of it
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.samplers import KSAMPLER, sampler_object

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from pack.memo_modules.models import acceleration
from pack.memo_modules.models.kernels.convolution import few_positions, pointwise
from pack.memo_modules.models.kernels.group_norm_silu import group_norm_silu
from pack.memo_modules.models.layers import Layers, channels_last
from pack.memo_modules.weights.checkpoints import UNETS, load_net, read_weights, weights_file
from pack.memo_modules.weights.tensor_saving import save_tensors
from pack.nodes import comfy_adapter, comfy_layers, comfy_sockets, loaders

try:
    import comfy.memory_management as memory_management
except ImportError:  # ComfyUI 0.8
    memory_management = None


def features(net) -> torch.Tensor:
    latents, context = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 4, 8, 8), (2, 4, 64)))
    with torch.inference_mode():
        return torch.cat([layer.flatten() for layer in net(latents, context).layers])


def loads_late(layers: Layers, expected: dict[str, torch.Tensor]) -> bool | None:
    """Whether a net of layers that get their parameters only when they are loaded, as ComfyUI has them on NVIDIA GPUs,
    holds the same; None where it has none."""
    if memory_management is None:
        return None
    memory_management.aimdo_enabled = True
    try:
        saved = load_net(Path(checkpoint), "reference_net", layers).state_dict()
    finally:
        memory_management.aimdo_enabled = False
    return saved.keys() == expected.keys() and all(torch.equal(saved[key].float(), expected[key].float()) for key in expected)


def with_function(eta: float):
    """A sampler like some of core's, whose option is a function that holds what the user chose."""
    return KSAMPLER(sampler_object("euler").sampler_function, {"noise_scaler": lambda x: x * eta, "partial": partial(torch.full, (2,), eta)})


def with_default(eta: float):
    return KSAMPLER(sampler_object("euler").sampler_function, {"noise_scaler": lambda x, eta=eta: x * eta})


def with_method(eta: float):
    class Scaler:
        def __init__(self):
            self.eta = eta

        def scale(self, x):
            return x * self.eta

    return KSAMPLER(sampler_object("euler").sampler_function, {"noise_scaler": Scaler().scale})


def with_nothing():
    """A function that holds a name without a value."""
    held = None

    def scale(x):
        return x * held  # noqa: F821

    del held
    return KSAMPLER(sampler_object("euler").sampler_function, {"noise_scaler": scale})


def counted(function, calls: list):
    """``function``; ``calls`` gets whether it made something at each call."""

    def call(*inputs):
        out = function(*inputs)
        calls.append(out is not None)
        return out

    return call


def compared(weight_dtype: str) -> dict:
    layers, computes_in = comfy_layers.unet_layers(weight_dtype)
    net = load_net(Path(checkpoint), "reference_net", layers)
    return {
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in net.parameters()}),
        "computes_in": str(computes_in).removeprefix("torch."),
        "difference": ((features(net) - plain).norm() / plain.norm()).item(),
        "loads_late": loads_late(layers, net.state_dict()),
    }


in_torch = load_net(Path(checkpoint), "reference_net", Layers(dtype=torch.float32))
plain, found = features(in_torch), {}
for weight_dtype in ("bf16", "fp16", "fp32", "fp8_e4m3fn", "fp8_e4m3fn_scaled", "int8_scaled"):
    acceleration.few_positions = counted(few_positions, matmuls := [])
    found[weight_dtype] = {**compared(weight_dtype), "matmuls": sum(matmuls)}
for weight_dtype in ("bf16", "fp32", "int8_scaled"):
    on_a_card = {
        "to_memory_format": channels_last,
        "conv_as_matmul": counted(pointwise, matmuls := []),
        "group_norm_silu": counted(group_norm_silu, norms := []),
    }
    comfy_layers._for_device = lambda layers, device, on_a_card=on_a_card: replace(layers, **on_a_card)
    found[f"{weight_dtype}, channels last"] = {**compared(weight_dtype), "pointwise": sum(matmuls), "norms": len(norms)}

samplers = [sampler_object("er_sde"), with_nothing(), *(make(eta) for make in (with_function, with_default, with_method) for eta in (0.3, 0.4))]
vae, sizes = object.__new__(comfy_sockets.CoreVAE), []
vae.vae = SimpleNamespace(
    encode=lambda pictures: sizes.append(len(pictures)) or pictures[:, ::8, ::8, [0, 1, 2, 0]].movedim(-1, 1),
    decode=lambda latents: sizes.append(len(latents)) or torch.zeros(len(latents), 8 * latents.shape[2], 8 * latents.shape[3], 3),
)
shapes = [list(vae.encode(torch.zeros(5, 3, 16, 8)).shape), list(vae.decode(torch.zeros(3, 4, 2, 1)).shape)]
found["vae"] = [sizes, shapes]

found["adapter"] = {
    "sampler": [comfy_sockets.sampler_name(sampler) for sampler in samplers],
    "out of memory": [
        comfy_adapter.is_out_of_memory(error)
        for error in (
            torch.OutOfMemoryError(),
            RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            RuntimeError("another"),
        )
    ],
}
if hasattr(comfy.model_patcher, "ModelPatcherDynamic"):  # what 0.33 takes on NVIDIA GPUs
    comfy.model_patcher.CoreModelPatcher = streams = type("Streams", (comfy.model_patcher.ModelPatcher,), {})
    found["adapter"]["streams"] = [isinstance(comfy_adapter.manage(in_torch, whole), streams) for whole in (False, True)]

management = comfy.model_management
kept = {
    name: getattr(management, name)
    for name in (
        "is_device_cpu",
        "is_device_mps",
        "should_use_bf16",
        "should_use_fp16",
        "get_total_memory",
        "extra_reserved_memory",
        "get_free_memory",
    )
}
management.is_device_cpu, management.is_device_mps = lambda device: False, lambda device: True
management.should_use_fp16 = lambda *_, **__: True
found["adapter"]["apple"] = []
for works in (True, False):
    management.should_use_bf16 = lambda *_, works=works, **__: works
    found["adapter"]["apple"].append(str(comfy_layers.compute_dtype()))
management.get_total_memory, management.extra_reserved_memory = lambda device: 100, lambda: 10  # of a GPU, of which others hold 30 and we 20
management.get_free_memory = lambda device: 50
management.current_loaded_models = [SimpleNamespace(device=device, model_loaded_memory=lambda: 20) for device in ("card", "another")]
found["adapter"]["room"] = []
for management.WINDOWS in (False, True):
    found["adapter"]["room"].append(comfy_adapter._room("card"))
management.WINDOWS, management.current_loaded_models = False, []
management.is_device_mps, management.should_use_bf16 = lambda device: False, lambda *_, **__: False
comfy_layers._for_device = lambda layers, device: layers
found["adapter"]["stream"] = [str(comfy_layers.unet_layers(name)[0].stream) for name in ("fp16", "fp16_fp32")]
for name, function in kept.items():
    setattr(management, name, function)

comfy_layers.args.fast = set(getattr(comfy.ops, "PerformanceFeature", ()))  # as --fast alone
comfy.model_management.supports_fp8_compute = lambda *_, **__: True
found["adapter"]["fast"] = [
    comfy_layers.layers(dtype, torch.bfloat16).operations is comfy.ops.fp8_ops for dtype in (torch.bfloat16, torch.float8_e4m3fn)
]
asked = []
comfy_layers.optimized_attention = lambda q, k, v, heads, **options: asked.append(options)
for channels in (40, 80, 160):
    comfy_layers._attention(*torch.empty(3, 1, 2, 8 * channels), 8)
found["adapter"]["attention"] = asked

with tempfile.TemporaryDirectory() as folder:  # what MEMO's loader keeps of float32 nets
    place = shutil.copytree(checkpoint, Path(folder, "memo"))
    for net in UNETS:
        file = weights_file(place / net)
        save_tensors(file, {key: tensor.float() for key, tensor in read_weights(file).items()})
    found["kept"] = []
    for before, delete in (("there", False), (None, False), ("there", True)):  # before the loader obtained it, there was something or nothing
        loaders._obtained["nets", "memo"] = loaders.signature(place), ("there",) if before else None
        loaders.keep_bfloat16_of("nets", "memo", place, delete)
        assert loaders._obtained["nets", "memo"][0] == loaders.signature(place), "or all would be sampled again"
        found["kept"].append(sorted(path.name for path in (place / "diffusion_net").glob("*.safetensors")))
    place.joinpath("reference_net").rename(place / "elsewhere")
    loaders.keep_bfloat16_of("nets", "memo", place, True)  # says in the log what does not work

comfy.model_management.supports_cast = lambda device, dtype: dtype != torch.float8_e4m3fn
try:
    comfy_layers.unet_layers("fp8_e4m3fn")
except comfy_adapter.InputError as error:
    found["refused"] = str(error)
print(json.dumps(found))
