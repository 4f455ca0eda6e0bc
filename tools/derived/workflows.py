"""The workflow files as ComfyUI's front end saves them, with their API format.

Each file of workflows/ is dropped onto the canvas, for when a node got another input or the front end another format.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from tools.front_end import FrontEnd

ROOT = Path(__file__).resolve().parents[2]

WORKFLOWS = ROOT / "workflows"
LEAST_SCALE = 0.75
"""How small a graph may open: the front end's text is then 9 pixels high. Below 0.57 it draws none. What is larger is scrolled."""

TAKEN = {"RecordAudio": {"audio": "speech.wav"}}
"""What nodes take from a microphone when Run is pressed: the API format names a file for it."""
OWN_EXTRAS = ("ds", "reroutes", "linkExtensions", "frontendVersion")
NEAR, FAR = (60, 90), (20, 20)
"""Pixels at the left and above, and at the right and below, in which the front end has its own elements, or nothing is to be."""
_EDGES = """(() => {
    const items = [...app.graph.nodes, ...app.graph.groups, ...app.graph.reroutes.values()].map(item => [...item.boundingRect])
    const least = side => Math.min(...items.map(item => item[side])), most = side => Math.max(...items.map(item => item[side] + item[side + 2]))
    return [least(0), least(1), most(0) - least(0), most(1) - least(1)]
})()"""
_MAKE_ROOM = """(heights => {
    const GUTTER = 40
    for (const node of [...app.graph.nodes].sort((one, other) => one.pos[1] - other.pos[1])) {
        const grown = node.size[1] - (heights[node.id] ?? node.size[1])
        if (grown <= 0) continue
        const edge = node.pos[1] + node.size[1] - grown, [left, right] = [node.pos[0], node.pos[0] + node.size[0]]
        const above = item => item.pos[0] < right && item.pos[0] + item.size[0] > left
        const move = item => item.pos = [item.pos[0], item.pos[1] + grown]
        const nodes = app.graph.nodes.filter(other => above(other) && other.pos[1] >= edge)
        const last = Math.max(edge, ...nodes.map(other => other.pos[1] + other.size[1]))
        const near = ({pos: [x, y]}) => x > left - GUTTER && x < right + GUTTER && y >= edge && y <= last
        const reroutes = [...app.graph.reroutes.values()].filter(near)
        const groups = app.graph.groups.filter(above)
        const around = groups.filter(({pos: [, y], size: [, height]}) => y < edge && y + height >= edge)
        around.forEach(group => group.size = [group.size[0], group.size[1] + grown])
        ;[...nodes, ...reroutes, ...groups.filter(({pos: [, y]}) => y >= edge)].forEach(move)
    }
})"""
"""Of the heights that the file says: what stands below a node that grew, since it got an input, moves down by as much."""
APP, APP_EXTRAS = ".app.json", ("linearMode", "linearData")
"""How the name of an app ends, and what makes a workflow one."""
NO_ID = "00000000-0000-0000-0000-000000000000"


def files() -> list[Path]:
    """All that the front end is to save anew: an app is opened as one, without its canvas, and made of its graph instead."""
    return sorted(file for file in WORKFLOWS.glob("*.json") if not _is_app(file))


def apps() -> Iterator[tuple[Path, dict]]:
    """(file, content) of each app: the graph of the same name, and what makes it an app, which the file holds already."""
    for file in sorted(filter(_is_app, WORKFLOWS.glob("*.json"))):
        graph, kept = (json.loads(path.read_text(encoding="utf-8")) for path in (graph_of(file), file))
        yield file, graph | {"extra": graph["extra"] | {key: kept["extra"][key] for key in APP_EXTRAS}}


def graph_of(app: Path) -> Path:
    return app.with_name(app.name.replace(APP, ".json"))


def _is_app(file: Path) -> bool:
    return file.name.endswith(APP)


def saved(page: FrontEnd, file: Path) -> tuple[dict, dict] | None:
    """A workflow as it is saved today and its API format; None when one of its nodes is missing."""
    page.clear()
    page.drop_workflow(file)
    if page.unknown_nodes():
        return None
    page.complaints()  # which waits until previews of pictures and sounds are there
    heights = {node["id"]: node["size"][1] for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]}
    page.evaluate(f"{_MAKE_ROOM}({json.dumps(heights)})")
    look_at_all(page)
    if page.evaluate("app.canvas.ds.scale") < LEAST_SCALE:
        look_at_all(page, LEAST_SCALE)
    exported = page.evaluate("app.graphToPrompt()")
    for node in exported["output"].values():
        node["inputs"] |= TAKEN.get(node["class_type"], {})
    workflow = exported["workflow"] | {"id": NO_ID}
    workflow["extra"] = {key: value for key, value in workflow["extra"].items() if key in OWN_EXTRAS}  # other packs add theirs to all
    return workflow, exported["output"]


def look_at_all(page: FrontEnd, scale: float | None = None) -> None:
    """Move the canvas so that all nodes are seen; ``scale``: or as much of them from the upper left on as there is room for then."""
    left, top, width, height = page.evaluate(_EDGES)
    rooms = [whole - near - far for whole, near, far in zip(page.size, NEAR, FAR, strict=True)]
    scale = scale or math.floor(100 * min(1, rooms[0] / width, rooms[1] / height)) / 100
    offset = [math.ceil(near / scale - edge) for near, edge in zip(NEAR, (left, top), strict=True)]
    page.evaluate(f"app.canvas.ds.scale = {scale}; app.canvas.ds.offset = {json.dumps(offset)}; app.canvas.setDirty(true, true)")
    page.evaluate("new Promise(done => setTimeout(done, 1500))")  # in which widgets of HTML follow
