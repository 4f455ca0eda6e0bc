"""The workflow files as ComfyUI's front end saves them, with their API format and their picture.

Each file of workflows/ is dropped onto the canvas, for when a node got another input or the front end another format.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tools.front_end import FrontEnd

ROOT = Path(__file__).resolve().parents[2]

WORKFLOWS = ROOT / "workflows"
LEAST_SCALE = 0.7
"""How small a graph may open: below 0.57 the front end draws no text. What is larger is scrolled."""

MODELS = (
    "vae/sd-vae-ft-mse.safetensors",
    "upscale_models/RealESRGAN_x2plus.pth",
    "facerestore_models/codeformer.pth",
    "frame_interpolation/film_net_fp16.safetensors",
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
)
"""Files that the workflows name and nobody opens here: empty ones do."""
INPUTS = {"portrait.jpg": "portrait.jpg", "portrait_2.jpg": "cartoon.png", "speech.wav": "speech.wav", "portraits/anna.jpg": "portrait.jpg"}
"""Input files that the workflows name to files in assets/."""
TAKEN = {"RecordAudio": {"audio": "speech.wav"}}
"""What nodes take from a microphone when Run is pressed: the API format names a file for it."""
WINDOW = (2800, 1600)
SCALE, MARGIN, WIDTH = 0.75, 20, 1280
"""Of a picture: how far the canvas is zoomed out, pixels around the nodes, and its width in the end."""
OWN_EXTRAS = ("ds", "reroutes", "linkExtensions", "frontendVersion")
TOOLBARS = (60, 90)
"""Pixels that the front end's own elements take at each side, and above and below."""
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


def write_base(base: Path, packs: Path | None) -> None:
    """Put all that the workflows name into a base directory of ComfyUI. packs: those of other people, each in a folder of its own."""
    for model in MODELS:
        (base / "models" / model).parent.mkdir(exist_ok=True)
        (base / "models" / model).touch()
    for name, file in INPUTS.items():
        (base / "input" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "assets" / file, base / "input" / name)
    if packs:
        shutil.copytree(packs, base / "custom_nodes", ignore=shutil.ignore_patterns(".git"))


def saved(page: FrontEnd, file: Path) -> tuple[dict, dict, Image.Image] | None:
    """A workflow as it is saved today, its API format and its picture; None when one of its nodes is missing."""
    page.clear()
    page.drop_workflow(file)
    if page.unknown_nodes():
        return None
    page.complaints()  # which waits until previews of pictures and sounds are there
    heights = {node["id"]: node["size"][1] for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]}
    page.evaluate(f"{_MAKE_ROOM}({json.dumps(heights)})")
    look_at_all(page, (1600, 900))
    if page.evaluate("app.canvas.ds.scale") < LEAST_SCALE:
        look_at_all(page, (1600, 900), LEAST_SCALE)
    exported = page.evaluate("app.graphToPrompt()")
    for node in exported["output"].values():
        node["inputs"] |= TAKEN.get(node["class_type"], {})
    workflow = exported["workflow"] | {"id": NO_ID}
    workflow["extra"] = {key: value for key, value in workflow["extra"].items() if key in OWN_EXTRAS}  # other packs add theirs to all
    look_at_all(page, (1600, 900))
    return workflow, exported["output"], picture(page)


def look_at_all(page: FrontEnd, size: tuple[int, int], scale: float | None = None) -> tuple[float, float, float, float]:
    """Move the canvas so that a window of that size shows all nodes; returns where on the page they are."""
    left, top, width, height = page.evaluate(_EDGES)
    scale = scale or round(min((room - 2 * bar) / length for room, bar, length in zip(size, TOOLBARS, (width, height), strict=True)), 2)
    offset = [round(bar / scale - edge + MARGIN / scale) for bar, edge in zip(TOOLBARS, (left, top), strict=True)]
    page.evaluate(f"app.canvas.ds.scale = {scale}; app.canvas.ds.offset = {json.dumps(offset)}; app.canvas.setDirty(true, true)")
    page.evaluate("new Promise(done => setTimeout(done, 1500))")  # in which widgets of HTML follow
    x, y = page.evaluate(f"app.canvas.ds.convertOffsetToCanvas({json.dumps([left, top])})")
    origin = page.evaluate("(box => [box.x, box.y])(document.querySelector('#graph-canvas').getBoundingClientRect())")
    return x + origin[0], y + origin[1], width * scale, height * scale


def picture(page: FrontEnd) -> Image.Image:
    """The graph as the canvas shows it, without what stands around it."""
    x, y, width, height = look_at_all(page, WINDOW, SCALE)
    page.evaluate("document.querySelectorAll('[data-testid=minimap-container], .minimap-main-container').forEach(part => part.remove())")
    shown = page.picture((x - MARGIN, y - MARGIN, width + 2 * MARGIN, height + 2 * MARGIN))
    return shown.resize((WIDTH, round(shown.height * WIDTH / shown.width)), Image.LANCZOS) if shown.width > WIDTH else shown
