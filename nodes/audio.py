"""Nodes between a sound and what the sampler hears in it."""

from comfy_api.latest import io

from ..memo_modules.audio.features import TIMINGS, encode_audio
from ..memo_modules.audio.io import mixing_note, silence_note
from ..memo_modules.clips import frame_rate, samples_for_frames
from ..memo_modules.host import Host
from ..memo_modules.types import Audio, AudioFeatures
from . import comfy_adapter as adapter
from . import comfy_sockets as sockets
from .comfy_lists import PreparingNode
from .socket_types import AudioEncoderSocket, AudioFeaturesSocket, VocalSeparatorSocket

CATEGORY = "MEMO/conditioning"


class MemoSeparateVocals(PreparingNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSeparateVocals",
            display_name="MEMO Separate Vocals",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["stem separation", "isolate voice", "remove music", "kim vocal 2"]),
            description="Separates the voice from music and noise. Leave it out for a clean recording.",
            inputs=[
                VocalSeparatorSocket.Input("vocal_separator", tooltip="From Load MEMO Vocal Separator."),
                io.Audio.Input("audio", tooltip="Any sample rate and channel count."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                io.Audio.Output(display_name="vocals", tooltip="The voice alone, as long as the audio and at its sample rate.", is_output_list=True),
            ],
            is_input_list=True,
        )

    @classmethod
    def one(cls, vocal_separator, audio) -> io.NodeOutput:
        mix = sockets.to_audio(audio)
        say_what_is_heard(mix, adapter.host(cls.hidden.unique_id))
        return io.NodeOutput(sockets.from_audio(separated(vocal_separator, mix)))


def separated(vocal_separator, mix: Audio) -> Audio:
    """The vocals in ``mix``."""
    adapter.bring_in(vocal_separator)
    return vocal_separator.model.separate(mix, adapter.host())


def say_what_is_heard(audio: Audio, host: Host) -> None:
    """Where it is not all of it, or nothing."""
    for note in (mixing_note(audio, check_interrupt=host.check_interrupt), silence_note(audio, check_interrupt=host.check_interrupt)):
        if note:
            host.say(note)


def fps_input() -> io.Input:
    return io.Float.Input(
        "fps",
        default=30.0,
        min=8.0,
        max=60.0,
        step=0.001,
        round=0.000001,
        tooltip="Frames per second of the video. MEMO was trained at 30; more frames take proportionally longer.",
    )


class MemoEncodeAudio(PreparingNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoEncodeAudio",
            display_name="MEMO Encode Audio",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["wav2vec2", "lip sync", "speech features"]),
            description="Turns a voice into the features that the lips follow, one set per video frame. Decides how long the video becomes.",
            inputs=[
                AudioEncoderSocket.Input("audio_encoder", tooltip="From Load MEMO Audio Encoder."),
                io.Audio.Input("audio", tooltip="The voice, best separated from music and noise. Any sample rate and channel count."),
                fps_input(),
                io.Combo.Input(
                    "timing",
                    options=list(TIMINGS),
                    default=TIMINGS[0],
                    tooltip="exact: the lips follow the audio to the frame. upstream: padded and stretched as the reference "
                    "implementation does, up to a frame late.",
                ),
                io.Audio.Input(
                    "previous_audio",
                    optional=True,
                    tooltip="The voice so far, when this audio continues a video. Its last seconds are used as context.",
                ),
                io.Boolean.Input(
                    "level",
                    default=False,
                    optional=True,
                    tooltip="Evens out how loud the voice is over time, for a speaker who walks away or turns from the microphone: without it, "
                    "the mouth opens less where the voice is faint. MEMO was published without.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[AudioFeaturesSocket.Output(display_name="audio", tooltip="For the MEMO Sampler.", is_output_list=True)],
            is_input_list=True,
        )

    @classmethod
    def one(cls, audio_encoder, audio, fps, timing, previous_audio=None, level=False) -> io.NodeOutput:
        voice = sockets.to_audio(audio)
        say_what_is_heard(voice, adapter.host(cls.hidden.unique_id))
        previous = None if previous_audio is None else sockets.to_audio(previous_audio, "previous_audio")
        return io.NodeOutput(encoded(audio_encoder, voice, fps, timing=timing, previous=previous, level=level))


def encoded(audio_encoder, voice: Audio, fps: float, **options) -> AudioFeatures:
    """The features of ``voice``. options: see encode_audio."""
    rate, device = frame_rate(fps), adapter.bring_in(audio_encoder.encoder, whole=True)
    return encode_audio(audio_encoder.encoder.model, voice, rate, device=device, check_interrupt=adapter.check_interrupt, **options)


class MemoSplitAudio(PreparingNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSplitAudio",
            display_name="MEMO Split Audio",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["cut audio", "trim audio", "long video"]),
            description="Cuts a voice between two clips, to sample one video in two runs: the state of the first sampler goes into the second, "
            "and together they make the frames of a single run.",
            inputs=[
                AudioFeaturesSocket.Input("audio", tooltip="The whole voice, from MEMO Encode Audio."),
                io.Int.Input(
                    "clips", default=20, min=1, max=100000, tooltip="Clips in the first part, of 16 frames each: 0.53 s at 30 frames per second."
                ),
                io.Audio.Input("sound", optional=True, tooltip="The soundtrack, as loaded; it is cut at the same moment."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                AudioFeaturesSocket.Output(display_name="first", tooltip="For the sampler that begins the video.", is_output_list=True),
                AudioFeaturesSocket.Output(display_name="rest", tooltip="For the sampler that continues from its state.", is_output_list=True),
                io.Audio.Output(display_name="first_sound", tooltip="The soundtrack of the first part.", is_output_list=True),
                io.Audio.Output(display_name="rest_of_sound", tooltip="The soundtrack of the rest.", is_output_list=True),
            ],
            is_input_list=True,
        )

    @classmethod
    def one(cls, audio, clips, sound=None) -> io.NodeOutput:
        first, rest = audio.split(clips)
        if sound is None:
            return io.NodeOutput(first, rest, None, None)
        whole = sockets.to_audio(sound, "sound")
        cut = samples_for_frames(first.frame_count, whole.sample_rate, audio.fps)
        parts = (Audio(part, whole.sample_rate) for part in (whole.waveform[:, :cut], whole.waveform[:, cut:]))
        return io.NodeOutput(first, rest, *map(sockets.from_audio, parts))


NODES = [MemoSeparateVocals, MemoEncodeAudio, MemoSplitAudio]
