"""What every node is handed, checked in one place before it runs.

ComfyUI compares the types of sockets, and the ranges of widgets. What it does not see are values from a node whose output
fits anything ("*"), numbers and choices that come by a link, NaN, and whatever a prompt writes instead of a link.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import wraps
from numbers import Integral, Real
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..memo_modules.audio.emotion2vec import Emotion2Vec
from ..memo_modules.audio.features import AudioEncoder
from ..memo_modules.audio.vocals import VocalSeparator
from ..memo_modules.errors import CheckpointError, InputError, MemoError
from ..memo_modules.models.config import read_recipe
from ..memo_modules.models.diffusion_net import DiffusionNet
from ..memo_modules.models.emotion_classifier import EmotionClassifier
from ..memo_modules.models.projections import AudioProjection, ImageProjection
from ..memo_modules.models.reference_net import ReferenceNet
from ..memo_modules.portrait.face import FaceAnalyzer
from ..memo_modules.sampler.solvers import check_sigmas
from ..memo_modules.types import AudioFeatures, Crop, EmotionTrack, Face, VideoState
from ..memo_modules.values import described, is_number, tensor_fault
from ..memo_modules.words import quoted
from . import comfy_adapter as adapter
from .comfy_lists import LeftOut, ListNode, PreparingNode, blocked, check_not_left_out, named
from .core_video import check_sound
from .socket_types import AudioEncoderModel, EmotionModel, MemoModel, MemoModels


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _manages(kind: type) -> Callable[[Any], bool]:
    """A ModelPatcher of that."""
    return lambda value: isinstance(getattr(value, "model", None), kind)


def _has(*methods: str) -> Callable[[Any], bool]:
    """Core's classes are extended and wrapped by other packs: what counts is what they can do."""
    return lambda value: all(callable(getattr(value, method, None)) for method in methods)


def _nothing_more(value: Any, name: str) -> None:
    pass


def _check_fields(value: Any, name: str) -> None:
    value.check(name, adapter.check_interrupt)


def _check_plain(value: Tensor, name: str) -> None:
    if fault := tensor_fault(value):
        raise InputError(f"{name}: {fault}")


def _check_audio(value: Mapping, name: str) -> None:
    for part, kind, expected in (("waveform", Tensor, "a tensor (1, channels, samples)"), ("sample_rate", Real, "a number of samples per second")):
        if not isinstance(value.get(part), kind):
            raise InputError(f"{name}: {part}: expected {expected}, got {described(value.get(part))}. Look at the node that made it.")
    _check_plain(value["waveform"], f"{name}: waveform")


def _are_loras(value: Any) -> bool:
    """Pairs of a digest and a strength."""
    return isinstance(value, tuple) and all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], Real) and math.isfinite(each[1])
        for each in value
    )


def _is_recipe(value: Any) -> bool:
    """SamplerSettings by name, each in its range, and nothing else."""
    try:
        return isinstance(value, Mapping) and read_recipe(value, "") == dict(value)
    except CheckpointError:
        return False


def _check_sigmas(value: Tensor, name: str) -> None:
    _check_plain(value, name)
    check_sigmas(value)


def _holds(**kinds: Callable[[Any], bool] | str) -> Callable[[Any, str], None]:
    """Fields to what their values are known by, or to the socket that they belong to."""

    def check(value: Any, name: str) -> None:
        for field, kind in kinds.items():
            held = getattr(value, field)
            if isinstance(kind, str):
                check_socket(kind, held, f"{name}: {field}")
            elif not kind(held):
                raise InputError(f"{name}: {field}: expected what a loader of MEMO puts there, got {described(held)}.")

    return check


SOCKETS: dict[str, tuple[Callable[[Any], bool], str, Callable[[Any, str], None]]] = {
    "MEMO_MODEL": (
        _is(MemoModel),
        "Load MEMO Model",
        _holds(
            dtype=lambda dtype: dtype in (torch.float32, torch.float16, torch.bfloat16),
            reference_net=_manages(ReferenceNet),
            diffusion_net=_manages(DiffusionNet),
            image_proj=_manages(ImageProjection),
            audio_proj=_manages(AudioProjection),
            compiled_regions=_is(dict),
            weights=lambda digest: isinstance(digest, str) and bool(re.fullmatch("[0-9a-f]+", digest)),
            loras=_are_loras,
            distilled=_is_recipe,
        ),
    ),
    "MEMO_MODELS": (
        _is(MemoModels),
        "Load All MEMO Models",
        _holds(
            model="MEMO_MODEL",
            vae="VAE",
            audio_encoder="MEMO_AUDIO_ENCODER",
            emotion_model="MEMO_EMOTION_MODEL",
            vocal_separator="MEMO_VOCAL_SEPARATOR",
            face_analysis="MEMO_FACE_ANALYSIS",
        ),
    ),
    "MEMO_AUDIO_ENCODER": (_is(AudioEncoderModel), "Load MEMO Audio Encoder", _holds(encoder=_manages(AudioEncoder))),
    "MEMO_EMOTION_MODEL": (
        _is(EmotionModel),
        "Load MEMO Emotion Model",
        _holds(encoder=_manages(Emotion2Vec), classifier=_manages(EmotionClassifier)),
    ),
    "MEMO_VOCAL_SEPARATOR": (_manages(VocalSeparator), "Load MEMO Vocal Separator", _nothing_more),
    "MEMO_FACE_ANALYSIS": (_manages(FaceAnalyzer), "Load MEMO Face Analysis", _nothing_more),
    "MEMO_AUDIO": (_is(AudioFeatures), "MEMO Encode Audio", _check_fields),
    "MEMO_EMOTION": (_is(EmotionTrack), "MEMO Detect Emotion, MEMO Set Emotion or MEMO Emotion Timeline", _check_fields),
    "MEMO_FACE": (_is(Face), "MEMO Embed Face", _check_fields),
    "MEMO_CROP": (_is(Crop), "MEMO Crop Portrait", _check_fields),
    "MEMO_STATE": (_is(VideoState), "MEMO Sampler", _check_fields),
    "AUDIO": (_is(Mapping), "Load Audio", _check_audio),  # comfy_sockets.to_audio looks at the sound that is used
    "IMAGE": (_is(Tensor), "Load Image", _check_plain),
    "SAMPLER": (_has("sample"), "KSamplerSelect", _nothing_more),
    "SIGMAS": (_is(Tensor), "a scheduler node", _check_sigmas),
    "VAE": (_has("encode", "decode", "spacial_compression_encode"), "Load MEMO VAE", _nothing_more),
}
"""Type of a socket to what its values are known by, the node that makes them, and what looks into them and raises InputError."""


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself, which from now on raises InputError, naming the input, for a value that does not belong there.

    One that gets the items of a list one after the other leaves those out that were refused before it.
    """
    name = "prepare" if issubclass(node, ListNode) else "one" if issubclass(node, PreparingNode) else "execute"  # what gets one item
    work = getattr(node, name).__func__

    @wraps(work)
    def check_and_work(cls, *place, **values):
        try:
            for given in (node.SCHEMA or node.GET_SCHEMA()).inputs:
                check_not_left_out(values.get(given.id))
                if values.get(given.id) is not None or not given.optional:
                    values[given.id] = check_value(node, given, values.get(given.id))
                    if given.get_io_type() == "AUDIO":
                        check_sound(getattr(cls, "hidden", None), given.id, values[given.id])
                else:
                    values.pop(given.id, None)  # a link that gives nothing: as if it were not there
            return work(cls, *place, **values)
        except LeftOut as error:
            if name != "execute":
                raise
            adapter.host(cls.hidden.unique_id if cls.hidden else None).say(f"{error} It is left out.")
            return io.NodeOutput(*blocked(node, str(error)))
        except MemoError as error:
            raise named(error) from error

    setattr(node, name, classmethod(check_and_work))
    return node


def check_value(node: type[io.ComfyNode], given: io.Input, value: Any) -> Any:
    """``value`` for the input ``given`` of ``node``, numbers and text as Python's own. Raises InputError when it is nothing for it."""
    kind = given.get_io_type()
    if kind in SOCKETS:
        check_socket(kind, value, given.id)
    elif kind in ("INT", "FLOAT"):
        return _checked_number(given, value, whole=kind == "INT")
    elif kind == "BOOLEAN":
        if not isinstance(value, Integral):
            raise InputError(f"{given.id}: expected true or false, got {described(value)}.")
        return bool(value)
    elif kind in ("COMBO", "STRING"):
        if not isinstance(value, str):
            raise InputError(f"{given.id}: expected text, got {described(value)}.")
        # a list of files may have grown since
        if kind == "COMBO" and value not in given.options and not checks_itself(node, given):
            raise InputError(f"{given.id}: expected one of {', '.join(given.options)}, got {quoted(value)}.")
        return str(value)
    return value


def check_socket(kind: str, value: Any, name: str) -> None:
    """Raises InputError when ``value`` is nothing for a socket of the type ``kind``."""
    fits, maker, look_into = SOCKETS[kind]
    if not fits(value):
        raise InputError(f"{name}: expected {kind} from {maker}, got {described(value)}.")
    look_into(value, name)


def checks_itself(node: type[io.ComfyNode], given: io.Input) -> bool:
    """Whether the node says itself what may be chosen there, by the rule of ComfyUI."""
    return given.id in inspect.signature(node.validate_inputs).parameters


def _checked_number(given: io.Int.Input | io.Float.Input, value: Any, whole: bool) -> int | float:
    lowest, highest = (default if bound is None else bound for bound, default in ((given.min, -math.inf), (given.max, math.inf)))
    if is_number(value, Integral if whole else Real) and lowest <= value <= highest:  # which NaN is not
        return int(value) if whole else float(value)
    kind = "a whole number" if whole else "a number"
    raise InputError(f"{given.id}: expected {kind} from {lowest} to {highest}, got {described(value)}.")
