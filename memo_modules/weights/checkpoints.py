"""Files to modules: weights read without running anything in them, keys strict, every error names file and key."""

import json
import logging
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files.documents import parse_json
from ..files.regular_files import open_regular, read_regular
from ..models.config import DiffusionNetConfig, ReferenceNetConfig
from ..models.diffusion_net import DiffusionNet
from ..models.layers import Layers
from ..models.projections import AudioProjection, ImageProjection
from ..models.reference_net import ReferenceNet
from ..words import first_line, quoted
from .checks import PICKLES, REPAIR, check_numbers, check_shapes, file_fault, pickle_fault, raise_fault
from .fingerprints import copy_fault
from .pickles import Called
from .torch_files import TorchFile, read_torch_file

_log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

NETS = ("reference_net", "diffusion_net", "image_proj", "audio_proj")
"""The four nets of a MEMO checkpoint: each a folder with config.json and weights, or part of a single file."""

UNETS = NETS[:2]
"""The large ones, whose arithmetic may be in 16 bits."""

BFLOAT16_WEIGHTS = "diffusion_pytorch_model.bf16.safetensors"
"""In the folder of a net, under the name that diffusers gives such a variant: a bfloat16 copy of its float32 weights, see bfloat16_copies."""

CLASSIFIER = "audio_emotion_classifier"
"""A fifth component that a single file may hold, published as a folder of `misc`."""

CONFIGS = "memo"
"""Entry of a single file's metadata: JSON, component to its config. Its keys are `component.key`."""

SIZE_ERRORS = (LookupError, ValueError, ArithmeticError, TypeError, RuntimeError)
"""What comes of building a net in sizes, or of reading sizes off weights, that no net has."""

_LARGEST_JSON = 2**22
"""Bytes of a config."""

_LARGEST_HEADER = 2**23
"""Bytes of the header of a safetensors file: 60,000 tensors take as many."""

_MOST_SHARED = 8
"""How often a file's tensors may hold, together, what is in it: some share their numbers, but not thousands."""

METADATA = "__metadata__"
"""A name that no tensor of a safetensors file can have."""

Change = Callable[[str, dict[str, Tensor]], dict[str, Tensor]]
"""From a net and its weights to others of the same names and sizes."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Source:
    """Where a component lies: its weights in ``path`` and its config in ``config``, or, as ``component``, in the single
    file ``path`` with its config in the metadata."""

    path: Path
    config: Path | None = None
    component: str | None = None

    @property
    def name_of_config(self) -> str:
        """For errors."""
        return str(self.config or f"{self.path}, config of {self.component}")

    def read_config(self) -> dict:
        """Raises CheckpointError when there is none."""
        if self.component is not None:
            return self._configs()[self.component]
        if self.config is None:
            raise CheckpointError(f"{self.path} has no config.json. {REPAIR}")
        return read_json(self.config)

    def read_weights(self, header_only: bool = False) -> dict[str, Tensor]:
        """See the function of that name."""
        weights = read_weights(self.path, header_only)
        if self.component is None:
            return weights
        self._configs()
        prefix = f"{self.component}."
        return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}

    def _configs(self) -> dict[str, dict]:
        configs = read_configs(self.path)
        if self.component not in configs:
            holds = ", ".join(configs) or "no component of MEMO"
            raise CheckpointError(f"{self.path} holds {holds}, expected {self.component}. Make a single file with scripts/convert.py.")
        return configs


def component_source(place: Path, component: str) -> Source:
    """A component in ``place``: a folder as diffusers writes it, or a single file."""
    if place.suffix == ".safetensors":
        return Source(place, component=component)
    return Source(weights_file(place), place / "config.json")


def net_source(checkpoint: Path, net: str) -> Source:
    """One of NETS in a checkpoint: a folder with a folder or a single file per net, or one single file."""
    single = checkpoint / f"{net}.safetensors"
    if checkpoint.suffix == ".safetensors":
        single = checkpoint
    return component_source(single if single.is_file() else checkpoint / net, net)


def weights_file(folder: Path) -> Path:
    """The weights in a folder as diffusers writes it: safetensors, or where only that is there the older pickle, or the bfloat16 copy."""
    safetensors, *others = (folder / name for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", BFLOAT16_WEIGHTS))
    return next(filter(Path.exists, (safetensors, *others)), safetensors)


def read_json(path: Path) -> dict:
    """The JSON object in ``path``. Raises CheckpointError when it is missing or no JSON object."""
    raise_fault(file_fault(path))
    try:
        content = read_regular(path, _LARGEST_JSON + 1)
        if len(content) > _LARGEST_JSON:
            raise ValueError(f"larger than {_LARGEST_JSON >> 20} MB")
        config = parse_json(content)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({first_line(error)}). {REPAIR}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(config).__name__}. {REPAIR}")
    return config


def read_configs(path: Path) -> dict[str, dict]:
    """Component to config of a single file; empty for any other safetensors file. Raises CheckpointError when it is damaged."""
    with _opened(path) as file:
        entry = (file.metadata() or {}).get(CONFIGS)
    if entry is None:
        return {}
    _header(path)
    try:
        configs = parse_json(entry)
    except ValueError:
        configs = None
    if not isinstance(configs, dict) or not all(isinstance(config, dict) for config in configs.values()):
        raise CheckpointError(f"{path}: its metadata has {CONFIGS!r} without configs in it. Make it again with scripts/convert.py.")
    return configs


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says in words. Raises CheckpointError, see read_weights."""
    with _opened(path) as file:
        return file.metadata() or {}


def read_weights(path: Path, header_only: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of one that torch.save wrote (both mapped, not copied), wrappers taken off; what else
    is in the latter is passed over.

    header_only: their shapes and types alone, on the meta device. Raises CheckpointError when the file is missing, truncated
    or not of that kind.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            header = _header(path)
            try:
                if header_only:
                    return {key: _described(part) for key, part in header.items() if key != METADATA}
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
            except (SafetensorError, *SIZE_ERRORS) as error:
                raise _unreadable(path, error) from error
    raise_fault(file_fault(path))
    try:
        file = read_torch_file(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    tensors = {}
    for key, called in _named(file, path).items():
        try:
            plan = file.plan(called)
            tensors[key] = torch.empty(plan.size, dtype=plan.dtype, device="meta") if header_only else file.tensor(called)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: {quoted(key)} is not a plain tensor that the file holds whole ({first_line(error)}). {REPAIR}") from error
    if sum(tensor.numel() * tensor.itemsize for tensor in tensors.values()) > _MOST_SHARED * file.length:
        raise CheckpointError(f"{path}: its tensors are {_MOST_SHARED} times as large as the file. {REPAIR}")
    return tensors


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or first_line(error)
    return CheckpointError(f"{path} cannot be read as model weights ({reason}). {REPAIR}")


def _named(file: TorchFile, path: Path) -> dict[str, Called]:
    """What a file that torch.save wrote has tensors for, by name. Raises CheckpointError when it has none."""
    weights = file.held
    for wrapper in _WRAPPERS:
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
            break
    entries = weights.items() if isinstance(weights, dict) else ()
    tensors = {key: value for key, value in entries if isinstance(value, Called)}
    if not tensors or METADATA in tensors:
        raise CheckpointError(f"{path} holds no tensors by name, so it is not a model of this kind. {REPAIR}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


_TYPES = {
    name: getattr(torch, dtype)
    for name, dtype in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
        "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "C64": "complex64",
        "BOOL": "bool",
    }.items()
    if hasattr(torch, dtype)
}  # fmt: skip
"""Of safetensors, those that torch has."""


def _described(part: dict) -> Tensor:
    """On the meta device, a tensor of a safetensors file as the header has it."""
    return torch.empty(part["shape"], dtype=_TYPES.get(part["dtype"], torch.uint8), device="meta")


def _opened(path: Path):
    """An open safetensors file, whose header fits its length."""
    raise_fault(file_fault(path))
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # the last is what torch says of one that it may not map
        raise _unreadable(path, error) from error


def _header(path: Path) -> dict[str, dict]:
    """The header of a safetensors file. Raises CheckpointError when it has a name twice, of which readers take either."""
    try:
        with open_regular(path) as file:
            size = struct.unpack("<Q", file.read(8))[0]
            if size > _LARGEST_HEADER:
                raise ValueError(f"its header is larger than {_LARGEST_HEADER >> 20} MB")
            return json.loads(file.read(size), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    named = dict(pairs)
    if len(named) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"its header has {quoted(twice)} twice")
    return named


def load_net(checkpoint: Path, net: str, layers: Layers, header_only: bool = False, change: Change = lambda net, weights: weights) -> nn.Module:
    """One of NETS from a checkpoint folder or single file, its weights in the dtypes of ``layers`` on the CPU.

    header_only: everything is checked, but the weights stay on the meta device. change: what is made of the weights first, such as
    lora.with_loras. Raises CheckpointError naming the file, and the key or option in it, that does not fit.
    """
    source = net_source(checkpoint, net)
    build: Callable[[Layers], nn.Module]
    if net in ("image_proj", "audio_proj"):
        kind = ImageProjection if net == "image_proj" else AudioProjection
        weights = source.read_weights(header_only)
        try:
            build = partial(kind, **kind.sizes(weights))
        except SIZE_ERRORS as error:
            raise CheckpointError(f"{source.path} does not hold a {kind.__name__} ({error}). {REPAIR}") from error
    else:
        options, name = source.read_config(), source.name_of_config
        if net == "reference_net":
            build = partial(ReferenceNet, ReferenceNetConfig.from_dict(options, name))
        else:
            build = partial(DiffusionNet, DiffusionNetConfig.from_dict(options, name))
        if not header_only and (layers.storage or layers.dtype) == torch.bfloat16:
            source = _as_bfloat16(source)
        weights = source.read_weights(header_only)
    return load_module(build, layers, change(net, weights), source.path)


def _as_bfloat16(source: Source) -> Source:
    """The copy next to ``source``, which is mapped where float32 weights would be copied; without one ``source``, and how to make one."""
    copy = source.path.with_name(BFLOAT16_WEIGHTS)
    if source.component is not None or source.path == copy:
        return source
    if copy.is_file():
        try:
            fault = copy_fault(read_weights(copy), source.read_weights())
        except CheckpointError as error:
            fault = str(error)
        if fault is None:
            return replace(source, path=copy)
        _log.warning("%s is not used: it is no copy of %s (%s). Make it again with scripts/convert.py --beside.", copy, source.path, fault)
    elif any(tensor.dtype == torch.float32 for tensor in source.read_weights(header_only=source.path.suffix == ".safetensors").values()):
        _log.info(
            "%s is float32: as bfloat16 it becomes a copy in RAM. `scripts/convert.py %s --beside` keeps one on the disk, which is mapped instead.",
            source.path,
            source.path.parent.parent,
        )
    return source


def load_module(build: Callable[[Layers], Module], layers: Layers, weights: dict[str, Tensor], source: Path) -> Module:
    """What ``build`` makes of ``layers``, with ``weights``; see assign_weights. Raises CheckpointError when that cannot be
    built."""
    meta = replace(layers, device="meta")
    try:
        module = build(meta)
        # ComfyUI's layers may have no parameters before they are loaded: torch's tell then which ones there are to be
        bare = replace(meta, operations=nn, scaled=False, storage=None if layers.scaled else layers.storage)
        plain = module if layers.operations is nn and not layers.scaled else build(bare)
    except SIZE_ERRORS as error:
        raise CheckpointError(f"{source} has sizes from which its model cannot be built ({error}). {REPAIR}") from error
    assign_weights(module, weights, source, plain)
    return module


def check_checkpoint(checkpoint: Path) -> None:
    """Raises CheckpointError when headers and configs of a checkpoint tell that it cannot be loaded. Pickles are not opened."""
    nets = {}
    for net in NETS:
        source = net_source(checkpoint, net)
        if source.path.suffix in PICKLES:
            raise_fault(pickle_fault(source.path))
            continue
        nets[net] = load_net(checkpoint, net, Layers(), header_only=True)
    if len(nets) == len(NETS):
        check_fit(checkpoint, nets)


def check_fit(checkpoint: Path, nets: Mapping[str, Any]) -> None:
    """Raises CheckpointError when the four NETS of a checkpoint are not made for each other, naming the two that differ."""
    diffusion, reference = nets["diffusion_net"].config, nets["reference_net"].config
    for net, what, found, expected in (
        ("reference_net", "channels", reference.block_out_channels, diffusion.block_out_channels),
        ("reference_net", "layers per block", reference.layers_per_block, diffusion.layers_per_block),
        ("reference_net", "face token width", reference.cross_attention_dim, diffusion.cross_attention_dim),
        ("image_proj", "face token width", nets["image_proj"].d, diffusion.cross_attention_dim),
        ("audio_proj", "audio token width", nets["audio_proj"].d, diffusion.audio_attention_dim),
    ):
        if found != expected:
            raise CheckpointError(f"{checkpoint / net} does not belong to its diffusion_net: {what} {found}, expected {expected}. {REPAIR}")


def assign_weights(module: nn.Module, weights: dict[str, Tensor], source: Path, plain: nn.Module | None = None) -> None:
    """Put ``weights`` into ``module`` (built on the meta device), each in the dtype it was built with; no copy is made
    where that is the file's.

    Every key of the module must be there with its shape, and no other but what it calls ``unused``. plain: the same module
    of torch's own layers, by default the module itself. Raises CheckpointError naming the file, the first offending key,
    what was expected and what was found.
    """
    plain = plain or module
    unused = getattr(plain, "unused", ())
    expected = plain.state_dict()
    weights = {key: tensor for key, tensor in weights.items() if key in expected or not key.startswith(unused)}
    check_shapes(weights, {key: tensor.shape for key, tensor in expected.items()}, source, type(module).__name__)
    check_numbers(weights, source, expected)
    # Rows that are joined, or rounded to 8 bits, when they are loaded are cast then: cast here, they would be in memory twice.
    rounded = {f"{name}.weight" for name, layer in module.named_modules() if hasattr(layer, "row_scale")}
    whole = {name: tensor for name, tensor in chain(plain.named_parameters(), plain.named_buffers()) if name not in rounded}
    weights = {key: tensor.to(whole[key].dtype) if key in whole else tensor for key, tensor in weights.items()}
    module.load_state_dict(weights, strict=True, assign=True)
    module.eval().requires_grad_(False)
