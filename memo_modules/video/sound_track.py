"""Sound into video files, a chunk at a time: half an hour of it never exists twice."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from ..audio.io import validate
from ..pyav import import_av
from ..types import Audio
from .formats import CHANNEL_LAYOUTS, CLIPPING, ENCODERS, aac_bit_rate

_CHUNK = 1 << 14
"""Samples handed to the encoder at a time."""

_SAMPLE_FORMATS = {"aac": "fltp", "flac": "s32", "pcm": "flt"}


class SoundTrack:
    """The sound of a container that is being written: make it before the first packet of any stream is muxed.

    Samples beyond [-1, 1] are clipped unless ``codec`` is pcm: ffmpeg's AAC encoder never comes back from some that are far beyond.
    ``check_interrupt`` is called with each chunk and may raise. Raises InputError for sound that ``validate`` refuses.
    """

    def __init__(self, container, audio: Audio, codec: str, check_interrupt: Callable[[], None] = lambda: None):
        validate(audio, "sound", check_interrupt)
        layout = CHANNEL_LAYOUTS[audio.waveform.shape[0] - 1]
        self._stream = container.add_stream(ENCODERS[codec], rate=audio.sample_rate, layout=layout, format=_SAMPLE_FORMATS[codec])
        if codec == "aac":
            self._stream.bit_rate = aac_bit_rate(audio)
        self._container, self._audio, self._codec, self._layout = container, audio, codec, layout
        self._done, self._check_interrupt = 0, check_interrupt

    def write_until(self, seconds: Fraction) -> None:
        """Mux at least what is heard before ``seconds``, as far as there is any."""
        while self._done < min(seconds * self._audio.sample_rate, self._audio.waveform.shape[1]):
            self._check_interrupt()
            chunk = self._audio.waveform[:, self._done : self._done + _CHUNK].detach().float()
            if self._codec in CLIPPING:
                chunk = chunk.clamp(-1, 1)
            samples = chunk.t().contiguous().numpy()  # interleaved: PyAV crashes on eight separate channels
            frame = self._frame(samples.reshape(1, -1))
            frame.sample_rate, frame.time_base, frame.pts = self._audio.sample_rate, Fraction(1, self._audio.sample_rate), self._done
            self._container.mux(self._stream.encode(frame))
            self._done += chunk.shape[1]

    def finish(self) -> None:
        """Mux all that is left."""
        self.write_until(Fraction(self._audio.waveform.shape[1], self._audio.sample_rate))
        self._container.mux(self._stream.encode(None))

    def _frame(self, samples: np.ndarray):
        av = import_av()
        if self._codec != "flac":
            return av.AudioFrame.from_ndarray(samples, format="flt", layout=self._layout)
        # ffmpeg's FLAC takes the upper 24 of 32 bits; float32 has as many.
        integers = np.clip(np.rint(samples * 2.0**23), -(2**23), 2**23 - 1).astype(np.int32) << 8
        return av.AudioFrame.from_ndarray(integers, format="s32", layout=self._layout)
