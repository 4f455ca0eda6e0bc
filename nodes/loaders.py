"""Nodes that load models. Each lists what is in the model folders, and fetches what is missing where it is asked to."""

import logging
from pathlib import Path

import torch
from comfy_api.latest import io

from ..memo_modules.audio.emotion import check_fit, load_emotion_classifier
from ..memo_modules.audio.emotion2vec import load_emotion2vec
from ..memo_modules.audio.features import load_audio_encoder
from ..memo_modules.audio.vocals import VocalSeparator
from ..memo_modules.errors import MemoError
from ..memo_modules.portrait.face import FaceAnalyzer
from ..memo_modules.store import obtain
from ..memo_modules.store.bfloat16_copies import keep_bfloat16
from ..memo_modules.store.finding import signature
from ..memo_modules.weights import checkpoints
from ..memo_modules.weights.fingerprints import file_digest, weights_digest
from ..memo_modules.weights.lora import read_lora
from ..memo_modules.words import MOST_SAID, printable, quoted, shortened
from . import comfy_adapter as adapter
from . import comfy_layers
from . import comfy_sockets as sockets
from .socket_types import (
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


def model_input(name: str, role: str, tooltip: str) -> io.Combo.Input:
    """What there is of a role, and the published model; ``missing``, which web/missing_models.js reads, says which is not there."""
    sizes = obtain.offered(role, adapter.model_folders)
    return io.Combo.Input(name, options=list(sizes), tooltip=tooltip, extra_dict={"missing": {name: size for name, size in sizes.items() if size}})


def download_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "download",
        default=False,
        optional=True,
        tooltip="Fetch what is missing of the published model from the Hugging Face hub, verify it and put it into its folder. "
        "When off, or with nothing missing, no connection is made.",
    )


def refusal(**chosen: str | None) -> bool | str:
    """For validate_inputs: role to what was chosen for it, None when it comes from another node."""
    faults = (_refusal(role, name) for role, name in chosen.items() if name is not None)
    return next((fault for fault in faults if fault), True)


def _refusal(role: str, name: str) -> str | None:
    if not isinstance(name, str):  # a prompt may hold anything
        return f"expected the name of a model, got {quoted(name)}."
    fault = obtain.refusal(role, name, adapter.model_folders)
    return fault and shortened(printable(fault), MOST_SAID)


_obtained: dict[tuple[str, str], tuple[tuple, tuple | str | None]] = {}
"""By role and name: files of what a loader obtained, and what there was before it did."""


def fingerprint(**chosen: str) -> str:
    """Another one whenever a file of the chosen models was replaced. Files that a loader fetched count as what was there before:
    ComfyUI asks ahead of the run that fetches them, and would sample all of it again the next time."""
    return str([_there(role, name) for role, name in chosen.items()])


def _there(role: str, name: str) -> tuple | str | None:
    listing = obtain.listing(role, adapter.model_folders)
    name = obtain.stand_in(role, name, adapter.model_folders) or name
    if name not in listing.found:
        return listing.refused.get(name)
    files = signature(listing.found[name])
    obtained_files, before = _obtained.get((role, name), (None, None))
    return before if files == obtained_files else files


def obtained(role: str, name: str, download: bool) -> Path:
    before = _there(role, name)
    path = obtain.obtain(role, name, adapter.model_folders, download, adapter.host(adapter.running_node()))
    _obtained[role, name] = signature(path), before
    return path


def keep_bfloat16_of(role: str, name: str, checkpoint: Path, delete_float32: bool) -> None:
    """A bfloat16 copy of what was downloaded in this session, or is to be deleted then. Where the disk does not take it, the log says so."""
    _, before = _obtained[role, name]
    if checkpoint.is_dir() and (delete_float32 or not isinstance(before, tuple)):
        try:
            keep_bfloat16(checkpoint, delete_float32, adapter.host(adapter.running_node()))
        except MemoError as error:
            logging.warning("No bfloat16 copy was kept: %s", printable(str(error)))
        _obtained[role, name] = signature(checkpoint), before


class MemoLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadModel",
            display_name="Load MEMO Model",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["checkpoint loader", "talking head model", "unet"]),
            description="Loads the four nets of a MEMO checkpoint: reference net, diffusion net and the projections of face and audio.",
            inputs=[
                model_input(
                    "model",
                    "nets",
                    "In models/memo: a folder that holds reference_net, diffusion_net, image_proj and audio_proj, or a single file with all four.",
                ),
                io.Boolean.Input(
                    "compiled",
                    default=False,
                    optional=True,
                    tooltip="Compile the diffusion net with torch.compile. The first clip of each size then takes minutes longer, all "
                    "others are faster. Needs Triton, a C compiler and enough VRAM for all weights.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(comfy_layers.WEIGHT_DTYPES),
                    default="auto",
                    optional=True,
                    tooltip="Precision in which the weights are stored. auto: what this device computes in. fp8_e4m3fn: half the memory "
                    "of bf16, slower and less exact. fp32: twice the memory, most exact. fp16_fp32: for a GPU without bfloat16, fp16 with what the "
                    "layers add up in float32. int8_scaled, fp8_e4m3fn_scaled: half the memory of bf16, with a scale for each row of a weight; "
                    "int8_scaled is the most exact in 8 bits.",
                ),
                download_input(),
                io.Boolean.Input(
                    "delete_float32",
                    default=False,
                    optional=True,
                    tooltip="Keep the two large nets as bfloat16 alone, in half of the disk: a bfloat16 copy is made next to float32 files, then "
                    "these are deleted. Off: after a download there are both. Nothing is done where another dtype is loaded.",
                ),
            ],
            outputs=[MemoModelSocket.Output(display_name="model", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def validate_inputs(cls, model):
        return refusal(nets=model)

    @classmethod
    def fingerprint_inputs(cls, model, compiled=False, weight_dtype="auto", download=False, delete_float32=False):
        return fingerprint(nets=model)

    @classmethod
    def execute(cls, model, compiled=False, weight_dtype="auto", download=False, delete_float32=False) -> io.NodeOutput:
        unet, dtype = comfy_layers.unet_layers(weight_dtype)
        projection = comfy_layers.layers(torch.float32)
        checkpoint = obtained("nets", model, download)
        if (unet.storage or unet.dtype) == torch.bfloat16:
            keep_bfloat16_of("nets", model, checkpoint, delete_float32)
        nets = {}
        for net in checkpoints.NETS:
            adapter.check_interrupt()
            nets[net] = checkpoints.load_net(checkpoint, net, projection if net.endswith("proj") else unet)
        checkpoints.check_fit(checkpoint, nets)
        digest = weights_digest(*(nets[net] for net in checkpoints.NETS))
        regions = comfy_layers.accelerate(nets, unet, dtype, compiled, adapter.host(adapter.running_node()).say)
        patchers = {net: adapter.manage(module, whole=compiled and net == "diffusion_net") for net, module in nets.items()}
        return io.NodeOutput(MemoModel(dtype, **patchers, compiled_regions=regions, weights=digest))


class MemoLoadVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadVAE",
            display_name="Load MEMO VAE",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["vae loader", "sd-vae-ft-mse", "stable diffusion"]),
            description="Loads the VAE, which turns pictures into latents and back. A Stable Diffusion 1 VAE from any other loader works too.",
            inputs=[
                model_input(
                    "vae",
                    "vae",
                    "sd-vae-ft-mse or another Stable Diffusion 1 VAE in models/vae: a file, or a folder as diffusers writes it. Also "
                    "the vae folder of a MEMO checkpoint in models/memo that has one.",
                ),
                download_input(),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For the MEMO Sampler, and every node that takes a VAE.")],
        )

    @classmethod
    def validate_inputs(cls, vae):
        return refusal(vae=vae)

    @classmethod
    def fingerprint_inputs(cls, vae, download=False):
        return fingerprint(vae=vae)

    @classmethod
    def execute(cls, vae, download=False) -> io.NodeOutput:
        return io.NodeOutput(sockets.load_vae(obtained("vae", vae, download)))


class MemoLoadAudioEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadAudioEncoder",
            display_name="Load MEMO Audio Encoder",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["wav2vec2", "speech encoder", "audio encoder loader"]),
            description="Loads wav2vec2, which turns a voice into what the lips follow.",
            inputs=[
                model_input(
                    "audio_encoder",
                    "audio_encoder",
                    "A folder in models/audio_encoders with config.json and weights; MEMO was made with wav2vec2-base-960h.",
                ),
                download_input(),
            ],
            outputs=[AudioEncoderSocket.Output(display_name="audio_encoder", tooltip="For MEMO Encode Audio.")],
        )

    @classmethod
    def validate_inputs(cls, audio_encoder):
        return refusal(audio_encoder=audio_encoder)

    @classmethod
    def fingerprint_inputs(cls, audio_encoder, download=False):
        return fingerprint(audio_encoder=audio_encoder)

    @classmethod
    def execute(cls, audio_encoder, download=False) -> io.NodeOutput:
        encoder = load_audio_encoder(obtained("audio_encoder", audio_encoder, download))
        return io.NodeOutput(AudioEncoderModel(adapter.manage(encoder)))


class MemoLoadEmotionModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadEmotionModel",
            display_name="Load MEMO Emotion Model",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["emotion2vec", "mood", "emotion classifier"]),
            description="Loads emotion2vec and MEMO's classifier, which detect the mood of a voice.",
            inputs=[
                model_input("emotion2vec", "emotion2vec", "In models/memo: a folder with model.pt or model.safetensors of emotion2vec_plus_large."),
                model_input("classifier", "emotion_classifier", "A MEMO checkpoint in models/memo that holds misc/audio_emotion_classifier."),
                download_input(),
            ],
            outputs=[EmotionModelSocket.Output(display_name="emotion_model", tooltip="For MEMO Detect Emotion.")],
        )

    @classmethod
    def validate_inputs(cls, emotion2vec, classifier):
        return refusal(emotion2vec=emotion2vec, emotion_classifier=classifier)

    @classmethod
    def fingerprint_inputs(cls, emotion2vec, classifier, download=False):
        return fingerprint(emotion2vec=emotion2vec, emotion_classifier=classifier)

    @classmethod
    def execute(cls, emotion2vec, classifier, download=False) -> io.NodeOutput:
        operations = comfy_layers.layers(torch.float32).operations
        encoder_place, mlp_place = obtained("emotion2vec", emotion2vec, download), obtained("emotion_classifier", classifier, download)
        encoder, mlp = load_emotion2vec(encoder_place, operations), load_emotion_classifier(mlp_place, operations)
        check_fit(encoder, encoder_place, mlp, mlp_place)
        return io.NodeOutput(EmotionModel(adapter.manage(encoder), adapter.manage(mlp)))


class MemoLoadVocalSeparator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadVocalSeparator",
            display_name="Load MEMO Vocal Separator",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["kim vocal 2", "stem separation", "music removal"]),
            description="Opens Kim_Vocal_2, which separates a voice from music and noise.",
            inputs=[
                model_input(
                    "vocal_separator",
                    "vocal_separator",
                    "A MEMO checkpoint in models/memo that holds misc/vocal_separator/Kim_Vocal_2.onnx.",
                ),
                download_input(),
            ],
            outputs=[VocalSeparatorSocket.Output(display_name="vocal_separator", tooltip="For MEMO Separate Vocals.")],
        )

    @classmethod
    def validate_inputs(cls, vocal_separator):
        return refusal(vocal_separator=vocal_separator)

    @classmethod
    def fingerprint_inputs(cls, vocal_separator, download=False):
        return fingerprint(vocal_separator=vocal_separator)

    @classmethod
    def execute(cls, vocal_separator, download=False) -> io.NodeOutput:
        path = obtained("vocal_separator", vocal_separator, download)
        return io.NodeOutput(adapter.open_sessions(VocalSeparator, path))


class MemoLoadFaceAnalysis(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadFaceAnalysis",
            display_name="Load MEMO Face Analysis",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["insightface", "face detector", "face recognition", "scrfd"]),
            description="Opens the face detector and the face recogniser of insightface.",
            inputs=[
                model_input(
                    "face_analysis",
                    "face_analysis",
                    "A MEMO checkpoint in models/memo that holds misc/face_analysis/models, or a folder in models/insightface with "
                    "scrfd_10g_bnkps.onnx and glintr100.onnx.",
                ),
                download_input(),
            ],
            outputs=[FaceAnalysisSocket.Output(display_name="face_analysis", tooltip="For MEMO Embed Face and MEMO Crop Portrait.")],
        )

    @classmethod
    def validate_inputs(cls, face_analysis):
        return refusal(face_analysis=face_analysis)

    @classmethod
    def fingerprint_inputs(cls, face_analysis, download=False):
        return fingerprint(face_analysis=face_analysis)

    @classmethod
    def execute(cls, face_analysis, download=False) -> io.NodeOutput:
        path = obtained("face_analysis", face_analysis, download)
        return io.NodeOutput(adapter.open_sessions(FaceAnalyzer, path))


class MemoLoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoLoadLora",
            display_name="Load MEMO LoRA",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["lora loader", "finetune", "own speaker", "low rank"]),
            description="Changes a MEMO model by a LoRA that scripts/train.py made, such as that of one speaker. Several in a row add up.",
            inputs=[
                MemoModelSocket.Input("model", tooltip="From Load MEMO Model, or another Load MEMO LoRA."),
                io.Combo.Input("lora", options=adapter.lora_names(), tooltip="A .safetensors file in models/loras, trained for this MEMO model."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much of it is added. 1: as it was trained. 0: nothing, the model as it is. More exaggerates, below 0 does the "
                    "opposite.",
                ),
            ],
            outputs=[MemoModelSocket.Output(display_name="model", tooltip="For the MEMO Sampler.")],
        )

    @classmethod
    def validate_inputs(cls, lora):
        if lora is None or lora in (known := adapter.lora_names()):
            return True
        there = ", ".join(known[:10]) or "none"
        return shortened(printable(f"lora: {quoted(lora)} is not in models/loras ({there}). Put it there, and press R."), MOST_SAID)

    @classmethod
    def fingerprint_inputs(cls, lora, **others):
        return str(signature(adapter.lora_path(lora)))

    @classmethod
    def execute(cls, model, lora, strength) -> io.NodeOutput:
        path = adapter.lora_path(lora)
        read = read_lora(path)
        return io.NodeOutput(adapter.with_lora(model, read, strength, file_digest(path)))


NODES = [MemoLoadModel, MemoLoadVAE, MemoLoadAudioEncoder, MemoLoadEmotionModel, MemoLoadVocalSeparator, MemoLoadFaceAnalysis, MemoLoadLora]
