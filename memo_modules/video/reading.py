"""Reads videos as their files say that they are to be shown and heard: which tracks, which way up, how wide a pixel is.

Every reader of videos and of their sound comes through here, so that none of them sees another picture than the others.
"""

import os
import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, MemoError
from ..pyav import import_av, open_to_read

_DEFAULT, _COVER = 1, 1024  # ffmpeg's AV_DISPOSITION_DEFAULT and AV_DISPOSITION_ATTACHED_PIC

_STILLS = {"mjpeg", "png", "bmp", "tiff", "webp", "gif"}

_HDR = {16: "PQ (HDR10, Dolby Vision)", 18: "HLG"}
"""Codes of ITU-T H.273 for brightness that a screen of 8 bits does not show."""

Convert = Callable[[Tensor], Tensor]

ReadFrames = Callable[[Path, Sequence[int], Convert], Tensor]
"""From ascending, distinct frame numbers of a video file to a stack of the results of a function of each picture uint8 (3 h w), RGB. It is
applied picture by picture: 33 pictures from a phone would take gigabytes."""


@contextmanager
def opened(path: Path, read: Sized = ()) -> Iterator:
    """An open container; what PyAV raises within becomes an InputError that says what is wrong with the file, not which file it is.
    read: what was read before."""
    av = import_av()
    try:
        with open_to_read(path) as container:
            yield container
    except MemoError:  # of what is written meanwhile; some are OSErrors
        raise
    except av.InvalidDataError as error:
        if len(read):
            raise InputError(f"it is cut off or damaged: it can be read up to frame {len(read)} ({error.strerror}).") from error
        if not path.stat().st_size:
            raise InputError("the file is empty.") from error
        if _lacks_index(path):
            raise InputError("it is cut off: the index at its end is missing.") from error
        raise InputError(f"it is not a video that can be read ({error.strerror}).") from error
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"it cannot be read ({error.strerror}).") from error


def picture_track(container):
    """The video stream that players show: the first of those marked as default, or of all. A cover is none.

    Raises InputError when there is none, and for HDR, whose colours would come out wrong.
    """
    streams = container.streams.video
    if not streams:
        raise InputError("no picture: the file has no video stream.")
    moving = [stream for stream in streams if not int(stream.disposition) & _COVER]
    if not moving:
        raise InputError("no picture: the file has a cover, and no video stream besides it.")
    # a cover that nobody marked as one is a picture, or in a format for pictures; frames is 0 where they are not counted
    lasting = [stream for stream in moving if stream.frames != 1 and stream.codec_context.name not in _STILLS] or moving
    track = _default_first(lasting)[0]
    if kind := _HDR.get(int(track.codec_context.color_trc or 0)):
        raise InputError(
            f"HDR: its brightness is stored as {kind}, which MEMO does not know. Convert it to SDR (BT.709) in a video editor, or with an "
            "ffmpeg that has zscale: -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709:r=tv,"
            "format=yuv420p"
        )
    return track


def sound_tracks(container) -> list:
    """The audio streams in the order in which they are to be tried: those marked as default first. One that is silent is not meant."""
    return _default_first(container.streams.audio)


def _default_first(streams) -> list:
    return sorted(streams, key=lambda stream: not int(stream.disposition) & _DEFAULT)


def seeks(container) -> bool:
    """Whether any frame can be gone to. In a program stream (mpg, vob) times are guessed after a jump: it is read from its beginning."""
    return container.format.name != "mpeg"


class Screen:
    """Shows the frames of a track as its file says: with square pixels, turned and mirrored."""

    def __init__(self, track):
        self._aspect = Fraction(track.sample_aspect_ratio or 1)
        # PyAV 19 would keep a decoder with its own threads. A process forked from this one, such as a data worker, has it without the
        # threads and waits for them forever.
        self._reformatter = import_av().video.reformatter.VideoReformatter()

    def shows_as_stored(self, frame) -> bool:
        """Whether nothing is to be done to ``frame``."""
        return self._aspect == 1 and _placement(frame) == (False, False, False)

    def picture(self, frame) -> np.ndarray:
        """``frame`` as it is shown: uint8 RGB (h w 3); never smaller than it is stored."""
        width, height = round(frame.width * max(self._aspect, 1)), round(frame.height / min(self._aspect, 1))
        stored = self._reformatter.reformat(frame, width, height, "rgb24").to_ndarray()
        transposed, flip_rows, flip_columns = _placement(frame)
        shown = stored.swapaxes(0, 1) if transposed else stored
        shown = shown[::-1] if flip_rows else shown
        return np.ascontiguousarray(shown[:, ::-1] if flip_columns else shown)


def _placement(frame) -> tuple[bool, bool, bool]:
    """From stored to shown: whether rows become columns, and then which of the two run the other way. Raises InputError for what a
    player would turn by less than a right angle."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))  # x' = a x + c y, y' = b x + d y
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    if min(abs(a) + abs(d), abs(b) + abs(c)) > 0.02 * max(abs(a) + abs(d), abs(b) + abs(c)):
        raise InputError("it is to be shown at an angle that is not a right one: turn it in a video editor.")
    return (True, b < 0, c < 0) if transposed else (False, d < 0, a < 0)


def read_frames(path: Path, numbers: Sequence[int], convert: Convert = lambda picture: picture) -> Tensor:
    """ReadFrames with PyAV: exact for any frame rate, decoding from the keyframe before each run of frames.

    Raises InputError when the file cannot be decoded or has fewer frames.
    """
    with _indexed(path) as (container, track, times, keyframes):
        if len(times) <= numbers[-1]:
            raise InputError(f"it has {len(times)} frames, but frame {numbers[-1]} was asked for. Prepare this video again.")
        pictures = [convert(picture) for run in _runs(numbers) for picture in _decode(container, track, keyframes, [times[i] for i in run])]
        if len(pictures) != len(numbers):
            raise InputError(f"{len(pictures)} of {len(numbers)} frames can be decoded. The file is damaged.")
    return torch.stack(pictures)


def stream_frames(path: Path) -> Iterator[Tensor]:
    """All pictures uint8 (3 h w) of a video file in order, decoded in one go; the k-th is frame k of read_frames.

    Raises InputError if the file cannot be decoded; ends early if a damaged file does.
    """
    with _indexed(path) as (container, track, times, keyframes):
        yield from _decode(container, track, keyframes, times)


Index = tuple[Sequence[int], list[tuple[int, int]]]
"""The timestamps of the frames of a file, ascending, and its keyframes, see _decode."""


@contextmanager
def _indexed(path: Path):
    """A video file as PyAV's container and stream, the timestamps of its frames, ascending, and its keyframes, see _decode."""
    try:
        with opened(path) as container:
            track = picture_track(container)
            track.thread_type = "AUTO"
            status = os.stat(path)
            times, keyframes = _INDICES.of((str(path), status.st_size, status.st_mtime_ns), lambda: _index(container, track))
            yield container, track, times, keyframes
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _index(container, track) -> Index:
    """Of the whole file, which is read for it."""
    times, keyframes = array("q"), []
    for packet in container.demux(track):  # if kept, they would keep the file open
        if packet.pts is None:
            continue
        if not packet.is_discard:
            times.append(packet.pts)
        if packet.is_keyframe:
            keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    return array("q", sorted(times)), keyframes


class _Indices:
    """What _index found in files, up to ``most`` frames in all, those first forgotten that have not been asked for longest: a sample of a long
    video then reads what is around it alone."""

    def __init__(self, most: int):
        self._most, self._frames, self._held = most, 0, OrderedDict()

    def of(self, file: tuple[str, int, int], make: Callable[[], Index]) -> Index:
        """file: its path, size and time of change."""
        index = self._held.pop(file, None)
        if index is None:
            index = make()
            self._frames += len(index[0])
        self._held[file] = index
        while self._frames > self._most and len(self._held) > 1:
            self._frames -= len(self._held.popitem(last=False)[1][0])
        return index


_INDICES = _Indices(2**22)
"""40 hours of video at 30 frames per second, 40 MB."""


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers, ascending, as runs of consecutive ones."""
    runs = [[numbers[0]]]
    for number in numbers[1:]:
        if number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _decode(container, track, keyframes: list[tuple[int, int]], times: Sequence[int]) -> Iterator[Tensor]:
    """The pictures (3 h w) shown at ``times``, ascending timestamps of the track; keyframes: when shown and when decoded."""
    screen = Screen(track)
    wanted = set(times)
    # Containers seek by decoding time, and a keyframe may be decoded before frames that are shown earlier.
    before = [decoded for shown, decoded in keyframes if shown <= times[0]] or [0]
    container.seek(before[-1] if seeks(container) else before[0], stream=track)
    for frame in container.decode(track):
        if frame.pts in wanted:
            yield torch.from_numpy(screen.picture(frame)).permute(2, 0, 1)
        if frame.pts is not None and frame.pts >= times[-1]:
            break


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
