"""From a video to training data: face embedding, audio states, emotion labels. Published in
scripts/prepare_data.py of the reference implementation.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..audio.emotion import check_fit, detect_emotion, load_emotion_classifier
from ..audio.emotion2vec import load_emotion2vec
from ..audio.features import encode_frames, load_audio_encoder
from ..audio.vocals import VocalSeparator
from ..errors import InputError, MemoError
from ..portrait.face import FaceAnalyzer
from ..types import Crop, frame_labels
from ..weights.fingerprints import file_digest
from .looking import Looks, check_cuts, check_face
from .rewriting import rewrite, rewritten_frames
from .splitting import spans
from .tensor_files import FIELDS, write_tensor
from .videos import Video, read_video

VIDEOS = "videos"
"""The folder in the output of those that were rewritten: at another frame rate, cropped, or as a clip of a longer one."""

CROPPED = "cropped to the square around their face"
INTERLACED = "interlaced, so that edges that move are combs: deinterlace them first, with ffmpeg -vf bwdif"
"""Notes on videos that were prepared."""

_PART = re.compile(r"(.*)\.(\d{4,})of(\d{4,})")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPlaces:
    """Where the models are, as their loaders take it. vocal_separator: None takes the sound as it is, for clean voices."""

    face_analysis: Path
    audio_encoder: Path
    emotion2vec: Path
    emotion_classifier: Path
    vocal_separator: Path | None


@dataclass(frozen=True)
class Settings:
    """How to prepare. fps: rewrite videos of another or a varying frame rate at this one; None leaves all as they are.
    device: of all models but face analysis, which stays on the CPU. crop: to the square around the face, where it is not in the middle
    one. split: into clips of so many seconds at most. shortest: frames of a video or clip, fewer of which training leaves out."""

    places: ModelPlaces
    fps: Fraction | None = None
    device: str = "cpu"
    crop: bool = False
    split: float | None = None
    shortest: int = 2

    @property
    def record(self) -> dict[str, str | None]:
        """What the output depends on, but for the models; None is what it was before there was a choice."""
        return {
            "fps": str(self.fps) if self.fps else None,
            "crop": "face" if self.crop else None,
            "split": f"{self.split:g}" if self.split else None,
        }


@dataclass(frozen=True)
class Job:
    """A video, and the name, unique in ``output``, that its files get there; ``video``: its path for metadata.jsonl."""

    path: Path
    name: str
    video: str
    output: Path

    @property
    def entry(self) -> dict[str, str]:
        """Its line of metadata.jsonl, where the video stays as it is."""
        return self._entry(self.name) | {FIELDS[0]: self.video}

    def part(self, number: int, parts: int) -> dict[str, str]:
        """The line of a clip of it, counted from 1, of so many."""
        return self._entry(f"{self.name}.{number:04}of{parts:04}")

    def _entry(self, name: str) -> dict[str, str]:
        return {FIELDS[0]: f"{VIDEOS}/{name}.mp4"} | {field: f"{field}/{name}.safetensors" for field in FIELDS[1:]}

    @property
    def rewritten(self) -> dict[str, str]:
        """Its line where the video is rewritten."""
        return self._entry(self.name)


def video_of(entry: dict[str, str]) -> tuple[str, int]:
    """The name of the Job whose line this is, and how many lines it has."""
    name = entry["face_emb"].removeprefix("face_emb/").removesuffix(".safetensors")
    part = _PART.fullmatch(name)
    return (part[1], int(part[3])) if part else (name, 1)


@dataclass(frozen=True)
class Outcome:
    """The result for one video: its lines of metadata.jsonl and its frame rate, or the reason why it was not prepared.

    notes: what else is to be said of it, each the same for all videos of which it is true. left_out: of the clips that a video was
    split into, from when to when, and why.
    """

    job: Job
    entries: tuple[dict[str, str], ...] = ()
    fps: Fraction | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Clip:
    """What is made of a video or a part of it. first: its first frame in the file."""

    video: Video
    first: int
    face: Tensor
    crop: Crop | None


class Preparer:
    """Models, loaded, that prepare one video after the other.

    Raises CheckpointError and MissingPackageError as the loaders of the models do.
    """

    def __init__(self, settings: Settings):
        places, device = settings.places, settings.device
        self.settings, self.device = settings, device
        self.face_analyzer = FaceAnalyzer.load(places.face_analysis)
        separator = places.vocal_separator
        cuda = device.startswith("cuda")
        self.vocal_separator = VocalSeparator.load(separator, cuda=cuda) if separator else None
        if cuda and self.vocal_separator and not self.vocal_separator.on_cuda:
            _log.warning("Vocal separation, which takes most of the time, runs on the CPU: this onnxruntime has no CUDA. Install onnxruntime-gpu.")
        self.audio_encoder = load_audio_encoder(places.audio_encoder).to(device)
        self.emotion2vec = load_emotion2vec(places.emotion2vec).to(device)
        self.emotion_classifier = load_emotion_classifier(places.emotion_classifier).to(device)
        check_fit(self.emotion2vec, places.emotion2vec, self.emotion_classifier, places.emotion_classifier)

    def prepare(self, job: Job) -> Outcome:
        """Write the files of a video. Whatever is wrong with it becomes the outcome's reason; raises MemoError when the
        files cannot be written."""
        entries: list[dict[str, str]] = []
        try:
            looks = Looks(self.face_analyzer)
            video = read_video(job.path, looks)
            fps = self._rate(video)
            clips, left_out = self._clips(video, looks)
            for number, clip in enumerate(clips, 1):
                rewritten = len(clips) > 1 or len(clip.video.times) < len(video.times) or clip.crop is not None or fps != video.fps or not video.seeks
                entry = job.part(number, len(clips)) if len(clips) > 1 else job.rewritten if rewritten else job.entry
                self._write(job, entry, clip, fps, rewritten)
                entries.append(entry)
        except InputError as error:
            return Outcome(job, reason=str(error))
        except MemoError:
            raise
        except Exception as error:  # from a decoder or a model: one video must not end the work on thousands
            _log.warning("%s: unexpected error.", job.path, exc_info=True)
            return Outcome(job, reason=f"unexpected {type(error).__name__}: {error}")
        notes = (CROPPED,) * any(clip.crop is not None for clip in clips) + (INTERLACED,) * video.interlaced
        return Outcome(job, tuple(entries), fps, notes=notes, left_out=left_out)

    def _write(self, job: Job, entry: dict[str, str], clip: _Clip, fps: Fraction, rewritten: bool) -> None:
        tensors = {"face_emb": clip.face, **self.features(clip.video, fps)}
        try:
            if rewritten:
                rewrite(job.path, job.output / entry[FIELDS[0]], clip.video, fps, clip.first, clip.crop)
            for field, tensor in tensors.items():
                write_tensor(job.output / entry[field], field, tensor, {"fps": str(fps)})
        except (OSError, SafetensorError, InputError) as error:
            raise MemoError(f"{job.output}: the files of {job.path} cannot be written ({error}).") from error

    def _rate(self, video: Video) -> Fraction:
        """Of what is written. Raises InputError for a rate that varies where none was asked for."""
        fps = self.settings.fps or video.fps
        if fps is None:
            raise InputError("its frame rate varies: rewrite it at a constant one with --fps 30.")
        return fps

    def _clips(self, video: Video, looks: Looks) -> tuple[list[_Clip], dict[str, str]]:
        """What is made of a video, and why the rest is left out; never nothing. Raises InputError where it would be."""
        if self.settings.split is None:
            return [self._clip(video, looks, 0, len(video.times))], {}
        clips, left_out, parts = [], {}, spans(video, self.settings.split)
        for start, stop in parts:
            try:
                clips.append(self._clip(video, looks, start, stop))
            except InputError as error:
                if len(parts) == 1:
                    raise
                left_out[f"{_seconds(video, start)} to {_seconds(video, stop - 1)} s"] = str(error)
        if not clips:
            when, reason = next(iter(left_out.items()))
            raise InputError(f"none of its {len(parts)} parts can be used; the first, {when}: {reason}")
        return clips, left_out

    def _clip(self, video: Video, looks: Looks, start: int, stop: int) -> _Clip:
        if stop - start < 2:
            raise InputError("too short: a single frame.")
        part, shortest = video.part(start, stop), self.settings.shortest
        if (frames := rewritten_frames(part, self._rate(video))) < shortest:
            raise InputError(f"too short: {frames} frames, but training takes {shortest} at a time.")
        check_cuts(part.changes, part.times)
        face, crop = check_face(looks.between(start, stop), video.size, self.settings.crop)
        return _Clip(part, start, face, crop)

    def features(self, video: Video, fps: Fraction) -> dict[str, Tensor]:
        """What is heard, by field, at ``fps`` frames a second: audio_emb float32 (frames layers d); audio_emotion int32 (frames,)."""
        frames = rewritten_frames(video, fps)
        voice = self.vocal_separator.separate(video.audio) if self.vocal_separator else video.audio
        states = encode_frames(self.audio_encoder, voice, frames, fps, self.device)
        mood = detect_emotion(self.emotion2vec, self.emotion_classifier, voice, self.device)
        labels = torch.tensor(frame_labels(mood, frames, fps, "exact"), dtype=torch.int32)
        return {"audio_emb": states, "audio_emotion": labels}


def _seconds(video: Video, frame: int) -> str:
    return f"{float(video.times[frame] - video.times[0]):.1f}"


def fingerprints(places: ModelPlaces) -> dict[str, str | None]:
    """By role, the SHA-256 of a model's files; None for a model that is left out."""
    return {role: place and hashlib.sha256("".join(_hashes(place)).encode()).hexdigest() for role, place in vars(places).items()}


def _hashes(place: Path) -> Iterator[str]:
    """Of the files that a loader may read in ``place``, in order of their names."""
    for path in [place] if place.is_file() else sorted(path for path in place.iterdir() if path.is_file()):
        yield file_digest(path)
