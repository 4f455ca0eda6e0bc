"""Write every file anew that is made from others: python -m tools.regenerate [PART ...] [--packs DIR]

    tables         tables in README.md and docs/, from the catalogue and from benchmarks/
    schemas        tests/node_schemas.json, which saved workflows depend on
    locales        locales/en, which translations start from
    workflows      workflows/*.json as the front end saves them, and workflows/api/
    pictures       workflows/*.jpg and web/docs/*.png: what the small model makes with them

It says which files changed; a second run changes none. All but the tables need a ComfyUI (COMFYUI_PATH or ~/comfy/ComfyUI),
workflows also Chromium. --packs: a folder with packs of other people that workflows name; without one those are left as they are.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tools.comfyui_server import ComfyUIServer
from tools.derived import results, schemas, stage, tables, workflows
from tools.environment import ROOT
from tools.front_end import FrontEnd, desk, server_alone

PARTS = ("tables", "schemas", "locales", "workflows", "pictures")

COLORS = 256
_ALIKE = 2.0
"""Mean difference, of 255 levels, up to which a picture is the one that is there: text is not drawn the same by every Chromium."""


class Writer:
    """Writes files whose content changed, and says which."""

    def __init__(self):
        self.changed: list[Path] = []

    def text(self, path: Path, content: str) -> None:
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8", newline="\n")
            self._say(path)

    def json(self, path: Path, content: dict, ascii: bool = True) -> None:
        self.text(path, json.dumps(content, indent=2, ensure_ascii=ascii) + "\n")

    def picture(self, path: Path, picture: Image.Image, **options) -> None:
        """Write a picture that looks otherwise than the file does. options: of PIL's save."""
        content = io.BytesIO()
        picture.save(content, **options)
        if not (path.is_file() and _alike(Image.open(path), Image.open(content))):
            path.write_bytes(content.getvalue())
            self._say(path)

    def _say(self, path: Path) -> None:
        self.changed.append(path)
        print(f"  changed {path.relative_to(ROOT)}", flush=True)


def _alike(old: Image.Image, new: Image.Image) -> bool:
    if old.size != new.size:
        return False
    pixels = (np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in (old, new))
    return float(np.abs(next(pixels) - next(pixels)).mean()) < _ALIKE


def write_tables(writer: Writer) -> None:
    for page in tables.pages():
        writer.text(page, tables.with_tables(page.read_text(encoding="utf-8")))


def write_from_server(parts: set[str], writer: Writer, server: ComfyUIServer) -> None:
    object_info = server.get("/object_info")
    if "schemas" in parts:
        writer.json(ROOT / "tests" / "node_schemas.json", schemas.schemas(object_info))
    if "locales" in parts:
        for file, content in schemas.english(object_info).items():
            writer.json(ROOT / "locales" / "en" / file, content)
    if "pictures" in parts:
        write_pictures(writer, server)


def write_workflows(writer: Writer, page: FrontEnd) -> None:
    for file in workflows.files():
        if (found := workflows.saved(page, file)) is None:
            print(f"  {file.name} needs another pack and is left as it is: --packs", flush=True)
            continue
        workflow, prompt = found
        writer.json(file, workflow, ascii=False)
        writer.json(file.parent / "api" / file.name, prompt, ascii=False)
    for app, workflow in workflows.apps():
        writer.json(app, workflow, ascii=False)
        graph = workflows.graph_of(app)
        writer.text(app.parent / "api" / app.name, (graph.parent / "api" / graph.name).read_text(encoding="utf-8"))


def write_pictures(writer: Writer, server: ComfyUIServer) -> None:
    made = {}
    for file in sorted(workflows.WORKFLOWS.glob("*.json")):
        source = results.ALIKE.get(file.stem, workflows.graph_of(file).stem)
        if source not in made:
            made[source] = results.run(server, source)
        writer.picture(file.with_suffix(".jpg"), results.template_picture(made[source]), format="JPEG", quality=88, optimize=True)
    for node, source in results.SEEN_ON.items():
        picture = results.help_picture(node, made[source]).quantize(COLORS)
        writer.picture(results.DOCS / f"{node}.png", picture, format="PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split(":")[0], epilog=__doc__.partition("\n\n")[2], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", choices=(*PARTS, []), help="which (default: all)")
    parser.add_argument("--packs", type=Path, metavar="DIR", help="a folder with packs of other people, each in a folder of its own")
    arguments = parser.parse_args()
    parts, writer = set(arguments.parts or PARTS), Writer()
    if "tables" in parts:
        write_tables(writer)
    if "workflows" in parts:
        with stage.base(arguments.packs) as base, desk(base) as page:
            write_workflows(writer, page)
    if parts - {"tables", "workflows"}:
        with stage.base(arguments.packs) as base, server_alone(base) as server:
            write_from_server(parts, writer, server)
    print(f"{len(writer.changed)} files changed" if writer.changed else "nothing changed")


if __name__ == "__main__":
    main()
