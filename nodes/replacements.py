"""Nodes of ComfyUI-IF_MemoAvatar that ours take the place of, where a workflow has them and that pack is not there."""

from comfy_api.latest import ComfyAPI, io

from ..memo_modules.store import obtain
from ..memo_modules.store.catalogue import CATALOGUE
from . import comfy_adapter as adapter
from .all_in_one import ROLES

CHECKPOINT_LOADER, AVATAR = "IF_MemoCheckpointLoader", "IF_MemoAvatar"

AVATAR_WIDGETS = ["resolution", "num_frames_per_clip", "fps", "inference_steps", "cfg_scale", "seed", "control_after_generate", "output_name"]
"""In the order of their values in a workflow file; ComfyUI adds the one after the seed."""

AVATAR_INPUTS = {
    "image": "image",
    "audio": "audio",
    "reference_net": "models",
    "resolution": "resolution",
    "fps": "fps",
    "inference_steps": "steps",
    "cfg_scale": "guidance_scale",
    "seed": "seed",
}
"""Its inputs to ours. All are required there: ComfyUI answers a prompt that lacks a mapped one with an HTTP 500."""


async def register() -> None:
    """Tell ComfyUI, 0.33 and newer. Of the loader's cables the first, to reference_net, continues as models; the paths and status
    that the avatar put out have no counterpart.

    Outputs are not mapped: of two nodes replaced in one prompt ComfyUI looks for the mapped output's cable under the other's old
    input, and answers with an HTTP 500 when it has replaced that one before. In a prompt the first output stays the first by
    itself, on the canvas web/replaced_nodes.js sees to it.
    """
    manager = ComfyAPI().node_replacement
    await manager.register(
        io.NodeReplace(
            new_node_id="MemoLoadAll",
            old_node_id=CHECKPOINT_LOADER,
            input_mapping=[{"new_id": given, "set_value": _model(role)} for given, role in ROLES.items()],
        )
    )
    await manager.register(
        io.NodeReplace(
            new_node_id="MemoTalkingPortrait",
            old_node_id=AVATAR,
            old_widget_ids=AVATAR_WIDGETS,
            input_mapping=[{"new_id": ours, "old_id": theirs} for theirs, ours in AVATAR_INPUTS.items()],
        )
    )


def _model(role: str) -> str:
    """The published model, which is what that pack loads, unless others are there and it is not."""
    found, published = obtain.listing(role, adapter.model_folders).found, CATALOGUE[role].name
    return published if published in found else next(iter(found), published)
