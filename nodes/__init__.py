"""The ComfyUI side of the pack: every node it has, and how ComfyUI asks for them."""

from comfy_api.latest import ComfyExtension, io

from ..memo_modules.errors import MemoError
from . import all_in_one, audio, comfy_adapter, emotion, face, framing, loaders, replacements, sampler, video
from .checks import checked

_MODULES = (loaders, audio, emotion, face, framing, sampler, video, all_in_one)
NODES: list[type[io.ComfyNode]] = [checked(node) for module in _MODULES for node in module.NODES]

for _error in (MemoError, *MemoError.__subclasses__()):
    _error.__module__ = "builtins"  # ComfyUI then shows the class's name alone: with this folder's path there is no room for the sentence


class MemoExtension(ComfyExtension):
    async def on_load(self) -> None:  # never called by 0.8
        await replacements.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MemoExtension:
    comfy_adapter.register_model_folder()
    return MemoExtension()
