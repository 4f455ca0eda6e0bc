"""Speed and memory of the sampler. It runs on random weights: neither depends on them.

    python -m tools.bench --device cuda --size full --json benchmarks/my_card.json
    python -m tools.bench --device cpu --size width --reference DIR
    python -m tools.bench check --device cuda
    python -m tools.bench conditioning --device cuda
    python -m tools.bench load
    python -m tools.bench count
    python -m tools.bench range CHECKPOINT
    python -m tools.bench host
    python -m tools.bench eight_bits
    python -m tools.bench farm

The first line times videos at 512x512; the second full-width nets at 64x64, next to a checkout of the reference implementation
on the same weights; the third compares the results of the GPU with float64; the fourth encodes a minute of audio; the fifth loads
nets of full size from disk, and measures time and memory; the sixth counts what a step asks of a GPU, on any machine; the seventh says what
of a checkpoint leaves the range of float16; the eighth measures the RAM that low-memory mode takes; the ninth what weights in 8 bits
cost in exactness; the tenth what scripts/render.py costs in addition to the sampler.
`python -m tools.regenerate tables` writes the rows of benchmarks/*.json into docs/memory.md. Needs torch, einops, safetensors and
diffusers; for conditioning transformers and av.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from memo_modules.errors import MemoError
from memo_modules.models import acceleration
from memo_modules.models.config import DiffusionNetConfig
from memo_modules.models.kernels.autotune import Autotuned
from memo_modules.models.layers import Layers, sdpa
from memo_modules.sampler.footprint import Footprint
from memo_modules.sampler.sampling import MemoNets
from memo_modules.sampler.streaming import TakingTurns
from memo_modules.types import SamplerSettings
from memo_modules.vae import DiffusersVAE
from memo_modules.weights.checkpoints import NETS
from memo_modules.words import first_line
from tools.benchmarking import checks, counting, eight_bits, host_memory, loading, random_nets, ranges, report, running
from tools.benchmarking.attention import attention_table
from tools.benchmarking.device import GIB, Device, resident_gib
from tools.benchmarking.reference import Reference, check_checkout
from tools.benchmarking.results import append, stamp
from tools.benchmarking.stage_table import stage_table
from tools.benchmarking.stages import StageTimer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLIPS_OF_LENGTH = 50


def measure(arguments: argparse.Namespace, device: Device) -> dict:
    """One row of results."""
    dtype = DTYPES[arguments.dtype]
    rates = {"matmul_tflops": device.matmul_tflops(dtype), "copy_gb_s": device.copy_gb_s()}
    upload_gb_s = device.upload_gb_s()
    nets, autoencoder, choices = build(arguments, device, dtype)
    nets = prepared(nets, autoencoder, arguments)
    settings = SamplerSettings(steps=arguments.steps)
    inputs = random_nets.random_inputs(arguments.size, arguments.clips)
    vae = DiffusersVAE(autoencoder, arguments.vae_batch)
    subject = running.Subject(nets, vae, inputs, settings, arguments.size, device, arguments.mode == "low_memory")

    timer, compared = StageTimer(device), None
    device.reset_peak()
    if arguments.reference and not device.is_cuda:
        compared = alone = running.run(subject, timer, Reference(arguments.reference, arguments.size, nets, autoencoder))
    else:
        alone = running.run(subject, timer)
    peak_gib, peak_rss_gib = device.peak_gib(), resident_gib()[1]
    if arguments.reference and device.is_cuda:  # a second run, since the first measures the peak of the sampler's own memory
        compared = running.run(subject, reference=Reference(arguments.reference, arguments.size, nets, autoencoder))

    side = random_nets.PICTURE[arguments.size]
    stages = stage_table(subject, timer.stages(), arguments.profile, **rates)
    step = stages["diffusion_step"]
    return {
        "device": device.name,
        "size": arguments.size,
        "mode": arguments.mode,
        "s_per_frame": running.per_frame(alone.clips),
        "s_per_step": running.per_step(alone.clips),
        "first_clip_s": alone.clips[0].seconds,
        "peak_vram_gb": peak_gib and peak_gib[0],
        "peak_reserved_gb": peak_gib and peak_gib[1],
        "peak_rss_gb": peak_rss_gib,
        "cap_gb": arguments.cap,
        "steps": arguments.steps,
        "clips": arguments.clips,
        "resolution": f"{side}x{side}",
        "dtype": arguments.dtype,
        "compile": arguments.compile,
        "chosen": choices,
        "off": arguments.off,
        "vae_batch": arguments.vae_batch,
        "resident_share": nets.resident_share,
        "stages": stages,
        "tflops": step["tflops"],
        "share": step["share"],
        **rates,
        "upload_gb_s": upload_gb_s,
        "reference": running.comparison(compared) if compared else None,
        "length": running.against_length(alone.clips) if arguments.length else None,
        **stamp(),
    }


def check(arguments: argparse.Namespace, device: Device) -> None:
    """Raises ValueError if a result is wrong."""
    dtype = DTYPES[arguments.dtype]
    entries = checks.forms_table(device, dtype, shrink=1 if device.is_cuda else 64)
    print(checks.report(entries), flush=True)  # before clips in exact mode, for which a small GPU has no room
    nets, autoencoder, _ = build(arguments, device, dtype)
    clips = checks.clips_table(nets, DiffusersVAE(autoencoder, arguments.vae_batch), arguments.size, arguments.steps)
    print(checks.report(clips))
    entries += clips
    if arguments.json:
        append(arguments.json, "checks", {"device": device.name, "dtype": arguments.dtype, "entries": entries, **stamp()})
    if wrong := sum(map(checks.is_wrong, entries)):
        raise ValueError(f"{wrong} of {len(entries)} computations are wrong.")


def build(arguments: argparse.Namespace, device: Device, dtype: torch.dtype) -> tuple[MemoNets, nn.Module, dict]:
    """The four nets, an AutoencoderKL, and the kernels that were chosen. In low-memory mode each UNet is on the GPU only while it runs."""
    at_home = torch.device("cpu") if arguments.mode == "low_memory" else device.torch
    places = {net: at_home if net in ("reference_net", "diffusion_net") else device.torch for net in (*NETS, "vae")}
    layers = acceleration.for_device(Layers(dtype=dtype), device.capability, on_cpu=not device.is_cuda, attention={"torch": sdpa}, off=arguments.off)
    config = DiffusionNetConfig.from_dict(random_nets.options("diffusion_net", arguments.size), "diffusion_net")
    acceleration.autotune_kernels(layers, config, device.torch, dtype)
    built = {component: random_nets.random_net(component, arguments.size, replace(layers, device=place)) for component, place in places.items()}
    autoencoder = built.pop("vae")
    return MemoNets(**built, device=device.torch, dtype=dtype), autoencoder, chosen(layers)


def chosen(layers: Layers) -> dict[str, dict[int, str]]:
    """Which backend of each computation a number of channels gets."""
    return {name: backend.chosen for name, backend in vars(layers).items() if isinstance(backend, Autotuned)}


def prepared(nets: MemoNets, autoencoder: nn.Module, arguments: argparse.Namespace) -> MemoNets:
    """The one place where nets are made ready to run."""
    if arguments.compile:  # the reference net runs once a clip, in batches of two sizes: compiling it does not pay
        nets.diffusion_net.compiled = acceleration.compiled_regions(nets.diffusion_net)
    if arguments.mode == "low_memory" and nets.device.type == "cuda":
        return replace(
            nets,
            bring_in=TakingTurns({"reference": nets.reference_net, "diffusion": nets.diffusion_net}, nets.device),
            resident_share=resident_share(nets, autoencoder, arguments),
        )
    return nets


def resident_share(nets: MemoNets, autoencoder: nn.Module, arguments: argparse.Namespace) -> float:
    """The share of the motion memory that fits under the cap; 0 without a cap."""
    if not arguments.cap:
        return 0.0
    latent_size = (random_nets.latent_side(arguments.size),) * 2
    unets = {"reference": nets.reference_net, "diffusion": nets.diffusion_net}
    weights = {phase: _weight_bytes(unet, nets.image_proj, nets.audio_proj, autoencoder) for phase, unet in unets.items()}
    footprint = Footprint(nets.diffusion_net.config, latent_size, SamplerSettings(), random_nets.CLIP_FRAMES, nets.dtype.itemsize)
    return footprint.plan(weights, int(arguments.cap * GIB), reserved=0).resident_share


def _weight_bytes(*modules: nn.Module) -> int:
    return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises ValueError for arguments that do not go together."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="bench.py conditioning measures hearing, load loading, count counts a step's operations, range the largest values; "
        "python -m tools.regenerate tables writes the table of the pages.",
    )
    parser.add_argument("command", nargs="?", choices=("run", "check"), default="run", help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(random_nets.PICTURE), default="full", help="full: 512x512; width: full-width nets at 64x64")
    parser.add_argument("--mode", choices=("exact", "low_memory"), default="exact")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of UNets and VAE (default: bfloat16 on a GPU, float32 on the CPU)")
    parser.add_argument("--clips", type=int, help="of 16 frames (default: 3 on a GPU, 2 on the CPU, 50 with --length)")
    parser.add_argument("--steps", type=int, help="per clip (default: 20 on a GPU, 8 on the CPU)")
    parser.add_argument("--compile", action="store_true", help="have torch compile the repeated parts of the UNets")
    parser.add_argument(
        "--off",
        action="append",
        choices=acceleration.OPTIONS,
        default=[],
        help="do without one of the exact accelerations; autotune is the choice of the fastest backends of attention, memory, GEGLU and norms, "
        "conv_as_matmul computes convolutions as matmuls (the CPU always does without channels_last)",
    )
    parser.add_argument("--vae-batch", type=int, help="frames at once (default: 4 on a GPU in exact mode, else 1)")
    parser.add_argument("--cap", type=float, metavar="GIB", help="what this process may allocate on the GPU")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout of memoavatar/memo to time next to it, on the same weights")
    parser.add_argument("--length", action="store_true", help="a long video: what its last clips cost against its first")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write there which operations of a step take how long")
    parser.add_argument("--attention", action="store_true", help="only time the attention backends at the shapes of a step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results to FILE")
    arguments = parser.parse_args(argv)
    on_card = arguments.device == "cuda"
    arguments.dtype = arguments.dtype or ("bfloat16" if on_card else "float32")
    arguments.steps = (20 if on_card else 8) if arguments.steps is None else arguments.steps
    if arguments.clips is None:
        arguments.clips = CLIPS_OF_LENGTH if arguments.length else 3 if on_card else 2
    if arguments.vae_batch is None:
        arguments.vae_batch = 4 if on_card and arguments.mode == "exact" else 1
    if not on_card and "channels_last" not in arguments.off:
        arguments.off.append("channels_last")  # the CPU's convolutions are slower with it
    for name, least in (("clips", 7 if arguments.length else 1), ("steps", 1), ("vae_batch", 1)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least {least}, got {getattr(arguments, name)}.")
    if arguments.attention and not on_card:
        raise ValueError("--attention: its backends need --device cuda.")
    if arguments.compile and arguments.mode == "low_memory":
        raise ValueError("--compile: compiled nets stay where they are; leave out --mode low_memory.")
    if arguments.command == "check" and arguments.mode == "low_memory":
        raise ValueError("--mode: check compares both modes; leave it out.")
    if arguments.reference:
        check_checkout(arguments.reference)
    if arguments.reference and arguments.cap:
        raise ValueError("--reference: the reference implementation does not fit under a cap; leave out --cap.")
    return arguments


def main(argv: list[str]) -> None:
    if argv[:1] == ["conditioning"]:
        from tools.benchmarking import conditioning  # needs more packages than the rest

        arguments = conditioning.parse(argv[1:])
        entry = conditioning.measure(arguments, Device(arguments.device)) | stamp()
        print(conditioning.report(entry))
        if arguments.json:
            append(arguments.json, "conditioning", entry)
        return
    if argv[:1] == ["load"]:
        arguments = loading.parse(argv[1:])
        rows = loading.measure(arguments.size, arguments.dir)
        print(loading.report(rows))
        for row in rows if arguments.json else ():
            append(arguments.json, "loads", row | stamp())
        return
    if argv[:1] == ["count"]:
        arguments = counting.parse(argv[1:])
        print(counting.report(counting.step_operations(arguments.side, arguments.branches)))
        return
    if argv[:1] == ["range"]:
        arguments = ranges.parse(argv[1:])
        print(ranges.report(ranges.measure(arguments.checkpoint, arguments.side, torch.device(arguments.device))))
        return
    if argv[:1] == ["host"]:
        arguments = host_memory.parse(argv[1:])
        print(host_memory.report(host_memory.measure(arguments.size, arguments.dir)))
        return
    if argv[:1] == ["eight_bits"]:
        print(eight_bits.report(eight_bits.measure(eight_bits.parse(argv[1:]).size)))
        return
    if argv[:1] == ["farm"]:
        from tools.benchmarking import farm  # needs more packages than the rest

        arguments = farm.parse(argv[1:])
        entry = farm.measure(arguments.models, arguments.jobs, arguments.rounds, lambda line: print(f"  {line}", flush=True)) | stamp()
        print(farm.report(entry))
        if arguments.json:
            append(arguments.json, "farm", entry)
        return
    arguments = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = Device(arguments.device, arguments.cap)
    if arguments.command == "check":
        check(arguments, device)
        return
    if arguments.attention:
        entry = {"device": device.name, "dtype": arguments.dtype, "shapes": attention_table(device, DTYPES[arguments.dtype]), **stamp()}
        print(report.attention(entry))
    else:
        entry = measure(arguments, device)
        print(report.row(entry))
    if arguments.json:
        append(arguments.json, "attention" if arguments.attention else "rows", entry)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, MemoError, torch.OutOfMemoryError) as error:
        sys.exit(f"bench.py: {first_line(error)}")
