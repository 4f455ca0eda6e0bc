"""Videos as a workflow makes them: portrait and voice through the library, without a ComfyUI."""

import hashlib
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memo_modules.audio import emotion, emotion2vec, features, vocals
from memo_modules.models.layers import Layers
from memo_modules.portrait.face import FaceAnalyzer, embed_face
from memo_modules.portrait.pictures import prepare_portrait
from memo_modules.sampler.sampling import MemoNets, sample_video
from memo_modules.store.obtain import find_model
from memo_modules.types import EMOTIONS, Audio, AudioFeatures, Face, SamplerSettings
from memo_modules.vae import DiffusersVAE, load_autoencoder
from memo_modules.weights.checkpoints import NETS, load_net
from scripts.demo_library import FPS
from tools.evaluation.variants import Case, Variant
from tools.small_world import SAMPLE_RATE


class Forgetful:
    """A diffusion net that forgets all but the past frames of the clip at hand: once per clip, or again at each step."""

    def __init__(self, net: nn.Module, each_step: bool):
        self.net, self.each_step = net, each_step
        self.past = None

    def __getattr__(self, name: str):
        return getattr(self.net, name)

    def update_memory(self, past, memory, frames: int) -> None:
        memory[:] = self.net.empty_memory()
        self.past = past, frames
        self.net.update_memory(past, memory, frames)

    def __call__(self, *inputs) -> Tensor:
        if self.each_step:
            *_, memory, _ = inputs
            past, frames = self.past
            memory[:] = self.net.empty_memory()
            self.net.update_memory(past, memory, frames)
        return self.net(*inputs)


@dataclass(frozen=True)
class Inputs:
    """What the sampler gets for a case, whatever the variant."""

    portrait: Tensor
    face: Face
    speech: AudioFeatures


@dataclass(frozen=True)
class Rendered:
    """frames: uint8 (f size size 3). seconds: per clip, in the order of the video; empty where nothing was sampled."""

    frames: np.ndarray
    seconds: tuple[float, ...]


def sound_of(case: Case) -> Audio:
    """The voice of a case."""
    return Audio(torch.from_numpy(case.clip().audio)[None], SAMPLE_RATE)


def weights_hash(models: Path, checkpoint: Path) -> str:
    """SHA-256 over the weights of nets and VAE."""
    digest = hashlib.sha256()
    for place in [*(checkpoint / net for net in NETS), find_model("vae", models, checkpoint.name)]:
        for file in [place] if place.is_file() else sorted(place.rglob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


class Model:
    """Everything that makes videos, loaded from a ComfyUI's ``models`` folder.

    checkpoint: folder of the nets. Of the other models the one of that name counts, or
    the first that is there.
    """

    def __init__(self, models: Path, checkpoint: Path, size: int, device: str = "cpu"):
        self.size, self.device = size, torch.device(device)
        layers = Layers(dtype=torch.float32)
        nets = {net: load_net(checkpoint, net, layers).to(self.device) for net in NETS}
        self.nets = MemoNets(**nets, device=self.device, dtype=torch.float32)
        self.models, self.name = models, checkpoint.name
        self.vae = DiffusersVAE(load_autoencoder(find_model("vae", models, self.name)).to(self.device), batch=16)
        self.inputs: dict[Case, Inputs] = {}

    @cached_property
    def face(self) -> FaceAnalyzer:
        return FaceAnalyzer.load(self._find("face_analysis"))

    @cached_property
    def separator(self) -> vocals.VocalSeparator:
        return vocals.VocalSeparator.load(self._find("vocal_separator"))

    @cached_property
    def audio_encoder(self) -> features.AudioEncoder:
        return features.load_audio_encoder(self._find("audio_encoder"))

    @cached_property
    def emotion_models(self) -> tuple:
        classifier = emotion.load_emotion_classifier(self._find("emotion_classifier"))
        return emotion2vec.load_emotion2vec(self._find("emotion2vec")), classifier

    def _find(self, role: str) -> Path:
        return find_model(role, self.models, self.name)

    @torch.inference_mode()
    def prepare(self, case: Case) -> Inputs:
        """The inputs of a case, made once."""
        if case not in self.inputs:
            picture = torch.from_numpy(case.portrait(self.size)).float() / 255
            speech = features.encode_audio(self.audio_encoder, self.separator.separate(sound_of(case)), FPS)
            face = embed_face(self.face, picture)
            self.inputs[case] = Inputs(prepare_portrait(picture[None], self.size, self.size), face, speech)
        return self.inputs[case]

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Frames, uint8 (f size size 3), encoded and decoded."""
        pictures = torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1
        return _pixels(self.vae.decode(self.vae.encode(pictures)))

    def render(self, case: Case, variant: Variant, settings: SamplerSettings) -> Rendered:
        """The video of a case. settings: those of the variant; the seed of the noise moves with the voice."""
        inputs = self.prepare(case)
        mood = emotion.constant_emotion(EMOTIONS.index(case.mood))
        if variant.mood == "heard":
            mood = emotion.detect_emotion(*self.emotion_models, sound_of(case))
        nets = self.nets
        if variant.memory != "carried":
            nets = replace(nets, diffusion_net=Forgetful(nets.diffusion_net, each_step=variant.memory == "reset_step"))
        settings = replace(settings, seed=settings.seed + case.voice)
        clips = sample_video(nets, self.vae, inputs.portrait, inputs.face, inputs.speech, mood, settings)
        frames, seconds, began = [], [], time.perf_counter()
        for clip in clips:
            frames.append(_pixels(clip.frames))
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
        return Rendered(np.concatenate(frames), tuple(seconds))


def _pixels(frames: Tensor) -> np.ndarray:
    """(f 3 h w) in [0, 1] to uint8 (f h w 3)."""
    return (frames * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
