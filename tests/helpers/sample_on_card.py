"""Run by test_card.py in a process of its own: the sampler under the memory management of a ComfyUI that has a GPU, see
pretend_device.py.

Arguments: the pack's folder, ComfyUI's base directory with the tiny models. Prints in JSON what each run came to.
"""

import importlib.util
import json
import logging
import sys
import weakref
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

pack, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]

import comfy.options
import torch
from pretend_device import have_card

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: F401, I001  as main.py does before nodes.py puts a folder with a module utils in front of it
import comfy.model_management as management

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from pack.memo_modules.audio.emotion import constant_emotion
from pack.memo_modules.host import Host
from pack.memo_modules.sampler import footprint, streaming
from pack.memo_modules.types import AudioFeatures, Face, SamplerSettings
from pack.nodes import comfy_adapter, loaders, sampler

SIDE, LATENT, CLIPS, FRAMES = 64, (8, 8), 1, 2
RUNS = {"normal": 0.5, "low": 0.05}
"""By mode of the sampler the share of the weights that the GPU has room for."""
RESIDENT = 0.5
"""Of the motion memory, for which there is room in mode auto, which then is low."""

total = 0


def sampled(model, vae, mode: str, state=None) -> tuple[torch.Tensor, object]:
    generator = torch.Generator().manual_seed(0)
    net = model.image_proj.model
    face = Face(torch.randn(1, net.proj.weight.shape[1], generator=generator), None, 0.0)
    states = torch.randn(CLIPS * FRAMES, 2, 64, generator=generator)
    audio = AudioFeatures(states, Fraction(30), CLIPS * FRAMES, FRAMES)
    picture = torch.rand(1, SIDE, SIDE, 3, generator=generator)
    sampling = sampler.Sampling(model, vae, picture, face, audio, constant_emotion(3), SIDE, SIDE, 1, 3.5, 42, 1, memory_mode=mode, state=state)
    sampling.inputs()  # by which MEMO Sample to File knows its video
    return sampler.all_frames(sampling, Host())


def load():
    model = loaders.MemoLoadModel.execute(model="tiny").result[0]
    return model, loaders.MemoLoadVAE.execute(vae="sd-vae-ft-mse").result[0]


def order(model, dynamic: bool) -> list[int]:
    """In which the patchers of ``model`` are asked for."""
    asked, load_models = [], management.load_models_gpu
    management.load_models_gpu = lambda patchers, **_: asked.extend(patchers)
    model.diffusion_net.is_dynamic = lambda: dynamic
    nets, _ = comfy_adapter.memo_nets(model, LATENT, SamplerSettings(), FRAMES, "normal")
    nets.bring_in("reference", False)
    management.load_models_gpu = load_models
    return [model.patchers.index(patcher) for patcher in asked]


@contextmanager
def free_ram(size: float):
    """Within, so much is free, as ComfyUI's account of what is pinned says, or in 0.8 the system."""
    replaced = {
        name: function
        for name, function in {
            "ensure_pin_budget": lambda needed: needed <= size,
            "get_free_memory": lambda device=None, **_: size if str(device) == "cpu" else free(device),
        }.items()
        if hasattr(management, name)
    }
    free, kept = management.get_free_memory, {name: getattr(management, name) for name in replaced}
    vars(management).update(replaced)
    try:
        yield
    finally:
        vars(management).update(kept)


def with_little_ram(model) -> list:
    """Whether low-memory mode takes 8 bits, and what is said of it, with enough RAM, too little, and far too little."""
    found = []
    counted = footprint.Footprint(model.diffusion_net.model.config, LATENT, SamplerSettings(), FRAMES, 4)
    plan = counted.plan({"reference": 0, "diffusion": 0}, 2**40, "low")
    needed, less = (sum(counted.in_ram(plan, eight_bits).values()) for eight_bits in (False, True))
    for size in (needed, (needed + less) / 2, 1000):
        said, handler = [], logging.Handler(logging.WARNING)
        handler.emit = lambda record, said=said: said.append(record.getMessage())
        logging.getLogger().addHandler(handler)
        with free_ram(size):
            nets, _ = comfy_adapter.memo_nets(model, LATENT, SamplerSettings(), FRAMES, "low")
        logging.getLogger().removeHandler(handler)
        found.append([nets.eight_bits, said])
    return found


class InRam:
    """What videos put by in RAM while it is entered: most of it at a time."""

    def __enter__(self) -> "InRam":
        self.rings, self.waiting, self.features = [], weakref.WeakSet(), 0
        self.kept = streaming._Ring.__init__, streaming.HostTensors.__init__
        streaming._Ring.__init__ = lambda ring, *arguments: self.rings.append(ring) or self.kept[0](ring, *arguments)
        streaming.HostTensors.__init__ = lambda tensors, *arguments: self._put_by(tensors, *arguments)
        return self

    def _put_by(self, tensors, *arguments) -> None:
        self.kept[1](tensors, *arguments)
        self.waiting.add(tensors)
        self.features = max(self.features, sum(tensor.nbytes for each in self.waiting for tensor in each._tensors))

    def __exit__(self, *_) -> None:
        streaming._Ring.__init__, streaming.HostTensors.__init__ = self.kept

    def compared(self, frames: torch.Tensor, config, eight_bits: bool) -> list[dict[str, int]]:
        """What was held, and what is counted for it."""
        pieces = [piece for ring in self.rings for pieces in ring.host for piece in pieces]
        held = {"motion memory": sum(piece.nbytes for piece in pieces), "features": self.features, "frames": 2 * frames.nbytes}
        one_past = footprint.Footprint(config, LATENT, SamplerSettings(num_init_past_frames=1, num_past_frames=1), FRAMES, 4)
        return [held, one_past.in_ram(one_past.plan({"reference": 0, "diffusion": 0}, 2**40, "low"), eight_bits)]


def shares_its_ram(model) -> list:
    """Of low-memory mode on a GPU whose memory is the RAM: the share of the motion memory that stays, and what is said."""
    is_mps, management.is_device_mps = management.is_device_mps, lambda device: True
    nets, low = comfy_adapter.memo_nets(model, LATENT, SamplerSettings(), FRAMES, "low")
    management.is_device_mps = is_mps
    return [nets.resident_share, low]


torch.set_num_threads(1)
with torch.inference_mode():
    expected, _ = sampled(*load(), "normal")
    management.unload_all_models()
    have_card(lambda: total)
    found = {}
    for mode, share in RUNS.items():
        model, vae = load()
        total = int(management.minimum_inference_memory() + share * sum(patcher.model_size() for patcher in model.patchers))
        frames, state = sampled(model, vae, mode)
        found[mode] = {
            "places": sorted({str(tensor.device) for tensor in model.diffusion_net.model.state_dict().values()}),
            "difference": (frames - expected).abs().max().item(),
        }
        if mode == "normal":  # with nets that lie where the first video left them
            found["continued"] = list(sampled(model, vae, mode, state)[0].shape)
        management.unload_all_models()
    model, vae = load()
    config, settings = model.diffusion_net.model.config, SamplerSettings(num_init_past_frames=1)
    footprint._ROUNDING = 0
    footprint.Footprint.plan.__defaults__ = (*footprint.Footprint.plan.__defaults__[:-1], 0)  # nothing reserved
    counted = footprint.Footprint(config, LATENT, settings, FRAMES, 4)
    total = management.extra_reserved_memory() + int(
        sum(patcher.model_size() for patcher in (model.diffusion_net, model.audio_proj))
        + counted.low_memory["diffusion"]
        + counted.streamed_memory
        + RESIDENT * counted.motion_memory
    )
    rings, make = [], streaming._Ring.__init__
    streaming._Ring.__init__ = lambda ring, *arguments: rings.append(ring) or make(ring, *arguments)
    frames, _ = sampled(model, vae, "auto")
    found["auto"] = {
        "difference": (frames - expected).abs().max().item(),
        "resident": rings[0].resident_values / rings[0].values,
        "places": sorted({str(memory.kv.device) for module in rings[0].resident.values() for memory in module}),
        "streamed": sum(map(bool, rings[0].host)),
    }
    net, rings[:] = model.diffusion_net.model, []
    forward = net.forward

    def forward_once_out_of_memory(*arguments, **options):
        net.forward = forward
        raise torch.OutOfMemoryError

    net.forward = forward_once_out_of_memory
    frames, _ = sampled(model, vae, "auto")
    found["little RAM"] = with_little_ram(model)
    found["apple"] = shares_its_ram(model)
    found["order"] = [order(model, dynamic) for dynamic in (False, True)]
    found["too much"] = {"difference": (frames - expected).abs().max().item(), "resident": [ring.resident_values > 0 for ring in rings]}
    found["in RAM"] = []
    for eight_bits in (False, True):
        comfy_adapter._ram_for = lambda size, fits=not eight_bits: fits
        with InRam() as held:
            frames_of_8_bits, _ = sampled(model, vae, "low")
        found["in RAM"].append(held.compared(frames_of_8_bits, model.diffusion_net.model.config, eight_bits))
    found["8 bits"] = (frames_of_8_bits - expected).abs().max().item()
print(json.dumps(found))
