"""Reads a video file for data preparation, in one pass: when its frames are shown, how they change, some of them, and the sound.

Errors say what is wrong with the file; the caller adds which file it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..audio.io import SILENCE
from ..clips import frame_rate
from ..errors import InputError
from ..pyav import audio_resampler, fraction, import_av
from ..types import Audio
from ..video.reading import Screen, opened, picture_track, seeks, sound_tracks

_ANIMATIONS = {"gif", "apng", "webp_anim"}
"""Names that ffmpeg gives to the formats of animations; those of pictures end in _pipe."""

_LACKING = Fraction(1, 2)
"""Seconds by which a file may be shorter than it states: containers round."""

_GAP = Fraction(1, 50)
"""Seconds of sound that may be missing without counting as a pause: timestamps are rounded."""

_LOOK_EVERY = Fraction(1, 2)
"""Seconds between the frames that are looked at."""

_THUMBNAIL = 32
"""Pixels a side at which a frame is compared with the one before it."""

Look = Callable[[int, Fraction, np.ndarray], None]
"""Takes a frame's number, its time in seconds after the first, and its picture: uint8 RGB (h w 3) as it is shown."""


class SilentError(InputError):
    """There is a sound, in which nothing is heard."""


@dataclass(frozen=True)
class Video:
    """What was read from a video, or from a part of it.

    times: when each frame is shown, ascending seconds, as many as read_frames counts. fps: their rate, None where it is
    not constant. audio: at its own rate, with all its channels, beginning with the first frame and as long as the frames; filled up
    with silence where the sound is shorter. changes: of each frame from the one before it, the mean difference of 0 to 255.
    size: (width, height) as it is shown. interlaced: its pictures are two half pictures each. seeks: training can go to any frame.
    """

    times: tuple[Fraction, ...]
    fps: Fraction | None
    audio: Audio
    changes: tuple[float, ...] = ()
    size: tuple[int, int] = (0, 0)
    interlaced: bool = False
    seeks: bool = True

    def part(self, start: int, stop: int) -> "Video":
        """Its frames start..stop-1, and what is heard meanwhile. Raises SilentError where that is nothing."""
        if (start, stop) == (0, len(self.times)):
            return self
        times = self.times[start:stop]
        seconds = len(times) / self.fps if self.fps else shown_for(times)
        audio = _beside_frames(self.audio, self.times[0] - times[0], seconds)
        return replace(self, times=times, audio=audio, changes=self.changes[start:stop])


def read_video(path: Path, look: Look = lambda number, time, picture: None) -> Video:
    """Decode a whole video, so that damage anywhere in it is noticed. look: called with the first frame, the last, and two for each
    second between.

    The sound is that of the track that is marked as default, or of the first; of another where that one is silent. Raises InputError
    when there is no picture or no sound in it, when it is cut off or damaged, and for a silent one.
    """
    with opened(path) as container:
        tracks = max(1, len(container.streams.audio))
    for track in range(tracks):
        try:
            return _Reader(look if track == 0 else lambda number, time, picture: None).read(path, track)
        except SilentError:
            if track == tracks - 1:
                raise
    raise AssertionError("there is a last track")


class _Reader:
    """One pass through a file."""

    def __init__(self, look: Look):
        self.look = look
        self.times: list[Fraction] = []
        self.changes: list[float] = []
        self.interlaced, self.looked_at, self.sizes, self.thumbnail = 0, None, set(), None

    def read(self, path: Path, sound_track: int) -> Video:
        expected, screen, last = 0, None, None
        with opened(path, self.times) as container:
            video = picture_track(container)
            sound = _Sound(container, sound_track)
            screen, self.reformatter = Screen(video), import_av().video.reformatter.VideoReformatter()
            video.codec_context.thread_count = 1  # many videos are read in many processes
            for packet in container.demux(video, sound.track):
                expected += packet.stream is video and packet.pts is not None and not packet.is_discard
                for frame in packet.decode():
                    if packet.stream is video:
                        self.see(frame, screen)
                        last = frame
                    else:
                        sound.hear(frame)
            announced = Fraction(container.duration or 0, 1_000_000)
            can_seek = seeks(container)
            rates = (fraction(video.average_rate), fraction(video.base_rate))
            if len(self.times) < max(2, expected):
                raise InputError(f"{len(self.times)} of {expected} frames can be decoded, expected all and at least 2: it is cut off or damaged.")
            size = screen.picture(last).shape[1::-1]
            if self.looked_at != len(self.times) - 1:
                self.look(len(self.times) - 1, self.times[-1] - self.times[0], screen.picture(last))
        times = self.times
        audio, begins = sound.whole()
        end = max(times[0] + shown_for(times), begins + Fraction(audio.waveform.shape[1], audio.sample_rate))
        if end + _LACKING < announced:
            raise InputError(f"it is cut off: it ends after {float(end):.2f} s but says that it lasts {float(announced):.2f} s.")
        fps = constant_rate(times, rates)
        audio = _beside_frames(audio, begins - times[0], len(times) / fps if fps else shown_for(times))
        return Video(tuple(times), fps, audio, tuple(self.changes), size, 2 * self.interlaced > len(times), can_seek)

    def see(self, frame, screen: Screen) -> None:
        times = self.times
        self.sizes.add((frame.width, frame.height))
        if len(self.sizes) > 1:
            raise InputError(f"its pictures change their size, at frame {len(times)}: rewrite it at one.")
        if frame.pts is None or (times and frame.pts * frame.time_base < times[-1]):
            what = "missing" if frame.pts is None else "out of order"
            raise InputError(f"the times of its frames are {what}, at frame {len(times)}: encode it anew, as with ffmpeg -i IN OUT.mp4.")
        time = frame.pts * frame.time_base
        if self.looked_at is None or time - times[self.looked_at] >= _LOOK_EVERY:
            self.looked_at = len(times)
            self.look(len(times), time - times[0] if times else Fraction(0), screen.picture(frame))
        thumbnail = self.reformatter.reformat(frame, _THUMBNAIL, _THUMBNAIL, "rgb24").to_ndarray().astype(np.float32)
        self.changes.append(float(np.abs(thumbnail - self.thumbnail).mean()) if self.thumbnail is not None else 0.0)
        self.thumbnail = thumbnail
        self.interlaced += bool(frame.interlaced_frame)
        times.append(time)


class _Sound:
    """What is heard in a track, piece by piece."""

    def __init__(self, container, number: int):
        tracks = sound_tracks(container)
        if not tracks:
            kind = container.format.name
            picture = f" It is a picture or an animation ({kind.removesuffix('_pipe')})." if kind in _ANIMATIONS or kind.endswith("_pipe") else ""
            raise InputError(f"no sound: the file has no audio stream.{picture}")
        self.track = tracks[number]
        self._resampler = audio_resampler(format="fltp")
        self._blocks: list[np.ndarray] = []
        self._begins: Fraction | None = None
        self._heard = 0

    def hear(self, frame) -> None:
        heard = Fraction(self._heard, frame.sample_rate)
        time = (self._begins or 0) + heard if frame.pts is None else frame.pts * frame.time_base  # in wmv few have a time
        self._begins = time if self._begins is None else self._begins
        missing = round((time - self._begins) * frame.sample_rate) - self._heard
        blocks = [out.to_ndarray() for out in self._resampler.resample(frame)]
        if self._blocks and missing > _GAP * frame.sample_rate:  # a recording that was paused continues later
            blocks.insert(0, np.zeros((len(self._blocks[0]), missing), self._blocks[0].dtype))
        self._blocks += blocks
        self._heard += sum(block.shape[1] for block in blocks)

    def whole(self) -> tuple[Audio, Fraction]:
        """All of it, and when it begins."""
        if not self._blocks or self._begins is None:
            raise SilentError("no sound: its audio stream is empty.")
        return Audio(torch.from_numpy(np.concatenate(self._blocks, axis=1)), self.track.rate), self._begins


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


def stated_rate(path: Path) -> Fraction:
    """Frames per second by the word of the file; nothing is decoded. Raises InputError when it cannot be read."""
    with opened(path) as container:
        return fraction(picture_track(container).average_rate)


def duration(path: Path) -> tuple[int, Fraction]:
    """Frames of a video, and seconds from the first to the end of the last, from its index: nothing is decoded.

    Raises InputError when it cannot be read.
    """
    times = []
    with opened(path, times) as container:
        video = picture_track(container)
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
        raise SilentError("no sound: there is none while its pictures are shown.")
    waveform = F.pad(audio.waveform, (before, length - before - audio.waveform.shape[1]))
    if waveform.abs().max() < SILENCE:
        raise SilentError("no sound: its audio stream is silent.")
    return Audio(waveform, audio.sample_rate)
