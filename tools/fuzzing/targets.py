"""What is fuzzed: small valid files, the damage that suits each, and what reads them."""

import io
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from memo_modules.audio.emotion import load_emotion_classifier
from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.audio.features import load_audio_encoder, prepare_waveform
from memo_modules.audio.io import decode
from memo_modules.clips import frame_rate
from memo_modules.models.layers import Layers
from memo_modules.pyav import audio_resampler
from memo_modules.store.converting import pickle_to_safetensors, to_single_files
from memo_modules.store.finding import find
from memo_modules.vae import load_autoencoder, load_widened
from memo_modules.weights import checkpoints
from tools.fuzzing.mutations import crowded_safetensors, damage, damaged_config, damaged_safetensors, damaged_zip
from tools.fuzzing.opcodes import damaged_opcodes
from tools.make_tiny_checkpoint import write_tiny_checkpoint

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"

Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """valid: a file, or a folder of them, that ``read(place)`` reads. damages: by name of a file in the folder, "" for the
    file itself."""

    valid: Path
    damages: dict[str, Damage]
    read: Callable[[Path], None]

    def case(self, draw: random.Random, place: Path) -> Callable[[], None]:
        """Writes a damaged copy to ``place``; what reads it."""
        name = draw.choice(list(self.damages))
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if name:
            copy = place / self.valid.name
            copy.mkdir()
            for file in self.valid.iterdir():
                if file.name != name:
                    (copy / file.name).symlink_to(file)
            damaged = copy / name
        else:
            copy = damaged = place / self.valid.name
        damaged.write_bytes(self.damages[name]((self.valid / name if name else self.valid).read_bytes(), draw))
        return lambda: self.read(copy)


def checkpoint_targets(folder: Path) -> dict[str, Target]:
    """Everything that reads weights, on the tiny checkpoint, which is written to ``folder``."""
    write_tiny_checkpoint(folder)
    tiny = folder / "memo" / "tiny"
    nets = {CONFIG: damaged_config, WEIGHTS: damaged_safetensors}
    pickles = _pickles(tiny, folder)
    return {
        "reference_net": Target(tiny / "reference_net", nets, _reference_net),
        "diffusion_net": Target(tiny / "diffusion_net", {CONFIG: damaged_config}, _net("diffusion_net")),
        "image_proj": Target(tiny / "image_proj", {WEIGHTS: damaged_safetensors}, _net("image_proj")),
        "audio_proj": Target(tiny / "audio_proj", {WEIGHTS: damaged_safetensors}, _net("audio_proj")),
        "single file": Target(_single_file(tiny, folder), {"": damaged_safetensors}, _single),
        "classifier": Target(tiny / "misc" / "audio_emotion_classifier", {WEIGHTS: damaged_safetensors}, _classifier),
        "emotion2vec": Target(folder / "memo/emotion2vec_plus_large/model.pt", {"": damaged_zip}, _emotion2vec),
        "emotion2vec safetensors": Target(_emotion2vec_safetensors(folder), {"": crowded_safetensors}, _emotion2vec),
        "audio encoder": Target(
            folder / "audio_encoders/wav2vec2-base-960h", {CONFIG: damaged_config, "model.safetensors": damaged_safetensors}, _audio_encoder
        ),
        "vae": Target(folder / "vae/sd-vae-ft-mse", {CONFIG: damaged_config, WEIGHTS: damaged_safetensors}, _vae),
        "pickle in a zip": Target(pickles["zip"], {"": damaged_zip}, _pickle),
        "pickle opcodes": Target(pickles["zip"], {"": damaged_opcodes}, _pickle),
        "older pickle": Target(pickles["old"], {"": damage}, _pickle),
    }


def listed(role: str, place: Path) -> None:
    """A list never fails, whatever lies in the folder."""
    try:
        find(role, [place.parent])
    except Exception as error:
        raise AssertionError(f"find({role!r}): {type(error).__name__}: {error}") from error


def _net(net: str) -> Callable[[Path], None]:
    def read(place: Path) -> None:
        listed("nets", place)
        checkpoints.load_net(place.parent, net, Layers(dtype=torch.float32))

    return read


def _reference_net(place: Path) -> None:
    """What is loaded computes."""
    listed("nets", place)
    net = checkpoints.load_net(place.parent, "reference_net", Layers(dtype=torch.float32))
    with torch.inference_mode():
        net(torch.zeros(1, net.config.in_channels, 8, 8), torch.zeros(1, 4, net.config.cross_attention_dim))


def _single_file(tiny: Path, folder: Path) -> Path:
    whole = folder / "memo" / "whole.safetensors"
    to_single_files(tiny, whole)
    parts = {key: tensor for key, tensor in load_file(whole).items() if key.startswith("image_proj.")}
    metadata = {checkpoints.CONFIGS: '{"image_proj": {"_class_name": "ImageProjModel"}}'}
    small = folder / "memo" / "small.safetensors"
    save_file(parts, small, metadata=metadata)
    return small


def _single(place: Path) -> None:
    listed("nets", place)
    checkpoints.load_net(place, "image_proj", Layers(dtype=torch.float32))


def _classifier(place: Path) -> None:
    listed("emotion_classifier", place)
    load_emotion_classifier(place)


def _emotion2vec(place: Path) -> None:
    listed("emotion2vec", place)
    load_emotion2vec(place)


def _emotion2vec_safetensors(folder: Path) -> Path:
    return pickle_to_safetensors(folder / "memo/emotion2vec_plus_large/model.pt", folder / "memo" / "converted" / "model.safetensors")


def _audio_encoder(place: Path) -> None:
    listed("audio_encoder", place)
    load_audio_encoder(place)


def _vae(place: Path) -> None:
    """As the trainer and as ComfyUI load it."""
    listed("vae", place)
    load_autoencoder(place)
    load_widened(place)


def _pickles(tiny: Path, folder: Path) -> dict[str, Path]:
    weights = load_file(tiny / "image_proj" / WEIGHTS)
    paths = {"zip": folder / "zipped.bin", "old": folder / "older.bin"}
    torch.save({"state_dict": weights, "epoch": 3}, paths["zip"])
    torch.save(weights, paths["old"], _use_new_zipfile_serialization=False)
    return paths


def _pickle(place: Path) -> None:
    """All that is read is written: no tensor may lie outside the file."""
    pickle_to_safetensors(place, place.with_suffix(".safetensors")).unlink()


def sound_targets(folder: Path) -> dict[str, Target]:
    """Half a second of a tone in the formats that voices come in, written to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    formats = (
        ("wav", "pcm_s16le", "s16", "mono", 16000),
        ("wav", "pcm_f32le", "flt", "5.1", 48000),
        ("wav", "adpcm_ms", "s16", "stereo", 22050),
        ("mp3", "libmp3lame", "fltp", "stereo", 44100),
        ("mp4", "aac", "fltp", "stereo", 48000),
        ("flac", "flac", "s16", "stereo", 44100),
        ("ogg", "libopus", "flt", "stereo", 48000),
        ("matroska", "libopus", "flt", "mono", 48000),
    )
    targets = {}
    for container, codec, sample_format, layout, rate in formats:
        file = folder / f"{codec}.{container}"
        file.write_bytes(encoded(container, codec, sample_format, layout, rate))
        targets[f"{container} {codec}"] = Target(file, {"": lambda content, draw: damage(content, draw, head=draw.choice((64, 512, 4096)))}, _sound)
    return targets


def encoded(container: str, codec: str, sample_format: str, layout: str, rate: int, seconds: float = 0.5) -> bytes:
    """A tone as a sound file, with a tag."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        file.metadata["title"] = "tone"
        stream = file.add_stream(codec, rate=rate, layout=layout)
        channels = stream.layout.nb_channels
        tone = (0.3 * np.sin(2 * math.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.repeat(tone[None], channels, axis=0), format="fltp", layout=layout)
        frame.sample_rate = rate
        convert = audio_resampler(format=sample_format, layout=layout, rate=rate, frame_size=stream.codec_context.frame_size or 1024)
        for block in (*convert.resample(frame), *convert.resample(None)):
            file.mux(stream.encode(block))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def _sound(place: Path) -> None:
    prepare_waveform(decode(place), frame_rate(30), 16, "exact")
