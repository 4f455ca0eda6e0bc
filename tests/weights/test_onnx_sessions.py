"""audio-separator and insightface as guests: what they leave behind, and where their sessions run."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memo_modules.audio.vocals import VocalSeparator
from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, FaceAnalyzer, embed_face
from memo_modules.types import Audio
from memo_modules.weights import onnx_sessions
from tools.tiny_onnx import write_detector, write_recogniser

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize("steps", [("vocals", "face"), ("face", "vocals")], ids=" then ".join)
def test_the_packages_leave_nothing_behind(misc, tmp_path, steps):
    """In a process without pytest, which they notice, without programs and with every warning on."""
    folders = {name: tmp_path / name for name in ("cwd", "home", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    environment = {"PATH": "", "HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).resolve().parents[1] / "helpers" / "separate_and_embed.py"
    command = [sys.executable, "-W", "always", script, misc, tmp_path / "report.json", *steps]
    run = subprocess.run(command, check=False, cwd=folders["cwd"], env=environment, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == {"changed": {}, "reached": []}
    # Python sees nothing of onnxruntime's reports but their files; torch makes its folder when its compiler is imported.
    found = [file.relative_to(tmp_path).as_posix() for folder in folders.values() for file in folder.rglob("*")]
    assert [name for name in found if not name.startswith("tmp/torchinductor_")] == []


def start_fails(session, providers):
    raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0\nstack")


def start_is_silent(session, providers):
    """As when a library is missing: onnxruntime logs it and does without."""
    providers.remove(CUDA)


def run_fails(session, providers):
    """As when cuDNN is missing: nothing is amiss until a convolution runs."""
    providers.remove(CUDA)
    session.get_providers = lambda: [CUDA, CPU]
    session.run = lambda *_: start_fails(session, providers)


@pytest.fixture
def broken_cuda(monkeypatch, request):
    """An onnxruntime with a CUDA provider that does not start, in the way that the parameter says."""
    create = onnxruntime.InferenceSession._create_inference_session

    def without_cuda(session, providers, *args):
        session._fallback_providers = [CPU]
        providers = list(providers)
        if CUDA in providers:
            request.param(session, providers)
        create(session, providers, *args)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", without_cuda)
    cuda_starts = onnx_sessions.cuda_starts
    cuda_starts.cache_clear()
    yield
    cuda_starts.cache_clear()


@pytest.fixture
def openings(monkeypatch) -> list[list[str]]:
    """The providers asked for each time that onnxruntime is to open a session."""
    openings, create = [], onnxruntime.InferenceSession._create_inference_session

    def recorded(session, providers, *args):
        openings.append(list(providers))
        create(session, providers, *args)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", recorded)
    return openings


@pytest.mark.parametrize("broken_cuda", [start_fails, start_is_silent, run_fails], indirect=True)
def test_what_cannot_run_on_cuda_runs_on_the_cpu_and_says_so_once(misc, broken_cuda, openings, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        separator = VocalSeparator.load(misc / "vocal_separator" / "Kim_Vocal_2.onnx", cuda=True)
        analyzer = FaceAnalyzer.load(misc / "face_analysis" / "models", cuda=True)
    [record] = caplog.records
    assert record.name == onnx_sessions.__name__ and "does not start" in record.message and "\n" not in record.message
    assert not separator.on_cuda and not analyzer.on_cuda and openings == [[CUDA, CPU], [CPU], [CPU], [CPU]]
    assert separator.separate(Audio(torch.rand(2, 20000) - 0.5, 44100)).waveform.any()
    assert embed_face(analyzer, torch.rand(256, 256, 3)).embedding.any()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("broken_cuda", [start_fails], indirect=True)
def test_a_card_that_is_full_by_then_is_no_reason_to_print(misc, broken_cuda, openings, monkeypatch, capfd):
    """onnxruntime itself falls back then."""
    monkeypatch.setattr(onnx_sessions, "cuda_starts", lambda: True)
    VocalSeparator.load(misc / "vocal_separator" / "Kim_Vocal_2.onnx", cuda=True)
    FaceAnalyzer.load(misc / "face_analysis" / "models", cuda=True)
    assert openings == [[CUDA, CPU], [CPU]] * 3
    assert capfd.readouterr() == ("", "")


def test_cuda_is_used_where_it_starts(misc, monkeypatch):
    monkeypatch.setattr(onnx_sessions, "cuda_starts", lambda: True)
    opened = []
    monkeypatch.setattr(VocalSeparator, "_open", lambda model, providers: opened.append(providers))
    for cuda in (True, False):
        VocalSeparator.load(misc / "vocal_separator" / "Kim_Vocal_2.onnx", cuda=cuda)
    assert opened == [[CUDA, CPU], [CPU]]


def test_only_the_three_models_are_opened(misc, openings, tmp_path):
    """One session each, whatever else is in the folders."""
    folder = tmp_path / "models"
    write_detector(folder / DETECTOR_FILE)
    write_recogniser(folder / RECOGNISER_FILE)
    write_recogniser(folder / "1k3d68.onnx")
    write_detector(folder / "a_detector.onnx")
    (folder / "genderage.onnx").write_bytes(b"no model at all")
    analyzer = FaceAnalyzer.load(folder)
    embed_face(analyzer, torch.rand(200, 300, 3))
    assert len(openings) == 2
    separator = VocalSeparator.load(misc / "vocal_separator" / "Kim_Vocal_2.onnx")
    separator.separate(Audio(torch.rand(2, 20000) - 0.5, 44100))
    assert len(openings) == 3


def test_sizes(misc, tmp_path):
    files = (misc / "face_analysis" / "models").iterdir()
    assert FaceAnalyzer(misc / "face_analysis" / "models").size == sum(file.stat().st_size for file in files) > 0
    assert FaceAnalyzer(tmp_path).size == 0
    on_cuda = FaceAnalyzer(misc / "face_analysis" / "models")
    on_cuda.on_cuda = True
    assert on_cuda.size == onnx_sessions._ARENA + FaceAnalyzer(misc / "face_analysis" / "models").size, "with what onnxruntime keeps there"
