"""Run by test_card.py in a process of its own: the sampler over ComfyUI's dynamic patcher, the default on NVIDIA GPUs since 0.33,
next to its plain one.

comfy-aimdo, its library, needs a GPU. In its place is a fake of what the patcher asks of it, on the GPU of pretend_device.py: a
range of addresses of which BUDGET bytes can be resident; a fault beyond them fails, and the weight comes for one use alone.

Arguments: the pack's folder, ComfyUI's base directory with the tiny models. Prints in JSON what each run came to.
"""

import importlib.util
import json
import sys
from fractions import Fraction
from pathlib import Path

pack, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base, "--disable-pinned-memory"]

import comfy.options
import torch
from pretend_device import CARD, have_card

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: F401, I001  as main.py does before nodes.py puts a folder with a module utils in front of it
import comfy.memory_management
import comfy.model_management as management
import comfy.model_patcher
import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import comfy_aimdo.torch

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from pack.memo_modules.audio.emotion import constant_emotion
from pack.memo_modules.host import Host
from pack.memo_modules.models.layers import Layers
from pack.memo_modules.types import AudioFeatures, Face
from pack.memo_modules.weights.checkpoints import load_net
from pack.memo_modules.weights.lora import Factors, Lora
from pack.nodes import comfy_adapter, loaders, sampler

SIDE, FRAMES, TOTAL = 64, 2, 2**36
RUNS = {("normal", "auto"): 2.0, ("low", "auto"): 1 / 3, ("normal", "int8_scaled"): 1 / 3, ("low", "fp8_e4m3fn"): 2.0}
"""By mode of the sampler and dtype of the weights the share of them that can be resident."""


class Addresses:
    """A ModelVBAR: ``resident`` has by offset what lies on the GPU, and the mark by which its content is known again."""

    budget = used = refused = marks = 0

    def __init__(self, size: int, device):
        self.resident: dict[int, tuple[torch.Tensor, bytes]] = {}
        self.end = 0

    def prioritize(self) -> None: ...

    def alloc(self, size: int) -> tuple["Addresses", int, int]:
        self.end += size
        return self, self.end - size, size

    def loaded_size(self) -> int:
        return sum(held.numel() for held, _ in self.resident.values())

    def free_memory(self, size: int) -> int:
        freed = 0
        for offset in list(self.resident):
            if freed >= size:
                break
            freed += self.resident.pop(offset)[0].numel()
        Addresses.used -= freed
        return freed


def fault(place: tuple[Addresses, int, int]) -> bytes | None:
    addresses, offset, size = place
    if offset not in addresses.resident:
        if Addresses.used + size > Addresses.budget:
            Addresses.refused += 1
            return None
        Addresses.marks += 1
        rubbish = torch.full((size,), 255, dtype=torch.uint8, device=CARD)  # not a number, until the weight is written there
        addresses.resident[offset] = rubbish, str(Addresses.marks).encode()
        Addresses.used += size
    return addresses.resident[offset][1]


class HostBuffer:
    def __init__(self, *_, **__):
        self.size = 0

    def truncate(self, *_, **__) -> None: ...


def have_dynamic_weights() -> None:
    comfy_aimdo.host_buffer.HostBuffer = HostBuffer
    vbar = comfy_aimdo.model_vbar
    vbar.ModelVBAR, vbar.vbar_fault, vbar.vbar_unpin = Addresses, fault, lambda place: None
    vbar.vbar_signature_compare = lambda mine, theirs: mine is not None and mine == theirs
    vbar.vbars_analyze = lambda device=None: 0
    comfy_aimdo.torch.aimdo_to_tensor = lambda place, device: place[0].resident[place[1]][0] if isinstance(place[0], Addresses) else place[1]
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def sampled(mode: str, dtype: str, share: float = 0.0) -> tuple[torch.Tensor, list[str]]:
    """Frames, and the kinds of patchers. share: of the weights that can be resident."""
    model = loaders.MemoLoadModel.execute(model="tiny", weight_dtype=dtype).result[0]
    vae = loaders.MemoLoadVAE.execute(vae="sd-vae-ft-mse").result[0]
    Addresses.used = Addresses.refused = 0
    Addresses.budget = int(share * sum(patcher.model_size() for patcher in model.patchers))
    generator = torch.Generator().manual_seed(0)
    face = Face(torch.randn(1, model.image_proj.model.proj.weight.shape[1], generator=generator), None, 0.0)
    audio = AudioFeatures(torch.randn(FRAMES, 2, 64, generator=generator), Fraction(30), FRAMES, FRAMES)
    picture = torch.rand(1, SIDE, SIDE, 3, generator=generator)
    sampling = sampler.Sampling(model, vae, picture, face, audio, constant_emotion(3), SIDE, SIDE, 1, 3.5, 42, 1, memory_mode=mode)
    sampling.inputs()
    frames, _ = sampler.all_frames(sampling, Host())
    kinds = sorted({type(patcher).__name__ for patcher in model.patchers})
    management.unload_all_models()
    management.current_loaded_models.clear()
    return frames, kinds


def error_with_lora(dtype: str, share: float) -> float:
    """How far, relatively, what a linear with a LoRA makes of a tensor is from what it would in float32, at its first use and at the next."""
    model = loaders.MemoLoadModel.execute(model="tiny", weight_dtype=dtype).result[0]
    Addresses.used, Addresses.budget = 0, int(share * model.diffusion_net.model_size())
    net, random = model.diffusion_net.model, torch.Generator().manual_seed(0)
    layer = next(name for name, module in net.named_modules() if name.endswith("ff.net.0.proj"))
    held = load_net(Path(base, "models", "memo", "tiny"), "diffusion_net", Layers(dtype=torch.float32)).state_dict()
    weight, bias = held[f"{layer}.weight"], held[f"{layer}.bias"]
    factors = Factors(*(torch.randn(shape, generator=random) / 8 for shape in ((len(weight), 2), (2, weight.shape[1]))), alpha=2)
    changed = comfy_adapter.with_lora(model, Lora(Path("lora"), {"diffusion_net": {layer: factors}}), 1.0, "digest")
    comfy_adapter.bring_in(changed.diffusion_net)
    x = torch.randn(5, weight.shape[1], generator=random)
    expected, errors = torch.nn.functional.linear(x, weight + factors.change(), bias), []
    for _ in range(2):
        errors.append(((net.get_submodule(layer)(x.to(CARD)).cpu() - expected).norm() / expected.norm()).item())
    management.unload_all_models()
    management.current_loaded_models.clear()
    return max(errors)


torch.set_num_threads(1)
with torch.inference_mode():
    have_card(lambda: TOTAL)
    management.soft_empty_cache = lambda *_, **__: None
    plain = {run: sampled(*run)[0] for run in RUNS}
    have_dynamic_weights()
    found = {}
    for (mode, dtype), share in RUNS.items():
        frames, kinds = sampled(mode, dtype, share)
        difference = (frames - plain[mode, dtype]).abs().max().item()
        found[f"{mode}, {dtype}"] = {"difference": difference, "kinds": kinds, "whole": share > 1, "refused": Addresses.refused}
    errors = [error_with_lora(dtype, share) for dtype in ("auto", "int8_scaled") for share in (0.0, 2.0)]
print(json.dumps([found, errors]))
