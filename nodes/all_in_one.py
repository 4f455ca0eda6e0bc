"""Two nodes for the whole chain, where its parts are of no interest: everything that is loaded, and from portrait to video."""

from dataclasses import dataclass, fields, replace

from comfy_api.latest import InputImpl, Types, io

from ..memo_modules.portrait.framing import framed_portrait
from ..memo_modules.portrait.pictures import squash_note
from ..memo_modules.small_decoder import DECODERS
from ..memo_modules.store import obtain
from ..memo_modules.types import DEFAULT_SETTINGS, Audio
from ..memo_modules.video.formats import VideoFormat
from . import comfy_adapter as adapter
from . import comfy_sockets as sockets
from . import core_video
from .audio import encoded, fps_input, say_what_is_heard, separated
from .comfy_lists import ListNode
from .emotion import detected
from .loaders import (
    CATEGORY,
    MemoLoadAudioEncoder,
    MemoLoadEmotionModel,
    MemoLoadFaceAnalysis,
    MemoLoadModel,
    MemoLoadVAE,
    MemoLoadVocalSeparator,
    download_input,
    fingerprint,
    model_input,
    obtained,
    refusal,
)
from .sampler import FramesToMake, Sampling, decoder_input, denoising_inputs
from .socket_types import (
    AudioEncoderSocket,
    EmotionModelSocket,
    EmotionSocket,
    FaceAnalysisSocket,
    MemoModels,
    MemoModelSocket,
    MemoModelsSocket,
    VocalSeparatorSocket,
)

ROLES = {
    "model": "nets",
    "vae": "vae",
    "audio_encoder": "audio_encoder",
    "emotion2vec": "emotion2vec",
    "classifier": "emotion_classifier",
    "vocal_separator": "vocal_separator",
    "face_analysis": "face_analysis",
}
"""Inputs of Load All MEMO Models to the roles of store.catalogue."""

QUALITIES = {
    "as set": {},
    "draft": {"resolution": 256, "steps": 20, "preset": "draft"},
    "fast": {"resolution": 512, "steps": 20, "preset": "fast"},
    "standard": {"resolution": 512, "steps": 20, "preset": "exact"},
    "best": {"resolution": 512, "steps": 40, "preset": "exact"},
}
"""What each sets; all but the first the guidance scale that MEMO was published with, too. preset: of recipes.PRESETS."""

TRIED_SECONDS = 2

SEARCHED = ["lip sync", "avatar", "talking head", "speech", "singing", "数字人", "口型", "对口型", "リップシンク", "口パク", "アバター"]
"""What else one would type to find MEMO Talking Portrait."""


class MemoLoadAll(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        tooltips = {
            "model": "The four nets of a MEMO checkpoint in models/memo.",
            "vae": "sd-vae-ft-mse or another VAE of Stable Diffusion 1, in models/vae.",
            "audio_encoder": "wav2vec2-base-960h, in models/audio_encoders.",
            "emotion2vec": "emotion2vec_plus_large, in models/memo.",
            "classifier": "A MEMO checkpoint in models/memo that holds the emotion classifier.",
            "vocal_separator": "A MEMO checkpoint in models/memo that holds Kim_Vocal_2.",
            "face_analysis": "A MEMO checkpoint in models/memo, or a folder in models/insightface, that holds the face models.",
        }
        return io.Schema(
            node_id="MemoLoadAll",
            display_name="Load All MEMO Models",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["all-in-one loader", "talking head", "download", "checkpoint loader"]),
            description="Loads everything that MEMO Talking Portrait needs, as the single loaders do, with one download for all. "
            "The other outputs are for single nodes.",
            inputs=[*(model_input(given, role, tooltips[given]) for given, role in ROLES.items()), download_input()],
            outputs=[
                MemoModelsSocket.Output(display_name="models", tooltip="For MEMO Talking Portrait."),
                MemoModelSocket.Output(display_name="model", tooltip="For the MEMO Sampler."),
                io.Vae.Output(display_name="vae", tooltip="For the MEMO Sampler, and every node that takes a VAE."),
                AudioEncoderSocket.Output(display_name="audio_encoder", tooltip="For MEMO Encode Audio."),
                EmotionModelSocket.Output(display_name="emotion_model", tooltip="For MEMO Detect Emotion."),
                VocalSeparatorSocket.Output(display_name="vocal_separator", tooltip="For MEMO Separate Vocals."),
                FaceAnalysisSocket.Output(display_name="face_analysis", tooltip="For MEMO Embed Face and MEMO Crop Portrait."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model, vae, audio_encoder, emotion2vec, classifier, vocal_separator, face_analysis):
        names = (model, vae, audio_encoder, emotion2vec, classifier, vocal_separator, face_analysis)
        return refusal(**dict(zip(ROLES.values(), names, strict=True)))

    @classmethod
    def fingerprint_inputs(cls, download=False, **names):
        return fingerprint(**{ROLES[given]: name for given, name in names.items()})

    @classmethod
    def execute(cls, model, vae, audio_encoder, emotion2vec, classifier, vocal_separator, face_analysis, download=False) -> io.NodeOutput:
        names = (model, vae, audio_encoder, emotion2vec, classifier, vocal_separator, face_analysis)
        chosen = dict(zip(ROLES.values(), names, strict=True))
        if not download:
            obtain.check_there(chosen, adapter.model_folders)
        for role, name in chosen.items():
            obtained(role, name, download)  # all of them, before the first is loaded
        models = MemoModels(
            MemoLoadModel.execute(model=model)[0],
            MemoLoadVAE.execute(vae=vae)[0],
            MemoLoadAudioEncoder.execute(audio_encoder=audio_encoder)[0],
            MemoLoadEmotionModel.execute(emotion2vec=emotion2vec, classifier=classifier)[0],
            MemoLoadVocalSeparator.execute(vocal_separator=vocal_separator)[0],
            MemoLoadFaceAnalysis.execute(face_analysis=face_analysis)[0],
        )
        return io.NodeOutput(models, *(getattr(models, part.name) for part in fields(models)))


class MemoTalkingPortrait(ListNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoTalkingPortrait",
            display_name="MEMO Talking Portrait",
            category="MEMO",
            **adapter.known(io.Schema, search_aliases=SEARCHED),
            description="From a portrait and a voice to the talking video in one node: separates the vocals, detects the mood, finds the face and "
            "samples, with the settings that MEMO was published with, and exact timing. The single nodes offer more of them.",
            inputs=[
                MemoModelsSocket.Input("models", tooltip="From Load All MEMO Models."),
                io.Image.Input("image", tooltip="A photo of any shape, one RGB picture with a face; of several the largest is used."),
                io.Audio.Input("audio", tooltip="The voice, with or without music. Sets the length of the video, and becomes its soundtrack."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Width and height of the video, in pixels. MEMO was trained at 512; time and memory grow faster than the area.",
                ),
                fps_input(),
                *denoising_inputs(),
                EmotionSocket.Input(
                    "emotion",
                    optional=True,
                    tooltip="The mood, from MEMO Set Emotion, MEMO Emotion Timeline or MEMO Detect Emotion. Without one it is detected in the audio.",
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="as set",
                    optional=True,
                    tooltip="draft: 256 pixels and 4 steps, to see in 1/20 of the time whether it will do. fast: 512 and 6 better steps, in 1/4. "
                    "standard: 512 and 20, as published. best: 512 and 40. as set: what resolution, steps and guidance_scale say; all others "
                    "replace them.",
                ),
                io.Boolean.Input(
                    "first_2_seconds",
                    default=False,
                    optional=True,
                    tooltip="Makes only the first 2 seconds of the video, as a try. Switch it off for all of it.",
                ),
                io.Boolean.Input(
                    "crop_face",
                    default=True,
                    optional=True,
                    tooltip="Cuts out the square around the face where the picture is not square, or shows the face small. Off: the picture is used "
                    "whole, and squashed if it is not square.",
                ),
                io.Boolean.Input(
                    "allow_no_face",
                    default=False,
                    optional=True,
                    tooltip="Continue where no face is found (paintings, animals): the middle of the picture is used, and the identity comes from it "
                    "alone. When off, a missing face is an error.",
                ),
                decoder_input(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for upscaling and face restoration.", is_output_list=True),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for Create Video.", is_output_list=True),
                io.Video.Output(display_name="video", tooltip="Frames and audio together, for Save Video.", is_output_list=True),
            ],
            is_input_list=True,
        )

    @classmethod
    def prepare(
        cls,
        item,
        models,
        image,
        audio,
        resolution,
        fps,
        steps,
        guidance_scale,
        seed,
        emotion=None,
        quality="as set",
        first_2_seconds=False,
        crop_face=True,
        allow_no_face=False,
        decoder=DECODERS[0],
    ) -> "_Prepared":
        preset = "exact"
        if replaced := QUALITIES[quality]:
            resolution, steps, preset = (replaced[name] for name in ("resolution", "steps", "preset"))
            guidance_scale = DEFAULT_SETTINGS.guidance_scale
        heard, notes = sockets.to_audio(audio), []
        if first_2_seconds:
            heard = replace(heard, waveform=heard.waveform[..., : TRIED_SECONDS * heard.sample_rate], made_of="")
        looking = replace(adapter.host(), say=notes.append)
        adapter.bring_in(models.face_analysis)
        portrait, face = framed_portrait(models.face_analysis.model, image, resolution, crop_face, allow_no_face, host=looking)
        say_what_is_heard(heard, looking)
        of_sound = (id(audio), id(models), fps, first_2_seconds)
        features = item.once(("features", *of_sound), lambda: encoded(models.audio_encoder, separated(models.vocal_separator, heard), fps))
        if emotion is None:
            emotion = item.once(("emotion", *of_sound), lambda: detected(models.emotion_model, heard, "audio"))
        given = (models.model, models.vae, portrait, face, features, emotion, resolution, resolution, steps, guidance_scale, seed)
        sampling = Sampling(*given, preset=preset, decoder=decoder)
        squashed = squash_note((portrait.shape[2], portrait.shape[1]), (resolution, resolution), "crop_face keeps its shape")
        clipped = VideoFormat().clipped(heard, adapter.check_interrupt, can_choose=False)  # in what Save Video writes
        notes += [note for note in (squashed, clipped) if note]
        # Save Video writes AAC, whose encoder never comes back from some samples that are far beyond
        sound = core_video.fitted(Audio(heard.waveform.clamp(-1, 1) if clipped else heard.waveform, heard.sample_rate))
        return _Prepared(sampling, item, "talking_portrait", sound, notes)

    @classmethod
    def make(cls, prepared: "_Prepared", notes) -> tuple[tuple, list]:
        sampling = prepared.sampling
        host = adapter.host(cls.hidden.unique_id, prepared.notes, notes)
        images, _, shown = prepared.frames(host)
        fps, sound = sampling.audio.fps, sockets.from_audio(prepared.sound)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=sound, frame_rate=fps))
        return (images, float(fps), video), shown


@dataclass(frozen=True)
class _Prepared(FramesToMake):
    """The same with its sound. notes: what there is to say of it."""

    sound: Audio
    notes: list[str]


NODES = [MemoLoadAll, MemoTalkingPortrait]
