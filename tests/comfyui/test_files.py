"""Names of new files in ComfyUI's output folder, and what is known of a sound that goes through core's socket."""

import pytest

from tests.helpers.in_comfyui import found_by
from tools.comfyui_server import PACK, copy_pack


@pytest.fixture(scope="module")
def found(comfyui_path, tmp_path_factory) -> dict:
    base = tmp_path_factory.mktemp("files")
    copy_pack(base / PACK)
    return found_by("try_files.py", comfyui_path, base / PACK, base)


def test_a_prefix_that_is_let_through_can_be_written(found):
    longest = found["longest"]
    assert longest["written"] == longest["let_through"] and {"a200", "a244", "ü240"} <= set(longest["written"])
    assert "a245" not in longest["let_through"], "_00001_.mp4 and 245 letters are one too many for most disks"


def test_a_prefix_that_no_file_can_have_is_refused_before_the_work(found):
    assert len(found["unwritable"]) == 4
    for sentence in found["unwritable"].values():
        assert sentence.startswith("filename_prefix: ") and sentence.encode()


def test_looking_whether_a_file_can_be_made_removes_none(found):
    theirs = {f"MEMO_{number:05}_.mp4": "theirs" for number in range(1, 6)}
    assert found["probing"] == {"ours": "MEMO_00006_.mp4", "there": theirs | {"MEMO_00006_.mp4": "ours"}}


def test_what_vocals_are_made_of_is_known_as_long_as_they_are_what_it_was_said_of(found):
    assert found["sounds"]["vocals"] == "the mix" and set(found["sounds"]["others"]) == {""}
    assert found["sounds"]["plain"] == ["sample_rate", "waveform"]
