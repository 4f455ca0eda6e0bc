"""A custom node pack of the tests' own: values that no core node makes, and a look into the running ComfyUI."""

import gc
import json
import os
from collections import Counter

import comfy.model_management
import psutil
import torch
from comfy_execution.graph_utils import ExecutionBlocker


class HandMadeImage:
    """A grey IMAGE of any shape, "b h w c"."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {}), "value": ("FLOAT", {"default": 0.5})}}

    def make(self, shape, value):
        return (torch.full([int(size) for size in shape.split()], value),)


class HandMadeImages:
    """A list of grey IMAGEs, each of one "value"."""

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {}), "values": ("STRING", {})}}

    def make(self, shape, values):
        return ([torch.full([int(size) for size in shape.split()], float(value)) for value in values.split()],)


class HandMadeAudio:
    """An AUDIO of any shape, "b c t": noise, the same noise with every other channel inverted, or the same value everywhere."""

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {}), "sample_rate": ("INT", {"default": 16000}), "value": ("STRING", {"default": "noise"})}}

    def make(self, shape, sample_rate, value):
        sizes = [int(size) for size in shape.split()]
        generator = torch.Generator().manual_seed(0)
        if value == "inverted":
            waveform = torch.randn(sizes[-1], generator=generator) * 0.1 * torch.tensor([1.0, -1.0]).repeat(sizes[1])[: sizes[1], None]
            waveform = waveform.expand(sizes)
        else:
            waveform = torch.randn(sizes, generator=generator) * 0.1 if value == "noise" else torch.full(sizes, float(value))
        return ({"waveform": waveform, "sample_rate": sample_rate},)


class HandMadeTexts:
    """A list of texts."""

    RETURN_TYPES = ("STRING",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"words": ("STRING", {})}}

    def make(self, words):
        return (words.split(),)


class BlockOne:
    """Hands on a list of IMAGEs without item number ``number``, which it blocks as other packs' switches do."""

    RETURN_TYPES = ("IMAGE",)
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "block"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE", {}), "number": ("INT", {"default": 0})}}

    def block(self, images, number):
        return ([ExecutionBlocker(None) if k == number[0] else image for k, image in enumerate(images)],)


class FailingModel:
    """Hands on a MEMO_MODEL whose diffusion net once runs out of memory, in its call number ``call``."""

    RETURN_TYPES = ("MEMO_MODEL",)
    FUNCTION = "arm"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MEMO_MODEL", {}), "call": ("INT", {"default": 1})}}

    def arm(self, model, call):
        calls = []

        def fail(*_):
            calls.append(None)
            if len(calls) == call:
                hook.remove()
                raise torch.OutOfMemoryError("on purpose")

        hook = model.diffusion_net.model.register_forward_pre_hook(fail)
        return (model,)


class MakeRoom:
    """Hands on what it gets, when ComfyUI has freed what it frees on a full GPU for a model that needs one byte more."""

    RETURN_TYPES = ("*",)
    FUNCTION = "make_room"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"after": ("*", {})}}

    def make_room(self, after):
        management = comfy.model_management
        look = management.get_free_memory
        management.get_free_memory = lambda device=None, torch_free_too=False: (0, 0) if torch_free_too else 0
        try:
            management.free_memory(1, management.get_torch_device())
        finally:
            management.get_free_memory = look
        return (after,)


class Alive:
    """Counts, by class, the pack's objects, ONNX sessions and patchers that are alive once its inputs are there."""

    RETURN_TYPES = ()
    FUNCTION = "count"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"after": ("*", {}), "and_after": ("*", {})}}

    @classmethod
    def IS_CHANGED(cls, **inputs):
        return float("nan")

    def count(self, **inputs):
        gc.collect()
        classes = Counter(_name(type(thing)) for thing in gc.get_objects())
        for_ever = ("Host", "_Indices")  # host.SILENT, and what reading.py remembers of videos
        alive = {name: number for name, number in classes.items() if name and name not in for_ever}
        return {"ui": {"alive": [json.dumps(alive)], "rss": [psutil.Process(os.getpid()).memory_info().rss]}}


def _name(kind: type) -> str:
    for base in kind.__mro__:
        if base.__name__ in ("InferenceSession", "ModelPatcher"):
            return base.__name__
    module = str(kind.__module__)  # compiled classes may have something else there
    if ".store." in module:  # the table of published models is always there
        return ""
    return kind.__name__ if "memo_modules" in module or module.endswith("ComfyUI-MEMO.nodes.types") else ""


NODES = (HandMadeImage, HandMadeImages, HandMadeAudio, HandMadeTexts, BlockOne, FailingModel, MakeRoom, Alive)
NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in NODES}
