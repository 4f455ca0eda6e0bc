"""Screenshots of every workflow as people meet it: python -m tools.survey FOLDER [NAME ...] [--packs DIR]

Each file of workflows/ is dropped on the canvas of a ComfyUI with the small model, in both renderers, English and Chinese, dark and
light, on a desk's and a phone's screen; run to its end, and loaded anew (F5) and run again. FOLDER gets the screenshots, a sheet of them
for each workflow (NAME.jpg), and survey.jsonl: the smallest text in each, and what went wrong. Some minutes for each workflow. Needs a
ComfyUI and Chromium. --packs: a folder with the packs of other people that workflows name.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

from tools.chromium import PageError, find_chromium
from tools.comfyui_server import ComfyUIServer
from tools.derived import stage
from tools.derived.workflows import APP, WORKFLOWS
from tools.front_end import SETTINGS, FrontEnd, server_alone

RENDERERS, LANGUAGES, PALETTES = ("canvas", "Vue"), ("en", "zh"), ("dark", "light")
SCREENS = {"desk": (1600, 900), "phone": (412, 915)}
STATES = ("opened", "run", "reloaded")
NOT_RUN = ("face_restoration_facerestore_cf", "record_yourself", "text_to_portrait", "text_to_speech_fill_chatterbox")
"""Opened alone: they need other people's weights, or somebody who speaks."""
SETTLES = 0.7
"""Seconds in which elements find their places."""
TILE = (400, 300)

# In pixels of the screen: of what the canvas draws, and of what lies on it as elements.
SMALLEST_TEXT = """(() => {
    const { scale } = app.canvas.ds, seen = []
    if (!LiteGraph.vueNodesMode && app.graph.nodes.length) seen.push([LiteGraph.NODE_SUBTEXT_SIZE * scale, "canvas"])
    for (const element of document.querySelectorAll("[data-node-id] *, .dom-widget *")) {
        const text = [...element.childNodes].filter(({ nodeType }) => nodeType === 3).map(({ data }) => data.trim()).join("")
        const box = element.getBoundingClientRect()
        if (!text || !box.width || element.closest("[hidden], svg") || getComputedStyle(element).visibility === "hidden") continue
        const shrunk = element.offsetWidth ? box.width / element.offsetWidth : scale
        seen.push([parseFloat(getComputedStyle(element).fontSize) * shrunk, text.slice(0, 40)])
    }
    return seen.sort(([one], [other]) => one - other)[0] ?? [null, ""]
})()"""
SHEETS = """(() => {
    const ours = app.graph.nodes.filter(({ type }) => ["MemoSampler", "MemoTalkingPortrait"].includes(type))
    return ours.length === 0 || document.querySelectorAll("[data-node-id] img").length > 0 || ours.every(node => node.imgs?.length)
})()"""


class Survey:
    """Takes the screenshots and keeps what is said of each. A sheet has a row for each combination and a column for each state."""

    def __init__(self, folder: Path):
        self.folder, self.lines = folder, []

    def take(self, page: FrontEnd, file: Path, state: str, renderer: str, language: str) -> None:
        """On every screen, in every palette."""
        for palette in PALETTES:
            page.set("Comfy.ColorPalette", palette)
            for screen, size in SCREENS.items():
                page.resize(size)
                time.sleep(SETTLES)
                name = "-".join((file.stem, state, renderer, language, palette, screen))
                page.screenshot(self.folder / f"{name}.png")
                size, text = page.evaluate(SMALLEST_TEXT)
                self.say(name, smallest_text=size and round(size, 1), text=text)
        page.resize(SCREENS["desk"])

    def say(self, name: str, **what) -> None:
        self.lines.append({"name": name} | what)
        with (self.folder / "survey.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(self.lines[-1], ensure_ascii=False) + "\n")

    def sheet(self, workflow: str) -> None:
        files = sorted(self.folder.glob(f"{workflow}-*.png"))
        columns = 8
        sheet = Image.new("RGB", (columns * TILE[0], -(-len(files) // columns) * (TILE[1] + 16)), "white")
        for i, file in enumerate(files):
            shot = Image.open(file).convert("RGB")
            shot.thumbnail(TILE, Image.Resampling.LANCZOS)
            place = (i % columns * TILE[0], i // columns * (TILE[1] + 16))
            sheet.paste(shot, (place[0], place[1] + 16))
            ImageDraw.Draw(sheet).text(place, file.stem.removeprefix(workflow), fill="black")
        sheet.save(self.folder / f"{workflow}.jpg", quality=85)


def look(survey: Survey, server: ComfyUIServer, chromium: str, profile: Path, files: list[Path], renderer: str, language: str) -> None:
    """All files in one renderer and language; those in English are run."""
    server.post("/settings", SETTINGS | {"Comfy.VueNodes.Enabled": renderer == "Vue", "Comfy.Locale": language})
    server.free()
    with FrontEnd(chromium, profile, server.url, SCREENS["desk"]) as page:
        for file in files:
            print(renderer, language, file.stem, flush=True)
            page.clear()
            page.drop_workflow(file)
            if unknown := page.unknown_nodes():
                survey.say(file.stem, unknown=unknown)
                continue
            page.complaints()
            survey.take(page, file, "opened", renderer, language)
            if language != "en" or file.stem in NOT_RUN or file.name.endswith(APP):
                continue
            page.set_widgets(stage.WIDGETS)
            page.set_widgets({"LoadImage": {"image": stage.PHOTOS[file.stem]}} if file.stem in stage.PHOTOS else {})
            for state in STATES[1:]:
                if state == "reloaded":
                    page.reload()
                started = time.monotonic()
                try:
                    page.run(timeout=900)
                    page.wait_for(SHEETS, 20)
                except PageError as error:
                    survey.say(f"{file.stem}-{state}-{renderer}", error=str(error)[:500])
                survey.say(f"{file.stem}-{state}-{renderer}", seconds=round(time.monotonic() - started, 1), errors=page.own_errors())
                survey.take(page, file, state, renderer, language)


def chosen(names: list[str]) -> Iterator[Path]:
    for file in sorted(WORKFLOWS.glob("*.json")):
        if not names or file.stem in names:
            yield file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="workflows (default: all)")
    parser.add_argument("--packs", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if not (chromium := find_chromium()):
        raise SystemExit("no Chromium found; on Debian and Ubuntu: apt install chromium")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    survey, files = Survey(arguments.folder), list(chosen(arguments.names))
    with stage.base(arguments.packs) as base, server_alone(base) as server:
        for renderer, language in product(RENDERERS, LANGUAGES):
            look(survey, server, chromium, base / f"{renderer}-{language}", files, renderer, language)
    for file in files:
        if any(survey.folder.glob(f"{file.stem}-*.png")):  # not so where its pack is not there
            survey.sheet(file.stem)


if __name__ == "__main__":
    main()
