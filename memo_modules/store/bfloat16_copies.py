"""bfloat16 copies of float32 nets, next to them: half the size, and mapped from the disk where float32 weights are copied into RAM."""

from functools import partial
from pathlib import Path

import torch

from ..errors import CheckpointError, InputError
from ..files.whole_files import storing, whole_file
from ..host import SILENT, Host
from ..weights.checkpoints import BFLOAT16_WEIGHTS, UNETS, read_weights, weights_file
from ..weights.fingerprints import copy_fault
from ..weights.tensor_saving import save_tensors
from ..words import file_size
from . import aside


def keep_bfloat16(checkpoint: Path, delete_float32: bool = False, host: Host = SILENT) -> list[Path]:
    """Have a bfloat16 copy next to the float32 weights of each UNet of a checkpoint folder; load_net takes it where it computes in bfloat16.

    delete_float32: then remove what was copied, once the copy on the disk has all its values. Returns the copies that were written. The projections
    compute in float32 and stay as they are. Raises InputError when it is no folder of nets, CheckpointError when a net cannot be read, and
    StorageError when the disk does not take a copy.
    """
    if not any((checkpoint / net).is_dir() for net in UNETS):
        raise InputError(
            f"{checkpoint}: expected the folder of a checkpoint, with {' and '.join(UNETS)} in it. Convert single files with --dtype bf16."
        )
    written = []
    for net in UNETS:
        copy, original = checkpoint / net / BFLOAT16_WEIGHTS, weights_file(checkpoint / net)
        if original == copy or not _is_float32(original):
            continue
        if not copy.exists() or _fault(copy, original):
            host.say(f"Keeping a bfloat16 copy of {original} ({file_size(original.stat().st_size // 2)}).")
            _write(original, copy, host)
            written.append(copy)
        if delete_float32:
            host.say(f"Comparing {copy} with {original}.")
            if fault := _fault(copy, original, host):  # as it is on the disk
                raise CheckpointError(f"{copy} is no copy of {original} ({fault}), which is kept. Delete the copy: it is made again then.")
            with storing(original):
                original.unlink()
    return written


def _fault(copy: Path, original: Path, host: Host | None = None) -> str | None:
    """See copy_fault. host: all values are compared, of which it hears."""

    def whole(done: int, values: int) -> None:
        assert host
        host.check_interrupt()
        host.progress(done, values)

    try:
        return copy_fault(read_weights(copy), read_weights(original), whole if host else None)
    except CheckpointError as error:
        return str(error)


def _is_float32(path: Path) -> bool:
    return any(tensor.dtype == torch.float32 and tensor.ndim > 1 for tensor in read_weights(path, header_only=path.suffix == ".safetensors").values())


def _write(original: Path, copy: Path, host: Host) -> None:
    tensors = {}
    weights = read_weights(original)
    for done, (key, tensor) in enumerate(weights.items()):
        host.check_interrupt()
        host.progress(done, len(weights))
        tensors[key] = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
    with whole_file(copy) as part:
        aside.called(partial(save_tensors, part, tensors, {"format": "pt"}), host.check_interrupt)
