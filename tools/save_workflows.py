"""Save the workflow files anew as ComfyUI's front end saves them, with their API format and their picture.

    python tools/save_workflows.py [NAME ...] [--packs DIR]

For when a node got another input or the front end another format: each file of workflows/ is dropped onto the canvas, and written
back with workflows/api/NAME.json and NAME.jpg. With a Python that runs ComfyUI, which is looked for in COMFYUI_PATH and
~/comfy/ComfyUI; it needs Chromium, and in --packs the packs of other people that a workflow names: without one it is left as it is.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from tools.front_end import FrontEnd, desk
from tools.make_tiny_checkpoint import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[1]

WORKFLOWS = ROOT / "workflows"
MODELS = ("vae/sd-vae-ft-mse.safetensors", "upscale_models/RealESRGAN_x2plus.pth", "facerestore_models/codeformer.pth")
"""Files that the workflows name and nobody opens here: empty ones do."""
INPUTS = {"portrait.jpg": "portrait.jpg", "portrait_2.jpg": "cartoon.png", "speech.wav": "speech.wav"}
"""Input files that the workflows name to files in assets/."""
WINDOW = (2800, 1300)
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
NO_ID = "00000000-0000-0000-0000-000000000000"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a workflow (default: all)")
    parser.add_argument("--packs", type=Path, metavar="DIR", help="a folder with packs of other people, each in a folder of its own")
    arguments = parser.parse_args()
    known = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
    if unknown := set(arguments.names) - set(known):
        parser.error(f"expected names among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    arguments.names = arguments.names or known
    return arguments


def write_base(base: Path, packs: Path | None) -> None:
    """A base directory of ComfyUI with all that the workflows name."""
    write_tiny_checkpoint(base / "models", "memo")
    for model in MODELS:
        (base / "models" / model).parent.mkdir(exist_ok=True)
        (base / "models" / model).touch()
    (base / "input").mkdir()
    for name, file in INPUTS.items():
        shutil.copy(ROOT / "assets" / file, base / "input" / name)
    if packs:
        shutil.copytree(packs, base / "custom_nodes", ignore=shutil.ignore_patterns(".git"))


def save(page: FrontEnd, file: Path) -> bool:
    """Write a workflow anew with what belongs to it; False when one of its nodes is missing."""
    page.clear()
    page.drop_workflow(file)
    if page.unknown_nodes():
        return False
    page.complaints()  # which waits until previews of pictures and sounds are there
    look_at_all(page, (1600, 900))
    exported = page.evaluate("app.graphToPrompt()")
    workflow = exported["workflow"] | {"id": NO_ID}
    workflow["extra"] = {key: value for key, value in workflow["extra"].items() if key in OWN_EXTRAS}  # other packs add theirs to all
    for kept, content in ((file, workflow), (file.parent / "api" / file.name, exported["output"])):
        kept.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    picture(page).save(file.with_suffix(".jpg"), quality=85, optimize=True)
    return True


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
    with tempfile.TemporaryDirectory() as folder:
        part = page.picture(Path(folder, "picture.png"), (x - MARGIN, y - MARGIN, width + 2 * MARGIN, height + 2 * MARGIN))
        shown = Image.open(part).convert("RGB")
    return shown.resize((WIDTH, round(shown.height * WIDTH / shown.width)), Image.LANCZOS) if shown.width > WIDTH else shown


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_base(base, arguments.packs)
        with desk(base, WINDOW) as (_, page):
            for name in arguments.names:
                print(f"{name}: {'saved' if save(page, WORKFLOWS / f'{name}.json') else 'left as it is: needs another pack'}", flush=True)


if __name__ == "__main__":
    main()
