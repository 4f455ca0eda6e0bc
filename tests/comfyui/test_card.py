"""The sampler in a ComfyUI that has a GPU with too little room: every tensor is where it is used, and the frames are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

from tests.helpers.graphs import ROOT


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"), reason="this torch takes no device made in Python"
)
def test_frames_are_the_same_on_a_card_that_holds_a_part_of_the_weights(comfyui_path, tiny_models):
    command = [sys.executable, Path(__file__).resolve().parents[1] / "helpers" / "sample_on_card.py", ROOT, tiny_models.parent]
    environment = os.environ | {"PYTHONPATH": str(comfyui_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=comfyui_path, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["normal"]["places"] == ["card:0", "cpu"]
    assert all(found[mode]["difference"] < 1e-4 for mode in ("normal", "low", "auto", "too much"))
    auto = found["auto"]
    assert 0.3 < auto["resident"] <= 0.5 and auto["places"] == ["card:0"] and auto["streamed"], "what has room stays on the GPU"
    assert found["too much"]["resident"] == [True, False], "out of memory all the same, it continues with less there"
    assert found["continued"] == [2, 64, 64, 3]
    [warning] = found["warnings"]
    assert "of past frames in RAM, of which 0 MiB are free" in warning
    reference_net, diffusion_net, image_proj, audio_proj = range(4)
    whole, dynamic = found["order"]
    assert whole == [reference_net, diffusion_net, image_proj, audio_proj]
    assert dynamic == [diffusion_net, reference_net, image_proj, audio_proj], "what comes last is given up last"
