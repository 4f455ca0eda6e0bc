"""A video of any length into a file: clip by clip onto the disk, and on from the last clip after whatever stopped it."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from torch import Tensor

from ..clips import frame_count, resampled_frames
from ..errors import InputError, StorageError
from ..files.whole_files import move_new as _move
from ..host import SILENT, Host
from ..host_memory import return_freed_memory
from ..portrait.pasting import PastedSegments, Pasting
from ..progress import clips_done, counted, video_done
from ..sampler.sampling import SampledClip
from ..types import Audio, AudioFeatures, VideoState
from ..weights.fingerprints import tensor_digest
from ..words import file_size
from .files import join_segments, write_segment
from .formats import VideoFormat
from .journal import Journal

COLOURS = "colours.json"
"""The file of a journal in which the correction of pasted frames is kept."""

Sample = Callable[[VideoState | None, int], Iterator[SampledClip]]
"""The clips after a state, and after as many clips of the audio, see sampling.sample_video."""


@dataclass(frozen=True)
class LongVideo:
    """What is to be made.

    audio: what is said. lead_in: clips before it that are not shown. size: (width, height) that is sampled. sound: what is heard, untouched.
    format: of the file. fps: of the file; frames are shown twice or left out where it is not that of ``audio``. metadata: text
    to be found in the file. labelled: the file says that it is synthetic. pasting: the photo into which the frames go.
    """

    audio: AudioFeatures
    lead_in: int
    size: tuple[int, int]
    sound: Audio | None
    format: VideoFormat
    fps: Fraction
    metadata: Mapping[str, str] = field(default_factory=dict)
    labelled: bool = True
    pasting: Pasting | None = None

    def __post_init__(self):
        if self.pasting and self.size[0] != self.size[1]:
            raise InputError("width, height: expected equal numbers, since the crop is a square, got {} and {}.".format(*self.size))

    @property
    def file_size(self) -> tuple[int, int]:
        """(width, height) of the file."""
        return self.pasting.for_format(self.format).crop.photo_size if self.pasting else self.size

    @property
    def clips(self) -> int:
        return self.lead_in + self.audio.clips

    @property
    def frames(self) -> int:
        """Of the file: they cover the sound where it goes with ``audio``, to the sample."""
        audio, sound = self.audio, self.sound
        if self.fps == audio.fps:
            return audio.frame_count
        if sound and frame_count(sound.waveform.shape[1], sound.sample_rate, audio.fps) == audio.frame_count:
            return frame_count(sound.waveform.shape[1], sound.sample_rate, self.fps)
        return frame_count(audio.frame_count * audio.fps.denominator, audio.fps.numerator, self.fps)

    def of_clips(self) -> dict[str, str]:
        """What the clips of the file depend on, by the names that its user knows: they stay when what is joined with them at the end,
        sound and its codec, is another. What sound may change in them is how many frames they have."""
        made = {"format": f"{replace(self.format, audio_codec='')} {self.fps}", **(self.pasting.made_of() if self.pasting else {})}
        return made if self.fps == self.audio.fps else made | {"sound": f"{self.frames} frames"}

    def joined_with(self) -> str:
        """What the clips are joined with at the end, but for the metadata."""
        heard = f"{tensor_digest(self.sound.waveform)} {self.sound.sample_rate} {self.format.audio_codec}" if self.sound else "silent"
        return f"{heard} {'labelled' if self.labelled else 'not labelled'}"

    def done(self, name: str) -> str:
        """What is said last: how long the video is, and the name of its file."""
        return f"{video_done(self.frames, self.fps)}, {name}"

    def shown(self, clip: SampledClip, number: int) -> Tensor:
        """The frames of the file that show the clip made as number ``number``, the lead-in first."""
        audio, first = self.audio, (number - self.lead_in) * self.audio.clip_frames
        if self.fps == audio.fps or not len(clip.frames):
            return clip.frames
        indices = resampled_frames(first, first + len(clip.frames), audio.frame_count, self.frames, audio.fps, self.fps)
        return clip.frames[[index - first for index in indices]]


def sample_to_file(
    video: LongVideo,
    journal: Journal,
    sample: Sample,
    target: Callable[[], Path],
    *,
    start: VideoState | None = None,
    host: Host = SILENT,
    keep: bool = False,
) -> tuple[Path, VideoState]:
    """Make what of ``video`` is not in ``journal``, and the file of it; returns its path and what it takes to continue.

    The journal is removed when the file is there.

    Args:
        target: asked for the path of the file when it is made, and again while another file has it.
        start: what the video continues.
        host: is told what is to come, before it starts, and with every clip how long it takes.
        keep: the journal stays, and the same call gives the same file.

    Raises:
        StorageError: the disk has no room; then and after anything else the same call continues.
    """
    width, height = video.file_size
    video.format.check(height, width, video.sound, host.check_interrupt)
    pasted = video.pasting and PastedSegments(video.pasting, video.format, journal.folder / COLOURS)
    _check_fits(video, journal, start)
    host.say(_announcement(video, journal, host.check_interrupt))
    began, here = time.monotonic(), len(journal.segments)
    written = sum(segment.stat().st_size for segment in journal.segments if segment)
    joined = video.joined_with()
    if here == video.clips and (path := journal.finished(joined, host.check_interrupt)):
        return _done(journal, start, path, keep)
    if here < video.clips:
        for clip in sample(journal.state(start), here):
            pictures = video.shown(clip, len(journal.segments))
            segment = None
            if len(pictures):
                segment = journal.segment(video.format.suffix)
                if pasted:
                    pasted.write(segment, pictures, video.fps)
                else:
                    write_segment(segment, pictures, video.fps, video.format)
                written += segment.stat().st_size
            journal.append(clip.state, segment)
            return_freed_memory()
            done = len(journal.segments)
            size = f", about {file_size(written * video.clips // done)}" if done - here > 1 else ""
            host.say(clips_done(video.clips, done, here, time.monotonic() - began) + size)
    host.say(f"Joining {counted(video.frames, 'frame')}")
    whole = journal.folder / f"video{video.format.suffix}"
    segments = [segment for segment in journal.segments if segment]
    metadata, labelled = video.metadata, video.labelled
    join_segments(whole, segments, video.fps, video.format, video.sound, metadata, Host(check_interrupt=host.check_interrupt), labelled)
    journal.finishing(whole, host.check_interrupt)
    return _done(journal, start, _move(whole, target(), target, partial(journal.claiming, joined=joined)), keep)


def _done(journal: Journal, start: VideoState | None, path: Path, keep: bool) -> tuple[Path, VideoState]:
    state = journal.state(start)
    assert state is not None, "a video has a clip"
    if not keep:
        journal.remove()
    return path, state


def _announcement(video: LongVideo, journal: Journal, check_interrupt: Callable[[], None]) -> str:
    """Raises StorageError when the disk has no room for what is sure to be written."""
    frames, clip = video.frames, video.audio.clip_frames
    width, height = video.size
    size = _expected_bytes(video)
    left = video.clips - len(journal.segments)
    # latents of a clip and of its past frames, 4 channels at an eighth of the size, in float32
    entries = left * 2 * clip * 4 * 4 * width * height // 64
    free = shutil.disk_usage(journal.folder).free
    if entries > free:
        raise StorageError(
            f"{journal.folder}: making {counted(left, 'clip')} needs {file_size(entries)} in addition to the video, but only {file_size(free)} "
            "is free. Free some space, or make a shorter video."
        )
    changed = f"Starting over, because these changed: {', '.join(journal.changed)}. " if journal.changed and not journal.segments else ""
    continues = f"Continuing after clip {len(journal.segments)}. " if journal.segments else ""
    clipped = f" {note}" if (note := video.format.clipped(video.sound, check_interrupt)) else ""
    space = f" Only {file_size(free)} is free." if free < entries + 2 * size else ""
    return f"{changed}{continues}{counted(video.clips, 'clip')}, {counted(frames, 'frame')}, about {file_size(size)}.{space}{clipped}"


def _expected_bytes(video: LongVideo) -> int:
    width, height = video.file_size
    if not video.pasting:
        return video.format.expected_bytes(video.frames, height, width, video.sound)
    # around the square nothing moves: what it takes is the first picture of each clip, about three times one on average
    side = min(video.pasting.crop.side, width, height)
    moving, whole = video.frames, 3 * video.audio.clips if video.format.codec == "h264" else video.frames
    return video.format.expected_bytes(whole, height, width) + video.format.expected_bytes(moving, side, side, video.sound)


def _check_fits(video: LongVideo, journal: Journal, start: VideoState | None) -> None:
    """Raises InputError when what is in the journal cannot be of this video: then it would never be continued."""
    width, height = video.size
    made, last = len(journal.segments), journal.state(None)
    if last is None:
        return
    frames, _, rows, columns = last.latents.shape
    expected = (made + (start.clips if start else 0), video.audio.clip_frames, rows * width)
    if made > video.clips or (last.clips, frames, columns * height) != expected:
        raise InputError(f"{journal.folder} holds {counted(made, 'clip')} of another video. Remove it, and run again.")
