"""Frames of a video file, by number."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, MissingPackageError

ReadFrames = Callable[[Path, Sequence[int]], Tensor]
"""Frame numbers, ascending and different, of a video file to pictures uint8 (frames 3 h w), RGB."""


def read_frames(path: Path, numbers: Sequence[int]) -> Tensor:
    """ReadFrames with PyAV: exact for any frame rate, decoding from the keyframe before each run of frames.

    Raises InputError when the file cannot be decoded or has fewer frames.
    """
    try:
        import av
    except ImportError as error:
        raise MissingPackageError(f"Reading videos needs PyAV ({error}): pip install av") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            times = sorted(packet.pts for packet in packets if not packet.is_discard)
            if len(times) <= numbers[-1]:
                raise InputError(f"{path} has {len(times)} frames, frame {numbers[-1]} was asked for. Prepare this video again.")
            keyframes = [(packet.pts, packet.pts if packet.dts is None else packet.dts) for packet in packets if packet.is_keyframe]
            del packets  # they hold the file
            pictures = [picture for run in _runs(numbers) for picture in _decode(container, stream, keyframes, [times[i] for i in run])]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be decoded ({error}).") from error
    if len(pictures) != len(numbers):
        raise InputError(f"{path}: {len(pictures)} of {len(numbers)} frames can be decoded. The file is damaged.")
    return torch.stack(pictures)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers, ascending, as runs of consecutive ones."""
    runs = [[numbers[0]]]
    for number in numbers[1:]:
        if number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _decode(container, stream, keyframes: list[tuple[int, int]], times: list[int]) -> list[Tensor]:
    """The pictures (3 h w) shown at ``times``, ascending timestamps of the stream; keyframes: when shown and when decoded."""
    # Containers look for the time of decoding, and a keyframe may be decoded before frames that are shown ahead of it.
    container.seek(max((decoded for shown, decoded in keyframes if shown <= times[0]), default=0), stream=stream)
    wanted, pictures = set(times), []
    for frame in container.decode(stream):
        if frame.pts in wanted:
            pictures.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
        if frame.pts is not None and frame.pts >= times[-1]:
            break
    return pictures
