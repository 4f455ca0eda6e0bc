"""Write every file anew that is made from others: python -m tools.regenerate [PART ...] [--packs DIR]

    tables         tables in README.md and docs/, from the catalogue and from benchmarks/
    schemas        tests/node_schemas.json, which saved workflows depend on
    locales        locales/en, which translations start from
    help_pictures  web/docs/<NodeId>.png
    workflows      workflows/*.json as the front end saves them, workflows/api/, and their pictures

It says which files changed; a second run changes none. All but the tables need a ComfyUI (COMFYUI_PATH or ~/comfy/ComfyUI), the
last two also Chromium. --packs: a folder with packs of other people that workflows name; without one those are left as they are.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tools.comfyui_server import ComfyUIServer
from tools.derived import help_pictures, schemas, tables, workflows
from tools.environment import ROOT
from tools.front_end import FrontEnd, desk, server_alone
from tools.make_tiny_checkpoint import write_tiny_checkpoint

PARTS = ("tables", "schemas", "locales", "help_pictures", "workflows")
NEED_BROWSER = {"help_pictures", "workflows"}

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

    def picture(self, path: Path, picture: Image.Image, save: Callable[[Image.Image, object], None], up_to_date: bool = True) -> None:
        """Write a picture that looks otherwise than the file does. up_to_date: whether the file is what it says."""
        content = io.BytesIO()
        save(picture, content)
        if not (up_to_date and path.is_file() and _alike(Image.open(path), Image.open(content))):
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


def write_from_front_end(parts: set[str], writer: Writer, server: ComfyUIServer, page: FrontEnd) -> None:
    if "help_pictures" in parts:
        for file in sorted(help_pictures.DOCS.glob("*.md")):
            info, picture = server.get(f"/object_info/{file.stem}")[file.stem], file.with_suffix(".png")
            shows = Image.open(picture).text.get(help_pictures.SHOWS) if picture.is_file() else None

            def save(drawn: Image.Image, target, info: dict = info) -> None:
                help_pictures.save(drawn, info, target)

            writer.picture(picture, help_pictures.draw(page, file.stem, info), save, shows == help_pictures.contents(info))
    if "workflows" in parts:
        for file in workflows.files():
            if (found := workflows.saved(page, file)) is None:
                print(f"  {file.name} needs another pack and is left as it is: --packs", flush=True)
                continue
            workflow, prompt, picture = found
            writer.json(file, workflow, ascii=False)
            writer.json(file.parent / "api" / file.name, prompt, ascii=False)
            writer.picture(file.with_suffix(".jpg"), picture, lambda drawn, target: drawn.save(target, "JPEG", quality=85, optimize=True))
        for app, workflow in workflows.apps():
            writer.json(app, workflow, ascii=False)
            graph = workflows.graph_of(app)
            writer.text(app.parent / "api" / app.name, (graph.parent / "api" / graph.name).read_text(encoding="utf-8"))


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
    if parts - {"tables"}:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            write_tiny_checkpoint(base / "models", "memo")  # so that the lists show the published names
            workflows.write_base(base, arguments.packs)
            if parts & NEED_BROWSER:
                with desk(base, workflows.WINDOW, **help_pictures.SETTINGS) as (server, page):
                    write_from_server(parts, writer, server)
                    write_from_front_end(parts, writer, server, page)
            else:
                with server_alone(base) as server:
                    write_from_server(parts, writer, server)
    print(f"{len(writer.changed)} files changed" if writer.changed else "nothing changed")


if __name__ == "__main__":
    main()
