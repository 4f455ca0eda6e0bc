"""Nodes that load models. Each lists what is in the model folders and loads it when it runs."""

import torch
from comfy_api.latest import io

from ..memo_modules import checkpoints
from ..memo_modules.audio.emotion import load_emotion_classifier
from ..memo_modules.audio.emotion2vec import load_emotion2vec
from ..memo_modules.audio.features import load_audio_encoder
from ..memo_modules.audio.vocals import VocalSeparator
from ..memo_modules.face import FaceAnalyzer
from . import comfy_adapter as adapter
from .types import (
    AudioEncoderModel,
    AudioEncoderSocket,
    EmotionModel,
    EmotionModelSocket,
    FaceAnalysisSocket,
    MemoModel,
    MemoModelSocket,
    VocalSeparatorSocket,
)

CATEGORY = "MEMO/loaders"

CLASSIFIER = "misc/audio_emotion_classifier"
FACE_ANALYSIS = "misc/face_analysis/models"
VOCAL_SEPARATOR = "misc/vocal_separator/Kim_Vocal_2.onnx"


def checkpoint_folders() -> dict:
    return adapter.find_folders(adapter.MODEL_FOLDER, *checkpoints.NETS)


def audio_encoder_folders() -> dict:
    return adapter.find_folders("audio_encoders", "config.json")


def emotion2vec_folders() -> dict:
    return adapter.find_folders(adapter.MODEL_FOLDER, "model.safetensors", "model.pt")


def folders_with(marker: str) -> dict:
    return adapter.find_folders(adapter.MODEL_FOLDER, marker)


class MemoLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadModel",
            display_name="Load MEMO Model",
            category=CATEGORY,
            description="Loads the four nets of a MEMO checkpoint: reference net, diffusion net and the projections of face and audio.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(checkpoint_folders()),
                    tooltip="Folder in models/memo that holds reference_net, diffusion_net, image_proj and audio_proj.",
                ),
                io.Boolean.Input(
                    "compiled",
                    default=False,
                    optional=True,
                    tooltip="Compile the diffusion net with torch.compile. The first clip of each size then takes minutes longer, all "
                    "others less. Needs Triton and a C compiler, and a card that holds all of the weights.",
                ),
            ],
            outputs=[MemoModelSocket.Output(display_name="model", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model, compiled=False):
        folder = adapter.pick_folder(checkpoint_folders(), model, "model:")
        return adapter.fingerprint(*(folder / net for net in checkpoints.NETS))

    @classmethod
    def execute(cls, model, compiled=False) -> io.NodeOutput:
        folder = adapter.pick_folder(checkpoint_folders(), model, "model:")
        dtype = adapter.compute_dtype()
        unet, projection = adapter.layers(dtype), adapter.layers(torch.float32)
        nets = {
            net: checkpoints.load_net(folder, net, projection if net.endswith("proj") else unet) for net in checkpoints.NETS
        }
        checkpoints.check_fit(folder, nets)
        adapter.accelerate(nets["reference_net"], compiled=False)
        regions = adapter.accelerate(nets["diffusion_net"], compiled)
        patchers = {net: adapter.manage(module) for net, module in nets.items()}
        return io.NodeOutput(MemoModel(dtype, **patchers, compiled_regions=regions))


class MemoLoadAudioEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadAudioEncoder",
            display_name="Load MEMO Audio Encoder",
            category=CATEGORY,
            description="Loads wav2vec2, which turns a voice into what the lips follow.",
            inputs=[
                io.Combo.Input(
                    "audio_encoder",
                    options=list(audio_encoder_folders()),
                    tooltip="Folder in models/audio_encoders with config.json and weights; MEMO was made with wav2vec2-base-960h.",
                )
            ],
            outputs=[AudioEncoderSocket.Output(display_name="audio_encoder", tooltip="For MEMO Encode Audio.")],
        )

    @classmethod
    def fingerprint_inputs(cls, audio_encoder):
        return adapter.fingerprint(adapter.pick_folder(audio_encoder_folders(), audio_encoder, "audio_encoder:"))

    @classmethod
    def execute(cls, audio_encoder) -> io.NodeOutput:
        folder = adapter.pick_folder(audio_encoder_folders(), audio_encoder, "audio_encoder:")
        return io.NodeOutput(AudioEncoderModel(adapter.manage(load_audio_encoder(folder))))


class MemoLoadEmotionModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadEmotionModel",
            display_name="Load MEMO Emotion Model",
            category=CATEGORY,
            description="Loads emotion2vec and MEMO's classifier, which hear the mood of a voice.",
            inputs=[
                io.Combo.Input(
                    "emotion2vec",
                    options=list(emotion2vec_folders()),
                    tooltip="Folder in models/memo with model.pt or model.safetensors of emotion2vec_plus_large.",
                ),
                io.Combo.Input(
                    "classifier",
                    options=list(folders_with(CLASSIFIER)),
                    tooltip=f"MEMO checkpoint in models/memo that holds {CLASSIFIER}.",
                ),
            ],
            outputs=[EmotionModelSocket.Output(display_name="emotion_model", tooltip="For MEMO Detect Emotion.")],
        )

    @classmethod
    def _paths(cls, emotion2vec, classifier):
        folder = adapter.pick_folder(emotion2vec_folders(), emotion2vec, "emotion2vec:")
        converted = folder / "model.safetensors"
        checkpoint = adapter.pick_folder(folders_with(CLASSIFIER), classifier, "classifier:")
        return converted if converted.exists() else folder / "model.pt", checkpoint / CLASSIFIER

    @classmethod
    def fingerprint_inputs(cls, emotion2vec, classifier):
        return adapter.fingerprint(*cls._paths(emotion2vec, classifier))

    @classmethod
    def execute(cls, emotion2vec, classifier) -> io.NodeOutput:
        encoder, mlp = cls._paths(emotion2vec, classifier)
        operations = adapter.layers(torch.float32).operations
        return io.NodeOutput(
            EmotionModel(
                adapter.manage(load_emotion2vec(encoder, operations)),
                adapter.manage(load_emotion_classifier(mlp, operations)),
            )
        )


class MemoLoadVocalSeparator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadVocalSeparator",
            display_name="Load MEMO Vocal Separator",
            category=CATEGORY,
            description="Opens Kim_Vocal_2, which separates a voice from music and noise.",
            inputs=[
                io.Combo.Input(
                    "vocal_separator",
                    options=list(folders_with(VOCAL_SEPARATOR)),
                    tooltip=f"MEMO checkpoint in models/memo that holds {VOCAL_SEPARATOR}.",
                )
            ],
            outputs=[VocalSeparatorSocket.Output(display_name="vocal_separator", tooltip="For MEMO Separate Vocals.")],
        )

    @classmethod
    def _path(cls, vocal_separator):
        return adapter.pick_folder(folders_with(VOCAL_SEPARATOR), vocal_separator, "vocal_separator:") / VOCAL_SEPARATOR

    @classmethod
    def fingerprint_inputs(cls, vocal_separator):
        return adapter.fingerprint(cls._path(vocal_separator))

    @classmethod
    def execute(cls, vocal_separator) -> io.NodeOutput:
        return io.NodeOutput(VocalSeparator.load(cls._path(vocal_separator), adapter.onnx_providers()))


class MemoLoadFaceAnalysis(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadFaceAnalysis",
            display_name="Load MEMO Face Analysis",
            category=CATEGORY,
            description="Opens the face detector and the face recogniser of insightface.",
            inputs=[
                io.Combo.Input(
                    "face_analysis",
                    options=list(folders_with(FACE_ANALYSIS)),
                    tooltip=f"MEMO checkpoint in models/memo that holds {FACE_ANALYSIS}.",
                )
            ],
            outputs=[FaceAnalysisSocket.Output(display_name="face_analysis", tooltip="For MEMO Embed Face.")],
        )

    @classmethod
    def _folder(cls, face_analysis):
        return adapter.pick_folder(folders_with(FACE_ANALYSIS), face_analysis, "face_analysis:") / FACE_ANALYSIS

    @classmethod
    def fingerprint_inputs(cls, face_analysis):
        return adapter.fingerprint(cls._folder(face_analysis))

    @classmethod
    def execute(cls, face_analysis) -> io.NodeOutput:
        return io.NodeOutput(FaceAnalyzer.load(cls._folder(face_analysis), adapter.onnx_providers()))


NODES = [MemoLoadModel, MemoLoadAudioEncoder, MemoLoadEmotionModel, MemoLoadVocalSeparator, MemoLoadFaceAnalysis]
