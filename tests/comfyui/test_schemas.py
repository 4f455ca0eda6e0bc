"""Node ids and inputs are an API: saved workflows break when one changes, so they stand in node_schemas.json.

A change on purpose is written there with MEMO_WRITE_SCHEMAS=1. New inputs come last in their group and have defaults.
"""

import json
import os
from pathlib import Path

import pytest

SNAPSHOT = Path(__file__).resolve().parents[1] / "node_schemas.json"
INPUT_FACTS = ("default", "min", "max", "step", "options", "control_after_generate")


@pytest.fixture(scope="module")
def nodes(comfyui_server) -> dict[str, dict]:
    """/object_info of the pack's nodes."""
    return {name: info for name, info in comfyui_server.get("/object_info").items() if info["category"].split("/")[0] == "MEMO"}


def inputs_of(info: dict):
    """(name, type, options, whether optional) of each input, in order."""
    for group in ("required", "optional"):
        for name, (kind, options) in info["input"].get(group, {}).items():
            yield name, kind, options, group == "optional"


def schema(info: dict) -> dict:
    lists_files = info["category"] == "MEMO/loaders"
    inputs = []
    for name, kind, options, optional in inputs_of(info):
        facts = {fact: options[fact] for fact in INPUT_FACTS if fact in options and not (fact == "options" and lists_files)}
        inputs.append({"name": name, "type": kind, "optional": optional, **facts})
    outputs = [{"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"], strict=True)]
    return {"display_name": info["display_name"], "category": info["category"], "inputs": inputs, "outputs": outputs}


def test_schemas_are_as_published(nodes):
    found = {name: schema(info) for name, info in sorted(nodes.items())}
    if os.environ.get("MEMO_WRITE_SCHEMAS") == "1":
        SNAPSHOT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    published = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert found == published, "Saved workflows may break. When that is meant, run this test with MEMO_WRITE_SCHEMAS=1."


def test_every_node_and_every_socket_is_explained(nodes):
    assert all(name.startswith("Memo") for name in nodes)
    silent = [name for name, info in nodes.items() if not info["description"] or not all(info["output_tooltips"])]
    silent += [f"{name}.{given}" for name, info in nodes.items() for given, _, options, _ in inputs_of(info) if not options.get("tooltip")]
    assert silent == []


def test_every_node_is_found_by_what_else_it_is_called(nodes):
    if not any("search_aliases" in info for info in nodes.values()):
        pytest.skip("this ComfyUI has no search aliases")
    for name, info in nodes.items():
        aliases = info["search_aliases"] or []
        assert 2 <= len(set(aliases)) == len(aliases) <= 5, name
        assert [alias for alias in aliases if alias != alias.lower() or alias in info["display_name"].lower()] == [], name


def test_model_lists_show_the_folders(nodes):
    def options(node, name):
        return nodes[node]["input"]["required"][name][1]["options"]

    assert "tiny" in options("MemoLoadModel", "model")
    assert {"tiny", "tiny_two_faces"} <= set(options("MemoLoadFaceAnalysis", "face_analysis"))
    assert "tiny" in options("MemoLoadVocalSeparator", "vocal_separator")
    assert "wav2vec2-base-960h" in options("MemoLoadAudioEncoder", "audio_encoder")
    assert "emotion2vec_plus_large" in options("MemoLoadEmotionModel", "emotion2vec")
    # a folder without the nets is no model, one without the classifier has no classifier
    assert not {"tiny_two_faces", "emotion2vec_plus_large"} & set(options("MemoLoadModel", "model"))
    assert "tiny_two_faces" not in options("MemoLoadEmotionModel", "classifier")
