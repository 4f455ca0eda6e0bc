"""The front door: everything is loaded once, then a portrait and a voice become a talking video.

    from memo_modules.pipeline import MemoPipeline

    pipeline = MemoPipeline.from_models("ComfyUI/models", device="cuda")
    pipeline("portrait.png", "voice.wav").save("talking.mp4")

It needs no ComfyUI. The nodes wire the same parts by themselves, under ComfyUI's memory management.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .audio.emotion import check_fit as check_emotion_fit
from .audio.emotion import constant_emotion, detect_emotion, load_emotion_classifier
from .audio.emotion2vec import Emotion2Vec, load_emotion2vec
from .audio.features import AudioEncoder, encode_audio, load_audio_encoder
from .audio.io import decode
from .audio.vocals import VocalSeparator
from .clips import FPS
from .errors import InputError
from .host_memory import has_room
from .models import acceleration
from .models.emotion_classifier import EmotionClassifier
from .models.kernels.autotune import capability_of
from .models.layers import Layers, sdpa
from .portrait.face import FaceAnalyzer, embed_face
from .portrait.framing import crop_portrait, framed_portrait
from .portrait.pictures import prepare_portrait
from .sampler import recipes
from .sampler.footprint import Footprint
from .sampler.sampling import MemoNets, SampledClip, sample_video
from .sampler.streaming import TakingTurns
from .small_decoder import DECODERS, KIND, SmallDecoder, find_small_decoder, load_small_decoder
from .store.obtain import find_model
from .types import DEFAULT_SETTINGS, EMOTIONS, Audio, AudioFeatures, EmotionTrack, Face, SamplerSettings
from .vae import DiffusersVAE, load_autoencoder
from .video.files import join_segments, write_segment
from .video.formats import DEFAULT_FORMAT, VideoFormat
from .weights.checkpoints import NETS, check_fit, load_net
from .weights.lora import Loras, recipe_of, with_loras
from .words import quoted

Picture = Path | str | np.ndarray | Tensor
"""A file, or RGB (h w 3): uint8, or floats in [0, 1]."""

Sound = Path | str | Audio
"""A file, or a waveform."""


DTYPES = {
    "auto": Layers(),
    "bf16": Layers(dtype=torch.bfloat16),
    "fp16": Layers(dtype=torch.float16),
    "fp32": Layers(dtype=torch.float32),
    "fp16_fp32": Layers(dtype=torch.float16, stream=torch.float32),
    "fp8_e4m3fn_scaled": Layers(storage=torch.float8_e4m3fn, scaled=True),
    "int8_scaled": Layers(storage=torch.int8, scaled=True),
}
"""By the names that Load MEMO Model has for them. Without a dtype: the best of the device."""


@dataclass(frozen=True)
class Conditioning:
    """What steers the sampler: the portrait (1 3 H W) in [-1, 1], who it is, what is said and in which mood; ``sound`` is what is
    heard in the finished video."""

    portrait: Tensor
    face: Face
    audio: AudioFeatures
    emotion: EmotionTrack
    sound: Audio | None = None


@dataclass(frozen=True)
class TalkingVideo:
    """A video that is made as it is asked for: iterate over its clips, or ``save`` it. Each use makes it anew."""

    make: Callable[[], Iterator[SampledClip]]
    conditioning: Conditioning

    def __iter__(self) -> Iterator[SampledClip]:
        return self.make()

    @property
    def fps(self) -> Fraction:
        return self.conditioning.audio.fps

    def frames(self) -> Tensor:
        """All of them, float32 (f 3 H W) in [0, 1]."""
        return torch.cat([clip.frames for clip in self])

    def save(self, path: Path | str, format: VideoFormat = DEFAULT_FORMAT) -> Path:
        """A file with the sound, which says that it is synthetic. Clips are encoded as they come: memory does not grow with them.

        Sound of a rate that ``format`` does not take is resampled, that of too many channels mixed. Raises InputError for sizes that it
        does not take, before the first clip; StorageError when the disk is full.
        """
        path, sound, (height, width) = Path(path), self.conditioning.sound, self.conditioning.portrait.shape[2:]
        sound = None if sound is None else format.fitted(sound)[0]
        format.check(height, width, sound)
        with TemporaryDirectory() as folder:
            segments = []
            for number, clip in enumerate(self):
                if len(clip.frames):
                    segments.append(Path(folder, f"{number:06}{format.suffix}"))
                    write_segment(segments[-1], clip.frames, self.fps, format)
            join_segments(path, segments, self.fps, format, sound)
        return path


@dataclass
class MemoPipeline:
    """Everything that makes a video. What else than nets and VAE is needed is loaded when it is first asked for.

    find: where the model of a role is (see store.catalogue). device: where everything computes. models: the folder of find_small_decoder.
    """

    nets: MemoNets
    vae: DiffusersVAE
    find: Callable[[str], Path]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    models: Path = Path("models")

    @classmethod
    def from_models(
        cls,
        models: Path | str,
        checkpoint: Path | str | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        loras: Loras = (),
        **names: str,
    ) -> "MemoPipeline":
        """Load from a ComfyUI's ``models`` folder.

        Args:
            checkpoint: name in ``models/memo``, or the path of a folder or single file, such as a finetuned one. By default the first found.
            device: where everything computes.
            dtype: of the UNets and the VAE, of torch or one of DTYPES. By default bfloat16 on a GPU that has it, else float16; float32 on other
                devices.
            loras: low-rank changes that are merged into the nets, each with its strength; see weights.lora.read_lora.
            names: by role (``vae``, ``audio_encoder``, ``emotion2vec`` ..), where there is more than one model of it. By default the one
                named like the checkpoint, or the first found.

        Raises:
            CheckpointError: a model is missing, damaged or of another kind.
            InputError: a dtype that there is not, or not on this device.
        """
        device = torch.device(device)
        layers = layers_of(dtype, device)
        place, find = find_models(models, checkpoint, names)
        nets = load_nets(place, device, layers, loras)
        vae = DiffusersVAE(load_autoencoder(find("vae"), nets.dtype).to(device), batch=4 if device.type == "cuda" else 16)
        return cls(nets, vae, find, device, Path(models))

    @cached_property
    def face_analyzer(self) -> FaceAnalyzer:
        return FaceAnalyzer.load(self.find("face_analysis"), cuda=self.device.type == "cuda")

    @cached_property
    def small_decoder(self) -> SmallDecoder:
        """Raises CheckpointError when its file is missing or another one."""
        return SmallDecoder(load_small_decoder(find_small_decoder([self.models / KIND]), self.vae.autoencoder.dtype).to(self.device))

    @cached_property
    def vocal_separator(self) -> VocalSeparator:
        return VocalSeparator.load(self.find("vocal_separator"), cuda=self.device.type == "cuda")

    @cached_property
    def audio_encoder(self) -> AudioEncoder:
        return load_audio_encoder(self.find("audio_encoder")).to(self.device)

    @cached_property
    def emotion_models(self) -> tuple[Emotion2Vec, EmotionClassifier]:
        encoder_place, classifier_place = self.find("emotion2vec"), self.find("emotion_classifier")
        encoder, classifier = load_emotion2vec(encoder_place), load_emotion_classifier(classifier_place)
        check_emotion_fit(encoder, encoder_place, classifier, classifier_place)
        return encoder.to(self.device), classifier.to(self.device)

    def __call__(
        self,
        portrait: Picture,
        voice: Sound,
        settings: SamplerSettings = DEFAULT_SETTINGS,
        *,
        size: tuple[int, int] = (512, 512),
        fps: Fraction = FPS,
        emotion: str | EmotionTrack | None = None,
        separate: bool = True,
        crop: bool = True,
        allow_no_face: bool = False,
        **options,
    ) -> TalkingVideo:
        """The video in which ``portrait`` says ``voice``; nothing is sampled before it is iterated over or saved.

        Args:
            portrait: a picture with a face; of several the largest is used.
            voice: what is said, and the sound of the video.
            size: (width, height) in pixels, multiples of 8.
            emotion: one of EMOTIONS, or a track; by default it is detected in the voice.
            separate: take the voice out of music and noise first; not needed for a clean recording.
            crop: cut out the square around the face, see framing.framed_portrait, where ``size`` is square; otherwise the picture is squashed.
            allow_no_face: accept a picture in which no face is found, such as a drawing.
            options: see ``sample``.

        Raises:
            InputError: the portrait, the voice or a setting cannot be used.
        """
        conditioning = self.condition(portrait, voice, size=size, fps=fps, emotion=emotion, separate=separate, crop=crop, allow_no_face=allow_no_face)
        return self.sample(conditioning, settings, **options)

    @torch.inference_mode()
    def condition(
        self,
        portrait: Picture,
        voice: Sound,
        *,
        size: tuple[int, int] = (512, 512),
        fps: Fraction = FPS,
        emotion: str | EmotionTrack | None = None,
        separate: bool = True,
        crop: bool = True,
        allow_no_face: bool = False,
        timing: str = "exact",
    ) -> Conditioning:
        """What ``sample`` needs of a portrait and a voice, to be used as often as one likes; see ``__call__``."""
        ready, face = self.portrait(portrait, size, allow_no_face, crop=crop)
        sound, audio = self.voice(voice, fps, separate, timing)
        return Conditioning(ready, face, audio, self.emotion(emotion, sound), sound)

    @torch.inference_mode()
    def portrait(
        self,
        picture: Picture,
        size: tuple[int, int],
        allow_no_face: bool = False,
        index: int = 0,
        margin: float | None = None,
        crop: bool = True,
    ) -> tuple[Tensor, Face]:
        """The portrait (1 3 H W) in [-1, 1] of ``size`` (width, height), and whose it is. index: which face, 0 the largest. margin: the square
        around that face is the portrait, with this much room around it, see framing.crop_portrait; None for what ``crop`` says, see
        framing.framed_portrait."""
        pixels = load_picture(picture)
        if margin is None:
            image, face = framed_portrait(self.face_analyzer, pixels[None], size[0], crop and size[0] == size[1], allow_no_face, index)
        else:
            face = embed_face(self.face_analyzer, pixels, index, allow_no_face)
            image = crop_portrait(self.face_analyzer, pixels, index, margin, size[0])[0]
        return prepare_portrait(image, *size), face

    @torch.inference_mode()
    def voice(self, sound: Sound, fps: Fraction = FPS, separate: bool = True, timing: str = "exact") -> tuple[Audio, AudioFeatures]:
        """What is heard, and what the lips follow."""
        heard = sound if isinstance(sound, Audio) else decode(Path(sound))
        spoken = self.vocal_separator.separate(heard) if separate else heard
        return heard, encode_audio(self.audio_encoder, spoken, fps, timing=timing, device=self.device)

    def sample(
        self,
        conditioning: Conditioning,
        settings: SamplerSettings = DEFAULT_SETTINGS,
        memory_mode: str = "auto",
        preset: str = recipes.PRESETS[0],
        decoder: str = DECODERS[0],
        **options,
    ) -> TalkingVideo:
        """The video of ``conditioning``. memory_mode: see footprint.MEMORY_MODES; preset: see recipes.PRESETS; decoder: see
        small_decoder.DECODERS; options: see sampling.sample_video."""
        if decoder not in DECODERS:
            raise InputError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}.")
        shown = self.small_decoder if decoder == "small" else None
        settings = recipes.apply(preset, settings, self.nets.diffusion_net.config.recipe)

        def make() -> Iterator[SampledClip]:
            c = conditioning
            nets, low_memory = self._nets_for(c, settings, memory_mode)
            return sample_video(nets, self.vae, c.portrait, c.face, c.audio, c.emotion, settings, low_memory=low_memory, decoder=shown, **options)

        return TalkingVideo(make, conditioning)

    @torch.inference_mode()
    def emotion(self, emotion: str | EmotionTrack | None, sound: Audio) -> EmotionTrack:
        """The mood over time; None: as it is detected in the sound."""
        if isinstance(emotion, EmotionTrack):
            return emotion
        if emotion is None:
            return detect_emotion(*self.emotion_models, sound, self.device)
        if emotion not in EMOTIONS:
            raise InputError(f"emotion: expected one of {', '.join(EMOTIONS)}, got {emotion!r}.")
        return constant_emotion(EMOTIONS.index(emotion))

    def _nets_for(self, conditioning: Conditioning, settings: SamplerSettings, memory_mode: str) -> tuple[MemoNets, bool]:
        """The nets, brought in with room for this video, and whether in low-memory mode."""
        nets, audio = self.nets, conditioning.audio
        if self.device.type != "cuda":
            return nets, memory_mode == "low"
        height, width = (side // self.vae.factor for side in conditioning.portrait.shape[2:])
        phases = {"reference": (nets.reference_net, nets.image_proj), "diffusion": (nets.diffusion_net, nets.audio_proj)}
        weights = {phase: sum(tensor.nbytes for net in each for tensor in net.state_dict().values()) for phase, each in phases.items()}
        room = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        stream, size = nets.diffusion_net.stream, (height, width)
        footprint = Footprint(nets.diffusion_net.config, size, settings, audio.clip_frames, nets.dtype.itemsize, stream and stream.itemsize)
        plan = footprint.plan(weights, room, memory_mode)
        unets = {"reference": nets.reference_net, "diffusion": nets.diffusion_net}
        if plan.low_memory:
            eight_bits = footprint.needs_eight_bits(plan, has_room)
            return replace(nets, bring_in=TakingTurns(unets, self.device), resident_share=plan.resident_share, eight_bits=eight_bits), True
        for net in unets.values():  # a video in low-memory mode may have left them in RAM
            net.to(self.device)
        return nets, False


def find_models(models: Path | str, checkpoint: Path | str | None, names: Mapping[str, str]) -> tuple[Path, Callable[[str], Path]]:
    """Where the nets are, and what tells where the model of a role is; see MemoPipeline.from_models. Raises CheckpointError."""
    place = Path(checkpoint) if checkpoint is not None else None
    if place is None or not place.exists():
        place = find_model("nets", Path(models), None if checkpoint is None else str(checkpoint))
    like = place.stem if place.is_file() else place.name
    return place, lambda role: find_model(role, Path(models), names.get(role, like))


def load_nets(checkpoint: Path, device: torch.device, layers: Layers, loras: Loras = ()) -> MemoNets:
    """The four nets of a folder or a single file, ``loras`` merged into them, the UNets of ``layers``, with what is fastest on ``device``.
    Raises CheckpointError, see load_net."""
    capability = capability_of(device)
    layers = acceleration.for_device(layers, capability, on_cpu=device.type == "cpu", attention={"torch": sdpa})
    projections = Layers(dtype=torch.float32)
    change = partial(with_loras, loras)
    nets: dict[str, Any] = {net: load_net(checkpoint, net, projections if net.endswith("proj") else layers, change=change) for net in NETS}
    check_fit(checkpoint, nets)
    config = nets["diffusion_net"].config
    nets["diffusion_net"].config = replace(config, recipe=recipe_of(loras, config.recipe))
    dtype = layers.dtype or torch.float32
    if capability:
        acceleration.autotune_kernels(layers, config, device, dtype)
    return MemoNets(**{name: net.to(device) for name, net in nets.items()}, device=device, dtype=dtype)


def layers_of(dtype: torch.dtype | str | None, device: torch.device) -> Layers:
    """torch's layers in a dtype of its own, or in one of DTYPES. Raises InputError."""
    layers = Layers(dtype=dtype) if isinstance(dtype, torch.dtype) else DTYPES.get(dtype or "auto")
    if layers is None:
        raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {quoted(dtype)}.")
    if device.type == "mps" and layers.storage == torch.float8_e4m3fn:
        raise InputError(f"dtype: {device} does not support {dtype}. Choose int8_scaled.")
    return replace(layers, dtype=layers.dtype or _best_dtype(device))


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def devices_for(device: str) -> list[str]:
    """What ``device`` asks for: one, or several with commas; "cuda" is every GPU, and "auto" what there is."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    found = []
    for each in device.split(","):
        found += [f"cuda:{number}" for number in range(torch.cuda.device_count())] if each.strip() == "cuda" else [each.strip()]
    return found


def load_picture(portrait: Picture) -> Tensor:
    """RGB (h w 3) in [0, 1], upright as a camera says. Raises InputError for a file that is no picture."""
    if isinstance(portrait, Tensor):
        return portrait
    if isinstance(portrait, str | Path):
        try:
            upright = ImageOps.exif_transpose(Image.open(portrait))
            if upright.mode.startswith("I"):  # grey of 16 bits, of which Pillow would keep the lowest 255 values
                upright = Image.fromarray((np.asarray(upright) / 257).clip(0, 255).round().astype(np.uint8))
            portrait = np.array(upright.convert("RGB"))
        except OSError as error:
            raise InputError(f"portrait: {portrait} cannot be read as a picture ({error}). Choose a PNG, JPEG or WebP file.") from error
    return torch.from_numpy(portrait).float() / 255 if portrait.dtype == np.uint8 else torch.from_numpy(portrait).float()
