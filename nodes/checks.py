"""What every node is handed, checked in one place before it runs.

ComfyUI compares the types of sockets, and the ranges of widgets. What it does not see are values from a node whose output
fits anything ("*"), numbers and choices that come by a link, NaN, and whatever a prompt writes in the place of a link.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import wraps
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..memo_modules.audio.vocals import VocalSeparator
from ..memo_modules.errors import InputError
from ..memo_modules.face import FaceAnalyzer
from ..memo_modules.types import AudioFeatures, Crop, EmotionTrack, Face, VideoState
from .types import AudioEncoderModel, EmotionModel, MemoModel, MemoModels


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _manages(kind: type) -> Callable[[Any], bool]:
    """A ModelPatcher of that."""
    return lambda value: isinstance(getattr(value, "model", None), kind)


def _has(*methods: str) -> Callable[[Any], bool]:
    """Core's classes are extended and wrapped by other packs: what counts is what they can do."""
    return lambda value: all(callable(getattr(value, method, None)) for method in methods)


def _is_audio(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("waveform"), Tensor) and isinstance(value.get("sample_rate"), Real)


SOCKETS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "MEMO_MODEL": (_is(MemoModel), "Load MEMO Model"),
    "MEMO_MODELS": (_is(MemoModels), "Load All MEMO Models"),
    "MEMO_AUDIO_ENCODER": (_is(AudioEncoderModel), "Load MEMO Audio Encoder"),
    "MEMO_EMOTION_MODEL": (_is(EmotionModel), "Load MEMO Emotion Model"),
    "MEMO_VOCAL_SEPARATOR": (_manages(VocalSeparator), "Load MEMO Vocal Separator"),
    "MEMO_FACE_ANALYSIS": (_manages(FaceAnalyzer), "Load MEMO Face Analysis"),
    "MEMO_AUDIO": (_is(AudioFeatures), "MEMO Encode Audio"),
    "MEMO_EMOTION": (_is(EmotionTrack), "MEMO Detect Emotion, MEMO Set Emotion or MEMO Emotion Timeline"),
    "MEMO_FACE": (_is(Face), "MEMO Embed Face"),
    "MEMO_CROP": (_is(Crop), "MEMO Crop Portrait"),
    "MEMO_STATE": (_is(VideoState), "MEMO Sampler"),
    "AUDIO": (_is_audio, "Load Audio"),
    "IMAGE": (_is(Tensor), "Load Image"),
    "SAMPLER": (_has("sample"), "KSamplerSelect"),
    "SIGMAS": (_is(Tensor), "a scheduler node"),
    "VAE": (_has("encode", "decode", "spacial_compression_encode"), "Load MEMO VAE"),
}
"""Type of a socket to what its values are known by, and the node that makes them."""


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself, which from now on raises InputError, naming the input, for a value that does not belong there."""
    execute = node.execute.__func__

    @wraps(execute)
    def check_and_execute(cls, **values) -> io.NodeOutput:
        for given in (node.SCHEMA or node.GET_SCHEMA()).inputs:
            value = values.get(given.id)
            if value is not None or not given.optional:
                check_value(node, given, value)
        return execute(cls, **values)

    node.execute = classmethod(check_and_execute)
    return node


def check_value(node: type[io.ComfyNode], given: io.Input, value: Any) -> None:
    """Raises InputError when ``value`` is nothing for the input ``given`` of ``node``."""
    kind = given.get_io_type()
    if kind in SOCKETS:
        fits, maker = SOCKETS[kind]
        if not fits(value):
            raise InputError(f"{given.id}: expected {kind} from {maker}, got {described(value)}.")
    elif kind in ("INT", "FLOAT"):
        _check_number(given, value, whole=kind == "INT")
    elif kind == "BOOLEAN" and not isinstance(value, Integral):
        raise InputError(f"{given.id}: expected true or false, got {described(value)}.")
    elif kind in ("COMBO", "STRING"):
        if not isinstance(value, str):
            raise InputError(f"{given.id}: expected text, got {described(value)}.")
        # a list of files may have grown since
        if kind == "COMBO" and value not in given.options and not checks_itself(node, given):
            raise InputError(f"{given.id}: expected one of {', '.join(given.options)}, got {value!r}.")


def checks_itself(node: type[io.ComfyNode], given: io.Input) -> bool:
    """Whether the node says itself what may be chosen there, by the rule of ComfyUI."""
    return given.id in inspect.signature(node.validate_inputs).parameters


def _check_number(given: io.Int.Input | io.Float.Input, value: Any, whole: bool) -> None:
    lowest, highest = (default if bound is None else bound for bound, default in ((given.min, -math.inf), (given.max, math.inf)))
    if isinstance(value, Integral if whole else Real) and lowest <= value <= highest:  # which NaN is not
        return
    kind = "a whole number" if whole else "a number"
    raise InputError(f"{given.id}: expected {kind} from {lowest} to {highest}, got {described(value)}.")


def described(value: Any) -> str:
    """A value, in an error: short ones as they are, of others the kind."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, str | int | float):
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]} ..."
    return type(value).__name__
