"""What nodes are handed by links and prompts: values that belong elsewhere are refused by name, and names lead nowhere but
into the model folders."""

import shutil
from pathlib import Path

import pytest

from memo_modules.words import quoted
from tests.helpers.in_comfyui import found_by
from tests.helpers.input_rows import INPUTS, NAMES, PREFIXES, widget_names
from tools.comfyui_server import PACK, copy_pack


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("inputs") / "outside"


@pytest.fixture(scope="module")
def found(comfyui_path, tiny_models, outside) -> dict:
    """What nodes said in a ComfyUI whose model folders have whole models next to them, which every wrong name means."""
    base = outside.parent
    copy_pack(base / PACK)
    for place in (base / "models", outside / "models"):
        shutil.copytree(tiny_models, place)
    for kind in ("memo", "vae", "audio_encoders"):
        for model in (tiny_models / kind).iterdir():
            shutil.copytree(model, outside / model.name)
            shutil.copytree(model, base / "models" / "outside" / model.name)
    (base / "models" / "memo" / "linked").symlink_to(outside / "tiny", target_is_directory=True)
    return found_by("try_inputs.py", comfyui_path, base / PACK, base, outside)


@pytest.mark.parametrize("name", INPUTS)
def test_a_value_that_belongs_elsewhere(found, name):
    *_, sentence = INPUTS[name]
    assert found["inputs"][name] == sentence


def test_no_input_of_any_node_takes_anything(found):
    assert found["let_through"] == []


def test_crafted_values_are_refused_by_name(found):
    """Whatever is wrong in a value of the right kind, for every socket and number of every node."""
    assert found["crafted"] == {}


def test_a_picture_or_a_sound_may_be_kept_in_any_tensor(found):
    """With a gradient, of 16 bits, repeating one value: it makes what the same values make in a plain one, to the bit."""
    assert found["otherwise_kept"] == {}


def test_a_link_that_gives_nothing_is_as_if_it_were_not_there(found):
    """But for the node whose picture here has no face, which it looks for by default."""
    faceless = {node for node, said in found["given_nothing"].items() if said.startswith("image: expected a face, found none in 64 x 64 pixels")}
    others = {said for node, said in found["given_nothing"].items() if node not in faceless}
    assert len(found["given_nothing"]) > 10 and others == {"nothing"}, found["given_nothing"]
    assert faceless == {"MemoTalkingPortrait", "MemoCropPortrait"}


def test_every_widget_that_takes_a_name_has_a_row(found):
    """A new one joins NAMES, or says in another test why its text is no name of a file."""
    of_loras = ["MemoLoadLora.lora"]  # see test_lora.py
    of_new_files = ["MemoPasteBackToFile.filename_prefix", "MemoSampleToFile.filename_prefix"]  # see PREFIXES
    of_moods = ["MemoEmotionTimeline.timeline"]  # see test_timeline.py
    assert sorted(found["widgets"]) == sorted([f"{node}.{given}" for node, given in NAMES] + of_loras + of_new_files + of_moods)


@pytest.mark.parametrize("node, given", NAMES)
def test_names_stay_in_the_model_folders(found, outside, node, given):
    for name in widget_names(NAMES[node, given], str(outside)):
        validation, run, run_with_download, *opened = found["escapes"][f"{node}.{given} {name!r}"]
        for said in (validation, run, run_with_download):
            assert said.startswith(f"{quoted(name)} is not among the models that were found ("), said
        assert opened == []


@pytest.mark.parametrize("node, given", NAMES)
def test_the_same_models_inside_load(found, node, given):
    """Or the names above might fail for another reason."""
    assert found["loaded"][f"{node}.{given}"] == ["True", "nothing"]


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: repr(prefix[:20]))
def test_new_files_stay_in_the_output_folder(found, outside, prefix):
    assert found["prefixes"][prefix] == PREFIXES[prefix]
    assert all(path.is_dir() for path in outside.iterdir())
    assert not [path for path in (outside.parent / "output").rglob("*") if path.is_file() and path.name != "file"]


def test_a_link_that_the_user_made_is_followed(found):
    """Model folders on another disk are common, and a prompt can make no link."""
    assert found["linked"] == ["True", "nothing"]
