"""Writes video files of any tracks, with what a container can say about them."""

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

DEFAULT, COVER = 1, 1024
RATE = 16000


@dataclass
class Pictures:
    """frames: uint8 (f h w 3). sar: width of a pixel to its height. trc: code of its brightness, as ITU-T H.273 has it. disposition:
    DEFAULT, COVER, or neither."""

    frames: np.ndarray
    codec: str = "mpeg4"
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    trc: int | None = None
    sar: Fraction | None = None
    disposition: int | None = None
    fps: Fraction = Fraction(30)


@dataclass
class Sound:
    """samples: float32 (1 samples) at ``rate``."""

    samples: np.ndarray
    codec: str = "pcm_s16le"
    rate: int = RATE
    disposition: int | None = None


def write_tracks(path: Path, *tracks: Pictures | Sound, format: str | None = None, **options: str) -> Path:
    """A file of these tracks. options: of the container."""
    with av.open(str(path), "w", format=format, options=options) as container:
        streams = [_stream(container, track) for track in tracks]
        container.start_encoding()
        for track, stream in zip(tracks, streams, strict=True):
            for frame in _frames(track, stream):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def _stream(container, track: Pictures | Sound):
    if isinstance(track, Sound):
        stream = container.add_stream(track.codec, rate=track.rate, layout="mono")
        if not track.codec.startswith("pcm"):
            stream.bit_rate = 64_000
    else:
        stream = container.add_stream(track.codec, rate=track.fps, options=track.options)
        stream.height, stream.width = track.frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = track.pixel_format, 4_000_000
        if track.sar is not None:
            stream.codec_context.sample_aspect_ratio = track.sar
        if track.trc is not None:
            stream.codec_context.color_trc = track.trc
    if track.disposition is not None:
        stream.disposition = track.disposition
    return stream


def _frames(track: Pictures | Sound, stream):
    if isinstance(track, Pictures):
        for number, picture in enumerate(track.frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / track.fps
            yield frame.reformat(format=track.pixel_format)
        return
    resampler = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=track.rate, frame_size=stream.codec_context.frame_size)
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(track.samples), format="fltp", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = track.rate, 0, Fraction(1, track.rate)
    yield from resampler.resample(whole)
    yield from resampler.resample(None)


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Have an mp4 with one video track say that it is to be shown with x' = a x + c y, y' = b x + d y; ``matrix``: a b c d."""
    written = bytearray(path.read_bytes())
    place = written.index(b"tkhd") + 44
    assert struct.unpack(">9i", written[place : place + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    a, b, c, d = (65536 * value for value in matrix)
    written[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(written)
    return path
