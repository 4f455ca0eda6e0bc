"""Nodes between a sound and what the sampler hears in it."""

from comfy_api.latest import io

from ..memo_modules.audio.features import TIMINGS, encode_audio
from ..memo_modules.clips import frame_rate
from . import comfy_adapter as adapter
from .types import AudioEncoderSocket, AudioFeaturesSocket, VocalSeparatorSocket

CATEGORY = "MEMO/conditioning"


class MemoSeparateVocals(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSeparateVocals",
            display_name="MEMO Separate Vocals",
            category=CATEGORY,
            description="Separates the voice from music and noise. Leave it out for a clean recording.",
            inputs=[
                VocalSeparatorSocket.Input("vocal_separator", tooltip="From Load MEMO Vocal Separator."),
                io.Audio.Input("audio", tooltip="Any sample rate and channel count."),
            ],
            outputs=[io.Audio.Output(display_name="vocals", tooltip="The voice alone, as long as the audio and at its sample rate.")],
        )

    @classmethod
    def execute(cls, vocal_separator, audio) -> io.NodeOutput:
        mix = adapter.to_audio(audio)
        adapter.bring_in(vocal_separator)
        vocals = vocal_separator.model.separate(mix, adapter.Progress(), adapter.check_interrupt)
        return io.NodeOutput(adapter.from_audio(vocals))


class MemoEncodeAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoEncodeAudio",
            display_name="MEMO Encode Audio",
            category=CATEGORY,
            description="Turns a voice into the features that the lips follow, one set per video frame. Decides how long the video becomes.",
            inputs=[
                AudioEncoderSocket.Input("audio_encoder", tooltip="From Load MEMO Audio Encoder."),
                io.Audio.Input("audio", tooltip="The voice, best separated from music and noise. Any sample rate and channel count."),
                io.Float.Input(
                    "fps",
                    default=30.0,
                    min=8.0,
                    max=60.0,
                    step=0.001,
                    round=0.000001,
                    tooltip="Frames per second of the video. MEMO was trained at 30; more frames take proportionally longer.",
                ),
                io.Combo.Input(
                    "timing",
                    options=list(TIMINGS),
                    default=TIMINGS[0],
                    tooltip="exact: the lips follow the audio to the frame. upstream: padded and stretched as the reference "
                    "implementation does, up to a frame late.",
                ),
            ],
            outputs=[AudioFeaturesSocket.Output(display_name="audio", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def execute(cls, audio_encoder, audio, fps, timing) -> io.NodeOutput:
        voice, rate = adapter.to_audio(audio), frame_rate(fps)
        device = adapter.bring_in(audio_encoder.encoder, whole=True)
        encoder = audio_encoder.encoder.model
        features = encode_audio(encoder, voice, rate, timing=timing, device=device, check_interrupt=adapter.check_interrupt)
        return io.NodeOutput(features)


NODES = [MemoSeparateVocals, MemoEncodeAudio]
