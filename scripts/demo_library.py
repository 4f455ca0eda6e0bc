"""The steps of workflows/talking_portrait.json without a ComfyUI: portrait and voice in, video file out."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..memo_modules.audio import emotion, emotion2vec, features, io, vocals
from ..memo_modules.checkpoints import NETS, load_net
from ..memo_modules.face import FaceAnalyzer, embed_face
from ..memo_modules.models.layers import Layers
from ..memo_modules.portrait import prepare_portrait
from ..memo_modules.sampling import MemoNets, sample_video
from ..memo_modules.store import obtain
from ..memo_modules.store.catalogue import CATALOGUE
from ..memo_modules.types import Audio, SamplerSettings
from ..memo_modules.vae import DiffusersVAE

FPS = Fraction(30)


@torch.inference_mode()
def make_video(checkpoint: Path, image: Path, audio: Path, output: Path, size: int, steps: int, seed: int) -> None:
    """Write ``output``, an mp4 of ``size`` x ``size`` pixels in which the portrait ``image`` speaks ``audio``.

    checkpoint: `models/memo/NAME`; the other models are found in the same `models` folder.
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
    vae = DiffusersVAE(load_vae(models / "vae"))
    settings = SamplerSettings(steps=steps, seed=seed)
    print("  frames", flush=True)
    clips = sample_video(nets, vae, prepare_portrait(picture[None], size, size), face, speech, mood, settings, progress=_show)
    write_video(output, torch.cat([clip.frames for clip in clips]), FPS, sound)


def find_model(role: str, models: Path, name: str | None = None) -> Path:
    """The model of a role, the one of that name where there are several. Raises CheckpointError that lists what is missing."""

    def roots(kind: str) -> list[Path]:
        return [models / kind]

    found = obtain.listing(role, roots).found
    return found.get(name) or next(iter(found.values()), None) or obtain.obtain(role, CATALOGUE[role].name, roots)


def load_vae(folder: Path) -> AutoencoderKL:
    """sd-vae-ft-mse from the folder as diffusers writes it, or from the published file alone."""
    if (folder / "sd-vae-ft-mse").is_dir():
        return AutoencoderKL.from_pretrained(folder / "sd-vae-ft-mse", low_cpu_mem_usage=False)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, norm_num_groups=32)
    vae.load_state_dict(load_file(folder / CATALOGUE["vae"].name))
    return vae.eval()


def write_video(path: Path, frames: Tensor, fps: Fraction, audio: Audio) -> None:
    """An mp4 (H.264, AAC) of ``frames`` (f 3 h w) in [0, 1] with ``audio`` of one or two channels beside them."""
    pictures = (frames * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "yuv420p"
        layout = "mono" if audio.waveform.shape[0] == 1 else "stereo"
        sound = container.add_stream("aac", rate=audio.sample_rate, layout=layout)
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(audio.waveform.float().contiguous().numpy(), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = audio.sample_rate, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def _show(done: int, total: int, preview: Tensor | None) -> None:
    print(f"    {done}/{total}", end="\r", flush=True)
