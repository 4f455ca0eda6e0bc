"""ComfyUI's output folder: where files go, what core writes into them, how a node shows them."""

import json
import os
import secrets
import string
import wave
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui
from PIL import Image

from ..memo_modules.audio.io import listened
from ..memo_modules.errors import InputError
from ..memo_modules.types import Audio
from ..memo_modules.values import described
from ..memo_modules.video.provenance import write_png
from ..memo_modules.words import printable, quoted

HEARD_RATE = 16000


def output_file(prefix: str, suffix: str, width: int, height: int) -> Callable[[], Path]:
    """What gives the path of a new file in ComfyUI's output folder, numbered as core numbers its own, each time that it is
    asked. Somebody else may take the name in between: see whole_files.new_file.

    Raises InputError for a prefix that leaves the folder, or of which no file can be made: better now than when all is done.
    """

    def path(number: str | None = None) -> Path:
        try:
            folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, str(output), width, height)
        except OSError as error:
            raise _cannot_create(prefix, error) from error
        return Path(folder, f"{name}_{number or f'{counter:05}'}_{suffix}")

    output = Path(folder_paths.get_output_directory()).resolve()
    if prefix != printable(prefix):
        raise InputError(
            f"filename_prefix: expected letters and signs that a file name can hold, got control characters or half an emoji in {quoted(prefix)}."
        )
    if link := _link_out(prefix, output):
        raise InputError(f"filename_prefix: {quoted(link)} in ComfyUI's output folder is a link that leads out of it. Choose a folder that is none.")
    if not _stays_inside(prefix, output):
        raise InputError(
            f"filename_prefix: expected the beginning of a file name inside ComfyUI's output folder, such as video/MEMO, got {quoted(prefix)}."
        )
    # as long as a name with a number, and nobody's: what is removed below is this one
    probe = path("".join(secrets.choice(string.ascii_lowercase) for _ in range(5)))
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise _cannot_create(prefix, error) from error
    return path


def _link_out(prefix: str, output: Path) -> str | None:
    """The folder below ``output`` on the way of ``prefix`` that is a link to somewhere outside."""
    folders = prefix.replace("\\", "/").split("/")[:-1]
    for depth in range(1, len(folders) + 1):
        place = output.joinpath(*folders[:depth])
        with suppress(OSError, ValueError, RuntimeError):
            if ".." not in folders and place.is_symlink() and not place.resolve().is_relative_to(output):
                return "/".join(folders[:depth])
    return None


def _stays_inside(prefix: str, output: Path) -> bool:
    parts = prefix.replace("\\", "/").split("/")
    try:
        os.fsencode(prefix)
        return ".." not in parts and bool(parts[-1]) and (output / prefix).resolve().is_relative_to(output)
    except (UnicodeError, RuntimeError):  # what this system's names cannot hold; links in a circle
        return False


def _cannot_create(prefix: str, error: OSError) -> InputError:
    return InputError(f"filename_prefix: cannot create a file named {quoted(prefix)} in ComfyUI's output folder ({error.strerror}).")


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


def kept_sound(audio: Audio, check_interrupt: Callable[[], None]) -> dict[str, str]:
    """What the front end is to hear and draw of a sound, as a file in ComfyUI's temp folder: one channel, 16 kHz, 16 bits."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path, heard = folder / f"memo_{uuid4().hex}.wav", listened(audio, HEARD_RATE, check_interrupt=check_interrupt)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, HEARD_RATE, 0, "NONE", ""))
        file.writeframes((heard.waveform[0].clamp(-1, 1) * 32767).short().numpy().tobytes())
    return {"filename": path.name, "subfolder": "", "type": "temp"}


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
