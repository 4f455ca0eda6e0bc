"""Sample videos during a training: prepared videos, generated again from their first picture."""

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..audio.io import decode
from ..clips import ceil_div
from ..preparation.tensor_files import read_rows
from ..pyav import fraction
from ..sampler.sampling import MemoNets, sample_video
from ..types import Audio, AudioFeatures, EmotionTrack, Face, SamplerSettings
from ..vae import VideoVAE
from ..video.files import write_video
from ..video.reading import opened, picture_track, read_frames
from .dataset import PreparedVideo, training_pixels
from .settings import DataSettings, SampleSettings


def write_sample(path: Path, nets: MemoNets, vae: VideoVAE, video: PreparedVideo, data: DataSettings, settings: SampleSettings) -> None:
    """Generate ``video`` again from its first picture, voice and labels, as an mp4 with its sound."""
    rate, sound = _rate_and_sound(video.video)
    frames = speak_again(nets, vae, video, data, settings)
    if sound:
        sound = Audio(sound.waveform[:2, : ceil_div(len(frames) * sound.sample_rate * rate.denominator, rate.numerator)], sound.sample_rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, rate, sound)


def speak_again(nets: MemoNets, vae: VideoVAE, video: PreparedVideo, data: DataSettings, settings: SampleSettings) -> Tensor:
    """float32 (frames 3 height width) in [0, 1], ``settings.frames`` of them or as many as the video has."""
    count = min(video.frames, settings.frames)
    states = read_rows(video.audio_emb, "audio_emb", 0, count).float()
    padding = ceil_div(count, data.frames) * data.frames - count
    states = torch.cat([states, states[-1:].expand(padding, -1, -1)])
    labels = read_rows(video.audio_emotion, "audio_emotion", 0, count).tolist()
    # one "sample" a frame
    emotion = EmotionTrack(tuple(range(count)), tuple(labels), None, count, 1)
    sampler = SamplerSettings(
        settings.steps, settings.guidance_scale, num_init_past_frames=data.past_frames, num_past_frames=data.past_frames, reference_order="aligned"
    )
    clips = sample_video(
        nets,
        vae,
        training_pixels(read_frames(video.video, [0]), data.height, data.width),
        Face(read_rows(video.face_emb, "face_emb").float()[None], None, 1.0),
        AudioFeatures(states, Fraction(1), count, data.frames),
        emotion,
        sampler,
        low_memory=True,  # weights, gradients and moments are in VRAM already
    )
    return torch.cat([clip.frames for clip in clips])


def _rate_and_sound(path: Path) -> tuple[Fraction, Audio | None]:
    with opened(path) as container:
        rate, sounds = fraction(picture_track(container).average_rate), bool(container.streams.audio)
    return rate, decode(path) if sounds else None
