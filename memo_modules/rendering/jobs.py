"""What is to be rendered: one portrait and one voice with their settings, or a manifest of many."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from ..audio.timeline import parse_timeline
from ..errors import InputError
from ..files.documents import parse_json, parse_yaml
from ..files.regular_files import open_regular, read_regular
from ..files.remote import is_url
from ..portrait.framing import MARGIN
from ..portrait.pasting import COLOR_MATCHES, FEATHER
from ..sampler.footprint import MEMORY_MODES
from ..sampler.noise import NOISES
from ..sampler.recipes import PRESETS
from ..sampler.reference_order import REFERENCE_ORDERS
from ..small_decoder import DECODERS
from ..types import EMOTIONS, SamplerSettings
from ..video.formats import VideoFormat
from ..weights.fingerprints import file_digest
from ..words import quoted

REFERENCE_NAMES = {
    "input_image": ("image",),
    "input_audio": ("audio",),
    "resolution": ("width", "height"),
    "inference_steps": ("steps",),
    "cfg_scale": ("guidance_scale",),
}
"""Names of the reference implementation's configuration and arguments to those that mean the same here."""

IN_THE_CHECKPOINT = {"num_generated_frames_per_clip": 16, "num_past_frames": 16}
"""What the reference's configuration says and its nets were made for."""

NOT_NEEDED = ("enable_xformers_memory_efficient_attention",)
"""What it says and nothing here depends on."""

_LARGEST = 2**27
"""Bytes of a manifest: hundreds of thousands of lines."""


@dataclass(frozen=True)
class Job:
    """One video. The fields after ``output`` are named and mean as the inputs of the nodes; see docs/rendering.md.

    output: name in the folder of the results, with / between folders. crop: cut the square around face ``index`` out of the image first.
    paste_back: and put the frames back into it, see portrait.pasting; the video has the size of the image.
    emotion: one of EMOTIONS, or "" to detect it in the voice; timeline: instead of it, see audio.timeline. output_fps: 0 for ``fps``.
    """

    image: Path
    audio: Path
    output: str
    width: int = 512
    height: int = 512
    steps: int = 20
    guidance_scale: float = 3.5
    seed: int = 42
    fps: float = 30.0
    emotion: str = ""
    timeline: str = ""
    separate: bool = True
    crop: bool = False
    margin: float = MARGIN
    index: int = 0
    allow_no_face: bool = False
    num_init_past_frames: int = 16
    reference_order: str = REFERENCE_ORDERS[0]
    noise: str = NOISES[0]
    lead_in: float = 0.0
    memory_mode: str = MEMORY_MODES[0]
    codec: str = "h264"
    crf: int = 18
    pixel_format: str = ""
    audio_codec: str = ""
    output_fps: float = 0.0
    label_as_synthetic: bool = True
    preset: str = PRESETS[0]
    paste_back: bool = False
    feather: float = FEATHER
    color_match: str = "border"
    decoder: str = DECODERS[0]

    def check(self) -> None:
        """Raises InputError, naming the field, for what no node would take."""
        for name, least, most, multiple in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most or (multiple and value % multiple):
                raise InputError(f"{name}: expected {least} to {most}{f', a multiple of {multiple}' if multiple else ''}, got {value}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name}: expected one of {', '.join(filter(None, choices))}, got {quoted(getattr(self, name))}.")
        if self.paste_back and not self.crop:
            raise InputError("paste_back: expected crop with it, which says where the frames belong.")
        if self.crop and (self.width != self.height or self.width % 64):
            raise InputError(f"crop: expected a square of a multiple of 64 pixels, got {self.width} x {self.height}.")
        parse_timeline(self.timeline)
        path, suffix = PurePosixPath(self.output), self.format.suffix
        if path.is_absolute() or ".." in path.parts or not path.name or any(character in self.output for character in '\\:*?"<>|\0'):
            raise InputError(f"output: expected a name inside the folder of the results, got {quoted(self.output)}.")
        if path.suffix != suffix:
            raise InputError(f"output: expected a name that ends in {suffix}, got {quoted(self.output)}.")

    @cached_property
    def settings(self) -> SamplerSettings:
        return SamplerSettings(
            self.steps,
            self.guidance_scale,
            self.seed,
            num_init_past_frames=self.num_init_past_frames,
            reference_order=self.reference_order,
            noise=self.noise,
        )

    @property
    def format(self) -> VideoFormat:
        crf = self.crf if self.codec == "h264" else None
        return VideoFormat(self.codec, crf, self.pixel_format, self.audio_codec)

    def key(self, models: str) -> str:
        """What tells this video from every other: SHA-256 of its name, the content of image and audio, all settings and ``models``, their
        digest. Where the files of the inputs lie does not count. Raises InputError when one cannot be read."""
        # a setting at its default does not count: so one that joins changes no job that does without it
        values = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default}
        for name in ("image", "audio", "memory_mode"):
            values.pop(name, None)
        content = {name: content_digest(name, getattr(self, name)) for name in ("image", "audio")}
        return hashlib.sha256(json.dumps([models, content, values], sort_keys=True).encode()).hexdigest()


_RANGES = (
    ("width", 64, 2048, 8),
    ("height", 64, 2048, 8),
    ("steps", 1, 1000, None),
    ("guidance_scale", 0.0, 100.0, None),
    ("seed", 0, 2**64 - 1, None),
    ("fps", 8.0, 60.0, None),
    ("margin", 0.0, 2.0, None),
    ("index", 0, 99, None),
    ("num_init_past_frames", 1, 16, None),
    ("lead_in", 0.0, 10.0, None),
    ("crf", 0, 51, None),
    ("feather", 0.0, 0.5, None),
    ("output_fps", 0.0, 120.0, None),
)
"""The bounds of the nodes: name, least, most, and of what it is a multiple."""

_CHOICES = {
    "emotion": ("", *EMOTIONS),
    "reference_order": REFERENCE_ORDERS,
    "noise": NOISES,
    "memory_mode": MEMORY_MODES,
    "preset": PRESETS,
    "color_match": COLOR_MATCHES,
    "decoder": DECODERS,
}


KINDS: dict[str, type] = {each.name: get_type_hints(Job)[each.name] for each in fields(Job)}
"""What a job's settings are, by name."""


@lru_cache(maxsize=2**16)
def content_digest(name: str, path: Path) -> str:
    """Of a file, read once. name: of the field, for the InputError when it cannot be read."""
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"{name}: {path} cannot be read ({error.strerror or error}).") from error


def in_our_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which some have the reference's names, with ours. Raises InputError for one that the nets cannot follow."""
    found = {}
    for name, value in values.items():
        if name in IN_THE_CHECKPOINT:
            if value != IN_THE_CHECKPOINT[name]:
                raise InputError(f"{name}: expected {IN_THE_CHECKPOINT[name]}, which the nets were trained for, got {quoted(value)}.")
        elif name not in NOT_NEEDED:
            found |= dict.fromkeys(REFERENCE_NAMES.get(name, (name,)), value)
    return found


Fetch = Callable[[str], Path]
"""From a URL to a copy of what is there; raises InputError when it cannot be read."""


def _no_urls(url: str) -> Path:
    raise InputError(f"expected a file, got the URL {quoted(url)}.")


def make_job(values: Mapping[str, Any], folder: Path, where: str, fetch: Fetch = _no_urls) -> Job:
    """A job of ``values`` by our names or the reference's; relative paths count from ``folder``. Raises InputError that begins with
    ``where``."""
    try:
        values = in_our_words(values)
        for name in values:
            if name not in KINDS:
                raise InputError(f"{name}: no such setting. Known here: {', '.join(KINDS)}.")
        for name in ("image", "audio"):
            if not isinstance(values.get(name), str) or not values[name] or "\0" in values[name]:
                raise InputError(f"{name}: expected a file, got {quoted(values.get(name))}.")
        names = {name: values[name] for name in ("image", "audio")}
        places: dict[str, Any] = {name: fetch(text) if is_url(text) else folder / Path(text).expanduser() for name, text in names.items()}
        stems = [PurePosixPath("".join(urlsplit(text)[1:3])).stem if is_url(text) else places[name].stem for name, text in names.items()]
        output = values.get("output") or f"{'_'.join(stems)}{Job(**places, output='').format.suffix}"
        typed = {name: _typed(name, value, KINDS[name]) for name, value in values.items() if name not in places}
        job = Job(**places, **typed | {"output": _typed("output", output, str)})
        job.check()
        return job
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and value is None:
        return ""
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
        raise InputError(f"{name}: expected {words}, got {quoted(value)}.")
    return value


def read_manifest(path: Path, defaults: Mapping[str, Any], fetch: Fetch = _no_urls) -> list[tuple[str, Job | InputError]]:
    """The jobs of a manifest with where each stands in it, or what is wrong with that one line: JSON lines, or CSV with names in its first
    line; ``defaults`` count where a line says nothing. Relative paths count from the manifest's folder.

    Raises InputError when it cannot be read, and when two lines make the same file.
    """
    try:
        content = read_regular(path, _LARGEST + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Name a file of JSON lines, or a CSV.") from error
    if len(content) > _LARGEST:
        raise InputError(f"{path} is larger than {_LARGEST >> 20} MB. Divide it.")
    found: list[tuple[str, Job | InputError]] = []
    names: dict[str, str] = {}
    for where, values in _csv_lines(content) if path.suffix.lower() == ".csv" else _json_lines(content):
        try:
            if isinstance(values, InputError):
                raise values
            job = make_job({**defaults, **in_our_words(values)}, path.parent, where, fetch)
        except InputError as error:
            found.append((where, error))
            continue
        if (twin := names.setdefault(job.output.casefold(), where)) != where:
            raise InputError(f"{path}: {twin} and {where} both make {job.output}. Give each its own output.")
        found.append((where, job))
    if not found:
        raise InputError(f"{path} has no lines.")
    return found


def _json_lines(content: str) -> Iterable[tuple[str, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        where = f"line {number}"
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except ValueError as error:
            yield where, InputError(f"{where}: expected a JSON object ({error}).")
            continue
        yield where, values if isinstance(values, dict) else InputError(f"{where}: expected a JSON object, got {quoted(values)}.")


def _csv_lines(content: str) -> Iterable[tuple[str, Any]]:
    """Empty cells say nothing."""
    texts = {name for name, kind in KINDS.items() if kind in (str, Path)} | {"input_image", "input_audio"}
    reader = csv.DictReader(io.StringIO(content), strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                yield where, InputError(f"{where}: expected as many cells as there are names in the first line.")
                continue
            yield where, {name.strip(): cell if name.strip() in texts else _scalar(cell) for name, cell in row.items() if cell.strip()}
    except csv.Error as error:
        yield f"line {reader.line_num}", InputError(f"line {reader.line_num}: no CSV ({error}).")


def _scalar(cell: str) -> Any:
    try:
        return json.loads(cell.strip().lower())
    except ValueError:
        return cell


def read_defaults(path: Path) -> dict[str, Any]:
    """Settings in a YAML file, by our names or by those of the reference's inference.yaml. Raises InputError when it cannot be read."""
    try:
        values = parse_yaml(read_regular(path, _LARGEST).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as YAML ({error}).") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path}: expected keys and values, got {quoted(values, 60)}.")
    return in_our_words(values)


def models_digest(places: Sequence[Path], loras: Sequence[tuple[Path, float]] = (), dtype: str = "") -> str:
    """Of the files of models, told by their sizes and 64 places in each, and of how they are used; the same wherever they lie."""
    digest = hashlib.sha256(f"{dtype} {[strength for _, strength in loras]}".encode())
    for place in (*places, *(path for path, _ in loras)):
        for file in sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]:
            digest.update(f"{file.relative_to(place).as_posix()} {file.stat().st_size}".encode())
            with open_regular(file) as opened:
                for part in range(64):
                    opened.seek(file.stat().st_size * part // 64)
                    digest.update(opened.read(1024))
    return digest.hexdigest()
