"""Where models are: every folder that may hold them is searched, and nothing is listed that could not be loaded."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePath

from ..audio.emotion import load_emotion_classifier
from ..audio.emotion2vec import load_emotion2vec
from ..audio.features import check_audio_encoder
from ..errors import CheckpointError
from ..portrait.face import DETECTOR_FILE, RECOGNISER_FILE
from ..vae import VAE_WEIGHTS, check_autoencoder
from ..weights.checkpoints import BFLOAT16_WEIGHTS, CLASSIFIER, NETS, check_checkpoint, component_source, read_configs, read_json
from ..weights.checks import PICKLES, REPAIR, file_fault, permission_fault, pickle_fault, raise_fault
from .judging import Judging, Verdict
from .walking import walk

_MOST_FILES = 10_000
"""That are looked at to notice that a model was changed: more than any has."""

_JUDGED = 2**14
"""Judgements that are kept."""


@dataclass
class Listing:
    """found: name to what the loader of the role takes. refused: name to what is wrong, in a sentence."""

    found: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Role:
    """candidates: what in a folder (its path, names of its folders, names of its files) may be meant for the role, by names alone. judge:
    raises CheckpointError for one that cannot be loaded, by headers, sizes and configs alone. place: folders of the
    published layout that say nothing in a name. meant: whether a candidate is, by what is in it."""

    candidates: Callable[[Path, list[str], list[str]], list[Path]]
    judge: Callable[[Path], None]
    place: tuple[str, ...] = ()
    meant: Callable[[Path], bool] = lambda path: True


def find(role: str, roots: list[Path]) -> Listing:
    """The models of a role (see catalogue.CATALOGUE) below ``roots``; of two with the same name the first that can be
    loaded. Folders that must not be read are among the refused, and what was too large to be searched to its end."""
    listing, kind = Listing(), _ROLES[role]
    for root in roots:
        tree, judging = walk(root), Judging(role, root)
        listing.refused |= tree.refused
        for folder in tree.folders:
            for path in kind.candidates(folder.path, folder.folders, [*folder.files, *folder.others] if folder.others else folder.files):
                name = _name(path, root, kind.place)
                if name in listing.found:
                    continue
                special = folder.others.get(path.name) if path.parent == folder.path else None
                verdict = judging.verdict(path, folder, partial(_verdict, role, path, special))
                if verdict.fault:
                    listing.refused.setdefault(name, verdict.fault)
                elif verdict.meant:
                    listing.found[name] = path
        listing.refused |= judging.refused
    listing.refused = {name: fault for name, fault in listing.refused.items() if name not in listing.found}
    return listing


def _verdict(role: str, path: Path, special: str | None) -> Verdict:
    """special: what it is where it is no file."""
    if not _ROLES[role].meant(path):
        return Verdict(False)
    return Verdict(True, f"{path} {special}. {REPAIR}" if special else _fault(role, path, signature(path)))


def _name(path: Path, root: Path, place: tuple[str, ...]) -> str:
    """How a loader lists ``path``: its folders below the root, without those of the published layout, a folder doubled by
    an archive once; the root's own name when nothing is left."""
    parts = list(path.relative_to(root).parts)
    while parts and parts[-1] in place:
        parts.pop()
    while parts and parts[0] in place:
        parts.pop(0)
    parts = [part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
    return PurePath(*parts).as_posix() if parts else root.name


def signature(path: Path) -> tuple:
    """Path, size and times of the files of a model, two levels deep: whether it is another one than before."""
    return tuple(filter(None, map(_file_signature, [path, *sorted(_inside(path, 2))])))


def _inside(folder: Path, levels: int) -> list[Path]:
    """What is in a folder, those first that are near; no more than any model has."""
    found, level = [], [folder]
    for _ in range(levels):
        below = []
        for path in level:
            try:
                with os.scandir(path) as entries:
                    below += map(Path, islice(entries, _MOST_FILES - len(found) - len(below)))
            except OSError:  # a file, or what must not be looked into
                continue
        found += below
        level = below
    return found


def _file_signature(path: Path) -> tuple[str, int, int, int] | None:
    """None for what is no file, or must not be looked at; with the time that changes when the right to read it does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else None


@lru_cache(maxsize=_JUDGED)
def _fault(role: str, path: Path, signature: tuple) -> str | None:
    try:
        _ROLES[role].judge(path)
    except CheckpointError as error:
        return str(error)
    except PermissionError as error:
        return permission_fault(error.filename or path)
    return None


# What each role takes


def _checkpoints(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    whole = [folder] if any(net in folders or f"{net}.safetensors" in files for net in NETS) else []
    parts = (*(f"{net}.safetensors" for net in NETS), "model.safetensors", "diffusion_pytorch_model.safetensors", BFLOAT16_WEIGHTS)
    return whole + [folder / name for name in files if name not in parts and name.endswith(".safetensors")]


def _is_checkpoint(path: Path) -> bool:
    """Whether it is a folder, or a single file that says that it holds nets or is too damaged to say."""
    if path.suffix != ".safetensors":
        return True
    held = _components(path)
    return held is None or not held.isdisjoint(NETS)


def _classifiers(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    whole = [folder] if folder.name == CLASSIFIER else []
    return whole + [folder / name for name in files if name.endswith(".safetensors")]


def _is_classifier(path: Path) -> bool:
    return path.suffix != ".safetensors" or CLASSIFIER in (_components(path) or ())


def _audio_encoders(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    return [folder] if {"config.json", "model.safetensors", "pytorch_model.bin"} & set(files) else []


def _emotion2vecs(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    """A folder counts as its safetensors or, without them, its pickle."""
    whole = [folder / name for name in ("model.safetensors", "model.pt") if name in files][:1]
    return whole + [folder / name for name in files if name.startswith("emotion2vec") and name.endswith((".safetensors", *PICKLES))]


def _face_analyses(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    return [folder] if {DETECTOR_FILE, RECOGNISER_FILE} & set(files) else []


def _vocal_separators(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    return [folder / name for name in files if name == "Kim_Vocal_2.onnx" or (folder.name == "vocal_separator" and name.endswith(".onnx"))]


def _vaes(folder: Path, folders: list[str], files: list[str]) -> list[Path]:
    """Folders as diffusers writes them, and files with a name that says so, or in a folder that does or one below it."""
    if "config.json" in files and VAE_WEIGHTS in files:
        return [folder]
    named = "vae" in map(str.lower, folder.parts[-2:])
    return [folder / name for name in files if name.endswith(".safetensors") and (named or "vae" in name.lower())]


def _is_vae(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    try:
        return read_json(path / "config.json").get("_class_name") == "AutoencoderKL"
    except CheckpointError:
        return False


def _components(path: Path) -> frozenset[str] | None:
    """Components that a file holds, by its metadata; None when it is damaged."""
    signature = _file_signature(path)
    return _components_cached(path, signature) if signature else None


@lru_cache(maxsize=_JUDGED)
def _components_cached(path: Path, signature: tuple) -> frozenset[str] | None:
    try:
        return frozenset(read_configs(path))
    except CheckpointError:
        return None


def _judge_face_analysis(folder: Path) -> None:
    for name in (DETECTOR_FILE, RECOGNISER_FILE):
        raise_fault(file_fault(folder / name))


def _judge_classifier(place: Path) -> None:
    path = component_source(place, CLASSIFIER).path
    if path.suffix in PICKLES:
        raise_fault(pickle_fault(path))
    else:
        load_emotion_classifier(place, header_only=True)


def _judge_emotion2vec(path: Path) -> None:
    if path.suffix in PICKLES:
        raise_fault(pickle_fault(path))
    else:
        load_emotion2vec(path, header_only=True)


_ROLES = {
    "nets": _Role(_checkpoints, check_checkpoint, meant=_is_checkpoint),
    "vae": _Role(_vaes, check_autoencoder, ("vae",), _is_vae),
    "audio_encoder": _Role(_audio_encoders, check_audio_encoder),
    "face_analysis": _Role(_face_analyses, _judge_face_analysis, ("models", "face_analysis", "misc")),
    "vocal_separator": _Role(_vocal_separators, lambda path: raise_fault(file_fault(path)), ("Kim_Vocal_2.onnx", "vocal_separator", "misc")),
    "emotion_classifier": _Role(_classifiers, _judge_classifier, (CLASSIFIER, f"{CLASSIFIER}.safetensors", "misc"), _is_classifier),
    "emotion2vec": _Role(_emotion2vecs, _judge_emotion2vec, ("model.safetensors", "model.pt")),
}
