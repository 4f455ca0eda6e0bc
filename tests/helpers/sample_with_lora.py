"""Run by test_lora.py in a process of its own: models changed by LoRAs through ComfyUI's patches, on the CPU and on a GPU that has
too little room, against models with the same changes merged into their files.

Arguments: the pack's folder, ComfyUI's base directory with the tiny models, `merged` and `both` among them, and the LoRAs `one`, `two` and `large`.
Prints in JSON what each run came to.
"""

import importlib.util
import json
import sys
from fractions import Fraction
from pathlib import Path

pack, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]

import comfy.options
import torch
from pretend_device import CARD, have_card

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: F401, I001  as main.py does before nodes.py puts a folder with a module utils in front of it
import comfy.float
import comfy.model_management as management

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from pack.memo_modules.audio.emotion import constant_emotion
from pack.memo_modules.errors import CheckpointError
from pack.memo_modules.host import SILENT
from pack.memo_modules.models import layers as layers_module
from pack.memo_modules.models.layers import Layers
from pack.memo_modules.types import AudioFeatures, Face
from pack.memo_modules.weights.checkpoints import load_net
from pack.memo_modules.weights.lora import read_lora
from pack.nodes import checks, comfy_adapter, loaders, sampler

SIDE, FRAMES = 64, 2
total = 0


def sampled(model, vae) -> torch.Tensor:
    checks.check_socket("MEMO_MODEL", model, "model")
    generator = torch.Generator().manual_seed(0)
    face = Face(torch.randn(1, model.image_proj.model.proj.weight.shape[1], generator=generator), None, 0.0)
    audio = AudioFeatures(torch.randn(FRAMES, 2, 64, generator=generator), Fraction(30), FRAMES, FRAMES)
    picture = torch.rand(1, SIDE, SIDE, 3, generator=generator)
    sampling = sampler.Sampling(model, vae, picture, face, audio, constant_emotion(3), SIDE, SIDE, 1, 3.5, 42, 1)
    return sampler.all_frames(sampling, SILENT)[0]


def load(name: str = "tiny", **options):
    return loaders.MemoLoadModel.execute(model=name, **options).result[0]


def changed(model, *loras: tuple[str, float]):
    for lora, strength in loras:
        model = loaders.MemoLoadLora.execute(model=model, lora=f"{lora}.safetensors", strength=strength).result[0]
    return model


def error_of_layers(model, device) -> float:
    """How far, at most and relatively, what linears of motion modules make of a tensor is from what they would with `large` in them."""
    global total
    patcher, errors = model.diffusion_net, []
    total = management.minimum_inference_memory() + 1
    comfy_adapter.bring_in(patcher)
    large = read_lora(comfy_adapter.lora_path("large.safetensors"))
    weights = large.merged("diffusion_net", load_net(Path(base, "models", "memo", "tiny"), "diffusion_net", Layers()).state_dict(), 1.0)
    for layer in large.nets["diffusion_net"]:
        if "motion_modules" in layer and layer.endswith(("proj_in", "proj_out", "to_out.0")):
            weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(0))
            expected, found = torch.nn.functional.linear(x, weight, bias), patcher.model.get_submodule(layer)(x.to(device)).cpu()
            errors.append(((found - expected).norm() / expected.norm()).item())
    management.unload_all_models()
    return max(errors)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


torch.set_num_threads(1)
with torch.inference_mode():
    vae = loaders.MemoLoadVAE.execute(vae="sd-vae-ft-mse").result[0]
    model = load()
    plain, merged, both = (sampled(each, vae) for each in (model, load("merged.safetensors"), load("both.safetensors")))
    one, two = changed(model, ("one", 1.0)), changed(model, ("one", 1.0), ("two", -0.5))
    digests = [each.digest() for each in (model, one, two, changed(model, ("one", 0.5)), changed(model, ("one", 0.0)))]
    found = {
        "size": difference(merged, plain),
        "merged": difference(sampled(one, vae), merged),
        "plain after it": difference(sampled(model, vae), plain),
        "strength 0": difference(sampled(changed(model, ("one", 0.0)), vae), plain),
        "two": difference(sampled(two, vae), both),
        "in halves": difference(sampled(changed(model, ("one", 0.5), ("one", 0.5)), vae), merged),
        "plain after all": difference(sampled(model, vae), plain),
        "digests": len(set(digests)),
        "same digests": [each.digest() for each in (model, one, two)] == digests[:3] and digests[4] == digests[0],
    }
    eight = load(weight_dtype="fp8_e4m3fn")
    found["fp8"] = error_of_layers(changed(eight, ("large", 1.0)), "cpu")
    found["fp8 off"] = error_of_layers(eight, "cpu")
    layers_module.SMALLEST = 0  # weights of tiny nets would stay as they are
    scaled = {name: load(weight_dtype=name) for name in ("int8_scaled", "fp8_e4m3fn_scaled")}
    for name, each in scaled.items():
        found[name] = error_of_layers(changed(each, ("large", 1.0)), "cpu")
        found[f"{name} off"] = error_of_layers(each, "cpu")
    try:
        changed(load("other"), ("one", 1.0))
    except CheckpointError as error:
        found["other"] = str(error)
    found["refused"] = loaders.MemoLoadLora.validate_inputs(lora="../memo/tiny/x.safetensors")
    found["known"] = loaders.MemoLoadLora.validate_inputs(lora="one.safetensors")
    management.unload_all_models()
    have_card(lambda: total)
    comfy.float.stochastic_rounding = lambda value, dtype, seed=0: value.to(dtype)  # this GPU draws no random numbers
    model, vae = load(), loaders.MemoLoadVAE.execute(vae="sd-vae-ft-mse").result[0]
    total = int(management.minimum_inference_memory() + 0.5 * sum(patcher.model_size() for patcher in model.patchers))
    found["card"] = difference(sampled(changed(model, ("one", 1.0)), vae), merged)
    found["card places"] = sorted({str(tensor.device) for tensor in model.diffusion_net.model.state_dict().values()})
    found["card plain"] = difference(sampled(model, vae), plain)
    management.unload_all_models()
    found["int8 streamed"] = error_of_layers(changed(load(weight_dtype="int8_scaled"), ("large", 1.0)), CARD)
    found["fp8 streamed"] = error_of_layers(changed(load(weight_dtype="fp8_e4m3fn"), ("large", 1.0)), CARD)
print(json.dumps(found))
