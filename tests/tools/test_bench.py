"""The benchmark runs on a machine without a GPU, its rows are whole, and the README shows what was measured."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.models.config import DiffusionNetConfig
from memo_modules.models.kernels.convolution import pointwise
from memo_modules.models.layers import Layers, channels_last
from memo_modules.sampler.cost import Cost
from memo_modules.sampler.sampling import MemoNets
from memo_modules.sampler.streaming import HostTensors, StreamedMemory
from memo_modules.types import ReferenceFeatures, SamplerSettings
from memo_modules.weights.checkpoints import NETS, weights_file
from tools import bench
from tools.benchmarking import checks, counting, eight_bits, farm, host_memory, loading, random_nets, ranges, running, step
from tools.benchmarking.device import Device
from tools.derived import benchmark_table

ROOT = Path(__file__).resolve().parents[2]
ROW = {
    "device", "size", "mode", "s_per_frame", "s_per_step", "first_clip_s", "peak_vram_gb", "peak_reserved_gb", "peak_rss_gb", "cap_gb",
    "steps", "clips", "resolution", "dtype", "compile", "chosen", "off", "vae_batch", "resident_share", "stages", "tflops", "share",
    "matmul_tflops", "copy_gb_s", "upload_gb_s", "reference", "length", "versions", "date",
}  # fmt: skip
STAGES = {
    "reference_net", "memory_update", "diffusion_step", "image_proj", "audio_proj", "spatial_contexts", "emotion_modulations",
    "vae_encode", "vae_decode", "bring_in",
}  # fmt: skip


def run_bench(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=False)


@pytest.mark.parametrize("mode", ["exact", pytest.param("low_memory", marks=pytest.mark.slow)])
def test_a_run_on_the_cpu_appends_a_row(tmp_path, mode):
    file = tmp_path / "results" / "cpu.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"rows": [{"device": "earlier"}]}), encoding="utf-8")
    profile = tmp_path / "profile.txt"
    options = ("--device", "cpu", "--size", "tiny", "--mode", mode, "--steps", "1", "--clips", "1")
    run = run_bench(*options, "--json", str(file), "--profile", str(profile))
    assert run.returncode == 0, run.stderr
    earlier, row = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert earlier == {"device": "earlier"}

    assert row.keys() == ROW
    assert (row["size"], row["mode"], row["dtype"], row["resolution"]) == ("tiny", mode, "float32", "96x96")
    assert (row["steps"], row["clips"], row["peak_vram_gb"], row["reference"]) == (1, 1, None, None)
    assert row["device"] in run.stdout and row["versions"]["torch"]
    for rate in ("s_per_frame", "first_clip_s", "peak_rss_gb", "matmul_tflops", "copy_gb_s"):
        assert row[rate] > 0
    assert "aten::addmm" in profile.read_text(encoding="utf-8")
    assert row["stages"].keys() == STAGES
    assert 0 < row["share"] == pytest.approx(row["tflops"] / row["matmul_tflops"])
    in_stages = sum(stage["s_per_clip"] for stage in row["stages"].values())
    assert in_stages < 16 * row["s_per_frame"] * 1.01  # the stages of a clip are parts of it

    step = row["stages"]["diffusion_step"]
    parts = [part for kind, part in step["kinds"].items() if kind != "whole"]
    assert sum(part["tflop"] for part in parts) == pytest.approx(step["tflop"])
    assert all(part["tflop"] > 0 for part in parts)
    assert sum(part["gb"] for part in parts) == pytest.approx(step["gb"])
    # the arithmetic alone, or the moving alone, cannot take longer than the longer of both
    for part in parts:
        least = max(part["tflop"] / row["matmul_tflops"], part["gb"] / row["copy_gb_s"])
        assert least <= part["floor_s"] * 1.001


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--device cpu --steps 0", "--steps: expected at least 1, got 0."),
        ("--device cpu --length --clips 3", "--clips: expected at least 7, got 3."),
        ("--device cpu --attention", "--attention: its backends need --device cuda."),
        ("check --mode low_memory", "--mode: check compares both modes"),
        ("--device cpu --reference nowhere", "--reference: nowhere is no checkout"),
        ("--reference {checkout} --cap 7", "does not fit under a cap"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, sentence, tmp_path):
    (tmp_path / "memo" / "pipelines").mkdir(parents=True)
    (tmp_path / "memo" / "pipelines" / "video_pipeline.py").touch()
    with pytest.raises(ValueError, match=sentence):
        bench.parse(arguments.format(checkout=tmp_path).split())


def test_what_a_device_computes_is_checked(tmp_path, monkeypatch):
    file = tmp_path / "cpu.json"
    bench.main(["check", "--device", "cpu", "--size", "tiny", "--steps", "1", "--json", str(file)])
    [entry] = json.loads(file.read_text(encoding="utf-8"))["checks"]
    assert {each["what"] for each in entry["entries"]} == {"attention", "memory attention", "geglu", "norm", "frames"}
    assert all(each["error"] < each["limit"] for each in entry["entries"])

    def backends(capability) -> dict:
        return {"own": lambda *case: checks.sdpa(*case) * 1.001, "not here": lambda *case: 1 / 0}

    monkeypatch.setattr(checks.acceleration, "attention_backends", backends)
    entries = checks.forms_table(Device("cpu"), torch.float32, shrink=64)
    assert {entry["backend"] for entry in entries if checks.is_wrong(entry)} == {"own"}
    assert {entry["reason"] for entry in entries if entry["backend"] == "not here"} == {"division by zero"}
    assert "WRONG" in checks.report(entries)


@pytest.mark.slow
def test_hearing_a_voice_is_timed(tmp_path):
    models, file = ROOT / "assets" / "models" / "memo" / "small" / "misc", tmp_path / "cpu.json"
    onnx = [
        "--face",
        models / "face_analysis" / "models",
        "--portrait",
        ROOT / "assets" / "cartoon.png",
        "--separator",
        next(models.glob("vocal_separator/*.onnx")),
    ]
    run = run_bench("conditioning", "--device", "cpu", "--size", "tiny", "--seconds", "5", "--json", str(file), *map(str, onnx))
    assert run.returncode == 0, run.stderr
    [entry] = json.loads(file.read_text(encoding="utf-8"))["conditioning"]
    for stage in ("features", "emotion", "face", "vocals"):
        assert entry[f"{stage}_s"] > 0 and stage in run.stdout
    assert (entry["seconds"], entry["face_provider"], entry["vocals_provider"]) == (5, "CPU", "CPU")


def test_a_cap_is_for_cards():
    with pytest.raises(ValueError, match="--cap: only a CUDA device"):
        Device("cpu", cap_gib=7.0)


@pytest.mark.parametrize("failing", [None, "sampler", "reference"])
def test_the_sampler_and_the_reference_take_turns_after_every_step(failing):
    """And where one of them fails, the other is not left waiting."""
    turns, order = running._Turns(), []

    def clips(name: str, hand_over, steps: int):
        for clip in range(2):
            for _ in range(steps):
                order.append(name)
                hand_over()
                if name == failing:
                    raise ValueError(name)
            yield f"{name} {clip}"

    pairs = turns.pairs(clips("sampler", turns.first, 3), clips("reference", turns.second, 2))
    if failing:
        with pytest.raises(ValueError, match=failing):
            list(pairs)
        return
    assert list(pairs) == [("sampler 0", "reference 0"), ("sampler 1", "reference 1")]
    assert order == 2 * ["sampler", "reference", "sampler", "reference", "sampler"]


def test_what_of_the_motion_memory_stays_follows_from_the_cap():
    layers = Layers(dtype=torch.bfloat16, device="meta")
    nets = {name: random_nets.build(name, "full", layers) for name in (*NETS, "vae")}
    autoencoder = nets.pop("vae")
    nets = MemoNets(**nets, device=layers.device, dtype=layers.dtype)
    caps = (None, 5.5, 7.0, 11.0, 14.0)
    shares = [bench.resident_share(nets, autoencoder, bench.parse(["--mode", "low_memory", *(["--cap", str(cap)] if cap else [])])) for cap in caps]
    assert shares == [0, 0, pytest.approx(0.165, abs=0.04), pytest.approx(0.78, abs=0.04), 1]


def test_what_a_step_costs_is_counted_without_kernels():
    def kernel(*case):
        raise AssertionError("on the meta device there is nothing to run it on")

    layers = Layers(
        attention=kernel, memory_attention=kernel, geglu=kernel, group_norm_silu=kernel, to_memory_format=channels_last, conv_as_matmul=pointwise
    )
    net, frames = random_nets.random_net("diffusion_net", "tiny", layers), 2
    memory, tensors = net.empty_memory(), tuple(torch.randn(frames, 4, 64) for _ in net.numbered_layers())
    past = ReferenceFeatures(tensors)
    with torch.inference_mode(), pytest.raises(AssertionError, match="nothing to run it on"):
        net.update_memory(past, memory, frames)
    for count in (step.count_flops, lambda *call: counting.count_moved(*call, 1e12, 1e12)[0]):
        in_place = count(net, "update_memory", (past, memory, frames), {})["whole"]
        assert in_place > 0
        [streamed] = StreamedMemory.split(len(memory), 1, torch.device("cpu"))
        in_ram = ReferenceFeatures(HostTensors(tensors, torch.device("cpu")))
        assert count(net, "update_memory", (in_ram, streamed, frames), {})["whole"] == in_place


def test_a_step_asks_for_no_more_than_it_did():
    """Of a GPU, at 512x512 with guidance. Less is welcome: lower the limits with it."""
    operations = counting.step_operations(512, 2)
    flops = sum(each.flops for each in operations)
    assert flops < 49.9e12
    assert sum(each.moved for each in operations) < 162e9
    assert sum(each.launches for each in operations) <= 1694
    assert "162.0 GB moved, 1694 launches" in counting.report(operations)
    alone = counting.step_operations(512, 1)  # as in low-memory mode
    assert sum(each.moved for each in alone) < 83.4e9
    assert sum(each.launches for each in alone) <= 1532
    config = DiffusionNetConfig.from_dict(random_nets.options("diffusion_net", "full"), "")
    cost = Cost(config, (64, 64), SamplerSettings())  # but for the time embedding, by arithmetic
    assert (cost.guided(), cost.a_pass()) == pytest.approx((flops, sum(each.flops for each in alone)), rel=5e-4)


def test_a_side_that_no_net_takes_is_refused():
    with pytest.raises(ValueError, match="--side: expected a multiple of 64 from 64 on, got 100."):
        counting.parse(["--side", "100"])


def test_seconds_of_a_step_are_those_of_its_passes_in_turn():
    net = random_nets.random_net("diffusion_net", "tiny", Layers())
    seen = []
    net.forward = lambda which: seen.append(which) or time.sleep(0.01 * which)
    first, second = step.step_by_kind(net, [((1,), {}), ((), {"which": 3})], Device("cpu"), repeats=2)
    assert seen == [1, 3] * 3
    assert 0.01 <= first["whole"] == first["rest"] < 0.03 <= second["whole"]


def test_without_a_card_one_sentence_says_so():
    run = run_bench("--device", "cuda")
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr == "bench.py: --device cuda: this torch sees no CUDA device.\n"


def test_table_holds_the_last_full_size_row_of_each_kind(tmp_path):
    versions = {"python": "3.12.3", "torch": "2.11.0", "diffusers": "0.42.1", "cuda": "13.0", "pack": "0.1.0"}
    old = {
        "device": "A Card", "size": "full", "mode": "exact", "dtype": "bfloat16", "compile": False, "chosen": {}, "off": [],
        "cap_gb": None, "resolution": "512x512", "steps": 20,
        "s_per_frame": 0.5, "peak_vram_gb": 15.96, "date": "2026-11-20", "versions": versions,
    }  # fmt: skip
    new = old | {"s_per_frame": 0.25, "date": "2026-11-21"}
    capped = old | {"mode": "low_memory", "cap_gb": 7.0, "peak_vram_gb": 6.5}
    (tmp_path / "a.json").write_text(
        json.dumps({"rows": [new, old | {"size": "width"}, new | {"off": ["fused"]}, new | {"steps": 5}]}), encoding="utf-8"
    )
    (tmp_path / "b.json").write_text(json.dumps({"rows": [old, capped], "attention": []}), encoding="utf-8")
    lines = benchmark_table.table(benchmark_table.measured_rows(tmp_path)).splitlines()
    assert lines[2:] == [
        "| A Card | exact | 512x512 | 0.250 | 16.0 GiB | 2026-11-21 | torch 2.11.0, cuda 13.0, diffusers 0.42.1, pack 0.1.0 |",
        "| A Card | low memory, capped at 7 GiB | 512x512 | 0.500 | 6.5 GiB | 2026-11-20 | torch 2.11.0, cuda 13.0, diffusers 0.42.1, pack 0.1.0 |",
    ]
    assert benchmark_table.table([]).endswith("yet.")


@pytest.mark.slow
def test_loading_is_measured_for_every_case(tmp_path):
    file = tmp_path / "loads.json"
    run = run_bench("load", "--size", "tiny", "--dir", str(tmp_path), "--json", str(file))
    assert run.returncode == 0, run.stderr
    rows = json.loads(file.read_text(encoding="utf-8"))["loads"]
    assert [(row["layout"], row["dtype"]) for row in rows] == list(loading.CASES)
    by_dtype = {row["dtype"]: row for row in rows}
    assert by_dtype["fp32"]["weights_gb"] > 1.9 * by_dtype["bf16"]["weights_gb"] > 3 * by_dtype["fp8_e4m3fn"]["weights_gb"]
    assert all(0 < row["load_s"] < row["load_and_read_s"] and row["plain_read_mb_s"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_the_farm_is_measured_with_the_small_model():
    said = []
    entry = farm.measure(ROOT / "assets" / "models", jobs=3, rounds=1, say=said.append)
    assert len(said) == 6 and list(entry["ways"]) == list(farm.WAYS)
    assert all(value > 0 for each in entry["ways"].values() for value in each.values())


def test_the_farm_is_compared_by_what_a_further_job_takes(tmp_path):
    farm.write_jobs(tmp_path, 2)
    assert (tmp_path / "0.wav").read_bytes() != (tmp_path / "1.wav").read_bytes()
    ways = {way: {"cpu_s": 60.0, "wall_s": 30.0, "cpu_s_per_job": 5.0 + 0.1 * number} for number, way in enumerate(farm.WAYS)}
    table = farm.report({"jobs": 8, "seconds": 1.0, "size": 128, "steps": 5, "cpus": 2, "ways": ways})
    assert "| 1 worker | 60.0 | 30.0 | 5.10 | +2.0% | 16.0 |" in table


@pytest.mark.parametrize(("scale", "inside", "expected"), [(1.0, 1.0, "fp16"), (1e5, 1.0, "fp16_fp32"), (1.0, 1e6, "fp32")])
def test_range_says_what_leaves_float16(tiny_models, tmp_path, scale, inside, expected):
    """Of a checkpoint whose stream, or whose first queries, are as large as that."""
    checkpoint = shutil.copytree(tiny_models / "memo" / "tiny", tmp_path / "memo")
    file = weights_file(checkpoint / "diffusion_net")
    weights = {key: tensor.float() for key, tensor in load_file(file).items()}
    for key in ("conv_in.weight", "down_blocks.0.attentions.0.proj_in.weight"):
        weights[key] *= scale if key.startswith("conv_in") else inside
    save_file(weights, file)
    rows = ranges.measure(checkpoint, 64, torch.device("cpu"))
    assert ranges.verdict(rows).partition(",")[0].partition(":")[0] == expected
    assert {row.net for row in rows} == {"reference_net", "diffusion_net"}
    top = max(rows, key=lambda row: row.value)
    assert f"weight_dtype {expected}" in ranges.report(rows) and top.module in ranges.report(rows)


def test_weights_in_8_bits_are_nearer_with_scales():
    found = eight_bits.measure("tiny")
    for kind in next(iter(found.values())):
        errors = [found[form][kind] for form in ("bf16", "int8, scale per row", "fp8, scale per row", "fp8")]
        assert errors[0] < errors[1] < errors[2] <= 1.02 * errors[3] or kind == "step", kind
    assert found["bf16"]["step"] < found["fp8"]["step"] and "fp8, scale per row" in eight_bits.report(found)


@pytest.mark.slow
def test_ram_of_low_memory_mode_is_what_was_counted():
    """At full size, in five minutes: 10 GiB of RAM and 5 GB of disk."""
    for row in host_memory.measure("full", None):
        assert abs(row["difference"]) < 0.1, host_memory.report([row])
