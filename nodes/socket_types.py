"""The MEMO_* sockets, each with the value that it carries."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_api.latest import io

from ..memo_modules.models.config import DiffusionNetConfig


@dataclass(frozen=True)
class MemoModel:
    """The four nets of a checkpoint, each in a ModelPatcher of ComfyUI; the UNets compute in ``dtype``.

    compiled_regions: of the diffusion net, for when all of its weights are on the device; empty without compilation. weights: digest of
    the weights as they were loaded. loras: digests of files that change them, each with its strength. distilled: the recipe of the last of
    those that has one.
    """

    dtype: torch.dtype
    reference_net: Any
    diffusion_net: Any
    image_proj: Any
    audio_proj: Any
    compiled_regions: dict
    weights: str
    loras: tuple[tuple[str, float], ...] = ()
    distilled: Mapping[str, Any] = field(default_factory=dict)

    @property
    def patchers(self) -> list:
        return [self.reference_net, self.diffusion_net, self.image_proj, self.audio_proj]

    def get_models(self) -> list:
        """By which ComfyUI knows what the prompt that runs has in use."""
        return self.patchers

    @property
    def config(self) -> DiffusionNetConfig:
        return self.diffusion_net.model.config

    @property
    def recipe(self) -> Mapping[str, Any]:
        """SamplerSettings that the model, or a LoRA in it, was distilled for; empty for others."""
        return self.distilled or self.config.recipe

    def digest(self) -> str:
        """Of what the nets compute, whichever LoRA ComfyUI has just put into them."""
        return hashlib.sha256(f"{self.weights} {self.loras}".encode()).hexdigest() if self.loras else self.weights


@dataclass(frozen=True)
class EmotionModel:
    """emotion2vec and MEMO's classifier, each in a ModelPatcher."""

    encoder: Any
    classifier: Any

    def get_models(self) -> list:
        """See MemoModel.get_models."""
        return [self.encoder, self.classifier]


@dataclass(frozen=True)
class AudioEncoderModel:
    """wav2vec2 in a ModelPatcher."""

    encoder: Any

    def get_models(self) -> list:
        """See MemoModel.get_models."""
        return [self.encoder]


@dataclass(frozen=True)
class MemoModels:
    """All that MEMO Talking Portrait needs, each as its loader gives it."""

    model: MemoModel
    vae: Any
    audio_encoder: AudioEncoderModel
    emotion_model: EmotionModel
    vocal_separator: Any
    face_analysis: Any

    def get_models(self) -> list:
        """See MemoModel.get_models."""
        return [*self.model.get_models(), *self.audio_encoder.get_models(), *self.emotion_model.get_models(), self.vae.patcher]


MemoModelSocket = io.Custom("MEMO_MODEL")
"""MemoModel"""
MemoModelsSocket = io.Custom("MEMO_MODELS")
"""MemoModels"""
AudioEncoderSocket = io.Custom("MEMO_AUDIO_ENCODER")
"""AudioEncoderModel"""
EmotionModelSocket = io.Custom("MEMO_EMOTION_MODEL")
"""EmotionModel"""
VocalSeparatorSocket = io.Custom("MEMO_VOCAL_SEPARATOR")
"""memo_modules.audio.vocals.VocalSeparator in a ModelPatcher"""
FaceAnalysisSocket = io.Custom("MEMO_FACE_ANALYSIS")
"""memo_modules.face.FaceAnalyzer in a ModelPatcher"""
AudioFeaturesSocket = io.Custom("MEMO_AUDIO")
"""memo_modules.types.AudioFeatures"""
EmotionSocket = io.Custom("MEMO_EMOTION")
"""memo_modules.types.EmotionTrack"""
FaceSocket = io.Custom("MEMO_FACE")
"""memo_modules.types.Face"""
CropSocket = io.Custom("MEMO_CROP")
"""memo_modules.types.Crop"""
VideoStateSocket = io.Custom("MEMO_STATE")
"""memo_modules.types.VideoState"""
