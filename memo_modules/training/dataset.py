"""The training set: random clips of prepared videos. Published in memo/datasets/video_dataset.py."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..errors import InputError
from ..files.documents import parse_json
from ..files.regular_files import is_regular, read_regular
from ..preparation.tensor_files import FIELDS, read_rows, shape_and_rate
from ..types import clip_label
from ..video.reading import ReadFrames, read_frames
from ..words import quoted, shortened

PERTURBATION_RATE = 0.05

_LARGEST_METADATA = 2**28
"""Bytes of a metadata.jsonl: a million videos."""

_ABOVE = 4
"""Folders above that of a metadata.jsonl from which its paths may count."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedVideo:
    """One line of metadata.jsonl: its four files, the frames of the video as its audio features count them, and how many there are a
    second, where that is known."""

    video: Path
    face_emb: Path
    audio_emb: Path
    audio_emotion: Path
    frames: int
    fps: Fraction | None = None


@dataclass(frozen=True)
class ClipLayout:
    """frames: of a clip. past_frames: before it. audio_margin: how many frames an audio window extends to each side.

    clips: consecutive clips in a sample; with more than one, training carries the memory from clip to clip.
    Raises InputError if a window would begin before the video.
    """

    frames: int = 16
    past_frames: int = 16
    audio_margin: int = 2
    clips: int = 1

    def __post_init__(self):
        if self.frames < 1 or self.audio_margin < 0 or self.past_frames < max(1, self.audio_margin):
            raise InputError(
                "clip: expected at least one frame and as many past frames as the audio margin, "
                f"got {self.frames}, {self.past_frames} and {self.audio_margin}."
            )
        if self.clips < 1:
            raise InputError(f"clips: expected at least one in a sample, got {self.clips}.")

    @property
    def sample_frames(self) -> int:
        """Frames of all clips of a sample."""
        return self.frames * self.clips

    @property
    def shortest_video(self) -> int:
        """The fewest frames that a video must have."""
        return self.sample_frames + self.past_frames + 2 * self.audio_margin + 1

    def starts(self, video_frames: int) -> range:
        """The frames at which a sample may start, and from which the reference picture is chosen. The very last start is left out, as in
        the published code, and with it the last frame of the video."""
        return range(self.past_frames, video_frames - self.sample_frames - self.audio_margin)


@dataclass(frozen=True)
class ClipIndices:
    """Frame numbers in a video: of a sample's clips and of the past of the first one, oldest first, of the reference picture, and of the audio
    windows int64 (frames 2·margin+1)."""

    frames: tuple[int, ...]
    past: tuple[int, ...]
    reference: int
    windows: Tensor


def clip_indices(layout: ClipLayout, start: int, reference: int, still_past: bool, cut_audio: bool) -> ClipIndices:
    """The frames of a sample that starts at ``start``, with its past, reference picture and audio windows.

    still_past: the past is the first frame, repeated. cut_audio: no audio window extends before it.
    """
    frames = torch.arange(start, start + layout.sample_frames)
    windows = frames[:, None] + torch.arange(-layout.audio_margin, layout.audio_margin + 1)
    past = (start,) * layout.past_frames if still_past else tuple(range(start - layout.past_frames, start))
    return ClipIndices(tuple(frames.tolist()), past, reference, windows.clamp(min=start) if cut_audio else windows)


def draw_clip(
    layout: ClipLayout, video_frames: int, generator: torch.Generator | None = None, perturbation_rate: float = PERTURBATION_RATE
) -> ClipIndices:
    """A random sample of a video, its reference picture from anywhere in the same range; a still past and cut audio each
    with ``perturbation_rate``. generator: torch's own by default."""
    starts = layout.starts(video_frames)
    start, reference = (starts[int(torch.randint(len(starts), (), generator=generator))] for _ in range(2))
    cut_audio, still_past = (bool(torch.rand((), generator=generator) < perturbation_rate) for _ in range(2))
    return clip_indices(layout, start, reference, still_past, cut_audio)


def covering_size(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """The smallest size of a picture h×w in its aspect ratio, the longer side rounded down, that covers height×width."""
    if h * width >= w * height:
        return h * width // w, width
    return height, w * height // h


def centre_crop(frames: Tensor, height: int, width: int) -> Tensor:
    """The middle of frames (.. h w); half a pixel goes to the even side."""
    top, left = (round((size - target) / 2) for size, target in zip(frames.shape[-2:], (height, width), strict=True))
    return frames[..., top : top + height, left : left + width]


def training_pixels(frames: Tensor, height: int, width: int) -> Tensor:
    """Pictures uint8 (n 3 h w) to float32 (n 3 height width) in [-1, 1]: resized to cover the size, the middle cut out.

    The sampler squashes a picture of another aspect ratio instead.
    """
    h, w = frames.shape[-2:]
    size = covering_size(h, w, height, width)
    resized = F.interpolate(frames / 255, size=size, mode="bilinear", antialias=True)
    return centre_crop(resized, height, width) * 2 - 1


def read_metadata(paths: Sequence[Path]) -> list[PreparedVideo]:
    """The videos of metadata.jsonl files, each with its four files in place; blank lines are ignored.

    Raises InputError naming file and line for anything that is not a JSON object with the four FIELDS, for a file that is
    missing, and for features and labels of different length.
    """
    videos = []
    for path in paths:
        try:
            content = read_regular(path, _LARGEST_METADATA + 1)
            lines = content.decode("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"metadata: {path} cannot be read ({error}).") from error
        if len(content) > _LARGEST_METADATA:
            raise InputError(f"metadata: {path} is larger than {_LARGEST_METADATA >> 20} MB. Divide it.")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                videos.append(_prepared_video(line, path.parent, f"{path}, line {number}"))
    return videos


def _prepared_video(line: str, folder: Path, where: str) -> PreparedVideo:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: expected a JSON object, got {quoted(line, 60)} ({error}).") from error
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(entry).__name__}.")
    files = {}
    for field in FIELDS:
        if not isinstance(entry.get(field), str):
            raise InputError(f"{where}: expected a path in {field!r}, got {quoted(entry.get(field))}. The fields are {', '.join(FIELDS)}.")
        found = _found(folder, entry[field])
        if found is None:
            missing = shortened(str(folder / entry[field]), 300)
            raise InputError(f"{where}: {field} {missing} is missing. Relative paths start at {folder}. Prepare this video again.")
        files[field] = found
    (features, fps), (labels, _) = (shape_and_rate(files[field], field) for field in ("audio_emb", "audio_emotion"))
    if len(features) != 3 or labels != features[:1]:
        raise InputError(f"{where}: expected audio_emb (frames layers channels) and audio_emotion (frames), got {features} and {labels}.")
    return PreparedVideo(**files, frames=features[0], fps=fps)


def _found(folder: Path, name: str) -> Path | None:
    """The file of a line in ``folder``; the reference implementation counts its paths from the folder in which it ran, which is above."""
    return next((path for start in _starts(folder) if is_regular(path := start / name)), None)


@cache
def _starts(folder: Path) -> tuple[Path, ...]:
    return (folder, *folder.absolute().parents[:_ABOVE])


class PreparedClips(Dataset):
    """One random sample, of a clip or more, per access and video; a subclass decides in which form its pictures come.
    Batches are collated by torch's default.

    Videos too short for a clip are left out; raises InputError when none remains.
    """

    def __init__(self, videos: Sequence[PreparedVideo], layout: ClipLayout):
        self.layout = layout
        self.videos = [video for video in videos if video.frames >= layout.shortest_video]
        short = len(videos) - len(self.videos)
        if not self.videos:
            raise InputError(f"metadata: none of {len(videos)} videos has the {layout.shortest_video} frames that a clip and its past need.")
        if short:
            _log.warning("%d of %d videos have fewer than %d frames and are left out.", short, len(videos), layout.shortest_video)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """A sample of video number ``item``, drawn from torch's own generator, which a DataLoader seeds in each of its
        workers; or of (number, seed), the same for the same seed in any worker."""
        number, generator = (item[0], torch.Generator().manual_seed(item[1])) if isinstance(item, tuple) else (item, None)
        video = self.videos[number]
        return self.clip(video, draw_clip(self.layout, video.frames, generator))

    def clip(self, video: PreparedVideo, indices: ClipIndices) -> dict[str, Tensor | int]:
        """The sample at ``indices`` of ``video``."""
        first, last = int(indices.windows.min()), int(indices.windows.max())
        states = read_rows(video.audio_emb, "audio_emb", first, last + 1).float()
        labels = read_rows(video.audio_emotion, "audio_emotion", indices.frames[0], indices.frames[-1] + 1)
        emotions = [clip_label(clip.tolist()) for clip in labels.split(self.layout.frames)]
        return {
            **self.pictures(video, indices),
            "face_emb": read_rows(video.face_emb, "face_emb").float(),
            "audio_emb": states[indices.windows - first],
            "audio_emotion": torch.tensor(emotions) if self.layout.clips > 1 else emotions[0],
        }

    def pictures(self, video: PreparedVideo, indices: ClipIndices) -> dict[str, Tensor]:
        """The frames of a sample, and its reference picture followed by the past frames."""
        raise NotImplementedError


class ClipDataset(PreparedClips):
    """PreparedClips as float32 tensors under the published names.

    pixel_values (f 3 height width) and pixel_values_ref_img (1+n 3 height width), reference picture first, in [-1, 1];
    face_emb (d,); audio_emb (f 2·margin+1 layers d); audio_emotion, the clip's most frequent label, an int. f counts the
    frames of all clips of a sample; with more than one, audio_emotion is int64 (clips,).
    """

    def __init__(self, videos: Sequence[PreparedVideo], height: int, width: int, layout: ClipLayout = ClipLayout(), read: ReadFrames = read_frames):
        super().__init__(videos, layout)
        self.height, self.width, self.read = height, width, read

    def pictures(self, video: PreparedVideo, indices: ClipIndices) -> dict[str, Tensor]:
        numbers = sorted({*indices.frames, *indices.past, indices.reference})
        pictures = self.read(video.video, numbers, lambda picture: training_pixels(picture[None], self.height, self.width)[0])
        place = {number: i for i, number in enumerate(numbers)}
        return {
            "pixel_values": pictures[[place[i] for i in indices.frames]],
            "pixel_values_ref_img": pictures[[place[i] for i in (indices.reference, *indices.past)]],
        }
