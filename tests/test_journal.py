"""The journal of a long video: what it gives back, what it drops, whom it belongs to. When it goes: test_unfinished.py."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comfyui_memo.memo_modules.errors import InputError
from comfyui_memo.memo_modules.sampling import REPLAYED_CLIPS
from comfyui_memo.memo_modules.types import VideoState
from comfyui_memo.memo_modules.video.journal import Inputs, Journal, opened

MADE_OF = Inputs({"seed": "42", "image": "abc"}, {"face": torch.arange(1.0, 5.0)})


def state(clips: int) -> VideoState:
    """Behind so many clips, with tensors that tell."""
    past = tuple(torch.full((2, 4, 1, 1), float(number)) for number in range(max(0, clips - REPLAYED_CLIPS), clips))
    return VideoState(past, torch.full((16, 4, 1, 1), float(clips)), 16, clips, torch.Generator().manual_seed(clips).get_state(), "model")


def fill(journal: Journal, clips: int) -> None:
    for number in range(len(journal.segments), clips):
        segment = journal.segment(".mp4")
        segment.write_bytes(b"video" * (number + 1))
        journal.append(state(number + 1), segment)


def equal(first: VideoState, second: VideoState) -> bool:
    tensors = [(state.latents, state.generator, *state.past_latents) for state in (first, second)]
    same = all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    return same and (first.clips, first.last_frames, first.model) == (second.clips, second.last_frames, second.model)


@pytest.mark.parametrize("clips", [1, 3, REPLAYED_CLIPS + 2])
def test_a_journal_gives_back_what_was_appended(tmp_path, clips):
    with opened(tmp_path, "video", MADE_OF) as first:
        assert first.state(None) is None and first.changed == []
        fill(first, clips)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert again.folder == first.folder and again.segments == first.segments and again.changed == []
        assert equal(again.state(None), state(clips)) and equal(first.state(None), state(clips))


def test_a_video_that_went_on_remembers_what_was_before_it(tmp_path):
    start = state(REPLAYED_CLIPS + 1)
    with opened(tmp_path, "video", MADE_OF) as empty:
        assert empty.state(start) is start
        segment = empty.segment(".mp4")
        segment.write_bytes(b"video")
        empty.append(state(REPLAYED_CLIPS + 2), segment)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert equal(again.state(start), state(REPLAYED_CLIPS + 2))


def test_a_clip_that_is_not_shown_has_no_segment(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        first.append(state(1), None)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert again.segments == [None]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def flip_facts(path):
    path.write_bytes(path.read_bytes().replace(b'last_frames\\": 16', b'last_frames\\": 15'))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, flip_facts, empty, os.unlink])
@pytest.mark.parametrize("suffix", [".safetensors", ".mp4"])
def test_a_damaged_entry_is_dropped_with_all_behind_it(tmp_path, suffix, damage):
    if (damage, suffix) == (flip_facts, ".mp4"):
        pytest.skip("there are none in it")
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 4)
    damage(first.folder / f"clip-00002{suffix}")
    with opened(tmp_path, "video", MADE_OF) as again:
        assert equal(again.state(None), state(2))
        kept = sorted(path.name for path in first.folder.glob("clip-*"))
        assert kept == ["clip-00000.mp4", "clip-00000.safetensors", "clip-00001.mp4", "clip-00001.safetensors"]
        fill(again, 4)
    with opened(tmp_path, "video", MADE_OF) as repaired:
        assert equal(repaired.state(None), state(4))


def test_what_a_killed_writer_left_is_removed(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    (first.folder / "clip-00001.mp4").write_bytes(b"no entry")
    (first.folder / "clip-00001.safetensors.0123abcd.part").write_bytes(b"half")
    with opened(tmp_path, "video", MADE_OF):
        assert not list(first.folder.glob("clip-00001*"))


CHANGES = {
    "another seed": ({"seed": "43"}, {}, ["seed"]),
    "two things": ({"seed": "43", "image": "x"}, {}, ["image", "seed"]),
    "another face": ({}, {"face": torch.arange(1.0, 5.0).flip(0)}, ["face"]),
    "another recogniser": ({}, {"face": torch.ones(5)}, ["face"]),
    "not a number": ({}, {"face": torch.full((4,), float("nan"))}, ["face"]),
}


@pytest.mark.parametrize(("exact", "computed", "names"), CHANGES.values(), ids=CHANGES)
def test_changed_inputs_start_afresh_and_are_named(tmp_path, exact, computed, names):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 2)
    changed = Inputs({**MADE_OF.exact, **exact}, {**MADE_OF.computed, **computed})
    with opened(tmp_path, "video", changed) as other:
        assert other.changed == names and other.state(None) is None and other.folder != first.folder
        fill(other, 1)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert len(again.segments) == 2, "what was there before is kept"


def test_what_was_computed_may_be_rounded_otherwise(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    with opened(tmp_path, "video", replace(MADE_OF, computed={"face": torch.arange(1.0, 5.0) + 1e-3})) as again:
        assert len(again.segments) == 1


def test_a_journal_belongs_to_one_process_at_a_time(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
        with pytest.raises(InputError, match="another ComfyUI is making this video"), opened(tmp_path, "video", MADE_OF):
            pass
        assert len(list(first.folder.glob("clip-*"))) == 2


def test_nothing_is_left_of_a_finished_video(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 2)
        first.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells which files are mapped")
def test_no_file_of_a_video_that_went_on_is_held(tmp_path):
    """Windows would not let it be removed."""
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 2)
    with opened(tmp_path, "video", MADE_OF) as again:
        kept = again.state(None)
        assert str(again.folder) not in Path("/proc/self/maps").read_text()
    assert kept.clips == 2
