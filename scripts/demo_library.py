"""The steps of workflows/talking_portrait.json without a ComfyUI: portrait and voice in, video file out."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from memo_modules.audio import emotion, emotion2vec, features, io, vocals
from memo_modules.models.layers import Layers
from memo_modules.portrait.face import FaceAnalyzer, embed_face
from memo_modules.portrait.pictures import prepare_portrait
from memo_modules.sampler.sampling import MemoNets, sample_video
from memo_modules.store.obtain import find_model
from memo_modules.types import SamplerSettings
from memo_modules.vae import DiffusersVAE, load_autoencoder
from memo_modules.video.files import write_video
from memo_modules.weights.checkpoints import NETS, load_net

FPS = Fraction(30)


@torch.inference_mode()
def make_video(checkpoint: Path, image: Path, audio: Path, output: Path, size: int, sampling: dict) -> None:
    """Write ``output``, an mp4 of ``size`` x ``size`` pixels in which the portrait ``image`` speaks ``audio``.

    checkpoint: `models/memo/NAME`; the other models are found in the same `models` folder. sampling: of SamplerSettings.
    """
    models = checkpoint.parents[1]
    picture = torch.from_numpy(np.array(Image.open(image).convert("RGB"))).float() / 255  # h w c
    sound = io.decode(audio)
    print("  face", flush=True)
    face = embed_face(FaceAnalyzer.load(find_model("face_analysis", models, checkpoint.name)), picture)
    print("  voice", flush=True)
    voice = vocals.VocalSeparator.load(find_model("vocal_separator", models, checkpoint.name)).separate(sound)
    encoder = features.load_audio_encoder(find_model("audio_encoder", models))
    speech = features.encode_audio(encoder, voice, FPS)
    print("  emotion", flush=True)
    mood = emotion.detect_emotion(
        emotion2vec.load_emotion2vec(find_model("emotion2vec", models)),
        emotion.load_emotion_classifier(find_model("emotion_classifier", models, checkpoint.name)),
        sound,
    )
    layers = Layers(dtype=torch.float32)
    loaded = {net: load_net(checkpoint, net, layers) for net in NETS}
    nets = MemoNets(**loaded, device=torch.device("cpu"), dtype=torch.float32)
    vae = DiffusersVAE(load_autoencoder(find_model("vae", models, checkpoint.name)))
    settings = SamplerSettings(**sampling)
    print("  frames", flush=True)
    clips = sample_video(nets, vae, prepare_portrait(picture[None], size, size), face, speech, mood, settings, progress=_show)
    write_video(output, torch.cat([clip.frames for clip in clips]), FPS, sound)


def _show(done: int, total: int, preview: Tensor | None) -> None:
    print(f"    {done}/{total}", end="\r", flush=True)
