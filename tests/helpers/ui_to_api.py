"""Turns a workflow as the canvas saves it (UI format) into what /prompt takes (API format), by what /object_info says.

ComfyUI does this in its front end alone. Known here: notes, Reroute nodes, muted nodes, inputs that took the place of a
widget, and dynamic combos; anything else (bypassed nodes, subgraphs, primitives) is refused.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.derived.workflows import TAKEN

NOTES = ("Note", "MarkdownNote")
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "AUDIO_RECORD")
MUTED, BYPASSED = 2, 4


class Widget(NamedTuple):
    """One value that a node holds itself. ``choices``: what a combo offers, None for other kinds."""

    name: str
    kind: str
    options: dict
    choices: list | None
    value: Any


def to_api(workflow: dict, object_info: dict) -> dict:
    """The prompt of a workflow. Raises ValueError that names the node which cannot be converted."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link[1:3] for link in workflow["links"]}
    prompt = {}
    for number, node in nodes.items():
        if node["type"] in (*NOTES, "Reroute") or node["mode"] == MUTED:
            continue
        inputs = {widget.name: widget.value for widget in widgets(node, object_info)} | TAKEN.get(node["type"], {})
        for slot in node["inputs"]:
            if slot["link"] is not None and (origin := _origin(slot["link"], links, nodes)):
                inputs[slot["name"]] = origin
        title = node.get("title") or object_info[node["type"]]["display_name"]
        prompt[str(number)] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


def widgets(node: dict, object_info: dict) -> list[Widget]:
    """The widgets of a saved node in order. Raises ValueError when they are not those of /object_info."""
    if node["type"] not in object_info or node["mode"] == BYPASSED:
        raise ValueError(f"{node['type']} (node {node['id']}) cannot be converted: it is unknown or bypassed")
    saved = node.get("widgets_values") or []
    values = iter(saved)
    try:
        found = _read(object_info[node["type"]]["input"], values)
    except StopIteration:
        raise ValueError(f"{node['type']} (node {node['id']}) has {len(saved)} widget values, and needs more") from None
    if left := list(values):
        raise ValueError(f"{node['type']} (node {node['id']}) has widget values that belong to no input: {left}")
    return found


def _read(inputs: dict, values: Iterator, prefix: str = "") -> list[Widget]:
    found = []
    specs = (spec for group in ("required", "optional") for spec in inputs.get(group, {}).items())
    for name, (declared, *rest) in specs:
        options = rest[0] if rest else {}
        kind, choices = ("COMBO", declared) if isinstance(declared, list) else (declared, options.get("options"))
        if kind not in WIDGET_TYPES or options.get("forceInput"):
            continue
        dynamic = {choice["key"]: choice["inputs"] for choice in choices} if kind == "COMFY_DYNAMICCOMBO_V3" else {}
        found.append(Widget(prefix + name, kind, options, list(dynamic) or choices, next(values)))
        for _ in range(_extra_widgets(name, kind, options)):
            next(values)
        if dynamic:
            found += _read(dynamic[found[-1].value], values, f"{prefix}{name}.")
    return found


def _extra_widgets(name: str, kind: str, options: dict) -> int:
    """How many widgets of its own the front end puts after that of an input: a seed's control, buttons to upload or record, a player."""
    if kind == "AUDIO_RECORD":
        return 1
    if kind == "INT":
        return bool(options.get("control_after_generate", name in ("seed", "noise_seed")))
    return bool(options.get("image_upload")) + 2 * bool(options.get("audio_upload"))


def _origin(link: int, links: dict, nodes: dict) -> list | None:
    """[node, output] that a link comes from, before any Reroute nodes; None when that node is muted."""
    number, slot = links[link]
    node = nodes[number]
    if node["type"] == "Reroute":
        link = node["inputs"][0]["link"]
        return link and _origin(link, links, nodes)
    return None if node["mode"] == MUTED else [str(number), slot]
