"""Frames of a video file, by number."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..pyav import import_av, open_to_read, upright

Convert = Callable[[Tensor], Tensor]

ReadFrames = Callable[[Path, Sequence[int], Convert], Tensor]
"""From ascending, distinct frame numbers of a video file to a stack of the results of a function of each picture uint8 (3 h w), RGB. It is
applied picture by picture: 33 pictures from a phone would take gigabytes."""


def read_frames(path: Path, numbers: Sequence[int], convert: Convert = lambda picture: picture) -> Tensor:
    """ReadFrames with PyAV: exact for any frame rate, decoding from the keyframe before each run of frames.

    Raises InputError when the file cannot be decoded or has fewer frames.
    """
    with _opened(path) as (container, stream, times, keyframes):
        if len(times) <= numbers[-1]:
            raise InputError(f"{path} has {len(times)} frames, but frame {numbers[-1]} was asked for. Prepare this video again.")
        pictures = [convert(picture) for run in _runs(numbers) for picture in _decode(container, stream, keyframes, [times[i] for i in run])]
    if len(pictures) != len(numbers):
        raise InputError(f"{path}: {len(pictures)} of {len(numbers)} frames can be decoded. The file is damaged.")
    return torch.stack(pictures)


def stream_frames(path: Path) -> Iterator[Tensor]:
    """All pictures uint8 (3 h w) of a video file in order, decoded in one go; the k-th is frame k of read_frames.

    Raises InputError if the file cannot be decoded; ends early if a damaged file does.
    """
    with _opened(path) as (container, stream, times, keyframes):
        yield from _decode(container, stream, keyframes, times)


@contextmanager
def _opened(path: Path):
    """A video file as PyAV's container and stream, the timestamps of its frames, ascending, and its keyframes, see _decode."""
    av = import_av()
    try:
        with open_to_read(path) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            times, keyframes = [], []
            for packet in container.demux(stream):  # if kept, they would keep the file open
                if packet.pts is None:
                    continue
                if not packet.is_discard:
                    times.append(packet.pts)
                if packet.is_keyframe:
                    keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
            times.sort()
            yield container, stream, times, keyframes
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be decoded ({error}).") from error


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers, ascending, as runs of consecutive ones."""
    runs = [[numbers[0]]]
    for number in numbers[1:]:
        if number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _decode(container, stream, keyframes: list[tuple[int, int]], times: list[int]) -> Iterator[Tensor]:
    """The pictures (3 h w) shown at ``times``, ascending timestamps of the stream; keyframes: when shown and when decoded."""
    # PyAV 19 would keep a decoder with its own threads. A process forked from this one, such as a data worker, has it without the threads
    # and waits for them forever.
    to_rgb = import_av().video.reformatter.VideoReformatter()
    # Containers seek by decoding time, and a keyframe may be decoded before frames that are shown earlier.
    container.seek(max((decoded for shown, decoded in keyframes if shown <= times[0]), default=0), stream=stream)
    wanted = set(times)
    for frame in container.decode(stream):
        if frame.pts in wanted:
            yield torch.from_numpy(upright(to_rgb.reformat(frame, format="rgb24").to_ndarray(), frame)).permute(2, 0, 1)
        if frame.pts is not None and frame.pts >= times[-1]:
            break
