"""Frames of a video file, by number."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..pyav import import_av, open_to_read

ReadFrames = Callable[[Path, Sequence[int]], Tensor]
"""Frame numbers, ascending and different, of a video file to pictures uint8 (frames 3 h w), RGB."""


def read_frames(path: Path, numbers: Sequence[int]) -> Tensor:
    """ReadFrames with PyAV: exact for any frame rate, decoding from the keyframe before each run of frames.

    Raises InputError when the file cannot be decoded or has fewer frames.
    """
    with _opened(path) as (container, stream, times, keyframes):
        if len(times) <= numbers[-1]:
            raise InputError(f"{path} has {len(times)} frames, but frame {numbers[-1]} was asked for. Prepare this video again.")
        pictures = [picture for run in _runs(numbers) for picture in _decode(container, stream, keyframes, [times[i] for i in run])]
    if len(pictures) != len(numbers):
        raise InputError(f"{path}: {len(pictures)} of {len(numbers)} frames can be decoded. The file is damaged.")
    return torch.stack(pictures)


def stream_frames(path: Path) -> Iterator[Tensor]:
    """All pictures uint8 (3 h w) of a video file in order, decoded once through; the k-th is frame k of read_frames.

    Raises InputError when the file cannot be decoded; ends early where a damaged file does.
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
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            times = sorted(packet.pts for packet in packets if not packet.is_discard)
            keyframes = [(packet.pts, packet.pts if packet.dts is None else packet.dts) for packet in packets if packet.is_keyframe]
            del packets  # they hold the file
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
    # PyAV 19 would keep one with threads of its own. A process forked from this one, as data workers are, has it without them
    # and waits for them for ever.
    to_rgb = import_av().video.reformatter.VideoReformatter()
    # Containers look for the time of decoding, and a keyframe may be decoded before frames that are shown ahead of it.
    container.seek(max((decoded for shown, decoded in keyframes if shown <= times[0]), default=0), stream=stream)
    wanted = set(times)
    for frame in container.decode(stream):
        if frame.pts in wanted:
            yield torch.from_numpy(to_rgb.reformat(frame, format="rgb24").to_ndarray()).permute(2, 0, 1)
        if frame.pts is not None and frame.pts >= times[-1]:
            break
