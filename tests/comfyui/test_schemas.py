"""Node ids and inputs are an API: saved workflows break when one changes, so they stand in node_schemas.json.

A change on purpose is written there by python -m tools.regenerate. New inputs come last in their group and have defaults.
"""

import json
from pathlib import Path

import pytest

from tools.derived.schemas import inputs_of, own_nodes, schemas

SNAPSHOT = Path(__file__).resolve().parents[1] / "node_schemas.json"


@pytest.fixture(scope="module")
def nodes(comfyui_server) -> dict[str, dict]:
    """/object_info of the pack's nodes."""
    return own_nodes(comfyui_server.get("/object_info"))


def test_schemas_are_as_published(nodes):
    published = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert schemas(nodes) == published, "Saved workflows may break. When that is meant: python -m tools.regenerate schemas"


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
        assert 2 <= len({alias for alias in aliases if alias.isascii()}) <= 5 and len(set(aliases)) == len(aliases), name
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
