"""Reads a video file for data preparation, in one pass: when its frames are shown, some of the frames, and the sound.

Errors say what is wrong with the file; the caller adds which file it is.
"""

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..clips import frame_rate
from ..errors import InputError, MemoError
from ..files.whole_files import whole_file
from ..pyav import audio_resampler, fraction, import_av, open_to_read, quarter_turns, upright
from ..types import Audio

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Suffixes of the files that count as videos, in upper or lower case."""

_LACKING = Fraction(1, 2)
"""Seconds by which a file may be shorter than it states: containers round."""

_GAP = Fraction(1, 50)
"""Seconds of sound that may be missing without counting as a pause: timestamps are rounded."""

_BT709, _LIMITED = 1, 1
"""Colours of rewritten videos, in ffmpeg's numbers."""

_SILENCE = 1e-4
"""A sound whose loudest sample (of 1) is below this counts as silent."""


@dataclass(frozen=True)
class Video:
    """What was read from a video.

    times: when each frame is shown, ascending seconds, as many as read_frames counts. fps: their rate, None where it is
    not constant. pictures: uint8 (h w 3), RGB, of the frames asked for. audio: at its own rate, with all its channels,
    beginning with the first frame and as long as the frames; filled up with silence where the sound is shorter.
    """

    times: tuple[Fraction, ...]
    fps: Fraction | None
    pictures: tuple[np.ndarray, ...]
    audio: Audio


def find_videos(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """The videos in a folder and below, sorted; none that are hidden or below ``leave_out``.

    Raises InputError when there are none.
    """
    if not folder.is_dir():
        raise InputError(f"videos: {folder} is not a folder.")
    videos = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden and not (leave_out and path.is_relative_to(leave_out)):
            videos.append(path)
    if not videos:
        raise InputError(f"videos: {folder} and the folders in it hold none of {', '.join('*' + suffix for suffix in SUFFIXES)}.")
    return videos


def read_video(path: Path, looks: Collection[int] = ()) -> Video:
    """Decode a whole video, so that damage anywhere in it is noticed. looks: numbers of frames to keep; those
    that it does not have are left out.

    Raises InputError when there is no picture or no sound in it, when it is cut off or damaged, and for a silent one.
    """
    times, pictures, sound, heard, begins, expected, sizes = [], [], [], 0, None, 0, set()
    with _opened(path, times) as container:
        video, audio = (_first(streams, what) for streams, what in ((container.streams.video, "picture"), (container.streams.audio, "sound")))
        video.codec_context.thread_count = 1  # many videos are read in many processes
        to_planar_float = audio_resampler(format="fltp")
        for packet in container.demux(video, audio):
            expected += packet.stream is video and packet.pts is not None and not packet.is_discard
            for frame in packet.decode():
                if packet.stream is audio:
                    begins = frame.pts * frame.time_base if begins is None else begins
                    missing = round((frame.pts * frame.time_base - begins) * frame.sample_rate) - heard
                    blocks = [out.to_ndarray() for out in to_planar_float.resample(frame)]
                    if sound and missing > _GAP * frame.sample_rate:  # a recording that was paused continues later
                        blocks.insert(0, np.zeros((len(sound[0]), missing), sound[0].dtype))
                    sound += blocks
                    heard += sum(block.shape[1] for block in blocks)
                    continue
                sizes.add((frame.width, frame.height))
                if len(sizes) > 1:
                    raise InputError(f"its pictures change their size, at frame {len(times)}: rewrite it at one.")
                if times and frame.pts * frame.time_base < times[-1]:
                    raise InputError(f"the times of its frames are out of order, at frame {len(times)}: remux it to mkv first.")
                if len(times) in looks:
                    pictures.append(upright(frame.to_ndarray(format="rgb24"), frame))
                times.append(frame.pts * frame.time_base)
        announced = Fraction(container.duration or 0, 1_000_000)
        rates, sample_rate = (fraction(video.average_rate), fraction(video.base_rate)), audio.rate
    if len(times) < max(2, expected):
        raise InputError(f"{len(times)} of {expected} frames can be decoded, expected all and at least 2: it is cut off or damaged.")
    if not sound or begins is None:
        raise InputError("no sound: its audio stream is empty.")
    waveform = torch.from_numpy(np.concatenate(sound, axis=1))
    end = max(times[-1], begins + Fraction(waveform.shape[1], sample_rate))
    if end + _LACKING < announced:
        raise InputError(f"it is cut off: it ends after {float(end):.2f} s but says that it lasts {float(announced):.2f} s.")
    fps = constant_rate(times, rates)
    audio = _beside_frames(Audio(waveform, sample_rate), begins - times[0], len(times) / fps if fps else shown_for(times))
    return Video(tuple(times), fps, tuple(pictures), audio)


def shown_for(times: Sequence[Fraction]) -> Fraction:
    """Seconds from the first frame to the end of the last, which is shown as long as a frame is on average."""
    return (times[-1] - times[0]) * len(times) / (len(times) - 1)


def constant_rate(times: Sequence[Fraction], stated: Sequence[Fraction]) -> Fraction | None:
    """The rate at which frames are shown at ``times``, each at most half a frame off: the rate that the file states if it
    fits, otherwise the mean; None if it is not constant."""
    for rate in (*stated, frame_rate(len(times) / shown_for(times))):
        if rate and all(abs((time - times[0]) * rate - i) <= Fraction(1, 2) for i, time in enumerate(times)):
            return rate
    return None


def rewritten_frames(video: Video, fps: Fraction) -> int:
    """Frames that a video has at another rate."""
    return max(2, round(shown_for(video.times) * fps))


def rewrite(path: Path, target: Path, video: Video, fps: Fraction) -> None:
    """Write the pictures of ``path``, which was read as ``video``, at a constant rate, without sound: at each time the frame
    nearest to it, so that some are repeated or left out.

    target: an mp4, of even width and height. Raises InputError as read_video does.
    """
    times, frames = video.times, rewritten_frames(video, fps)
    wanted = deque(_nearest(times, times[0] + i / fps) for i in range(frames))
    with _opened(path, []) as source, whole_file(target) as partial, import_av().open(str(partial), "w", format="mp4") as container:
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1
        picture = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "veryfast", "threads": "1"})
        picture.pix_fmt = "yuv420p"
        picture.codec_context.colorspace, picture.codec_context.color_range = _BT709, _LIMITED
        for number, frame in enumerate(source.decode(stream)):
            while wanted and wanted[0] == number:
                if quarter_turns(frame):
                    turned = import_av().VideoFrame.from_ndarray(upright(frame.to_ndarray(format="rgb24"), frame), format="rgb24")
                else:
                    turned = frame
                if not picture.codec_context.is_open:
                    picture.width, picture.height = turned.width // 2 * 2, turned.height // 2 * 2
                shown = turned.reformat(picture.width, picture.height, picture.pix_fmt, dst_colorspace=_BT709, dst_color_range=_LIMITED)
                shown.pts, shown.time_base, shown.pict_type = frames - len(wanted), 1 / fps, 0  # the encoder chooses keyframes
                container.mux(picture.encode(shown))
                wanted.popleft()
        container.mux(picture.encode(None))


def _nearest(times: Sequence[Fraction], time: Fraction) -> int:
    """Which of ``times``, ascending, is nearest, the earlier of two."""
    later = bisect_left(times, time, 1, len(times) - 1)
    return later if times[later] - time < time - times[later - 1] else later - 1


def duration(path: Path) -> tuple[int, Fraction]:
    """Frames of a video, and seconds from the first to the end of the last, from its index: nothing is decoded.

    Raises InputError when it cannot be read.
    """
    times = []
    with _opened(path, times) as container:
        video = _first(container.streams.video, "picture")
        for packet in container.demux(video):
            if packet.pts is not None and not packet.is_discard:
                times.append(packet.pts * packet.time_base)
    if len(times) < 2:
        raise InputError(f"it has {len(times)} frames, expected at least 2.")
    return len(times), shown_for(sorted(times))


def _beside_frames(audio: Audio, late: Fraction, seconds: Fraction) -> Audio:
    """Sound that begins ``late`` seconds after the first frame, cut or padded with silence at both ends to match frames that are shown for
    ``seconds``."""
    before, length = round(late * audio.sample_rate), round(seconds * audio.sample_rate)
    if before >= length or before + audio.waveform.shape[1] <= 0:
        raise InputError("no sound: there is none while its pictures are shown.")
    waveform = F.pad(audio.waveform, (before, length - before - audio.waveform.shape[1]))
    if waveform.abs().max() < _SILENCE:
        raise InputError("no sound: its audio stream is silent.")
    return Audio(waveform, audio.sample_rate)


def _first(streams, what: str):
    if not streams:
        raise InputError(f"no {what}: the file has no {'video' if what == 'picture' else 'audio'} stream.")
    return streams[0]


@contextmanager
def _opened(path: Path, read: list) -> Iterator:
    """An open container; what PyAV raises within becomes an InputError. read: what was read before."""
    av = import_av()
    try:
        with open_to_read(path) as container:
            yield container
    except MemoError:  # of what is written meanwhile; some are OSErrors
        raise
    except av.InvalidDataError as error:
        if read:
            raise InputError(f"it is cut off or damaged: it can be read up to frame {len(read)} ({error.strerror}).") from error
        if _lacks_index(path):
            raise InputError("it is cut off: the index at its end is missing.") from error
        raise InputError(f"it is not a video that can be read ({error.strerror}).") from error
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"it cannot be read ({error.strerror}).") from error


def _lacks_index(path: Path) -> bool:
    """Whether this is an incomplete mp4 or mov: it begins like one, and lacks `moov`, which is written last."""
    names, place = [], 0
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8:
            size, name = struct.unpack(">I4s", head[:8])
            names.append(name)
            if size == 1 and len(head) == 16:
                size = int.from_bytes(head[8:], "big")
            if size < 8:  # 0: up to the end of the file
                break
            place += size
            file.seek(place)
    return names[:1] == [b"ftyp"] and b"moov" not in names
