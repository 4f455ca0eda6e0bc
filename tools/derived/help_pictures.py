"""Every node as ComfyUI's front end shows it, for the help pages: web/docs/<NodeId>.png."""

import time
from pathlib import Path

from PIL import Image, PngImagePlugin

from memo_modules.audio.timeline import EXAMPLE
from tools.front_end import FrontEnd

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
SHOWS = "Description"
"""The PNG's text that holds what contents() said when it was drawn."""
SETTINGS = {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
"""Of the front end."""
WIDGETS = {"MemoEmotionTimeline": {"timeline": EXAMPLE}}
MARGIN = 12
COLORS = 256
WIDTH = 350  # at least, or names are cut off
_SETTLED = 0.5  # seconds until the elements that lie on a node have found their places


def contents(info: dict) -> str:
    """What a picture of a node shows: title, inputs and outputs. info: of the node in /object_info."""
    order = info["input_order"]
    return ", ".join([info["display_name"], *order.get("required", ()), *order.get("optional", ()), *info["output_name"]])


def draw(page: FrontEnd, node: str, info: dict) -> Image.Image:
    """The node alone on the canvas, with a margin around it, in few colours."""
    page.clear()
    left, top, width, height = page.add(node, width=WIDTH)
    page.set_widgets(WIDGETS)
    time.sleep(_SETTLED)
    return page.picture((left - MARGIN, top - MARGIN, width + 2 * MARGIN, height + 2 * MARGIN)).quantize(COLORS)


def save(picture: Image.Image, info: dict, file: Path) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text(SHOWS, contents(info))
    picture.save(file, "PNG", optimize=True, pnginfo=said)
