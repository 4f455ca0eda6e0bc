"""The files between data preparation and training: the fields of metadata.jsonl, and files with one tensor each, safetensors with the tensor
under its field's name, or `.pt`.

Only the part that is asked for is read from either; nothing in a pickle is run.
"""

from fractions import Fraction
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError
from ..files.regular_files import open_regular
from ..files.whole_files import whole_file
from ..weights.arrays import Array
from ..weights.pickles import Called, Inert
from ..weights.tensor_saving import save_tensors
from ..weights.torch_files import read_torch_file
from ..words import first_line

FIELDS = ("video", "face_emb", "audio_emb", "audio_emotion")
"""Of a line of metadata.jsonl, all paths; a relative one counts from the folder of that file."""

_LONGEST_RATE = 40
"""Characters of a frame rate: one of a million digits would take minutes."""

_AGAIN = "Prepare this video again."


def write_tensor(path: Path, field: str, tensor: Tensor, metadata: dict[str, str] | None = None) -> None:
    """Write ``tensor`` to a safetensors file under the name ``field``; the file appears once it is complete. metadata: for
    its header; with one entry or none, the bytes of the file depend on nothing else."""
    with whole_file(path) as partial:
        save_tensors(partial, {field: tensor}, metadata)


def shape_and_rate(path: Path, field: str) -> tuple[tuple[int, ...], Fraction | None]:
    """The shape of the tensor in a file, and its rows per second as preparation wrote them in the header, None where that does not say.

    Raises InputError when there is no tensor that can be read.
    """
    if path.suffix == ".safetensors":
        return _in_safetensors(path, field, lambda file: (tuple(file.get_slice(field).get_shape()), _rate((file.metadata() or {}).get("fps", ""))))
    return tuple(_mapped(path).shape), None


def _rate(written: str) -> Fraction | None:
    try:
        return Fraction(written[:_LONGEST_RATE])
    except (ValueError, ZeroDivisionError):
        return None


def read_rows(path: Path, field: str, start: int = 0, stop: int | None = None) -> Tensor:
    """Rows start..stop-1, or all, of the tensor in a file. Raises InputError when there is none that can be read."""
    if path.suffix == ".safetensors":
        return _in_safetensors(path, field, lambda file: file.get_slice(field)[start:stop])
    return _mapped(path)[start:stop].clone()


def _in_safetensors(path: Path, field: str, look):
    try:
        open_regular(path).close()  # safetensors would wait for a named pipe
        with safe_open(path, framework="pt") as file:
            fields = file.keys()
            if field not in fields:
                raise InputError(f"{path}: expected a tensor {field!r}, found {', '.join(fields) or 'none'}. {_AGAIN}")
            return look(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({_reason(error)}). {_AGAIN}") from error


def _mapped(path: Path) -> Tensor:
    try:
        file = read_torch_file(path)
        if isinstance(file.held, Array):  # the reference implementation's face embeddings
            return file.held.tensor()
        if not isinstance(file.held, Called):
            raise InputError(f"{path}: expected a tensor alone, found {_kind(file.held)}. {_AGAIN}")
        return file.tensor(file.held)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({_reason(error)}). {_AGAIN}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def _kind(held: object) -> str:
    return "an object" if isinstance(held, Inert) else type(held).__name__
