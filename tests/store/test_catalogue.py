"""The catalogue is whole, and the README, the workflow and the code say the same."""

import json
import re
from pathlib import Path

import pytest

from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE
from memo_modules.store.catalogue import CATALOGUE
from memo_modules.weights.checkpoints import CLASSIFIER, NETS

ROOT = Path(__file__).resolve().parents[2]
FILES = [file for model in CATALOGUE.values() for file in model.files]


def test_it_names_every_repository():
    assert {model.repository for model in CATALOGUE.values()} == {
        "memoavatar/memo",
        "stabilityai/sd-vae-ft-mse",
        "facebook/wav2vec2-base-960h",
        "emotion2vec/emotion2vec_plus_large",
    }


def test_it_names_what_the_code_opens():
    paths = {file.path for file in FILES if file.needed}
    assert {f"{net}/diffusion_pytorch_model.safetensors" for net in NETS} <= paths
    assert {f"misc/face_analysis/models/{name}" for name in (DETECTOR_FILE, RECOGNISER_FILE)} <= paths
    assert {f"misc/{CLASSIFIER}/diffusion_pytorch_model.safetensors", "misc/vocal_separator/Kim_Vocal_2.onnx"} <= paths
    assert sum(path.startswith("misc/face_analysis") for path in (file.path for file in FILES)) == 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.repository}/{file.path}")
def test_an_entry_is_well_formed(file):
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", file.repository)
    assert file.sha256 is None or (re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.size)
    assert not file.target.startswith("/") and ".." not in file.target.split("/")
    assert re.fullmatch(r"[0-9a-f]{40}", file.revision), "no branch that may move"
    assert file.recorded is None or re.fullmatch(r"[0-9a-f]{64}", file.recorded) and file.sha256 is None
    assert file.sha256 or file.recorded or file.path.endswith(".json")


def test_what_a_workflow_does_without():
    assert {model.role for model in CATALOGUE.values() if model.without} == {"vocal_separator", "emotion_classifier", "emotion2vec"}
    assert all(model.licence and (model.about or all(file.size for file in model.files)) for model in CATALOGUE.values())


def test_the_workflow_names_the_published_models():
    graph = json.loads((ROOT / "workflows/api/talking_portrait.json").read_text(encoding="utf-8")).values()
    inputs = {name: value for node in graph for name, value in node["inputs"].items() if isinstance(value, str)}
    given = {"nets": "model", "emotion_classifier": "classifier"}
    assert {role: inputs[given.get(role, role)] for role in CATALOGUE} == {role: model.name for role, model in CATALOGUE.items()}
