"""Video files: one closed segment per clip, joined at the end without encoding anything again."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from ..clips import ceil_div
from ..errors import InputError, StorageError
from ..files.whole_files import whole_file
from ..host import SILENT, Host
from ..pyav import fraction, import_av, open_to_read
from ..types import Audio
from .formats import DEFAULT_FORMAT, ENCODERS, MUXERS, VideoFormat
from .pixel_formats import planes
from .provenance import TAGS, append_xmp
from .sound_track import SoundTrack

# One thread each, unless _FRUGAL says otherwise: h264's bits depend on their number. Every picture of ffv1 stands by itself, which costs 1 to 6 %.
_OPTIONS = {"h264": {"threads": "1"}, "ffv1": {"threads": "1", "level": "3", "g": "1"}}

_REORDER_DELAY = {"h264": 2, "ffv1": 0}
"""Frames by which decoding runs ahead of showing: 2 is what x264's B-frames take at most."""

_FRUGAL = {
    2048**2: "rc-lookahead=0:bframes=0:ref=1:force-cfr=1",
    4096**2: "subme=0:trellis=0:me=dia:partitions=none:scenecut=0:sliced-threads=1:threads=4",
}
"""What h264 does without in pictures of more pixels: first the 40 pictures that it looks ahead, then fractions of a pixel in
motion. At 24 megapixels they take 4 GB and 150 MB. The first is the largest that the sampler makes. A photo that stands still around a
face needs no search for the cheapest rounding (trellis), the motion of parts of a block, or cuts: it takes half the time or less, for
files a fifteenth larger that are no worse. Four threads share each picture; always four, since the bits depend on their number."""

_NOT_GIVEN = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
"""Errors of opening that say nothing of the file. A disk that fails (EIO) is not told from a file that is cut off."""

_MIN_TIMESCALE = 10_000  # ticks per second that ffmpeg takes at least, unless told

_BT709, _SRGB, _LIMITED, _FULL, _RGB = 1, 13, 1, 2, 0  # codes of ITU-T H.273, and of ffmpeg for the range


def write_video(path: Path, frames: Tensor, fps: Fraction, audio: Audio | None, format: VideoFormat = DEFAULT_FORMAT) -> None:
    """A whole video file of ``frames`` (f 3 h w) in [0, 1] with ``audio``, if any, that says that it is synthetic.
    Raises as ``join_segments``."""
    with TemporaryDirectory() as folder:
        segment = Path(folder) / "segment"
        write_segment(segment, frames, fps, format)
        join_segments(path, [segment], fps, format, audio)


def write_segment(path: Path, frames: Tensor, fps: Fraction, format: VideoFormat) -> None:
    """A file of pictures alone, (f 3 h w) in [0, 1], that needs no other and can be joined to others of the same format.

    The same frames give the same bytes with the same PyAV. Raises InputError for sizes the format does not take,
    MissingPackageError for an encoder that is not there, StorageError when the disk is full.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise InputError(f"frames: expected one or more, of shape (f, 3, h, w), got {list(frames.shape)}.")
    height, width = frames.shape[2:]

    def pictures() -> Iterator[list[np.ndarray]]:
        for frame in frames:
            picture = (frame.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).movedim(0, -1).numpy()
            yield planes(picture, format.pixel_format)

    format.check(height, width)
    with whole_file(path) as partial:
        write_pictures(partial, pictures(), (height, width), fps, format)


def write_pictures(
    path: Path,
    pictures: Iterable[Sequence[np.ndarray]],
    size: tuple[int, int],
    fps: Fraction,
    format: VideoFormat,
    audio: Audio | None = None,
    metadata: Mapping[str, str] | None = None,
    labelled: bool = False,
    check_interrupt: Callable[[], None] = lambda: None,
) -> None:
    """A video file of pictures as they come. Large pictures are encoded with less memory, which makes h264 files of them a little larger.

    Args:
        path: written as the pictures come: whoever calls sees to it that it has its name when it is whole.
        pictures: each as the planes that pixel_formats.planes gives; they may be the same arrays every time.
        size: (height, width).
        audio, metadata, labelled: as ``join_segments`` takes them.
        check_interrupt: called with each piece of the sound; may raise.

    Raises:
        InputError: the format does not take such sizes or sound.
        MissingPackageError: as ``write_segment``.
        OSError: the disk does not take the file.
    """
    height, width = size
    format.check(height, width, audio, check_interrupt)
    av = import_av()
    with _created(path, fps, format, metadata or {}, labelled) as container:
        stream = container.add_stream(ENCODERS[format.codec], rate=fps, options=_encoder_options(format, height * width))
        stream.height, stream.width, stream.pix_fmt = height, width, format.pixel_format
        _tag_colours(stream.codec_context, format.pixel_format)
        stream.codec_context.time_base = 1 / fps
        sound = SoundTrack(container, audio, format.audio_codec, check_interrupt) if audio else None
        shown = av.VideoFrame(width, height, format.pixel_format)
        for k, picture in enumerate(pictures):
            shown.make_writable()  # another copy as long as the encoder holds it
            _fill(shown, picture)
            shown.pts, shown.time_base = k, 1 / fps
            container.mux(stream.encode(shown))
            if sound:
                sound.write_until(k / fps)
        container.mux(stream.encode(None))
        if sound:
            sound.finish()


def _encoder_options(format: VideoFormat, pixels: int) -> dict[str, str]:
    options = dict(_OPTIONS[format.codec])
    if format.codec == "h264":
        options["crf"] = str(format.crf)
        params = [saving for most, saving in _FRUGAL.items() if pixels > most]
        # With AVX-512 x264 reads what nobody wrote (in its macroblock tree): small pictures get other bits every time.
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            params.append("asm=AVX2")
        if params:
            options["x264-params"] = ":".join(params)
    return options


def join_segments(
    path: Path,
    segments: Sequence[Path],
    fps: Fraction,
    format: VideoFormat,
    audio: Audio | None = None,
    metadata: Mapping[str, str] | None = None,
    host: Host = SILENT,
    labelled: bool = True,
) -> None:
    """One video of the ``segments`` that ``write_segment`` made, one after the other, with ``audio`` from the first frame on.

    Nothing is encoded again; frame k shows at k / fps (mkv: to the millisecond).

    Args:
        path: there when all is written, not before.
        audio: written whole, however long the pictures are; beyond [-1, 1] it is clipped where the audio codec holds no more, see
            VideoFormat.clipped.
        metadata: texts by name; ComfyUI looks for JSON under "workflow" and "prompt".
        host: gets the progress in segments, and may interrupt before each and with each piece of the sound.
        labelled: the file says that it is synthetic and what made it, see labels.

    Raises:
        InputError: segments are damaged or of another format, or the sound is broken or nothing that the format takes.
        MissingPackageError: an encoder is not there.
        StorageError: the disk is full.
    """
    if not segments:
        raise InputError("segments: expected one or more files to join, got none.")
    first = _read(segments[0])
    format.check(first.height, first.width, audio, host.check_interrupt)
    with whole_file(path) as partial, _created(partial, fps, format, metadata or {}, labelled) as container:
        with _opened(segments[0]) as template:
            pictures = container.add_stream_from_template(template.streams.video[0], opaque=True)
            pictures.rate = fps
        sound = SoundTrack(container, audio, format.audio_codec, host.check_interrupt) if audio else None
        frames = 0
        for done, name in enumerate(segments, start=1):
            host.check_interrupt()
            segment = _read(name)
            _check_like(segment, first, name, fps, format)
            for index, packet in enumerate(segment.packets):
                shown = frames + segment.position(index, fps)
                packet.stream, packet.time_base = pictures, 1 / fps
                packet.pts, packet.dts, packet.duration = shown, frames + index - _REORDER_DELAY[format.codec], 1
                if sound:
                    sound.write_until(shown / fps)
                container.mux(packet)
            frames += len(segment.packets)
            host.progress(done, len(segments))
        if sound:
            sound.finish()


@dataclass(frozen=True)
class _Segment:
    """A segment's compressed pictures, in the order of decoding, and what the encoder tells the decoder (extradata)."""

    codec: str
    pixel_format: str
    height: int
    width: int
    fps: Fraction
    extradata: bytes | None
    packets: list
    times: list[Fraction]

    def position(self, index: int, fps: Fraction) -> int:
        """Where the packet ``index`` comes in the order of showing."""
        return round(self.times[index] * fps)

    def __str__(self):
        return f"{self.codec} in {self.pixel_format}, {self.width}x{self.height} at {float(self.fps):.6g} frames per second"


@contextmanager
def _opened(path: Path) -> Iterator:
    """A segment to read. Raises InputError for one that is damaged or missing, StorageError where the disk does not give it."""
    av = import_av()
    try:
        with open_to_read(path) as container:
            yield container
    except (av.FFmpegError, OSError, LookupError, TypeError) as error:  # no such file, no pictures in it, no times on them
        if isinstance(error, OSError) and error.errno in _NOT_GIVEN:
            raise StorageError(f"{path} cannot be read ({os.strerror(error.errno)}). It is kept: run again when it can.") from error
        raise InputError(f"{path} is missing, damaged or not a video ({error}). Remove it and make its clip again.") from error


def _read(path: Path) -> _Segment:
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = [packet.pts * packet.time_base for packet in packets]
        context = stream.codec_context
        size = (context.height, context.width)
        codec = context.codec.canonical_name
        if stream.frames not in (0, len(packets)):  # mkv does not count them
            raise InputError(f"{path} is cut off: {len(packets)} of its {stream.frames} pictures are there. Remove it and make its clip again.")
        return _Segment(codec, context.pix_fmt, *size, fraction(stream.average_rate), context.extradata, packets, times)


def _check_like(segment: _Segment, first: _Segment, name: Path, fps: Fraction, format: VideoFormat) -> None:
    expected = replace(first, codec=format.codec, pixel_format=format.pixel_format, fps=fps)
    # mkv rounds the rate's period to nanoseconds
    as_expected = str(segment) == str(expected) and segment.extradata == first.extradata
    positions = [segment.position(index, fps) for index in range(len(segment.packets))]
    decodable = all(position >= index - _REORDER_DELAY[format.codec] for index, position in enumerate(positions))
    if not as_expected:
        raise InputError(
            f"{name} cannot be joined: expected {expected}, encoded like the first segment, got {segment}. Remove it and make its clip again."
        )
    if not positions or positions[0] or not segment.packets[0].is_keyframe or sorted(positions) != list(range(len(positions))) or not decodable:
        raise InputError(f"{name} cannot be joined: its pictures do not follow one another without a gap. Remove it and make its clip again.")


@contextmanager
def _created(path: Path, fps: Fraction, format: VideoFormat, metadata: Mapping[str, str], labelled: bool = False) -> Iterator:
    """A container to write to, without the random numbers and version names that would make each file another."""
    options = {"fflags": "+bitexact"}
    if format.container == "mp4":
        options["movflags"] = "use_metadata_tags+faststart"
        # Whole ticks per frame. PyAV before 18 gives a stream that is copied another time base.
        options["video_track_timescale"] = str(fps.numerator * ceil_div(_MIN_TIMESCALE, fps.numerator))
    with import_av().open(str(path), "w", format=MUXERS[format.container], options=options) as container:
        for name, text in {**metadata, **(TAGS if labelled else {})}.items():
            container.metadata[name] = text
        yield container
    if labelled and format.container == "mp4":  # no standard says where in mkv
        append_xmp(path)


def _tag_colours(context, pixel_format: str) -> None:
    """The picture's RGB is sRGB; without a tag, players guess."""
    rgb = pixel_format == "bgr0"
    context.color_primaries, context.color_trc = _BT709, _SRGB
    context.colorspace, context.color_range = (_RGB, _FULL) if rgb else (_BT709, _LIMITED)


def _fill(frame, planes: Sequence[np.ndarray]) -> None:
    for plane, rows in zip(frame.planes, planes, strict=True):
        padded = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: len(rows)]
        padded[:, : rows.shape[1]] = rows
        padded[:, rows.shape[1] :] = 0
