"""Load MEMO LoRA: what ComfyUI's patches make of a model is what merging the LoRA makes of its file, and it leaves no trace."""

import shutil

import pytest
import torch.utils.backend_registration

from scripts import convert
from tests.helpers.graphs import ROOT
from tests.helpers.in_comfyui import found_by
from tests.helpers.random_lora import write_random_lora
from tests.helpers.training_world import write_checkpoint

ROUNDING = 1e-4


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"), reason="this torch takes no device made in Python"
)
def test_a_lora_changes_a_model_as_merging_it_does_and_leaves_no_trace(comfyui_path, tiny_models, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(tiny_models, models)
    tiny = models / "memo" / "tiny"
    one, two = (write_random_lora(models / "loras" / f"{name}.safetensors", tiny, seed) for seed, name in enumerate(("one", "two")))
    write_random_lora(models / "loras" / "large.safetensors", tiny, size=1.0)
    convert.main([*map(str, (tiny, models / "memo" / "merged.safetensors", "--dtype", "fp32", "--lora", one))])
    convert.main([*map(str, (tiny, models / "memo" / "both.safetensors", "--dtype", "fp32", "--lora", one, "--lora", f"{two}:-0.5"))])
    write_checkpoint(models / "memo" / "other")
    found = found_by("sample_with_lora.py", comfyui_path, ROOT, tmp_path)
    assert found["size"] > 0.05
    assert all(found[name] < ROUNDING for name in ("merged", "two", "in halves", "card"))
    assert all(found[name] == 0 for name in ("plain after it", "strength 0", "plain after all"))
    assert found["digests"] == 4 and found["same digests"]
    assert found["card plain"] < ROUNDING and found["card places"] == ["card:0", "cpu"], "a part of the weights is streamed"
    assert found["fp8"] < 0.06 < 0.3 < found["fp8 off"] and found["fp8 streamed"] < 0.06, "as near as 8 bits are"
    assert found["int8_scaled"] < 0.01 and found["int8 streamed"] < 0.01 and found["fp8_e4m3fn_scaled"] < 0.04, "added after the scale, not rounded"
    assert min(found["int8_scaled off"], found["fp8_e4m3fn_scaled off"]) > 0.3, "it leaves no trace"
    assert "one.safetensors" in found["other"] and "Use the LoRA with the model it was made for." in found["other"]
    assert found["known"] is True and "is not in models/loras (large.safetensors, one.safetensors, two.safetensors)" in found["refused"]
