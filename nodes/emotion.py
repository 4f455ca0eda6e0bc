"""Nodes that decide the mood."""

from comfy_api.latest import io

from ..memo_modules.audio.emotion import constant_emotion, detect_emotion
from ..memo_modules.errors import InputError
from ..memo_modules.types import EMOTIONS
from . import comfy_adapter as adapter
from .types import EmotionModelSocket, EmotionSocket

CATEGORY = "MEMO/conditioning"


class MemoDetectEmotion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoDetectEmotion",
            display_name="MEMO Detect Emotion",
            category=CATEGORY,
            description="Hears the mood of each second of a voice.",
            inputs=[
                EmotionModelSocket.Input("emotion_model", tooltip="From Load MEMO Emotion Model."),
                io.Audio.Input("audio", tooltip="The audio as loaded."),
                io.Audio.Input("vocals", optional=True, tooltip="The separated voice; only heard when emotion_source is vocals."),
                io.Combo.Input(
                    "emotion_source",
                    options=["audio", "vocals"],
                    default="audio",
                    tooltip="What is listened to. audio: the sound as loaded, as the published sampler does. vocals: the separated "
                    "voice, as the model was trained; better over loud music.",
                ),
            ],
            outputs=[EmotionSocket.Output(display_name="emotion", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def execute(cls, emotion_model, audio, emotion_source, vocals=None) -> io.NodeOutput:
        if emotion_source == "vocals" and vocals is None:
            raise InputError("vocals: emotion_source is vocals, but nothing is connected. Connect MEMO Separate Vocals or choose audio.")
        heard = adapter.to_audio(vocals if emotion_source == "vocals" else audio, emotion_source)
        device = adapter.bring_in(emotion_model.encoder, emotion_model.classifier)
        encoder, classifier = emotion_model.encoder.model, emotion_model.classifier.model
        return io.NodeOutput(
            detect_emotion(encoder, classifier, heard, device, adapter.Progress(), adapter.check_interrupt, name=emotion_source)
        )


class MemoSetEmotion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSetEmotion",
            display_name="MEMO Set Emotion",
            category=CATEGORY,
            description="Sets one mood for the whole video by hand, instead of hearing it in the voice.",
            inputs=[io.Combo.Input("emotion", options=list(EMOTIONS), default="neutral", tooltip="The mood of the face.")],
            outputs=[EmotionSocket.Output(display_name="emotion", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def execute(cls, emotion) -> io.NodeOutput:
        return io.NodeOutput(constant_emotion(EMOTIONS.index(emotion)))


NODES = [MemoDetectEmotion, MemoSetEmotion]
