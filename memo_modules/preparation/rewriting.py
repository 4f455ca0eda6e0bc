"""Writes a video, or a part of it, as training can use it: at one rate, and cropped."""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from ..files.whole_files import whole_file
from ..pyav import import_av
from ..types import Crop
from ..video.reading import Screen, opened, picture_track
from .videos import Video, shown_for

_BT709, _LIMITED = 1, 1
"""Colours of rewritten videos, in ffmpeg's numbers."""


def rewritten_frames(video: Video, fps: Fraction) -> int:
    """Frames that a video has at a rate."""
    return len(video.times) if fps == video.fps else max(2, round(shown_for(video.times) * fps))


def rewrite(path: Path, target: Path, video: Video, fps: Fraction, first: int = 0, crop: Crop | None = None) -> None:
    """Write pictures of ``path`` at a constant rate, as they are shown, without sound: at each time the frame nearest to it, so that some
    are repeated or left out; all of them where the rate is that of the video.

    target: an mp4, of even width and height. video: what is written, from frame ``first`` of the file on. crop: the square of the
    picture that is kept, within it. Raises InputError as read_video does.
    """
    times, frames = video.times, rewritten_frames(video, fps)
    wanted = deque(first + (i if fps == video.fps else _nearest(times, times[0] + i / fps)) for i in range(frames))
    with opened(path) as source, whole_file(target) as partial, import_av().open(str(partial), "w", format="mp4") as container:
        track = picture_track(source)
        track.codec_context.thread_count = 1
        screen = Screen(track)
        picture = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "veryfast", "threads": "1"})
        picture.pix_fmt = "yuv420p"
        picture.codec_context.colorspace, picture.codec_context.color_range = _BT709, _LIMITED
        for number, frame in enumerate(source.decode(track)):
            if not wanted:
                break
            while wanted and wanted[0] == number:
                shown = frame if crop is None and screen.shows_as_stored(frame) else _cropped(screen, frame, crop)
                if not picture.codec_context.is_open:
                    picture.width, picture.height = shown.width // 2 * 2, shown.height // 2 * 2
                shown = shown.reformat(picture.width, picture.height, picture.pix_fmt, dst_colorspace=_BT709, dst_color_range=_LIMITED)
                shown.pts, shown.time_base, shown.pict_type = frames - len(wanted), 1 / fps, 0  # the encoder chooses keyframes
                container.mux(picture.encode(shown))
                wanted.popleft()
        container.mux(picture.encode(None))


def _cropped(screen: Screen, frame, crop: Crop | None):
    picture = screen.picture(frame)
    if crop is not None:
        picture = picture[crop.inside].copy()
    return import_av().VideoFrame.from_ndarray(picture, format="rgb24")


def _nearest(times: Sequence[Fraction], time: Fraction) -> int:
    """Which of ``times``, ascending, is nearest, the earlier of two."""
    later = bisect_left(times, time, 1, len(times) - 1)
    return later if times[later] - time < time - times[later - 1] else later - 1
