"""What a video file is made of: codecs, pixel formats, containers, and which pictures and sound they take."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ..audio.io import mixed_down, peak, resample, validate
from ..errors import InputError, MissingPackageError
from ..pyav import import_av, major_version
from ..types import Audio
from ..words import printable, shortened

ENCODERS = {"h264": "libx264", "ffv1": "ffv1", "aac": "aac", "flac": "flac", "pcm": "pcm_f32le"}
"""ffmpeg's name of the encoder of each codec."""

MUXERS = MappingProxyType({"mp4": "mp4", "mkv": "matroska"})
"""ffmpeg's name of each container, by the ending of its files."""

CONTAINERS = MappingProxyType({"h264": ("mp4",), "ffv1": ("mp4", "mkv")})
"""Containers of each video codec, its default first."""

PIXEL_FORMATS = MappingProxyType({"h264": ("yuv420p", "yuv444p"), "ffv1": ("bgr0", "yuv444p", "yuv420p")})
"""Pixel formats of each video codec, its default first."""

AUDIO_CODECS = MappingProxyType({"mp4": ("aac", "flac", "pcm"), "mkv": ("flac", "pcm")})
"""Audio codecs of each container; older ffmpegs write AAC into mkv with its encoder's delay."""

CHANNEL_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1")
"""ffmpeg's layout of 1, 2, ... channels. PyAV, and so ComfyUI, crashes on reading eight."""

CLIPPING = ("aac", "flac")
"""Audio codecs that hold samples in [-1, 1] alone."""

_CRF = 18
_INTEGERS = {8: 2**7, 16: 2**15, 24: 2**23, 32: 2**31}
"""Bits of integer samples to their full scale."""

_TOO_LOUD = 100
"""Times full scale: no gain makes so much of samples in [-1, 1]."""

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_HIGHEST = 48000
"""Samples per second that nobody hears more of; sound of rates that cannot be stored is brought to this one, or below."""

_MAX_SIDE = 16384

_H264_BYTES_PER_PIXEL = ((0, 0.39), (6, 0.127), (12, 0.038), (18, 0.0157), (23, 0.0086), (28, 0.0053), (34, 0.0032), (40, 0.002), (51, 0.0009))
"""(crf, bytes) at 512x512; a fourth of the pixels has 1.6 times as much in each."""

_FFV1_BYTES_PER_PIXEL = {"bgr0": 1.3, "yuv444p": 0.95, "yuv420p": 0.55}

_BYTES_PER_SAMPLE = {"flac": 2, "pcm": 4}


@dataclass(frozen=True)
class VideoFormat:
    """How a video is stored. A crf of None, and a pixel_format or audio_codec of "", become the video codec's own default.

    codec: "h264", which plays everywhere, or "ffv1", which loses nothing.
    crf: quality of h264, 0 to 51; six more halve the file; 18 (default) is hard to tell from the original. None for ffv1.
    pixel_format: "yuv420p" (default of h264) halves the colour's resolution and needs even sizes; "yuv444p" keeps it, but
    browsers do not play it in h264; "bgr0" (default of ffv1) is 8-bit RGB, exactly.
    audio_codec: "aac" (default of h264) plays everywhere and is heard without loss, but is not; "flac" (default of ffv1 in mp4) keeps 24
    bits, which is every sound of 16 or 24 bits, exactly; "pcm" (default in mkv) keeps float32 exactly, but ffmpeg before 6.1 does not
    play it in mp4.
    container: "mp4" (default) has exact times, and a workflow that ComfyUI finds. "mkv", for ffv1 alone, rounds times to
    milliseconds; ComfyUI looks for no workflow in it, and its `VideoFromFile.get_frame_count` says 1.

    Raises InputError for a combination that does not exist.
    """

    codec: str = "h264"
    crf: int | None = None
    pixel_format: str = ""
    audio_codec: str = ""
    container: str = "mp4"

    def __post_init__(self):
        _one_of("codec", self.codec, PIXEL_FORMATS)
        lossless = self.codec == "ffv1"
        sound = "aac" if not lossless else "pcm" if self.container == "mkv" else "flac"
        defaults = {"crf": None if lossless else _CRF, "pixel_format": PIXEL_FORMATS[self.codec][0], "audio_codec": sound}
        for name, default in defaults.items():
            if getattr(self, name) in (None, ""):
                object.__setattr__(self, name, default)
        _one_of(f"pixel_format of {self.codec}", self.pixel_format, PIXEL_FORMATS[self.codec])
        _one_of(f"container of {self.codec}", self.container, CONTAINERS[self.codec])
        _one_of(f"audio_codec of {self.container}", self.audio_codec, AUDIO_CODECS[self.container])
        if lossless and self.crf is not None:
            raise InputError(f"crf: ffv1 is lossless and has no quality setting, got {self.crf}. Leave it out, or choose h264.")
        if not lossless and self.crf not in range(52):
            raise InputError(f"crf: expected a whole number from 0 (largest) to 51 (worst), got {self.crf}.")

    @property
    def suffix(self) -> str:
        """What the names of such files end with, the dot included."""
        return f".{self.container}"

    def check(self, height: int, width: int, audio: Audio | None = None, check_interrupt: Callable[[], None] = lambda: None) -> None:
        """Whether pictures of ``height`` x ``width`` pixels with ``audio`` can be stored so on this machine.

        Ask it before hours of sampling. Raises InputError saying what to choose instead, where it is the sound calling it
        "sound", and MissingPackageError when PyAV or an encoder is not there.
        """
        for name, pixels in (("height", height), ("width", width)):
            if not 1 <= pixels <= _MAX_SIDE:
                raise InputError(f"{name}: expected 1 to {_MAX_SIDE} pixels, got {pixels}.")
            if self.pixel_format == "yuv420p" and pixels % 2:
                near = " or ".join(str(even) for even in (pixels - 1, pixels + 1) if even)
                raise InputError(
                    f"{name}: yuv420p holds the colour of two pixels at a time and needs an even number, got {pixels}. "
                    f"Choose {near}, or the pixel_format yuv444p."
                )
        if audio is not None:
            validate(audio, "sound", check_interrupt)
            self._check_audio(audio.waveform.shape[0], audio.sample_rate)
        self._check_encoders(with_sound=audio is not None)

    def _check_audio(self, channels: int, sample_rate: int) -> None:
        if channels > len(CHANNEL_LAYOUTS):
            raise InputError(f"sound: video files are written with 1 to {len(CHANNEL_LAYOUTS)} channels, got {channels}. Mix it down first.")
        if not _stores(self.audio_codec, sample_rate):
            takes = f"cannot store {sample_rate} samples per second"
            if self.audio_codec == "aac":
                takes = f"takes {', '.join(map(str, _AAC_RATES))} samples per second, got {sample_rate}"
            others = " or ".join(codec for codec in AUDIO_CODECS[self.container] if _stores(codec, sample_rate))
            raise InputError(f"sound: {self.audio_codec} {takes}. Choose the audio_codec {others}.")

    def fitted(self, audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> tuple[Audio, str]:
        """``audio`` with a rate and channels that this format stores, and a sentence for the user on what had to change; nothing where it fits.

        The rate becomes the next higher one that the codec takes, at most 48 kHz; channels are mixed to one. Raises InputError, calling
        it "sound", for what ``validate`` refuses.
        """
        validate(audio, "sound", check_interrupt)
        channels, rate = audio.waveform.shape[0], storable_rate(self.audio_codec, audio.sample_rate)
        changes = []
        if channels > len(CHANNEL_LAYOUTS):
            audio = mixed_down(audio, check_interrupt)
            changes.append(f"its {channels} channels mixed to one")
        if rate != audio.sample_rate:
            changes.append(f"{rate} samples per second instead of {audio.sample_rate}")
            audio = resample(audio, rate, check_interrupt)
        return audio, f"sound: {self.audio_codec} stores it with {' and '.join(changes)}." if changes else ""

    def clipped(self, audio: Audio | None, check_interrupt: Callable[[], None] = lambda: None, can_choose: bool = True) -> str:
        """A sentence for the user where samples of the sound (see ``check``) are beyond what this audio codec holds; else nothing.
        can_choose: the user can choose another codec where it is said."""
        if audio is None or self.audio_codec not in CLIPPING or (loudest := peak(audio, check_interrupt)) <= 1:
            return ""
        remedy = "Lower its volume, or choose the audio_codec pcm, which keeps them." if can_choose else "Lower its volume."
        if loudest > _TOO_LOUD:
            bits = next((bits for bits, scale in _INTEGERS.items() if loudest <= scale), 32)
            remedy = f"Is it {bits}-bit integers that nobody scaled? Then divide it by {_INTEGERS[bits]}."
        return f"sound: expected samples in [-1, 1], got up to {loudest:.5g}; what is beyond is clipped in {self.audio_codec}. {remedy}"

    def _check_encoders(self, with_sound: bool) -> None:
        av = import_av()
        for codec in (self.codec, *([self.audio_codec] if with_sound else [])):
            try:
                encoder = av.Codec(ENCODERS[codec], "w")
            except ValueError as error:  # av.codec.codec.UnknownCodecError
                other = {"h264": "the codec ffv1", "ffv1": "the codec h264"}.get(codec, "another audio_codec")
                raise MissingPackageError(
                    f"The PyAV {av.__version__} installed here was built without {ENCODERS[codec]}, which writes {codec}: "
                    f"choose {other}, or install PyAV from PyPI."
                ) from error
            if encoder.name == "ffv1" and self.container == "mp4" and major_version() < 16:
                raise InputError(f"codec: PyAV {av.__version__} cannot write ffv1 into mp4. Choose codec h264, or update PyAV to 16 or newer.")

    def expected_bytes(self, frames: int, height: int, width: int, audio: Audio | None = None) -> int:
        """Roughly how large a file of talking pictures gets.

        Measured in segments of sixteen frames, on a photograph that moves and has grain. h264 comes to between half and
        twice as much; ffv1 hardly to more, but to a sixth for smooth drawings.
        """
        pixels = height * width
        if self.crf is None:  # ffv1
            per_pixel = _FFV1_BYTES_PER_PIXEL[self.pixel_format]
        else:
            crfs, sizes = zip(*_H264_BYTES_PER_PIXEL, strict=True)
            per_pixel = np.exp(np.interp(self.crf, crfs, np.log(sizes))) * (512**2 / pixels) ** (1 / 3)
        return round(frames * pixels * per_pixel + (self._sound_bytes(audio) if audio is not None else 0))

    def _sound_bytes(self, audio: Audio) -> float:
        if self.audio_codec == "aac":
            return aac_bit_rate(audio) / 8 * audio.waveform.shape[1] / audio.sample_rate
        return audio.waveform.numel() * _BYTES_PER_SAMPLE[self.audio_codec]


def _stores(codec: str, sample_rate: int) -> bool:
    if codec == "flac":  # which writes down rates up to 65535 Hz to the unit, those above to the ten
        return sample_rate <= 65535 or (sample_rate % 10 == 0 and sample_rate < 655350)
    return codec != "aac" or sample_rate in _AAC_RATES


def storable_rate(codec: str, sample_rate: int) -> int:
    """The rate itself, or the next higher one that AAC takes, at most 48 kHz, where ``codec`` cannot store it."""
    if _stores(codec, sample_rate):
        return sample_rate
    return min((rate for rate in _AAC_RATES if sample_rate <= rate <= _HIGHEST), default=_HIGHEST)


def aac_bit_rate(audio: Audio) -> int:
    """96 kbit/s for each channel, or the 6 bits a sample that AAC has at most."""
    return audio.waveform.shape[0] * min(96_000, 6 * audio.sample_rate)


def _one_of(name: str, value, choices) -> None:
    if value not in choices:
        raise InputError(f"{name}: expected {', '.join(choices)}, got {shortened(printable(str(value)))}.")


DEFAULT_FORMAT = VideoFormat()
