"""Tensors as safetensors, written such that a full disk and its kind are told as by every other writer."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` by name to a safetensors file; metadata: texts for its header.

    Raises OSError, which the library hides in an error of its own. The file gets the permissions that every new file gets:
    the library's newest versions make it private.
    """
    path.touch()
    mode = path.stat().st_mode & 0o777
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        number = _SYSTEM_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error), str(path), int(number[1])) from error  # the last is Windows' own number
    os.chmod(path, mode)
