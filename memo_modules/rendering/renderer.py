"""Makes the videos of jobs, one after the other, with models that are loaded once and portraits and voices that are prepared once."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..audio.timeline import parse_timeline, timeline_track
from ..clips import ceil_div, frame_rate
from ..errors import CheckpointError, MemoError, StorageError
from ..host import Host
from ..models import acceleration
from ..pipeline import Conditioning, MemoPipeline, find_models, load_picture
from ..portrait.framing import crop_portrait
from ..portrait.pasting import Pasting
from ..sampler.sampling import SampledClip
from ..types import VideoState
from ..video import journal
from ..video.long_videos import LongVideo, sample_to_file
from ..weights.checkpoints import NETS
from ..weights.lora import named_lora
from ..words import first_line
from .folder import ResultFolder, Say
from .jobs import Job, content_digest, models_digest

_KEPT = 8
"""Portraits, and voices, that are kept prepared."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """What a renderer loads. folder: of a ComfyUI. checkpoint: see MemoPipeline.from_models. dtype: of pipeline.DTYPES. loras: FILE:STRENGTH each.
    names: by role, where there is more than one model of it."""

    folder: Path
    checkpoint: str | None = None
    dtype: str = "auto"
    loras: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)

    def load(self, device: str) -> MemoPipeline:
        loras = [named_lora(text) for text in self.loras]
        return MemoPipeline.from_models(self.folder, self.checkpoint, device=device, dtype=self.dtype, loras=loras, **self.names)

    def digest(self) -> str:
        """Of all files that a video may depend on, without loading them. Raises CheckpointError when there is no checkpoint."""
        checkpoint, find = find_models(self.folder, self.checkpoint, self.names)
        places = [checkpoint / net if checkpoint.is_dir() else checkpoint for net in (NETS if checkpoint.is_dir() else NETS[:1])]
        for role in ("vae", "audio_encoder", "face_analysis", "emotion2vec", "emotion_classifier", "vocal_separator"):
            with suppress(CheckpointError):  # what is not there is not used, or said to be missing when it is
                places.append(find(role))
        return models_digest(places, [(lora.path, strength) for lora, strength in map(named_lora, self.loras)], self.dtype)


class Renderer:
    """``pipeline`` at work for ``folder``. say: hears what happens, see folder.Say; check_interrupt: may raise, several times a second."""

    def __init__(
        self, pipeline: MemoPipeline, folder: ResultFolder, say: Say = lambda event: None, check_interrupt: Callable[[], None] = lambda: None
    ):
        self.pipeline, self.folder, self.say, self.check_interrupt = pipeline, folder, say, check_interrupt
        self._prepared: OrderedDict[tuple, Any] = OrderedDict()

    def render(self, key: str, job: Job) -> None:
        """Make the video of a job, which is claimed, and its line: in done.jsonl or, with the reason, in failed.jsonl.

        Raises StorageError, which is no fault of the job, and what check_interrupt raises.
        """
        began = time.monotonic()
        self.say({"event": "started", "job": key, "output": job.output})
        if self.folder.recover(key):
            self.say({"event": "done", "job": key, "output": job.output, "frames": 0, "made": 0, "seconds": 0.0})
            return
        try:
            frames, made = self._make(key, job)
        except StorageError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, MemoError) else f"{type(error).__name__}: {first_line(error)}"
            if not isinstance(error, MemoError):
                _log.exception("%s failed.", job.output)
            self.folder.failed(key, job.output, reason)
            self.say({"event": "failed", "job": key, "output": job.output, "reason": reason})
            return
        seconds = round(time.monotonic() - began, 3)
        self.folder.done(key, seconds=seconds)
        self.say({"event": "done", "job": key, "output": job.output, "frames": frames, "made": made, "seconds": seconds})

    def _make(self, key: str, job: Job) -> tuple[int, int]:
        """How many frames the file has, and how many clips of it were made now."""
        self.folder.target(job)
        conditioning = self._conditioning(job)
        audio = conditioning.audio
        lead_in = math.ceil(job.lead_in * audio.fps / audio.clip_frames)
        fps = frame_rate(job.output_fps) if job.output_fps else audio.fps
        size, options = (job.width, job.height), {"labelled": job.label_as_synthetic, "pasting": self._pasting(job)}
        video = LongVideo(audio, lead_in, size, conditioning.sound, job.format, fps, **options)
        inputs = journal.Inputs({"job": key, **video.of_clips()}, {})
        made = 0

        def sample(state: VideoState | None, done: int) -> Iterator[SampledClip]:
            nonlocal made
            for clip in self._clips(conditioning, job, lead_in, state, done):
                made += 1
                self.say({"event": "clip", "job": key, "frames": len(clip.frames), "clip": done + made, "clips": video.clips})
                yield clip

        with journal.opened(self.folder.unfinished, key[:32], inputs) as opened:
            acceleration.keep_choices(opened.kernels, self.pipeline.nets.reference_net, self.pipeline.nets.diffusion_net)

            def target() -> Path:
                self.folder.announce(key, job, opened.folder / f"video{video.format.suffix}", frames=video.frames, clips=video.clips, made=made)
                return self.folder.target(job)

            sample_to_file(video, opened, sample, target, host=Host(check_interrupt=self.check_interrupt))
        return video.frames, made

    def _clips(self, conditioning: Conditioning, job: Job, lead_in: int, state: VideoState | None, done: int) -> Iterator[SampledClip]:
        """The clips after ``state``, in low-memory mode from where the GPU's memory does not suffice."""
        mode = job.memory_mode
        while True:
            options = {"lead_in": lead_in, "state": state, "done": done, "host": Host(check_interrupt=self.check_interrupt)}
            try:
                for clip in self.pipeline.sample(conditioning, job.settings, mode, job.preset, job.decoder, **options):
                    state, done = clip.state, done + 1
                    yield clip
                return
            except torch.OutOfMemoryError:
                if mode == "low":
                    raise
            mode = "low"

    def _pasting(self, job: Job) -> Pasting | None:
        """Where the frames go in the image, at its full resolution."""
        if not job.paste_back:
            return None
        photo = load_picture(job.image)
        place = ("crop", content_digest("image", job.image), job.index, job.margin, job.width)
        crop = self._once(place, lambda: crop_portrait(self.pipeline.face_analyzer, photo, job.index, job.margin, job.width)[1])
        return Pasting(photo[None], crop, job.feather, job.color_match)

    def _conditioning(self, job: Job) -> Conditioning:
        look = (job.width, job.height), job.allow_no_face, job.index, job.margin if job.crop else None
        portrait, face = self._once(("portrait", content_digest("image", job.image), *look), lambda: self.pipeline.portrait(job.image, *look))
        heard, hear = content_digest("audio", job.audio), (frame_rate(job.fps), job.separate)
        sound, audio = self._once(("voice", heard, *hear), lambda: self.pipeline.voice(job.audio, *hear))
        if job.timeline:
            filling = self.pipeline.emotion(job.emotion or "neutral", sound)
            samples = ceil_div(sound.waveform.shape[1] * filling.sample_rate, sound.sample_rate)
            emotion = timeline_track(parse_timeline(job.timeline), filling, samples)
        else:
            emotion = self._once(("mood", heard, job.emotion), lambda: self.pipeline.emotion(job.emotion or None, sound))
        return Conditioning(portrait, face, audio, emotion, sound)

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, kept for the next jobs of the same."""
        if key not in self._prepared:
            self._prepared[key] = make()
            while len(self._prepared) > 3 * _KEPT:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]
