"""What audio-separator and insightface share: models in ONNX files, and a process that they must leave as they found it."""

import contextlib
import io
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

logger = logging.getLogger(__name__)

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


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
    def load(cls, path: Path, **options: bool):
        """One that is open already; see `open` for the errors."""
        model = cls(path, **options)
        model.open()
        return model

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    @property
    def size(self) -> int:
        """Bytes of the files, which is about what the open sessions hold; one that is missing counts for nothing."""
        return sum(file.stat().st_size for file in self.files if file.is_file())

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
        reason = str(error).split("\n")[0]
    logger.warning("onnxruntime's CUDA provider does not start (%s): ONNX models run on the CPU.", reason)
    return False


def _convolution(onnx) -> bytes:
    """The smallest graph that needs cuDNN, which onnxruntime loads no sooner: a picture "x" (1 1 3 3) convolved with itself."""
    float32 = onnx.TensorProto.FLOAT
    x, y = (onnx.helper.make_tensor_value_info(name, float32, [1, 1, size, size]) for name, size in (("x", 3), ("y", 1)))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "x"], ["y"])], "convolution", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


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
