"""The sampler in a ComfyUI that has a GPU with too little room: every tensor is where it is used, and the frames are the same."""

import pytest
import torch.utils.backend_registration

from tests.helpers.graphs import ROOT
from tests.helpers.in_comfyui import found_by

needs_a_device_made_in_python = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"), reason="this torch takes no device made in Python"
)


@needs_a_device_made_in_python
def test_frames_are_the_same_on_a_card_that_holds_a_part_of_the_weights(comfyui_path, tiny_models):
    found = found_by("sample_on_card.py", comfyui_path, ROOT, tiny_models.parent)
    assert found["normal"]["places"] == ["card:0", "cpu"]
    assert all(found[mode]["difference"] < 1e-4 for mode in ("normal", "low", "auto", "too much"))
    auto = found["auto"]
    assert 0.3 < auto["resident"] <= 0.5 and auto["places"] == ["card:0"] and auto["streamed"], "what has room stays on the GPU"
    assert found["too much"]["resident"] == [True, False], "out of memory all the same, it continues with less there"
    assert found["continued"] == [2, 64, 64, 3]
    enough, little, none = found["little RAM"]
    assert enough == [False, []] and (little[0], none[0]) == (True, True)
    assert ["past frames are kept in 8 bits" in said for [said] in (little[1], none[1])] == [True, True]
    assert ["close other programs" in said for [said] in (little[1], none[1])] == [False, True]
    assert 0 < found["8 bits"] < 0.02, "of 1"
    for held, counted in found["in RAM"]:
        assert held == counted, "by a video in low-memory mode, and in 8 bits"
    assert found["apple"] == [1.0, True], "a memory moved to the same RAM would be there twice"
    reference_net, diffusion_net, image_proj, audio_proj = range(4)
    whole, dynamic = found["order"]
    assert whole == [reference_net, diffusion_net, image_proj, audio_proj]
    assert dynamic == [diffusion_net, reference_net, image_proj, audio_proj], "what comes last is given up last"


@needs_a_device_made_in_python
def test_weights_that_core_streams_by_itself_make_the_same_frames(comfyui_path, tiny_models):
    """As core does on NVIDIA GPUs since 0.33: all of them resident or a third, in both modes, in float32 and in 8 bits, with a scale
    for each row and without; bit for bit."""
    if "class ModelPatcherDynamic" not in (comfyui_path / "comfy" / "model_patcher.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has one patcher")
    found, errors_with_lora = found_by("sample_with_dynamic_weights.py", comfyui_path, ROOT, tiny_models.parent)
    assert {name: run["difference"] for name, run in found.items()} == dict.fromkeys(found, 0.0) and len(found) == 4
    assert all(run["kinds"] == ["ModelPatcherDynamic"] for run in found.values())
    assert all((run["refused"] == 0) is run["whole"] for run in found.values()), "what has no room comes for one use alone"
    exact, eight_bits = errors_with_lora[:2], errors_with_lora[2:]
    assert max(exact) < 1e-5 and max(eight_bits) < 0.01, "streamed and resident, at the first use and at the next"
