"""The time of each stage of a run, with its FLOPs and the bytes it moves."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tools.benchmarking import counting, random_nets, running, step
from tools.benchmarking.stages import UNITS


def stage_table(subject: running.Subject, stages: dict[str, dict], profile: Path | None, matmul_tflops: float, copy_gb_s: float) -> dict[str, dict]:
    """``stages`` with TFLOP per unit, TFLOP/s and their share of a matrix product's, and one step by kind of module, also
    with what torch's operations move and the least time that they take for it at the rates of a product and a copy.
    profile: where to write which operations of a step take how long."""
    one_step = replace(
        subject,
        inputs=random_nets.random_inputs(subject.size, 1),
        settings=replace(subject.settings, steps=1),
    )
    net = subject.nets.diffusion_net
    methods = {
        "reference_net": (subject.nets.reference_net, "forward"),
        "memory_update": (net, "update_memory"),
        "diffusion_step": (net, "forward"),
    }
    with ExitStack() as stack:
        calls = {stage: stack.enter_context(step.recorded(*method)) for stage, method in methods.items()}
        running.run(one_step)
    flops = {
        stage: _per_unit(stage, calls[stage], [step.count_flops(module, method, *call) for call in calls[stage]])
        for stage, (module, method) in methods.items()
    }
    moved = [counting.count_moved(net, "forward", *call, matmul_tflops * 1e12, copy_gb_s * 1e9) for call in calls["diffusion_step"]]
    gb, floors = (_per_unit("diffusion_step", calls["diffusion_step"], list(counts)) for counts in zip(*moved, strict=True))
    flops |= step.vae_flops(subject.size)
    for stage, counts in flops.items():
        _rate(stages[stage], counts["whole"], matmul_tflops)

    subject.nets.bring_in("diffusion", True)
    repeats = 10 if subject.device.is_cuda else 2
    if profile:
        profile.parent.mkdir(parents=True, exist_ok=True)
        args, kwargs = calls["diffusion_step"][-1]
        profile.write_text(step.profile(net, args, kwargs, subject.device), encoding="utf-8")
    passes = step.step_by_kind(net, calls["diffusion_step"], subject.device, repeats)
    kinds = {kind: {"s": seconds} for kind, seconds in _per_unit("diffusion_step", calls["diffusion_step"], passes).items()}
    for kind, entry in kinds.items():
        _rate(entry, flops["diffusion_step"][kind], matmul_tflops)
        entry |= {"gb": gb[kind] * 1e-9, "floor_s": floors[kind]}
    stages["diffusion_step"] |= {"kinds": kinds, "gb": kinds["whole"]["gb"], "floor_s": kinds["whole"]["floor_s"]}
    return stages


def _per_unit(stage: str, calls: list[tuple[tuple, dict]], measured: list[dict[str, float]]) -> dict[str, float]:
    """What was measured of several calls of a stage, by unit of the stage."""
    units = sum(UNITS[stage].count(*args) for args, _ in calls)
    return {key: sum(values[key] for values in measured) / units for key in measured[0]}


def _rate(entry: dict, flops: float, matmul_tflops: float) -> None:
    tflop = flops * 1e-12
    entry |= {"tflop": tflop, "tflops": tflop / entry["s"], "share": tflop / entry["s"] / matmul_tflops}
