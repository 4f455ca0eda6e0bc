"""The ComfyUI side of the pack: every node it has, and how ComfyUI asks for them."""

from comfy_api.latest import ComfyExtension, io

from . import audio, comfy_adapter, emotion, face, loaders, sampler
from .checks import checked

NODES: list[type[io.ComfyNode]] = [checked(node) for node in (*loaders.NODES, *audio.NODES, *emotion.NODES, *face.NODES, *sampler.NODES)]


class MemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MemoExtension:
    comfy_adapter.register_model_folder()
    return MemoExtension()
