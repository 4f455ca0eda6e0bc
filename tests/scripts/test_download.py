"""scripts/download.py: what is there, what is missing, and the tiny checkpoint from a hub on this machine."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memo_modules.store.catalogue import CATALOGUE
from tests.helpers.hub_server import Cut, HubServer
from tools.comfyui_server import copy_pack

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


BOMB = "a: &a {b: &b [" + "x, " * 9 + "]}\n" + "".join(f"s{i}: &s{i} {{<<: [{', '.join([f'*s{i - 1}' if i else '*a'] * 9)}]}}\n" for i in range(9))
SPOILT = {
    "no YAML": (b"a: [", "no YAML"),
    "a tab": (b"a:\n\tb: c", "no YAML"),
    "a tag": (b"a: !!python/object/apply:os.mkdir [x]", "no YAML"),
    "no number": (b"a: {memo: " + b"9" * 5000 + b"}", "cannot be used"),
    "no date": (b"a: 2001-99-99", "no YAML"),
    "no key": (b"? [a]\n: b", "no YAML"),
    "a list": (b"- a\n- b", "got list"),
    "a word": (b"models", "got str"),
    "a list in it": (b"a: [b, c]", "section 'a': expected folders by kind, got list"),
    "a number in it": (b"a: 3", "got int"),
    "a number as folder": (b"a: {base_path: /x, memo: 3}", "section 'a', 'memo': expected a folder, got 3"),
    "a list as folder": (b"a: {memo: [b, c]}", "expected a folder, got ['b', 'c']"),
    "a list as base": (b"a: {base_path: [b], memo: c}", "'base_path': expected a folder"),
    "no folder": (b"a: {memo: }", "expected a folder, got None"),
    "a zero in it": (b'a: {memo: "b\\0c"}', "expected a folder"),
    "half an emoji": (b'a: {memo: "\\ud83d"}', "expected a folder"),
    "another encoding": ("a: {memo: /Modèle}".encode("utf-16"), "not UTF-8"),
    "bytes": (b"\xff\xfe\x00", "not UTF-8"),
    "control characters": (b"a: \x01", "no YAML"),
    "too deep": (b"[" * 50_000, "too deep"),
    "deep in blocks": ("".join(" " * i + "a:\n" for i in range(300)).encode(), "too deep"),
    "too large": (b"#" * 2**20, "is larger than"),
    "a bomb": (BOMB.encode(), "too many aliases"),
    "itself": (b"a: &a {b: *a}", "expected a folder"),
}


@pytest.fixture
def script(comfyui, monkeypatch, capsys):
    """Runs the script in this process, for ``comfyui``; gives exit status and what it wrote to standard error."""
    from scripts import download

    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))

    def run(*arguments: str) -> tuple[int, str]:
        try:
            status = download.run(["--check", "--what", "nets", *arguments])
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_list_of_folders_is_one_sentence(comfyui, script, what):
    content, words = SPOILT[what]
    (comfyui / "extra_model_paths.yaml").write_bytes(content)
    status, said = script()
    assert status == 2 and words in said and said.count("\n") == 1 and len(said) < 1000, said
    assert said.startswith(f"download.py: {comfyui / 'extra_model_paths.yaml'} cannot be used: ") and "with --models." in said


@pytest.mark.parametrize("what", ["folder", "pipe", "link", "closed"])
def test_a_list_of_folders_that_is_no_file(comfyui, script, what):
    file = comfyui / "extra_model_paths.yaml"
    if what == "folder":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "link":
        file.symlink_to(file)
    else:
        file.write_text("")
        file.chmod(0)
        if os.access(file, os.R_OK):
            pytest.skip("this user may read all")
    status, said = script()
    assert status == 2 and said.startswith(f"download.py: {file} cannot be used: ") and said.count("\n") == 1, said


@pytest.mark.parametrize("content", ["", "# nothing\n", "a:\n", "a: {}\n", "a: {is_default: true, base_path: ~/x, loras: y, memo: z}\n"])
def test_a_list_of_folders_with_little_in_it(comfyui, script, content):
    (comfyui / "extra_model_paths.yaml").write_text(content)
    assert script() == (1, "")


def test_models_that_are_no_folder(script, tmp_path):
    (tmp_path / "file").touch()
    for value in (str(tmp_path / "file"), str(tmp_path / "file" / "below"), "x" * 5000):
        status, said = script("--models", value)
        assert status == 2 and "--models" in said and "Traceback" not in said and len(said) < 1000
    assert script("--models", str(tmp_path / "new")) == (1, "")


def test_what_came_from_the_hubs_cache_is_verified_later(comfyui, tiny_models):
    """Its hash is kept, where the catalogue has none."""
    content = (tiny_models / "memo/tiny/diffusion_net" / WEIGHTS).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    cache = comfyui / "hf/hub/models--memoavatar--memo"
    file = next(file for file in CATALOGUE["nets"].needed if file.path == f"diffusion_net/{WEIGHTS}")
    snapshot = cache / "snapshots" / ("a" * 40)
    (snapshot / "diffusion_net").mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "refs").mkdir()
    (cache / "refs" / file.revision).write_text("a" * 40)
    (cache / "blobs" / sha256).write_bytes(content)
    (snapshot / file.path).symlink_to(cache / "blobs" / sha256)
    download(comfyui, "--what", "nets")  # the rest cannot be had
    run = download(comfyui, "--verify", "--what", "nets")
    assert run.stdout.count("  verified  ") == 1 and "unknown sum" not in run.stdout
