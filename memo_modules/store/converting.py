"""Published folders to single files and back, bit by bit, and pickles to safetensors without running anything in them."""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files.regular_files import open_regular
from ..files.whole_files import whole_file
from ..weights.checkpoints import CLASSIFIER, CONFIGS, NETS, Source, component_source, net_source, read_configs, read_weights
from ..weights.lora import Loras, recipe_of, with_loras
from ..weights.tensor_saving import save_tensors

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_BLOCK = 2**20
_LARGEST_HEADER = 2**24


def to_single_files(checkpoint: Path, target: Path, dtype: torch.dtype | None = None, one_per_net: bool = False, loras: Loras = ()) -> list[Path]:
    """Write the components of a checkpoint folder as ``target``, one safetensors file with their configs in its metadata,
    or as one such file per component in the folder ``target``. Returns what was written; files get their names when all are
    written. Where only some of them are there, as after a run that was killed in between, those must be the same.

    dtype: of the weights, by default as they are. loras: are merged into them. Raises CheckpointError when a component is damaged or there
    is none, or a LoRA does not fit, and InputError when there is something else at the target, or all of it.
    """
    sources = {component: source for component, source in _sources(checkpoint).items() if source.path.exists()}
    if not sources:
        raise CheckpointError(f"{checkpoint} holds none of {', '.join((*NETS, CLASSIFIER))}. Name the folder that holds them.")
    groups = {target / f"{component}.safetensors": [component] for component in sources} if one_per_net else {target: list(sources)}
    same = _if_killed(groups)
    with ExitStack() as names:
        for file, components in groups.items():
            partial = names.enter_context(whole_file(file, replaces=False, same=same))
            tensors, configs = {}, {}
            for component in components:
                configs[component] = _config(component, sources[component].read_config(), loras)
                weights = _weights(sources[component], component, loras, dtype)
                tensors |= {f"{component}.{key}": tensor for key, tensor in weights.items()}
            _save(tensors, partial, dtype, {CONFIGS: json.dumps(configs)})
    return list(groups)


def to_folder(single: Path, target: Path, dtype: torch.dtype | None = None, loras: Loras = ()) -> list[Path]:
    """Write what `to_single_files` made, a file or a folder of them, in the published layout. See there."""
    files = [single] if single.suffix == ".safetensors" else sorted(single.glob("*.safetensors"))
    held = [(file, component, config) for file in files for component, config in read_configs(file).items()]
    for file, component, _ in held:
        if component not in (*NETS, CLASSIFIER):
            raise CheckpointError(f"{file} holds {component!r}, which is not a component of MEMO.")
    if not held:
        raise CheckpointError(f"{single} holds no component of MEMO in its metadata, so it cannot be taken apart.")
    folders = [target / "misc" / component if component == CLASSIFIER else target / component for _, component, _ in held]
    same = _if_killed(folder / name for folder in folders for name in (_WEIGHTS, "config.json"))
    with ExitStack() as names:
        for (file, component, config), folder in zip(held, folders, strict=True):
            weights, described = (names.enter_context(whole_file(folder / name, replaces=False, same=same)) for name in (_WEIGHTS, "config.json"))
            _save(_weights(Source(file, component=component), component, loras, dtype), weights, dtype)
            described.write_text(json.dumps(_config(component, config, loras), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folders


def pickle_to_safetensors(path: Path, target: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the tensors in a pickle of torch as safetensors, under their names in it.

    Whatever else the pickle names is neither imported nor called. Raises CheckpointError when it holds no tensors by name.
    """
    tensors = {key: tensor.clone() for key, tensor in read_weights(path).items()}  # they may share memory
    with whole_file(target, replaces=False) as partial:
        _save(tensors, partial, dtype)
    return target


def _sources(checkpoint: Path) -> dict[str, Source]:
    return {net: net_source(checkpoint, net) for net in NETS} | {CLASSIFIER: component_source(checkpoint / "misc" / CLASSIFIER, CLASSIFIER)}


def _weights(source: Source, component: str, loras: Loras, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """With ``loras`` in them; rounded once, when they are saved as ``dtype``, or here to what they were."""
    weights = source.read_weights()
    merged = with_loras(loras, component, weights)
    return merged if dtype else {key: tensor.to(weights[key].dtype) for key, tensor in merged.items()}


def _config(component: str, config: dict, loras: Loras) -> dict:
    """With the recipe of ``loras``, where they have one."""
    recipe = recipe_of(loras, {}) if component == "diffusion_net" else {}
    return config | {"recipe": dict(recipe)} if recipe else config


def _if_killed(files: Iterable[Path]) -> Callable[[Path, Path], bool] | None:
    """What may be at the places of ``files``: when not all are there, what a run that was killed between their names has left."""
    return None if all(map(os.path.lexists, files)) else _same


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same; the names in the header of a safetensors file are in any order."""
    with open_regular(one) as first, open_regular(other) as second:
        if _header(first) != _header(second):
            return False
        while block := first.read(_BLOCK):
            if block != second.read(_BLOCK):
                return False
        return not second.read(1)


def _header(file: BinaryIO) -> object:
    """Of a safetensors file, which is left at its numbers; None of another, at its start."""
    size = int.from_bytes(file.read(8), "little")
    try:
        if size < _LARGEST_HEADER:
            return json.loads(file.read(size))
    except (ValueError, RecursionError):
        pass
    file.seek(0)
    return None


def _save(tensors: dict[str, Tensor], file: Path, dtype: torch.dtype | None, metadata: dict[str, str] | None = None) -> None:
    if dtype is not None:
        tensors = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    save_tensors(file, tensors, {"format": "pt", **(metadata or {})})
