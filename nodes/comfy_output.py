"""ComfyUI's output folder: where files go, what core writes into them, how a node shows them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui
from PIL import Image

from ..memo_modules.errors import InputError
from ..memo_modules.values import described
from ..memo_modules.video.provenance import write_png
from ..memo_modules.words import printable, quoted


def output_file(prefix: str, suffix: str, width: int, height: int) -> Callable[[], Path]:
    """What gives the path of a new file in ComfyUI's output folder, numbered as core numbers its own.

    Raises InputError for a prefix that leaves the folder, or of which no file can be made: better now than when all is done.
    """

    def next_path() -> Path:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, str(output), width, height)
        return Path(folder, f"{name}_{counter:05}_{suffix}")

    output = Path(folder_paths.get_output_directory()).resolve()
    parts = prefix.replace("\\", "/").split("/")
    if prefix != printable(prefix):
        raise InputError(
            f"filename_prefix: expected letters and signs that a file name can hold, got control characters or half an emoji in {quoted(prefix)}."
        )
    if ".." in parts or not parts[-1] or not (output / prefix).resolve().is_relative_to(output):
        raise InputError(
            f"filename_prefix: expected the beginning of a file name inside ComfyUI's output folder, such as video/MEMO, got {quoted(prefix)}."
        )
    try:
        probe = next_path()
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"filename_prefix: cannot create a file named {quoted(prefix)} in ComfyUI's output folder ({error.strerror}).") from error
    return next_path


def saved_result(path: Path) -> ui.SavedResult:
    """A file in the output folder as the front end takes it."""
    folder = path.parent.relative_to(Path(folder_paths.get_output_directory()).resolve())
    return ui.SavedResult(path.name, "" if folder == Path() else folder.as_posix(), io.FolderType.output)


def shown_picture(picture: Image.Image) -> ui.SavedImages:
    """A picture for the node to show, in ComfyUI's temp folder."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"memo_{uuid4().hex}.png"
    write_png(path, picture)
    return ui.SavedImages([ui.SavedResult(path.name, "", io.FolderType.temp)])


def unfinished_folder(where: str) -> Path:
    """Where unfinished videos are kept, in ComfyUI's "output" or "temp" folder."""
    folder = folder_paths.get_temp_directory() if where == "temp" else folder_paths.get_output_directory()
    return Path(folder, "memo_unfinished")


def workflow_metadata(prompt: Mapping | None, extra: Mapping | None) -> dict[str, str]:
    """What core writes into its own files, so that they open as the workflow that made them; nothing where that is switched off.

    Raises InputError for what no front end sends and no file could hold.
    """
    if args.disable_metadata:
        return {}
    if not isinstance(extra or {}, Mapping):
        raise InputError(f"extra_pnginfo: expected names with values, got {described(extra)}. Leave it out of the prompt.")
    found = ({} if prompt is None else {"prompt": prompt}) | dict(extra or {})
    try:
        return {printable(str(name)): json.dumps(value) for name, value in found.items()}
    except (TypeError, ValueError, RecursionError):  # what is no JSON, goes round in circles, or is too deep
        raise InputError("extra_pnginfo: expected values that JSON can hold. Leave it out of the prompt.") from None
