"""Show which models are there, and fetch those that are missing from the Hugging Face hub, verified, into their folders.

    python scripts/download.py                      everything that the workflows need
    python scripts/download.py --what nets vae      these alone
    python scripts/download.py --check              what is there, and where; nothing is fetched
    python scripts/download.py --verify             the same, with the SHA-256 of what is there

Run it with the Python that runs ComfyUI. It knows the folders of extra_model_paths.yaml. HF_ENDPOINT, HF_TOKEN, HF_HOME
and proxies are huggingface_hub's. Ctrl+C keeps what has arrived; run it again to continue.
"""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bootstrap import ROOT
from memo_modules.errors import InputError, MemoError
from memo_modules.files.regular_files import is_regular, read_regular
from memo_modules.host import Host
from memo_modules.store import obtain
from memo_modules.store.catalogue import CATALOGUE, Model
from memo_modules.store.fetching import fetch, learned_sha256, verify
from memo_modules.words import file_size, quoted, shortened
from scripts import entry

_LARGEST_YAML = 2**17

PACKS_OWN = "memo"
"""A kind of folders that ComfyUI does not know before it loads the pack: its own folder comes last."""


def find_comfyui() -> Path:
    """ComfyUI's folder: the one around the pack, COMFYUI_PATH or ~/comfy/ComfyUI."""
    around = [ROOT.parents[1]] if ROOT.parent.name == "custom_nodes" else []
    named = [Path(os.environ["COMFYUI_PATH"])] if "COMFYUI_PATH" in os.environ else []
    for folder in (*around, *named, Path(os.path.expanduser("~/comfy/ComfyUI"))):
        if is_regular(folder / "main.py"):
            return folder
    raise SystemExit("download.py: no ComfyUI found. Name its models folder with --models, or set COMFYUI_PATH.")


def folders_of(comfyui: Path) -> obtain.Roots:
    """The model folders of a ComfyUI, those of its extra_model_paths.yaml included, in ComfyUI's order. Raises InputError
    when that cannot be read."""
    file = comfyui / "extra_model_paths.yaml"
    extra = sections(file) if os.path.lexists(file) else []

    def folders(kind: str) -> list[Path]:
        own = [comfyui / "models" / kind]
        found = [] if kind == PACKS_OWN else own
        for section in extra:
            base = file.parent / os.path.expandvars(os.path.expanduser(section.get("base_path") or ""))
            given = [base / line.strip() for line in section.get(kind, "").split("\n") if line.strip()]
            found = given + found if section.get("is_default") else found + given
        return found if found is own else list(dict.fromkeys([*found, *own]))

    return folders


def sections(file: Path) -> list[dict]:
    """What extra_model_paths.yaml says, section by section. Raises InputError when it says nothing that could be meant."""

    def refused(reason: object) -> InputError:
        return InputError(f"{file} cannot be used: {reason}. Mend it (ComfyUI has an example next to it), or name a models folder with --models.")

    try:
        content = read_regular(file, _LARGEST_YAML + 1)
    except OSError as error:
        raise refused(error.strerror or error) from error
    if len(content) > _LARGEST_YAML:
        raise refused(f"it is larger than {_LARGEST_YAML} bytes")
    try:
        value = _parsed(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refused(f"it is not UTF-8 text (byte {error.start})") from error
    except Exception as error:  # each of YAML's types fails in its own way
        raise refused(f"it is no YAML of that kind ({shortened(' '.join(str(error).split()) or type(error).__name__, 200)})") from error
    if not isinstance(value or {}, dict):
        raise refused(f"expected sections by name, got {type(value).__name__}")
    for name, section in (value or {}).items():
        if not isinstance(section or {}, dict):
            raise refused(f"section {quoted(name)}: expected folders by kind, got {type(section).__name__}")
        for kind, folders in (section or {}).items():
            if kind != "is_default" and not (isinstance(folders, str) and _can_be_path(folders)) and not (kind == "base_path" and folders is None):
                raise refused(f"section {quoted(name)}, {quoted(kind)}: expected a folder, got {quoted(folders)}")
    return [section for section in (value or {}).values() if section]


def _parsed(content: str) -> Any:
    """What YAML says. Raises ValueError, or what the parser does, when it is none, too deep, or multiplies itself."""
    import yaml

    depth = aliases = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > 8 or aliases > 16:
            raise ValueError(f"too deep or with too many aliases, in line {event.start_mark.line + 1}")
    return yaml.safe_load(content)


def _can_be_path(text: str) -> bool:
    try:
        return "\0" not in text and bool(os.fsencode(text) or True)
    except UnicodeEncodeError:  # half an emoji
        return False


def state(model: Model, roots: obtain.Roots) -> tuple[bool, str]:
    """Whether a model is there, and in words what is there or missing."""
    listing = obtain.listing(model.role, roots)
    words = ", ".join(map(str, listing.found.values()))
    if not listing.found:
        root, files = obtain.missing(model, roots)
        sizes = [file.size for file in files if file.size]
        size = f", {file_size(sum(sizes))}" if len(sizes) == len(files) else ""
        words = f"{len(files)} files missing in {root}{size}"
        words += f"; without it: {model.without}" if model.without else ""
        words += f"; looked in {', '.join(map(str, obtain.folders(model, roots)))}"
    return bool(listing.found), "; ".join([words, *(f"NOT USED: {fault}" for fault in listing.refused.values())])


def check_sums(model: Model, roots: obtain.Roots) -> list[str]:
    """A line for each published file that is there: whether its SHA-256 is the known one."""
    lines = []
    for path, file in ((folder / file.target, file) for folder in roots(model.kind) for file in model.files):
        if is_regular(path):
            known = file.sha256 or learned_sha256(path)
            try:
                found = verify(path, file.size, known)
                difference = file.difference(found)
                lines.append(f"  {'verified' if known else 'unknown sum ' + found}  {path}" + (f": {difference}" if difference else ""))
            except OSError as error:
                lines.append(f"  WRONG  {error}")
    return lines


def _can_hold_models(path: Path) -> bool:
    """Whether it is a folder, or could be made one."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError:  # below a file, or too long
        return False


@contextmanager
def bar() -> Iterator[Host]:
    """A progress bar, on a terminal."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield Host(progress)


def main(argv: list[str]) -> int:
    parser = entry.parser(__doc__)
    parser.add_argument("--what", nargs="+", choices=tuple(CATALOGUE), default=list(CATALOGUE), metavar="ROLE", help=f"of {', '.join(CATALOGUE)}")
    parser.add_argument("--models", type=Path, metavar="DIR", help="the models folder of a ComfyUI (default: the one that is found)")
    parser.add_argument("--check", action="store_true", help="fetch nothing")
    parser.add_argument("--verify", action="store_true", help="fetch nothing, read everything")
    arguments = parser.parse_args(argv)
    if arguments.models and not _can_hold_models(arguments.models):
        parser.error(f"argument --models: {quoted(str(arguments.models))} is no folder; name the models folder of a ComfyUI")
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
            with bar() as host:
                fetch(files, root, host)
            there, words = state(model, roots)
            print(f"  {words}", flush=True)
        complete &= there
    return 0 if complete else 1


def run(argv: list[str]) -> int:
    """What ``main`` returns; errors that are to be expected as a sentence and the status 1, 2 for arguments and settings."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    try:
        return main(argv)
    except KeyboardInterrupt:
        print("\ndownload.py: stopped; run it again to continue.", file=sys.stderr)
        return 1
    except (MemoError, OSError) as error:
        print(f"download.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
