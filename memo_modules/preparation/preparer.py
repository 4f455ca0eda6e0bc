"""From a video to training data: face embedding, audio states, emotion labels. Published in
scripts/prepare_data.py of the reference implementation.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..audio.emotion import check_fit, detect_emotion, load_emotion_classifier
from ..audio.emotion2vec import load_emotion2vec
from ..audio.features import encode_frames, load_audio_encoder
from ..audio.vocals import VocalSeparator
from ..errors import InputError, MemoError
from ..portrait.face import FaceAnalyzer
from ..store.fetching import verify
from ..types import frame_labels
from .tensor_files import FIELDS, write_tensor
from .videos import Video, read_video, rewrite, rewritten_frames

VIDEOS = "videos"
"""The folder in the output of those that were rewritten at another frame rate."""

LOOKS = range(0, 30, 5)
"""Frames in which a face is searched for, one after the other: a video may fade in."""

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
    device: of all models but face analysis, which stays on the CPU."""

    places: ModelPlaces
    fps: Fraction | None = None
    device: str = "cpu"


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
        return {FIELDS[0]: self.video} | {field: f"{field}/{self.name}.safetensors" for field in FIELDS[1:]}


@dataclass(frozen=True)
class Outcome:
    """The result for one video: its line of metadata.jsonl and its frame rate, or the reason why it was not prepared."""

    job: Job
    entry: dict[str, str] | None = None
    fps: Fraction | None = None
    reason: str | None = None


class Preparer:
    """Models, loaded, that prepare one video after the other.

    Raises CheckpointError and MissingPackageError as the loaders of the models do.
    """

    def __init__(self, settings: Settings):
        places, device = settings.places, settings.device
        self.fps, self.device = settings.fps, device
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
        try:
            video = read_video(job.path, LOOKS)
            tensors, fps = self.features(video)
        except InputError as error:
            return Outcome(job, reason=str(error))
        except Exception as error:  # from a decoder or a model: one video must not end the work on thousands
            _log.warning("%s: unexpected error.", job.path, exc_info=True)
            return Outcome(job, reason=f"unexpected {type(error).__name__}: {error}")
        entry = dict(job.entry)
        try:
            if fps != video.fps:
                entry[FIELDS[0]] = f"{VIDEOS}/{job.name}.mp4"
                rewrite(job.path, job.output / entry[FIELDS[0]], video, fps)
            for field, tensor in tensors.items():
                write_tensor(job.output / entry[field], field, tensor, {"fps": str(fps)})
        except (OSError, SafetensorError, InputError) as error:
            raise MemoError(f"{job.output}: the files of {job.path} cannot be written ({error}).") from error
        return Outcome(job, entry, fps)

    def features(self, video: Video) -> tuple[dict[str, Tensor], Fraction]:
        """The tensors of a video by field, and the frame rate that they are at: face_emb float32 (512,), not normalised;
        audio_emb float32 (frames layers d); audio_emotion int32 (frames,).

        Raises InputError when it shows no face or several, or has no constant frame rate where none was asked for.
        """
        fps = self.fps or video.fps
        if fps is None:
            raise InputError("its frame rate varies: rewrite it at a constant one with --fps 30.")
        frames = len(video.times) if fps == video.fps else rewritten_frames(video, fps)
        face = self._only_face(video.pictures)
        voice = self.vocal_separator.separate(video.audio) if self.vocal_separator else video.audio
        states = encode_frames(self.audio_encoder, voice, frames, fps, self.device)
        mood = detect_emotion(self.emotion2vec, self.emotion_classifier, voice, self.device)
        labels = torch.tensor(frame_labels(mood, frames, fps, "exact"), dtype=torch.int32)
        return {"face_emb": face, "audio_emb": states, "audio_emotion": labels}, fps

    def _only_face(self, pictures: tuple[np.ndarray, ...]) -> Tensor:
        """The embedding (512,) of the face in the first of the pictures that shows one."""
        for picture in pictures:
            faces = self.face_analyzer.detect(picture)
            if len(faces) > 1:
                raise InputError(f"{len(faces)} faces: a picture shows {len(faces)}, expected exactly one.")
            if faces:
                return self.face_analyzer.embed(picture, faces[0])[0]
        raise InputError(f"no face: none was found in {len(pictures)} pictures of its first second.")


def fingerprints(places: ModelPlaces) -> dict[str, str | None]:
    """By role, the SHA-256 of a model's files; None for a model that is left out."""
    return {role: place and hashlib.sha256("".join(_hashes(place)).encode()).hexdigest() for role, place in vars(places).items()}


def _hashes(place: Path) -> Iterator[str]:
    """Of the files that a loader may read in ``place``, in order of their names."""
    for path in [place] if place.is_file() else sorted(path for path in place.iterdir() if path.is_file()):
        yield verify(path, size=None, sha256=None)
