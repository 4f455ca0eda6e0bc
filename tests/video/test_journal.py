"""The journal of a long video: what it gives back, what it drops, whom it belongs to. When it goes: test_unfinished.py."""

import json
import os
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from memo_modules.errors import InputError, StorageError
from memo_modules.sampler.sampling import REPLAYED_CLIPS
from memo_modules.video.journal import Inputs, opened
from memo_modules.video.unfinished import INPUTS
from tests.helpers.journals import MADE_OF, equal, fill, state


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


@pytest.mark.parametrize("damage", [None, "nothing", "[]", '{"attention": {"forty": "torch"}}'])
def test_a_journal_keeps_the_kernels_that_its_video_was_begun_with(tmp_path, damage):
    first, second = {"attention": {"40": "Triton"}}, {"attention": {"40": "torch"}, "geglu": {"2560": "torch"}}
    with opened(tmp_path, "video", MADE_OF) as begun:
        assert begun.kernels({}) == {} and begun.kernels(second) == second
        assert begun.kernels(first) == first, "nothing was made yet"
        begun.append(state(1), None)
    if damage:
        (begun.folder / "kernels.json").write_text(damage)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert again.kernels(second) == (second if damage else first)
        again.remove()
    assert not again.folder.exists()


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
def test_a_damaged_entry_is_dropped_with_all_after_it(tmp_path, suffix, damage):
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


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def lead_nowhere(path):
    path.unlink()
    path.symlink_to(path.parent / "nothing")


def become_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has none of these")
@pytest.mark.parametrize("become", [pipe, device, lead_nowhere, become_folder])
@pytest.mark.parametrize("name", ["clip-00001.safetensors", "clip-00001.mp4", "clip-00002.safetensors", "clip-00009.mp4", "video.mp4"])
def test_what_is_no_file_is_dropped_and_the_video_continues(tmp_path, name, become):
    """It neither hangs nor fails, now or when it would write that file."""
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 2)
    path = first.folder / name
    path.touch()
    become(path)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert len(again.segments) == (1 if "00001" in name else 2) and again.folder == first.folder
        fill(again, 4)
        (again.folder / "video.mp4").write_bytes(b"whole")
    with opened(tmp_path, "video", MADE_OF) as repaired:
        assert equal(repaired.state(None), state(4))


def test_a_folder_with_something_in_it_is_named_and_stays(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    mine = first.folder / "clip-00001.mp4" / "mine"
    mine.parent.mkdir()
    mine.touch()
    refused = pytest.raises(InputError, match="clip-00001.mp4 is a folder where a file of an unfinished video belongs. Remove it")
    with refused, opened(tmp_path, "video", MADE_OF):
        pass
    assert mine.exists() and len(list(first.folder.glob("clip-00000*"))) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has none of these")
@pytest.mark.parametrize("become", [pipe, device, lead_nowhere, become_folder, empty])
def test_inputs_that_cannot_be_read_leave_their_video_and_begin_another(tmp_path, become):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    become(first.folder / INPUTS)
    with opened(tmp_path, "video", MADE_OF) as other:
        assert other.folder != first.folder and other.segments == []
        fill(other, 1)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert again.folder == other.folder and len(again.segments) == 1
    assert (first.folder / "clip-00000.mp4").exists()


FOREIGN = {
    "bool": torch.ones(4, dtype=torch.bool),
    "fp8": torch.ones(4).to(torch.float8_e4m3fn),
    "complex": torch.ones(4, dtype=torch.complex64),
    "integers": torch.ones(4, dtype=torch.int64),
    "another shape": torch.ones(2, 2, 1),
    "a single value": torch.tensor(1.0),
    "nothing": torch.ones(0),
}


@pytest.mark.parametrize("tensor", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_journal_of_the_same_name_stops_nothing(tmp_path, tensor):
    folder = tmp_path / "video-00000000"
    folder.mkdir()
    save_file({"face": tensor}, folder / INPUTS, {"seed": "42", "image": "abc"})
    with opened(tmp_path, "video", MADE_OF) as made:
        assert made.changed == ["face"] and made.folder != folder


def forge(path: Path, tensors=None, **facts) -> None:
    """Give an entry other content, and the checksum that belongs to it."""
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no mapping
        text = json.dumps(json.loads(file.metadata()["facts"]) | facts)
    held |= tensors or {}
    write_forged(path, held, text)


def write_forged(path: Path, held: dict, text: str) -> None:
    crc = zlib.crc32(text.encode())
    for name in ("latents", "past_latents", "generator"):
        crc = zlib.crc32(held[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    save_file(held, path, {"facts": text, "crc": str(crc)})


FORGED = {
    "another clip's video": {"segment": "clip-00000.mp4"},
    "a path": {"segment": "../clip-00001.mp4"},
    "an absolute path": {"segment": "/etc/passwd"},
    "itself": {"segment": "clip-00001.safetensors"},
    "no name": {"segment": ["clip-00001.mp4"]},
    "a number for a name": {"segment": 7},
    "an empty name": {"segment": ""},
    "no segment": {"segment": None},
    "too many clips": {"clips": 9},
    "clips before the first": {"clips": -2},
    "true for a number of clips": {"clips": True},
    "a text": {"clips": "2"},
    "endless frames": {"last_frames": 10**30},
    "frames less than none": {"last_frames": -1},
    "half a frame": {"last_frames": 1.5},
    "a model that is none": {"model": 5},
    "another model": {"model": "other"},
    "latents of another size": {"tensors": {"latents": torch.zeros(16, 4, 2, 2)}},
    "latents of other frames": {"tensors": {"latents": torch.zeros(15, 4, 1, 1)}},
    "flat latents": {"tensors": {"latents": torch.zeros(16)}},
    "not a number": {"tensors": {"latents": torch.full((16, 4, 1, 1), float("nan"))}},
    "latents that are true": {"tensors": {"latents": torch.ones(16, 4, 1, 1, dtype=torch.bool)}},
    "past of another size": {"tensors": {"past_latents": torch.zeros(2, 4, 2, 2)}},
    "no past": {"tensors": {"past_latents": torch.zeros(0, 4, 1, 1)}},
    "a short generator": {"tensors": {"generator": torch.zeros(3, dtype=torch.uint8)}},
    "a generator of floats": {"tensors": {"generator": torch.zeros(5056)}},
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_content_that_nobody_can_have_written_is_dropped_whatever_its_checksum(tmp_path, content):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 3)
    forge(first.folder / "clip-00001.safetensors", **content)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert len(again.segments) == 1
        fill(again, 3)
    with opened(tmp_path, "video", MADE_OF) as repaired:
        assert equal(repaired.state(None), state(3))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "7", "[]", "null", "", '{"clips": ' + "9" * 5000 + "}"])
def test_facts_that_are_no_facts_are_dropped(tmp_path, text):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 2)
    path = first.folder / "clip-00001.safetensors"
    write_forged(path, load_file(path), text)
    with opened(tmp_path, "video", MADE_OF) as again:
        assert len(again.segments) == 1


def test_inputs_whose_metadata_are_null_are_those_of_another_video(tmp_path):
    """Which safetensors takes; found by fuzzing."""
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    content = (first.folder / INPUTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]) | {"__metadata__": None}).encode()
    (first.folder / INPUTS).write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    with opened(tmp_path, "video", MADE_OF) as again:
        assert not again.segments and again.folder != first.folder


def test_an_entry_that_claims_terabytes_is_not_read(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 2)
    header = json.dumps({name: {"dtype": "F32", "shape": [2**34, 1, 1, 1], "data_offsets": [0, 2**36]} for name in ("latents",)}).encode()
    with (first.folder / "clip-00001.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**36)  # takes no room
    with opened(tmp_path, "video", MADE_OF) as again:
        assert len(again.segments) == 1


@pytest.mark.parametrize("name", ["root", "folder"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, name):
    root = tmp_path / "file"
    root.write_text("in the way")
    root = root / "journals" if name == "folder" else root
    with pytest.raises(StorageError, match="file.* could not be written"), opened(root, "video", MADE_OF):
        pass


def test_a_disk_that_is_read_only_is_named(tmp_path):
    """Which root may write to all the same unless it is one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name == "nt" or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        with opened(disk / "journals", "video", MADE_OF) as first:
            fill(first, 1)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for made_of in (MADE_OF, replace(MADE_OF, exact={"seed": "7"})):
            with pytest.raises(StorageError, match="could not be written .Read-only file system"), opened(disk / "journals", "video", made_of):
                pass
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        with opened(disk / "journals", "video", MADE_OF) as again:
            assert len(again.segments) == 1
    finally:
        subprocess.run(["umount", disk], check=True)


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


def test_what_former_versions_did_not_write_down_is_unknown_and_not_changed(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    more = Inputs({**MADE_OF.exact, "audio.heard": "abc"}, {**MADE_OF.computed, "audio.blocks": torch.ones(3, 4)})
    with opened(tmp_path, "video", more) as again:
        assert len(again.segments) == 1 and again.folder == first.folder
    other = replace(more, exact={**more.exact, "seed": "7"})
    with opened(tmp_path, "video", other) as other:
        assert other.changed == ["seed"]


def test_a_setting_that_exact_videos_do_not_have_is_a_change_both_ways(tmp_path):
    cheaper = replace(MADE_OF, exact={**MADE_OF.exact, "past_every": "4"})
    for made, asked in ((MADE_OF, cheaper), (cheaper, MADE_OF)):
        root = tmp_path / str(len(made.exact))
        with opened(root, "video", made) as first:
            fill(first, 1)
        with opened(root, "video", asked) as again:
            assert (again.segments, again.changed) == ([], ["past_every"])


HEARD = Inputs({"seed": "42", "audio.heard": "abc"}, {"audio.blocks": torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))})


def block(number: int, factor: float) -> torch.Tensor:
    values = HEARD.computed["audio.blocks"].clone()
    values[number] *= factor
    return values


@pytest.mark.parametrize(
    ("exact", "blocks", "names"),
    [
        ({"audio.heard": "other"}, block(0, 1.0), ["audio"]),
        ({}, block(517, 1.02), ["audio"]),
        ({}, block(999, 0.0), ["audio"]),
        ({}, block(3, float("nan")), ["audio"]),
        ({}, torch.ones(999, 64), ["audio"]),
        ({}, HEARD.computed["audio.blocks"] * 1.001, []),
        ({}, block(517, 1.009), []),
    ],
)
def test_a_block_of_a_voice_that_changed_is_a_change_of_the_voice(tmp_path, exact, blocks, names):
    with opened(tmp_path, "video", HEARD) as first:
        fill(first, 1)
    with opened(tmp_path, "video", Inputs({**HEARD.exact, **exact}, {"audio.blocks": blocks})) as other:
        assert other.changed == names and len(other.segments) == (not names)


def test_a_voice_whose_digest_is_not_known_now_is_told_by_its_blocks(tmp_path):
    with opened(tmp_path, "video", HEARD) as first:
        fill(first, 1)
    with opened(tmp_path, "video", Inputs({"seed": "42"}, {"audio.blocks": block(5, 1.001)})) as again:
        assert len(again.segments) == 1


def test_a_journal_belongs_to_one_process_at_a_time(tmp_path):
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
        with pytest.raises(InputError, match="another ComfyUI is making this video"), opened(tmp_path, "video", MADE_OF):
            pass
        assert len(list(first.folder.glob("clip-*"))) == 2


def test_a_whole_video_that_the_disk_does_not_give_is_one_sentence(tmp_path):
    with pytest.raises(StorageError, match="video.mp4 could not be"), opened(tmp_path, "video", MADE_OF) as journal:
        fill(journal, 1)
        journal.finishing(journal.folder / "video.mp4", lambda: None)


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


class Refused(Exception):
    pass


def test_what_was_refused_before_its_first_clip_leaves_nothing(tmp_path):
    with pytest.raises(Refused), opened(tmp_path, "video", MADE_OF):
        raise Refused
    assert list(tmp_path.iterdir()) == []
    with opened(tmp_path, "video", MADE_OF) as first:
        fill(first, 1)
    with pytest.raises(Refused), opened(tmp_path, "video", MADE_OF):
        raise Refused
    with opened(tmp_path, "video", MADE_OF) as again:
        assert len(again.segments) == 1
