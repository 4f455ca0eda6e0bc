"""Checks of the networks and the sampler against golden cases; one function per kind."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from einops import rearrange

from memo_modules.models import acceleration
from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.projections import AudioProjection, ImageProjection
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.sampler.reference_order import portrait_branches
from memo_modules.sampler.sampling import MemoNets, sample_video
from memo_modules.types import AudioFeatures, EmotionTrack, Face, ReferenceFeatures, SamplerSettings
from memo_modules.vae import DiffusersVAE
from memo_modules.weights import checkpoints
from tests.helpers.parity_case import Case, assert_close

META = Layers(device="meta")


@dataclass(frozen=True)
class Exact:
    """What may be switched on without changing a result beyond rounding."""

    fused: bool = False
    channels_last: bool = False
    low_memory: bool = False
    conv_as_matmul: bool = False
    compiled: bool = False


def build(module: torch.nn.Module, case: Case, name: str = "model") -> torch.nn.Module:
    checkpoints.assign_weights(module, case.weights(name), case.folder / case.name)
    return module


def build_unet(kind: type, config: type, case: Case, name: str, exact: Exact) -> torch.nn.Module:
    off = [name for name, on in (("fused", exact.fused), ("conv_as_matmul", exact.conv_as_matmul)) if not on]
    layers = acceleration.for_device(META, (7, 5) if exact.channels_last else None, on_cpu=not exact.channels_last, off=off)
    net = build(kind(config.from_dict(case.options(name), case.name), layers), case, name)
    if exact.compiled:
        net.compiled = acceleration.compiled_regions(net, backend="aot_eager", fullgraph=True)
    return net


def image_projection(case: Case, name: str = "model") -> ImageProjection:
    return build(ImageProjection(META, **ImageProjection.sizes(case.weights(name))), case, name)


def audio_projection(case: Case, name: str = "model") -> AudioProjection:
    return build(AudioProjection(META, **AudioProjection.sizes(case.weights(name))), case, name)


def reference_net(case: Case, exact: Exact, name: str = "model") -> ReferenceNet:
    return build_unet(ReferenceNet, ReferenceNetConfig, case, name, exact)


def diffusion_net(case: Case, exact: Exact, name: str = "model") -> DiffusionNet:
    return build_unet(DiffusionNet, DiffusionNetConfig, case, name, exact)


def check_image_proj(case: Case) -> None:
    assert_close(case, "out.y", image_projection(case)(case.tensors["in.x"]))


def check_audio_proj(case: Case) -> None:
    assert_close(case, "out.y", audio_projection(case)(case.tensors["in.x"]))


def feature_names(case: Case, prefix: str) -> list[str]:
    """The golden names of a feature list, `prefix` + down|mid|up . block . layer, in forward order."""
    order = {"down": 0, "mid": 1, "up": 2}
    names = [name for name in case.tensors if name.startswith(prefix)]
    places = {name: name.removeprefix(prefix).split(".") for name in names}
    return sorted(names, key=lambda name: (order[places[name][0]], int(places[name][1]), int(places[name][2])))


def check_reference_net(case: Case, exact: Exact = Exact()) -> None:
    net = reference_net(case, exact)
    for run in sorted({name.split(".")[1] for name in case.tensors if name.startswith("in.")}):
        latents, context = case.tensors[f"in.{run}.sample"], case.tensors[f"in.{run}.ctx"]
        # the published sampler tiles the contexts over the pictures
        features = net(latents, context.repeat(len(latents) // len(context), 1, 1))
        names = feature_names(case, f"out.{run}.")
        assert len(names) == len(features.layers)
        for name, layer in zip(names, features.layers, strict=True):
            assert_close(case, name, layer)


def check_diffusion_net(case: Case, exact: Exact = Exact()) -> None:
    net = diffusion_net(case, exact)
    memory = net.empty_memory()
    modules = dict(net.named_modules())
    numbered = [block.motion_modules[j] for block, j in net.numbered_layers()]
    for call in case.meta["cfg"]["calls"]:
        name, chunk = call["name"], call["chunk"]
        sample, context = case.tensors[f"in.{name}.sample"], case.tensors[f"in.{call['ctx']}"]
        branches, _, frames = sample.shape[:3]
        guided = 1 if call["uc_mask"] and branches == 2 else branches
        layers = [case.tensors[n].float() for n in feature_names(case, f"in.{chunk}.ref.")]
        pictures = len(layers[0]) // branches
        past = ReferenceFeatures(tuple(layer.unflatten(0, (branches, -1))[:, 1:].flatten(0, 1) for layer in layers))
        if call["is_new_audio"]:
            memory = net.empty_memory()
        if memory[0] is None or call["update_past_memory"]:
            net.update_memory(past, memory, pictures - 1)
        rows = [branch * pictures for branch in portrait_branches(branches, guided, frames, "upstream")]
        velocity = net(
            rearrange(sample, "b c f h w -> (b f) c h w"),
            case.tensors[f"in.{name}.t"],
            rearrange(case.tensors[f"in.{chunk}.audio"], "b f t d -> (b f) t d"),
            net.spatial_contexts(context, ReferenceFeatures(tuple(layers)).select(rows), guided),
            net.emotion_modulations(case.tensors[f"in.{chunk}.emotion"].reshape(-1), torch.float32),
            memory,
            frames,
        )
        assert_close(case, f"out.{name}.y", rearrange(velocity, "(b f) c h w -> b c f h w", f=frames))
        for path in case.meta["cfg"]["mem_paths"]:
            module_path, _, rest = path.partition(".temporal_transformer.transformer_blocks.")
            block, attention = int(rest.split(".")[0]), int(rest.split(".")[2])
            module = modules[module_path]
            count = len(module.temporal_transformer.transformer_blocks[0].attention_blocks)
            remembered = memory[numbered.index(module)][block * count + attention]
            assert_close(case, f"out.{name}.mem.{path}.KV", remembered.kv.flatten(0, 1))
            assert_close(case, f"out.{name}.mem.{path}.Z", remembered.z.flatten(0, 1)[:, None])


def check_pipeline(case: Case, exact: Exact = Exact()) -> None:
    from diffusers import AutoencoderKL

    cfg = case.meta["cfg"]
    vae = AutoencoderKL(**case.options("vae")).eval()
    vae.load_state_dict(case.weights("vae"))
    nets = MemoNets(
        reference_net(case, exact, "reference_net"),
        diffusion_net(case, exact, "diffusion_net"),
        image_projection(case, "image_proj"),
        audio_projection(case, "audio_proj"),
        torch.device("cpu"),
        torch.float32,
    )
    windows = case.tensors["in.audio_emb"]
    audio = GivenWindows(windows, Fraction(30), len(windows), cfg["num_generated_frames_per_clip"])
    settings = SamplerSettings(cfg["steps"], cfg["cfg"], cfg["seed"], cfg["num_init_past_frames"], cfg["num_past_frames"], "upstream")

    def noise(clip: int) -> torch.Tensor:
        return rearrange(case.tensors[f"out.chunk{clip}.noise"], "1 c f h w -> f c h w")

    clips = sample_video(
        nets,
        DiffusersVAE(vae, batch=4 if exact != Exact() else 1),
        case.tensors["in.pixel_values"],
        Face(case.tensors["in.face_emb"], None, 0.0),
        audio,
        labels_track(case.tensors["in.audio_emotion"].tolist()),
        settings,
        noise=noise,
        low_memory=exact.low_memory,
    )
    count = 0
    for clip, sampled in enumerate(clips):
        latents = rearrange(sampled.state.latents, "f c h w -> 1 c f h w")
        assert_close(case, f"out.chunk{clip}.step{cfg['steps'] - 1}.latents", latents, limit=1e-4)
        frames = rearrange(sampled.frames, "f c h w -> 1 c f h w")
        assert_close(case, f"out.chunk{clip}.frames", frames, limit=1e-4)
        count += len(sampled.frames)
    assert count == len(windows)


class GivenWindows(AudioFeatures):
    """Audio whose windows are given, not cut: hidden_states is (frames 5 layers d)."""

    def windows(self, start: int, stop: int) -> torch.Tensor:
        return self.hidden_states[start:stop]


def labels_track(labels: list[int]) -> EmotionTrack:
    """One label per frame as a track: at 30 samples a second each frame is one sample."""
    return EmotionTrack(tuple(range(len(labels))), tuple(labels), None, len(labels), 30)
