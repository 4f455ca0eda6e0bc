"""The scripts that make the environment and keep the dependency promise."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from memo_modules.errors import MemoError
from scripts import install_extras
from tools import environment, snapshot

ROOT = Path(__file__).resolve().parents[2]


def make_comfyui(folder):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text("aiohttp\n")
    return folder


def test_comfyui_is_found_by_name_then_around_then_at_home(tmp_path, monkeypatch):
    named, around, home = (make_comfyui(tmp_path / name) for name in ("named", "around", "home"))
    monkeypatch.setattr(environment, "HOME_COMFYUI", home)
    monkeypatch.setattr(environment, "ROOT", around / "custom_nodes" / "ComfyUI-MEMO")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert environment.find_comfyui() == named.resolve()
    monkeypatch.delenv("COMFYUI_PATH")
    assert environment.find_comfyui() == around
    monkeypatch.setattr(environment, "ROOT", tmp_path / "elsewhere")
    assert environment.find_comfyui() == home
    monkeypatch.setattr(environment, "HOME_COMFYUI", tmp_path / "nowhere")
    assert environment.find_comfyui() is None


def test_comfyui_path_that_leads_nowhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="COMFYUI_PATH"):
        environment.find_comfyui()


def test_complete_environment_is_used_as_it_is(tmp_path, monkeypatch):
    comfyui, venv = make_comfyui(tmp_path / "ComfyUI"), tmp_path / "with space é" / ".venv"
    monkeypatch.setattr(environment, "VENV", venv)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (venv / "complete").write_text(environment.fingerprint(comfyui), encoding="utf-8")
    assert environment.ensure(comfyui) == environment.interpreter(venv)
    assert environment.interpreter(venv).exists()


def test_fingerprint_follows_comfyuis_requirements(tmp_path):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    before = environment.fingerprint(comfyui)
    assert before == environment.fingerprint(comfyui) != environment.fingerprint(None)
    (comfyui / "requirements.txt").write_text("aiohttp>=3\n")
    assert environment.fingerprint(comfyui) != before


def test_programs_learn_which_comfyui_was_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = environment.variables(tmp_path)
    assert found["COMFYUI_PATH"] == str(tmp_path)
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert Path(found["PYTHONPYCACHEPREFIX"]).is_relative_to(environment.VENV)


def test_failed_step_shows_what_the_command_said():
    with pytest.raises(SystemExit, match="Trying failed:\n.*no such thing"):
        environment.run_step("Trying", sys.executable, "-c", "raise SystemExit('no such thing')")


@pytest.mark.parametrize(("required", "status", "outcome"), [("0", 0, "1 server tests skipped"), ("1", 1, "1 error")])
def test_without_comfyui_server_tests_are_counted_or_fail(tmp_path, required, status, outcome):
    test = "tests/comfyui/test_server.py::test_nodes_are_listed"
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "MEMO_REQUIRE_COMFYUI": required}
    variables = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"} | home
    run = subprocess.run([sys.executable, "-m", "pytest", test], cwd=ROOT, env=variables, check=False, capture_output=True, text=True)
    assert run.returncode == status
    assert outcome in run.stdout


def test_only_what_no_package_brings_is_missing():
    packages = {"json": "never", "no_such_module": "wanted>=1"}
    assert install_extras.missing(packages) == ["wanted>=1"]


@pytest.mark.parametrize(
    ("there", "uv", "expected"),
    [
        ({"pip", "ensurepip"}, "/bin/uv", [sys.executable, "-m", "pip", "install"]),
        ({"ensurepip"}, "/bin/uv", ["/bin/uv", "pip", "install", "--quiet", "--python", sys.executable]),
        ({"ensurepip"}, None, f'get pip: "{sys.executable}" -m ensurepip. Then start this again.'),
        (set(), None, "python3-pip. Then start this again."),
    ],
)
def test_environments_of_uv_have_no_pip(monkeypatch, there, uv, expected):
    monkeypatch.setattr(install_extras.importlib.util, "find_spec", lambda name: name in there or None)
    monkeypatch.setattr(install_extras.shutil, "which", lambda name: uv)
    if isinstance(expected, str):
        with pytest.raises(MemoError, match=re.escape(expected)):
            install_extras.installer()
    else:
        assert install_extras.installer()[: len(expected)] == expected


def test_librosa_never_comes_without_what_transformers_imports_with_it():
    """Many versions of it import soxr where librosa is, and fail as a whole without."""
    assert "librosa" in install_extras.ALONE
    assert "soxr" in (environment.ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert importlib.util.find_spec("soxr")


def test_what_is_there_twice_is_what_is_imported(tmp_path, monkeypatch):
    """As pip leaves it when an update is cut off, and as a virtual environment over the system's packages."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    install_package(first, "twice", "1.16.0", {}).rename(first / "~wice-1.16.0.dist-info")
    install_package(first, "twice", "1.17.0", {})
    for name, version in (("twice", "1.15.0"), ("of_the_system", "1.1build1"), ("alone", "2.0")):
        install_package(second, name, version, {})
    monkeypatch.setattr(sys, "path", [str(first), str(second)])
    assert install_extras.installed() == ["alone==2.0", "twice==1.17.0"]


def install_package(site, name, version, files):
    """Lay out a package as pip does, with a RECORD."""
    lines = []
    for file, text in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text)
        lines.append(f"{file},sha256=x,{len(text)}")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("\n".join(lines))
    return info


def test_requirements_check_sees_versions_and_overwritten_files(tmp_path):
    numpy = install_package(tmp_path, "numpy", "2.4", {"numpy/a.py": "1"})
    install_package(tmp_path, "onnxruntime-gpu", "1.31", {"onnxruntime/a.py": "gpu", "onnxruntime/b.py": "both"})
    before = snapshot.snapshot(tmp_path)
    install_package(tmp_path, "new", "1", {"new/a.py": "1"})
    assert snapshot.changes(before, snapshot.snapshot(tmp_path)) == []

    install_package(tmp_path, "onnxruntime", "1.31", {"onnxruntime/a.py": "cpu", "onnxruntime/b.py": "both"})
    numpy.rename(tmp_path / "numpy-1.26.dist-info")
    (tmp_path / "numpy-1.26.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26\n")
    changes = snapshot.changes(before, snapshot.snapshot(tmp_path))
    assert changes == ["numpy 2.4 -> 1.26", "onnxruntime/a.py overwritten or removed"]
