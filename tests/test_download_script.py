"""scripts/download.py: what is there, what is missing, and the tiny checkpoint from a hub on this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Cut, HubServer

from comfyui_memo.scripts.comfyui_server import copy_pack

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def comfyui(tmp_path) -> Path:
    """What the script takes for a ComfyUI, with the pack in it as it is published."""
    comfyui = tmp_path / "ComfyUI"
    copy_pack(comfyui / "custom_nodes" / "ComfyUI-MEMO")
    (comfyui / "main.py").write_text("")
    return comfyui


def download(comfyui: Path, *arguments: str, hub: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "COMFYUI_PATH"}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(comfyui / "hf"), "HOME": str(comfyui)}
    command = [sys.executable, comfyui / "custom_nodes" / "ComfyUI-MEMO" / "scripts" / "download.py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_fetch_verify_and_notice_damage(comfyui, tiny_models):
    folder = comfyui / "models" / "memo" / "memo"
    with HubServer({"memoavatar/memo": tiny_models / "memo" / "tiny"}) as hub:
        hub.faults[f"reference_net/{WEIGHTS}"] = [Cut(0.5)]
        run = download(comfyui, "--what", "nets", "emotion_classifier", hub=hub.url)
        assert run.returncode == 0, run.stderr
        assert f"nets: 8 files missing in {comfyui / 'models' / 'memo'}" in run.stdout and str(folder) in run.stdout
        assert "licence: Apache-2.0" in run.stdout
        for file in ("config.json", WEIGHTS):
            assert (folder / "diffusion_net" / file).read_bytes() == (tiny_models / "memo/tiny/diffusion_net" / file).read_bytes()
        before = len(hub.requests)
        assert download(comfyui, "--what", "nets", hub=hub.url).returncode == 0 and len(hub.requests) == before

    run = download(comfyui, "--verify", "--what", "nets")
    assert run.returncode == 0 and run.stdout.count("  verified  ") == 8
    with (folder / "image_proj" / WEIGHTS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    run = download(comfyui, "--verify", "--what", "nets")
    assert run.returncode == 1 and run.stdout.count("  verified  ") == 7 and "WRONG" in run.stdout


def test_what_is_missing_without_a_network(comfyui):
    run = download(comfyui, "--check")
    assert run.returncode == 1 and "emotion2vec: 1 files missing" in run.stdout
    assert "1.9 GB; without it: MEMO Set Emotion sets a mood by hand" in run.stdout
    run = download(comfyui, "--what", "vae")
    assert run.returncode == 1 and run.stderr == (
        "download.py: 127.0.0.1 cannot be reached ([Errno 111] Connection refused): run again with a connection, or fetch by hand, from "
        f"https://huggingface.co/stabilityai/sd-vae-ft-mse: {comfyui / 'models/vae/sd-vae-ft-mse.safetensors'}\n"
    )
    assert not (comfyui / "models").exists()


def test_extra_model_paths_and_refusals(comfyui, tiny_models, tmp_path):
    shutil.copytree(tiny_models / "memo/tiny", tmp_path / "disk/talking/memo")
    os.truncate(tmp_path / f"disk/talking/memo/misc/audio_emotion_classifier/{WEIGHTS}", 100)
    shutil.copytree(tiny_models / "memo/tiny", tmp_path / "disk/other/damaged", ignore=shutil.ignore_patterns("misc"))
    os.truncate(tmp_path / f"disk/other/damaged/diffusion_net/{WEIGHTS}", 100)
    (comfyui / "extra_model_paths.yaml").write_text(f"mine:\n  base_path: {tmp_path / 'disk'}\n  memo: |\n    talking\n    other\n")
    run = download(comfyui, "--check", "--what", "nets", "emotion_classifier")
    nets, classifier = run.stdout.splitlines()
    assert run.returncode == 1 and nets.startswith(f"nets: {tmp_path / 'disk/talking/memo'}; NOT USED: {tmp_path / 'disk/other/damaged'}")
    assert "cannot be read as model weights" in classifier
    folders = ("talking", "other", comfyui / "models/memo")
    assert f"looked in {', '.join(str(tmp_path / 'disk' / folder) for folder in folders)}; NOT USED: " in classifier
    assert f"missing in {tmp_path / 'disk/talking'}" in run.stdout  # the rest would go where most of it lies


def test_no_comfyui(tmp_path):
    elsewhere = tmp_path / "custom_nodes" / "ComfyUI-MEMO"
    copy_pack(elsewhere)
    run = download(tmp_path, "--check")
    assert run.returncode == 1 and run.stderr == "download.py: no ComfyUI found. Name its models folder with --models, or set COMFYUI_PATH.\n"
