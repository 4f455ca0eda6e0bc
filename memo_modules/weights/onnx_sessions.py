"""What audio-separator and insightface share: models in ONNX files, and a process that they must leave as they found it."""

import contextlib
import io
import logging
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from torch import nn

from ..errors import CheckpointError, MemoError
from ..files.regular_files import open_regular
from ..words import first_line, quoted
from .checks import REPAIR, file_fault, raise_fault
from .onnx_growth import growth_fault

logger = logging.getLogger(__name__)

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

_ARENA = 2**30
"""Bytes of VRAM for what sessions compute, which onnxruntime keeps until they close: an estimate, to be measured on a GPU."""


class OnnxModel(nn.Module, ABC):
    """A model in ONNX files: its sessions open at the first use, and again at the next one after `release`.

    It is a module without weights, so that it can be managed like those that have some. files: what it opens. cuda: run
    on CUDA where that starts, else on the CPU.
    """

    def __init__(self, files: Sequence[Path], cuda: bool):
        super().__init__()
        self.files = files
        self.on_cuda = cuda and cuda_starts()
        self._opened = None

    @classmethod
    def load(cls, path: Any, **options: bool):
        """One that is open already; see `open` for the errors."""
        model = cls(path, **options)
        model.open()
        return model

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    @property
    def size(self) -> int:
        """Bytes that the open sessions hold: about those of the files, and on CUDA the arena that onnxruntime keeps. A file that is missing
        counts for nothing."""
        return sum(file.stat().st_size for file in self.files if file.is_file()) + (_ARENA if self.on_cuda else 0)

    def open(self) -> Any:
        """Open the sessions unless they are; returns what `_open` made of them.

        Raises MissingPackageError, and CheckpointError naming the file that is missing, damaged or of another kind.
        """
        if self._opened is None:
            with undisturbed():
                self._opened = self._open([_CUDA, _CPU] if self.on_cuda else [_CPU])
        return self._opened

    def release(self) -> None:
        """Close the sessions and give their memory back."""
        self._opened = None

    @abstractmethod
    def _open(self, providers: list[str]) -> Any:
        """Everything that holds a session, open on onnxruntime's ``providers``."""


@cache
def cuda_starts() -> bool:
    """Whether onnxruntime's CUDA provider is there and computes. Logs a warning when it is there and does not.

    By itself onnxruntime then falls back to the CPU in some cases, with prints or without a word, and fails in others.
    """
    try:
        with undisturbed():
            import onnx
            import onnxruntime
    except ImportError:
        return False  # `OnnxModel.open` says what is missing
    if _CUDA not in onnxruntime.get_available_providers():
        return False
    reason = "its libraries cannot be loaded, see onnxruntime's message"
    try:
        with undisturbed():
            session = onnxruntime.InferenceSession(_convolution(onnx), providers=[_CUDA, _CPU], enable_fallback=0)
            session.run(None, {"x": np.zeros((1, 1, 3, 3), np.float32)})
        if _CUDA in session.get_providers():
            return True
    except Exception as error:  # onnxruntime's errors have no common base
        reason = first_line(error)
    logger.warning("onnxruntime's CUDA provider does not start (%s): ONNX models run on the CPU.", reason)
    return False


def _convolution(onnx) -> bytes:
    """The smallest graph that needs cuDNN, which onnxruntime loads no sooner: a picture "x" (1 1 3 3) convolved with itself."""
    float32 = onnx.TensorProto.FLOAT
    x, y = (onnx.helper.make_tensor_value_info(name, float32, [1, 1, size, size]) for name, size in (("x", 3), ("y", 1)))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "x"], ["y"])], "convolution", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


Shape = tuple[int | None | EllipsisType, ...]
"""Sides of an input or output, None where any length will do; after ... in the first place the last ones, of any number."""

_FLOAT = 1  # onnx.TensorProto.FLOAT

_SIDE = 640
"""The length of a side that may vary, where the first is 1: the detector's picture."""


def check_graph(path: Path, kind: str, inputs: dict[str | None, Shape], outputs: Sequence[Shape]) -> None:
    """Looks into an ONNX file before any runtime opens it: what it takes, gives and holds.

    kind: what it is, in an error. inputs: names (None for any) to shapes, all float32. outputs: shapes in order, all float32.
    Raises CheckpointError naming the file when it cannot be read, has other inputs or outputs, lies in several files, states
    weights that it does not hold, or may make more of its input than fits into memory.
    """
    model = _model(path, "opened as an ONNX model")
    with opening(path):  # of text that is none, an error comes where it is looked at
        _check_model(model, path, kind, inputs, outputs)


def _check_model(model: Any, path: Path, kind: str, inputs: dict[str | None, Shape], outputs: Sequence[Shape]) -> None:
    graph = model.graph
    taken = _taken(graph)
    fits = len(taken) == len(inputs) and len(graph.output) == len(outputs)
    for value, (name, shape) in zip(taken, inputs.items(), strict=False):
        fits &= name in (None, value.name) and _fits(value, shape)
    fits &= all(_fits(value, shape) for value, shape in zip(graph.output, outputs, strict=False))
    if not fits:
        expected = f"{_in_words(inputs.items())} to {_in_words((None, shape) for shape in outputs)}"
        found = f"{_in_words(map(_described, taken))} to {_in_words(map(_described, graph.output))}"
        raise CheckpointError(f"{path}: expected {kind}, a network from {expected}; got one from {found}. {REPAIR}")
    for tensor in _tensors(graph):
        if fault := _tensor_fault(tensor):
            raise CheckpointError(f"{path}: {fault} {REPAIR}")
    if fault := growth_fault(model, _sizes(taken, inputs)):
        raise CheckpointError(f"{path}: {fault} {REPAIR}")


def input_shape(path: Path) -> list[int]:
    """Of the first input of the network in an ONNX file, 0 for sides that may vary; empty without one. Raises as ``check_graph``."""
    model = _model(path, "read as ONNX")
    with opening(path):
        taken = _taken(model.graph)
        return [side or 0 for side in _sides(taken[0]) or ()] if taken else []


def _taken(graph: Any) -> list:
    """Inputs; older files list their weights among them."""
    held = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in held]


def _model(path: Path, wanted: str) -> Any:
    """The ModelProto in a file, what it names outside of it left alone."""
    import onnx
    from google.protobuf.message import DecodeError

    raise_fault(file_fault(path))
    try:
        with open_regular(path) as file:
            return onnx.load_model_from_string(file.read())  # which reads no other file
    except (DecodeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be {wanted} ({first_line(error)}). {REPAIR}") from error


def _sides(value: Any) -> tuple[int | None, ...] | None:
    """None where a graph does not say."""
    kind = value.type.tensor_type
    return tuple(side.dim_value if side.dim_value > 0 else None for side in kind.shape.dim) if kind.HasField("shape") else None


def _fits(value: Any, shape: Shape) -> bool:
    """Whether an input or output may have that shape; sides that may vary fit any."""
    sides = _sides(value)
    if shape[0] is ...:
        shape, sides = shape[1:], sides and sides[1 - len(shape) :]
    if value.type.tensor_type.elem_type != _FLOAT or (sides is not None and len(sides) != len(shape)):
        return False
    return sides is None or all(None in (side, wanted) or side == wanted for side, wanted in zip(sides, shape, strict=True))


def _described(value: Any) -> tuple[str, Shape | None]:
    return value.name, _sides(value)


def _in_words(values: Any) -> str:
    """Names and shapes."""
    texts = [(f"{quoted(name)} " if name else "") + _sides_in_words(shape) for name, shape in values]
    return ", ".join(texts[:9]) + (f" and {len(texts) - 9} more" if len(texts) > 9 else "")


def _sides_in_words(shape: Shape | None) -> str:
    return f"[{', '.join({None: 'any', ...: '...'}.get(side, str(side)) for side in (shape or (...,)))}]"


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph, and those in its nodes."""
    graphs = [graph]
    while graphs:
        held = graphs.pop()
        yield held
        for attribute in (attribute for node in held.node for attribute in node.attribute):
            graphs += [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def _sizes(taken: list, inputs: dict[str | None, Shape]) -> dict[str, tuple[int, ...]]:
    """Of the inputs of a graph, as they are when it runs: what the graph states, else what it is to be, else the detector's picture."""
    wanted = ([None if side is ... else side for side in shape] for shape in inputs.values())
    known = {value.name: _sides(value) or sides for value, sides in zip(taken, wanted, strict=True)}
    return {name: tuple(side or (_SIDE if place else 1) for place, side in enumerate(sides)) for name, sides in known.items()}


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors that a graph holds, in its nodes and in the graphs of those, too."""
    for held in _graphs(graph):
        yield from held.initializer
        for sparse in held.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in held.node for attribute in node.attribute):
            yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
            for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()), *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _tensor_fault(tensor: Any) -> str | None:
    """What is wrong with a TensorProto: it lies in another file, or its shape is not that of what it holds."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return f"the weight {quoted(tensor.name)} lies in another file, which is not read."
    values = math.prod(tensor.dims)
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data, tensor.string_data)
    held = 4 * len(tensor.raw_data) or 8 * sum(map(len, fields))  # the smallest types have 2 bits
    if min(tensor.dims, default=0) < 0 or values > held:
        return f"the weight {quoted(tensor.name)} states {values} values of shape {list(tensor.dims)[:8]}, which the file does not hold."
    return None


@contextlib.contextmanager
def opening(path: Path) -> Iterator[None]:
    """Within, whatever a package raises about the model in ``path`` becomes a CheckpointError that names it."""
    try:
        yield
    except MemoError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        raise CheckpointError(f"{path} cannot be opened as an ONNX model ({first_line(error)}). {REPAIR}") from error


@contextlib.contextmanager
def running(path: Path) -> Iterator[None]:
    """As ``opening``, for a model that runs."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors have no common base
        raise CheckpointError(f"{path} fails when it runs ({first_line(error)}). {REPAIR}") from error


def check_made(made: Any, shape: Shape, path: Path) -> None:
    """Raises CheckpointError when what the model in ``path`` made is not an array of finite numbers, float32, of that shape."""
    fits = isinstance(made, np.ndarray) and made.dtype == np.float32 and made.ndim == len(shape)
    if not fits or any(wanted not in (None, side) for side, wanted in zip(made.shape, shape, strict=True)):
        found = f"{made.dtype} {list(made.shape)}" if isinstance(made, np.ndarray) else type(made).__name__
        raise CheckpointError(f"{path}: expected it to make float32 {_sides_in_words(shape)}, got {found}. {REPAIR}")
    if not np.isfinite(made).all():
        raise CheckpointError(f"{path} makes numbers that are NaN or infinite. {REPAIR}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, no warning is shown; filters that are added do not last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """For imports and for sessions that open: `quiet`, nothing is printed, and changes of the environment do not last."""
    before = dict(os.environ)
    # onnxruntime 1.29 and newer sends reports to its makers unless it finds this when it is imported
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
