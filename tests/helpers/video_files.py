"""Small video files for tests, grey pictures with a sound whose samples differ, and what is in a file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16000


def ramp(samples: int) -> np.ndarray:
    """float32 (1 samples): exact in 16 bit, and no two alike up to 32767."""
    return (np.arange(1, samples + 1) % 2**15).astype(np.float32)[None] / 2**15


def record(
    path: Path,
    times: list[Fraction] | None = None,
    sound: np.ndarray | None = None,
    sound_at: Fraction = Fraction(0),
    rate: Fraction = Fraction(30),
    sound_pauses: dict[int, int] | None = None,
    **options,
) -> Path:
    """A video of 32×32 pixels in which frame k, shown at times[k] seconds, is a grey of 10k; twelve at 30 per second where
    None. sound: float32 (1 samples) at 16 kHz, from ``sound_at`` on; none where None. rate: the one that the file states.
    sound_pauses: from a sample on, so many samples are missing. options: of the container.
    """
    times = [Fraction(k, 30) for k in range(12)] if times is None else times
    with av.open(str(path), "w", options=options) as container:
        if times:
            picture = container.add_stream("mpeg4", rate=rate, options={"bf": "2"})
            picture.width, picture.height, picture.pix_fmt, picture.bit_rate = 32, 32, "yuv420p", 4_000_000
            picture.codec_context.time_base = Fraction(1, 30000)
        if sound is not None:
            heard = container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=RATE, layout="mono")
        for k, time in enumerate(times):
            shown = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * k % 256, dtype=np.uint8), format="rgb24")
            shown.pts, shown.time_base = int(time * 30000), Fraction(1, 30000)
            container.mux(picture.encode(shown))
        if times:
            container.mux(picture.encode(None))
        if sound is not None:
            for start in range(0, sound.shape[1], 1024):
                part = sound[:, start : start + 1024]
                if path.suffix == ".mkv":
                    frame = av.AudioFrame.from_ndarray((part * 2**15).astype(np.int16), format="s16", layout="mono")
                else:
                    frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                paused = sum(samples for place, samples in (sound_pauses or {}).items() if place <= start)
                frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start + paused + int(sound_at * RATE)
                container.mux(heard.encode(frame))
            container.mux(heard.encode(None))
    return path


def pictures(path):
    """uint8 (f h w 3), and each frame's time in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        matrix = "ITU601" if frames[0].format.name == "bgr0" else "ITU709"  # PyAV before 17 takes no notice of the tag
        shown = [frame.reformat(format="rgb24", src_colorspace=matrix, dst_colorspace="ITU601").to_ndarray() for frame in frames]
        return np.stack(shown), [frame.pts * frame.time_base for frame in frames]


def sound(path):
    """float32 (channels samples), and the rate."""
    with av.open(str(path)) as container:
        interleaved = av.AudioResampler(format="flt")
        frames = [out for frame in container.decode(audio=0) for out in interleaved.resample(frame)]
        return np.concatenate([f.to_ndarray().reshape(-1, f.layout.nb_channels).T for f in frames], axis=1), frames[0].sample_rate
