"""Pictures and sound to video files."""

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from .errors import MissingPackageError
from .types import Audio


def write_video(path: Path, frames: Tensor, fps: Fraction, audio: Audio | None) -> None:
    """An mp4 (H.264, AAC) of ``frames`` (f 3 h w) in [0, 1], h and w even, with ``audio`` of one or two channels beside
    them, if any."""
    try:
        import av
    except ImportError as error:
        raise MissingPackageError(f"Writing videos needs PyAV ({error}): pip install av") from error
    pictures = (frames * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "yuv420p"
        if audio:
            layout = "mono" if audio.waveform.shape[0] == 1 else "stereo"
            sound = container.add_stream("aac", rate=audio.sample_rate, layout=layout)
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(audio.waveform.float().contiguous().numpy(), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = audio.sample_rate, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
