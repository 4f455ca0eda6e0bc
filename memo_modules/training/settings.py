"""The settings of a training: YAML to frozen dataclasses, one per section. A key that nothing reads is refused.

Not pydantic's: as it comes it takes "3" and true for numbers and "yes" for true; strict, it takes neither 1e-5, which YAML reads as a text, nor
a list for a tuple nor a text for a path. Each field would need a rule of its own, and each error our words.
"""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..files.documents import LARGEST_YAML, parse_yaml
from ..files.regular_files import read_regular
from ..words import quoted, shortened
from .dataset import ClipLayout
from .distillation import DistilSettings
from .draws import Rates
from .low_rank import LoraSettings
from .objective import ROBUST_THRESHOLD
from .parameters import MOTION_AND_AUDIO, OptimizerSettings
from .reference_settings import in_our_words, is_reference
from .schedule import TimestepSampling


@dataclass(frozen=True)
class DataSettings:
    """metadata: files that data preparation writes; none with distil.pairs. width, height: of the pictures, in pixels. frames, past_frames,
    audio_margin, clips_per_sample: see ClipLayout. workers: processes that read, in each process that trains; 0 reads between the steps.
    cache_dir: where the VAE's posteriors of all frames are stored before the first step, None for encoding in every step.
    """

    metadata: tuple[Path, ...] = ()
    width: int = 512
    height: int = 512
    frames: int = 16
    past_frames: int = 16
    audio_margin: int = 2
    clips_per_sample: int = 1
    workers: int = 4
    cache_dir: Path | None = None

    def __post_init__(self):
        _check_least("data.", self, width=8, height=8, workers=0)
        self.layout  # noqa: B018  raises for clips that cannot be

    @property
    def layout(self) -> ClipLayout:
        return ClipLayout(self.frames, self.past_frames, self.audio_margin, self.clips_per_sample)


@dataclass(frozen=True)
class SampleSettings:
    """Sample videos during the training: every ``every`` steps, the first ``videos`` of ``metadata`` (prepared videos) are generated again from
    their first picture, at most ``frames`` frames each. steps, guidance_scale: see SamplerSettings."""

    metadata: tuple[Path, ...] = ()
    every: int = 1000
    videos: int = 4
    frames: int = 96
    steps: int = 20
    guidance_scale: float = 3.5

    def __post_init__(self):
        _check_least("samples.", self, every=1, videos=1, frames=1, steps=1)


@dataclass(frozen=True)
class ValidationSettings:
    """Every ``every`` steps the loss on ``clips`` clips of prepared videos that do not train, at ``levels`` noise levels each, see validation.
    metadata: those videos; none for no validation."""

    metadata: tuple[Path, ...] = ()
    every: int = 250
    clips: int = 16
    levels: int = 4

    def __post_init__(self):
        _check_least("validation.", self, every=1, clips=1, levels=1)


@dataclass(frozen=True)
class TrainingSettings:
    """checkpoint: the nets to start from, see net_source. vae: see load_autoencoder. output_dir: of checkpoints and logs.

    A step takes batch_size · gradient_accumulation samples in each process. trainable: see Trainable. robust_threshold:
    see flow_loss, None for off. motion_weight: how much more a place of the picture counts in the loss where those of the data
    move, see place_weights; it needs data.cache_dir. until: a step to end after, while ``steps`` still sets the learning rate's schedule, so
    that one schedule can go through stages of other settings. dtype: of the nets; what trains and its optimizer are float32 under either.
    checkpointing: of activations, in each region of the nets. ema_decay: of an average of
    the weights, None for none; sample videos and the nets of a checkpoint then use the average. save_every, log_every: steps. keep:
    checkpoints. loggers: out of
    tensorboard and wandb; None takes tensorboard where it is installed. seed: of the order of the data and all that is drawn.
    lora: low-rank factors train for what trainable names, which stays as it is, see low_rank; None: the weights themselves train.
    distil: the nets learn to be sampled in fewer steps, see distillation; rates, weighting and robust_threshold then mean nothing.
    """

    checkpoint: Path
    vae: Path
    output_dir: Path
    data: DataSettings
    steps: int = 20_000
    batch_size: int = 1
    gradient_accumulation: int = 1
    seed: int = 42
    dtype: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = True
    trainable: Mapping[str, tuple[str, ...] | None] = field(default_factory=lambda: dict(MOTION_AND_AUDIO))
    robust_threshold: float | None = ROBUST_THRESHOLD
    motion_weight: float = 0.0
    until: int | None = None
    weighting: TimestepSampling = TimestepSampling()
    rates: Rates = Rates()
    optimizer: OptimizerSettings = OptimizerSettings()
    ema_decay: float | None = None
    save_every: int = 5000
    keep: int = 20
    log_every: int = 10
    loggers: tuple[Literal["tensorboard", "wandb"], ...] | None = None
    samples: SampleSettings = field(default_factory=SampleSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    lora: LoraSettings | None = None
    distil: DistilSettings | None = None

    def __post_init__(self):
        _check_least("", self, steps=1, batch_size=1, gradient_accumulation=1, save_every=1, keep=1, log_every=1)
        if not 0 <= self.motion_weight < float("inf") or (self.motion_weight and self.data.cache_dir is None):
            raise InputError(f"motion_weight: expected 0, or more where data.cache_dir is set, got {self.motion_weight}.")
        if self.until is not None and self.until < 1:
            raise InputError(f"until: expected a step from 1 on or null, got {self.until}.")
        if not (self.distil and self.distil.pairs):
            _check_least("data.", self.data, metadata=1)
        elif self.data.metadata or self.data.cache_dir or self.data.past_frames > self.data.frames:
            raise InputError(
                "data: expected neither metadata nor cache_dir with distil.pairs, and no more past_frames than frames, got "
                f"{len(self.data.metadata)} files, {self.data.cache_dir}, and {self.data.past_frames} for {self.data.frames}."
            )
        if self.distil and self.data.clips_per_sample > 1:
            raise InputError(f"data.clips_per_sample: expected 1 with distil, got {self.data.clips_per_sample}.")
        if self.distil and self.validation.metadata:
            raise InputError("validation.metadata: expected none with distil, whose loss is that of its own trajectories.")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay: expected a number in [0, 1) or null, got {self.ema_decay}.")
        if not self.optimizer.max_grad_norm > 0:
            raise InputError(
                f"optimizer.max_grad_norm: expected a number above 0, got {self.optimizer.max_grad_norm}. For gradients as they are: .inf."
            )


def read_settings(path: Path, overrides: Sequence[str] = ()) -> TrainingSettings:
    """The settings in a YAML file, ours or the reference implementation's; overrides: `key=value` each, a key of a section as `section.key`,
    the value in YAML.

    Relative paths count from the working directory. Raises InputError naming the key that is unknown, missing or has a
    value that cannot be used.
    """
    values = _parsed(_text(path), str(path))
    changes = [(key, _parsed(value, quoted(override))) for override in overrides for key, _, value in [override.partition("=")]]
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, got {type(values).__name__}.")
    if is_reference(values):
        values = in_our_words(values)
    for override, (key, value) in zip(overrides, changes, strict=True):
        if "=" not in override:
            raise InputError(f"{quoted(override)}: expected key=value.")
        *sections, last = key.split(".")
        section = values
        for name in sections:
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
            if not isinstance(section, dict):
                raise InputError(f"{quoted(override)}: {name} has no keys.")
        section[last] = value
    return from_mapping(TrainingSettings, values)


def _text(path: Path) -> str:
    try:
        return read_regular(path, LARGEST_YAML + 1).decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Name a YAML file, as those in scripts/configs.") from error


def _parsed(text: str, where: str) -> object:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{where}: not readable as YAML ({shortened(str(error), 500)}).") from error


def from_mapping(kind: type, values: Mapping[str, Any], section: str = "") -> Any:
    """An instance of the dataclass ``kind``, whose fields are the keys that there may be. Raises InputError, see read_settings."""
    known = {each.name: each for each in fields(kind)}
    for key in values:
        if key not in known:
            raise InputError(f"{section}{key if isinstance(key, str) else quoted(key)}: no such setting. Known here: {', '.join(known)}.")
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise InputError(f"{section}{name}: expected a value, there is none.")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, f"{section}{key}") for key, value in values.items()})


def plain(settings: TrainingSettings | ValidationSettings) -> Any:
    """The same in values that JSON and YAML can hold."""
    return _plain(asdict(settings))


def changes(before: Mapping[str, Any], after: Mapping[str, Any], section: str = "") -> list[str]:
    """What differs between two settings as ``plain`` gives them: `key: before -> after` each."""
    found = []
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, f"{section}{key}.")
        elif old != new:
            found.append(f"{section}{key}: {old} -> {new}")
    return found


def _plain(value):
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, key: str) -> Any:
    """``value`` as the annotation ``hint`` has it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # X | None
        return None if value is None else _convert(arguments[0], value, key)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(hint, value, f"{key}.")
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple) and (arguments[-1] is ... or len(arguments) == len(value)):
        parts = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_convert(part, each, f"{key}[{i}]") for i, (part, each) in enumerate(zip(parts, value, strict=False)))
    if origin is Mapping and isinstance(value, Mapping):
        return {name: _convert(arguments[1], part, f"{key}.{name}") for name, part in value.items()}
    if origin is None and type(value) is hint and hint in (str, bool, int):
        return value
    if hint is Path and isinstance(value, str):
        return _path(value, key)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML takes 1e-5 for a string
        except (ValueError, OverflowError):
            pass
    raise InputError(f"{key}: expected {_in_words(hint)}, got {quoted(value)}.")


def _path(value: str, key: str) -> Path:
    if "\0" in value:
        raise InputError(f"{key}: expected a path, got {quoted(value)}.")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~somebody that this machine does not know
        raise InputError(f"{key}: {quoted(value)} names no folder ({error}).") from error


def _in_words(hint) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return "a list" if arguments[-1] is ... else f"{len(arguments)} values"
    if origin is Mapping or is_dataclass(hint):
        return "keys and values"
    return {str: "a text", bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}[hint]


def _check_least(section: str, settings, **least: int) -> None:
    for name, low in least.items():
        value = getattr(settings, name)
        if (len(value) if isinstance(value, tuple) else value) < low:
            raise InputError(f"{section}{name}: expected at least {low}, got {quoted(value)}.")
