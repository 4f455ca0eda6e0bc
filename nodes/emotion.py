"""Nodes that decide the mood."""

from comfy_api.latest import io, ui

from ..memo_modules.audio.drawing import draw_emotions
from ..memo_modules.audio.emotion import constant_emotion, detect_emotion
from ..memo_modules.audio.timeline import EXAMPLE, NEUTRAL, parse_timeline, timeline_track
from ..memo_modules.clips import ceil_div
from ..memo_modules.errors import InputError
from ..memo_modules.types import EMOTIONS, Audio, EmotionTrack
from . import comfy_adapter as adapter
from . import comfy_output
from . import comfy_sockets as sockets
from .comfy_lists import PreparingNode
from .socket_types import EmotionModelSocket, EmotionSocket

CATEGORY = "MEMO/conditioning"


class MemoDetectEmotion(PreparingNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoDetectEmotion",
            display_name="MEMO Detect Emotion",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["mood", "speech emotion recognition", "sentiment", "emotion2vec"]),
            description="Detects the mood of each second of a voice, and shows how sure it is of each class over time.",
            inputs=[
                EmotionModelSocket.Input("emotion_model", tooltip="From Load MEMO Emotion Model."),
                io.Audio.Input("audio", tooltip="The audio as loaded."),
                io.Audio.Input("vocals", optional=True, tooltip="The separated voice; only used when emotion_source is vocals."),
                io.Combo.Input(
                    "emotion_source",
                    options=["audio", "vocals"],
                    default="audio",
                    tooltip="Which audio to analyse. audio: the sound as loaded, as the published sampler does. vocals: the separated "
                    "voice, as the model was trained; better over loud music.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[EmotionSocket.Output(display_name="emotion", tooltip="For the MEMO Sampler.", is_output_list=True)],
            is_input_list=True,
        )

    @classmethod
    def one(cls, emotion_model, audio, emotion_source, vocals=None) -> io.NodeOutput:
        source = vocals if emotion_source == "vocals" else audio
        if source is None:
            raise InputError("vocals: emotion_source is vocals, but nothing is connected. Connect MEMO Separate Vocals or choose audio.")
        heard = sockets.to_audio(source, emotion_source)
        track = detected(emotion_model, heard, emotion_source)
        return io.NodeOutput(track, ui=ui.PreviewImage(draw_emotions(track, heard, adapter.check_interrupt)))


def detected(emotion_model, audio: Audio, name: str) -> EmotionTrack:
    """The mood of ``audio``, which came in at the input ``name``."""
    device = adapter.bring_in(emotion_model.encoder, emotion_model.classifier)
    encoder, classifier = emotion_model.encoder.model, emotion_model.classifier.model
    return detect_emotion(encoder, classifier, audio, device, adapter.host(), name=name)


class MemoSetEmotion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSetEmotion",
            display_name="MEMO Set Emotion",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["mood", "facial expression", "happy", "sad"]),
            description="Sets one mood for the whole video by hand, instead of detecting it in the voice.",
            inputs=[io.Combo.Input("emotion", options=list(EMOTIONS), default="neutral", tooltip="The mood of the face.")],
            outputs=[EmotionSocket.Output(display_name="emotion", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def execute(cls, emotion) -> io.NodeOutput:
        return io.NodeOutput(constant_emotion(EMOTIONS.index(emotion)))


class MemoEmotionTimeline(PreparingNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoEmotionTimeline",
            display_name="MEMO Emotion Timeline",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["mood", "facial expression", "keyframes", "schedule"]),
            description="Sets the mood over time by hand, typed or drawn. "
            "Where nothing is set, the detected mood stays, or neutral if there is none.",
            inputs=[
                io.String.Input(
                    "timeline",
                    default="",
                    multiline=True,
                    placeholder=EXAMPLE,
                    tooltip="Moods over time, in seconds or minutes and seconds (0:07), separated by commas; a segment without an end lasts "
                    "until the next one. The drawing below writes this text.",
                ),
                EmotionSocket.Input("emotion", optional=True, tooltip="From MEMO Detect Emotion: used wherever the timeline sets nothing."),
                io.Audio.Input("audio", optional=True, tooltip="The audio as loaded: gives the length, and is drawn above the timeline."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[EmotionSocket.Output(display_name="emotion", tooltip="For the MEMO Sampler.", is_output_list=True)],
            is_input_list=True,
        )

    @classmethod
    def one(cls, timeline, emotion=None, audio=None) -> io.NodeOutput:
        segments, filling = parse_timeline(timeline), emotion or constant_emotion(NEUTRAL)
        sound = None if audio is None else sockets.to_audio(audio)
        samples = 0
        if sound is not None:
            samples = ceil_div(sound.waveform.shape[1] * filling.sample_rate, sound.sample_rate)
        track = timeline_track(segments, filling, samples)
        shown = ui.PreviewImage(draw_emotions(track, sound, adapter.check_interrupt)).as_dict()
        if sound is not None:  # which the editor draws, wherever it is from
            shown["memo_sound"] = [comfy_output.kept_sound(sound, adapter.check_interrupt)]
        return io.NodeOutput(track, ui=shown)


NODES = [MemoDetectEmotion, MemoSetEmotion, MemoEmotionTimeline]
