"""Show which models are there, and fetch those that are missing from the Hugging Face hub, verified, into their folders.

    python scripts/download.py                      everything that the workflows need
    python scripts/download.py --what nets vae      these alone
    python scripts/download.py --check              what is there, and where; nothing is fetched
    python scripts/download.py --verify             the same, with the SHA-256 of what is there

Run it with the Python that runs ComfyUI. It knows the folders of extra_model_paths.yaml. HF_ENDPOINT, HF_TOKEN, HF_HOME
and proxies are huggingface_hub's. Ctrl+C keeps what has come; run it again to go on.
"""

import argparse
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if "comfyui_memo" not in sys.modules:  # the pack's folder as a package, without its __init__.py, which needs a ComfyUI
    sys.modules["comfyui_memo"] = types.ModuleType("comfyui_memo")
    sys.modules["comfyui_memo"].__path__ = [str(ROOT)]

from comfyui_memo.memo_modules.errors import MemoError
from comfyui_memo.memo_modules.store import obtain
from comfyui_memo.memo_modules.store.catalogue import CATALOGUE, Model
from comfyui_memo.memo_modules.store.fetching import fetch, learned_sha256, megabytes, verify

PACKS_OWN = "memo"
"""A kind of folders that ComfyUI does not know before it loads the pack: its own folder comes last."""


def find_comfyui() -> Path:
    """ComfyUI's folder: the one around the pack, COMFYUI_PATH or ~/comfy/ComfyUI."""
    around = [ROOT.parents[1]] if ROOT.parent.name == "custom_nodes" else []
    named = [Path(os.environ["COMFYUI_PATH"])] if "COMFYUI_PATH" in os.environ else []
    for folder in (*around, *named, Path("~/comfy/ComfyUI").expanduser()):
        if (folder / "main.py").is_file():
            return folder
    raise SystemExit("download.py: no ComfyUI found. Name its models folder with --models, or set COMFYUI_PATH.")


def folders_of(comfyui: Path) -> obtain.Roots:
    """The model folders of a ComfyUI, those of its extra_model_paths.yaml included, in ComfyUI's order."""
    extra, file = [], comfyui / "extra_model_paths.yaml"
    if file.is_file():
        import yaml

        extra = [section for section in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).values() if section]

    def folders(kind: str) -> list[Path]:
        own = [comfyui / "models" / kind]
        found = [] if kind == PACKS_OWN else own
        for section in extra:
            base = file.parent / os.path.expandvars(os.path.expanduser(section.get("base_path", "")))
            given = [base / line.strip() for line in section.get(kind, "").split("\n") if line.strip()]
            found = given + found if section.get("is_default") else found + given
        return found if found is own else list(dict.fromkeys([*found, *own]))

    return folders


def state(model: Model, roots: obtain.Roots) -> tuple[bool, str]:
    """Whether a model is there, and in words what is there or missing."""
    listing = obtain.listing(model.role, roots)
    words = ", ".join(map(str, listing.found.values()))
    if not listing.found:
        root, files = obtain.missing(model, roots)
        sizes = [file.size for file in files]
        size = f", {megabytes(sum(sizes))}" if all(sizes) else ""
        words = f"{len(files)} files missing in {root}{size}"
        words += f"; without it: {model.without}" if model.without else ""
        words += f"; looked in {', '.join(map(str, obtain.folders(model, roots)))}"
    return bool(listing.found), "; ".join([words, *(f"NOT USED: {fault}" for fault in listing.refused.values())])


def check_sums(model: Model, roots: obtain.Roots) -> list[str]:
    """A line for each published file that is there: whether its SHA-256 is the known one."""
    lines = []
    for path, file in ((folder / file.target, file) for folder in roots(model.kind) for file in model.files):
        if path.is_file():
            known = file.sha256 or learned_sha256(path)
            try:
                found = verify(path, file.size, known)
                lines.append(f"  {'verified' if known else 'unknown sum ' + found}  {path}")
            except MemoError as error:
                lines.append(f"  WRONG  {error}")
    return lines


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog=__doc__.partition("\n\n")[2], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--what", nargs="+", choices=tuple(CATALOGUE), default=list(CATALOGUE), metavar="ROLE", help=f"of {', '.join(CATALOGUE)}")
    parser.add_argument("--models", type=Path, metavar="DIR", help="the models folder of a ComfyUI (default: the one that is found)")
    parser.add_argument("--check", action="store_true", help="fetch nothing")
    parser.add_argument("--verify", action="store_true", help="fetch nothing, read everything")
    arguments = parser.parse_args(argv)
    roots = (lambda kind: [arguments.models / kind]) if arguments.models else folders_of(find_comfyui())
    complete = True
    for model in (CATALOGUE[role] for role in arguments.what):
        there, words = state(model, roots)
        print(f"{model.role}: {words}", flush=True)
        if arguments.verify:
            lines = check_sums(model, roots)
            complete &= not any(line.startswith("  WRONG") for line in lines)
            print("\n".join(lines), flush=True)
        elif not there and not arguments.check:
            root, files = obtain.missing(model, roots)
            print(f"  {model.title}, from {model.repository}, licence: {model.licence}", flush=True)
            fetch(files, root)  # the client shows a bar for each file
            there, words = state(model, roots)
            print(f"  {words}", flush=True)
        complete &= there
    return 0 if complete else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MemoError as error:
        sys.exit(f"download.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndownload.py: stopped; run it again to go on.")
