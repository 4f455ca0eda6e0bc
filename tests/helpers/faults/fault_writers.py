"""What the pack writes, each as a Writer for fault_points.py. A new writer is a function and a line in WRITERS."""

import errno
import hashlib
import os
import tempfile
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from fault_points import Writer
from PIL import Image
from safetensors.torch import save, save_file

from memo_modules.audio.emotion import constant_emotion  # noqa: F401  so that it is not imported in each run
from memo_modules.files.whole_files import new_file, whole_file, write_whole
from memo_modules.portrait.pasting import Pasting, paste_to_file
from memo_modules.preparation.folder import prepare_folder
from memo_modules.preparation.preparer import Outcome
from memo_modules.preparation.tensor_files import FIELDS, write_tensor
from memo_modules.sampler.sampling import SampledClip
from memo_modules.store import fetching
from memo_modules.store.catalogue import ModelFile
from memo_modules.store.converting import pickle_to_safetensors, to_folder, to_single_files
from memo_modules.training import checkpoint_folders
from memo_modules.types import Audio, AudioFeatures, Crop, VideoState
from memo_modules.video import unfinished
from memo_modules.video.files import write_video
from memo_modules.video.formats import VideoFormat
from memo_modules.video.journal import Inputs, opened
from memo_modules.video.long_videos import LongVideo, sample_to_file
from memo_modules.video.provenance import write_png
from memo_modules.weights.checkpoints import CLASSIFIER, NETS
from tests.helpers import hub_server

FPS = Fraction(30)
MADE_OF = Inputs({"seed": "42"}, {"face": torch.arange(1.0, 5.0)})
FRAMES = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
SOUND = Audio(torch.linspace(-1, 1, 3200)[None], 16000)
TENSOR = torch.arange(100.0)


def with_others(folder: Path, other: Path) -> None:
    """What others have there: finished, and under way."""
    for name in ("others.mp4", "others/x.0123abcd.part", "others.0123abcd.part"):
        for place in (folder, other):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"theirs" * 100)


def with_old(folder: Path, other: Path) -> None:
    with_others(folder, other)
    (folder / "a.txt").write_text("old")


def replaced(folder: Path, other: Path) -> None:
    write_whole(folder / "a.txt", "new" * 100)


def refusing(folder: Path, other: Path) -> None:
    with whole_file(folder / "below" / "b.txt", replaces=False) as path:
        path.write_bytes(b"new" * 100)


def numbered(folder: Path, other: Path) -> None:
    new_file(folder / "a.txt", lambda path: path.write_bytes(b"new" * 100))


def numbered_without_links(folder: Path, other: Path) -> None:
    with mock.patch.object(os, "link", side_effect=OSError(errno.EPERM, "no links here")):
        numbered(folder, other)


def state(clips: int) -> VideoState:
    past = tuple(torch.full((2, 4, 2, 2), float(number)) for number in range(clips))
    return VideoState(past, torch.full((16, 4, 2, 2), float(clips)), 16, clips, torch.Generator().manual_seed(clips).get_state(), "model")


def sample(done: list[int], before: VideoState | None, first: int):
    for clip in range(first, 3):
        done.append(clip)
        kept = FRAMES[:8] if clip == 2 else FRAMES
        yield SampledClip(kept * (clip + 1) / 3, replace(state(clip + 1), last_frames=len(kept)))


def video_to_file(folder: Path, other: Path, elsewhere: bool = False) -> None:
    audio = AudioFeatures(torch.zeros(48, 1, 4), FPS, 40, 16)
    video = LongVideo(audio, 0, (16, 16), Audio(torch.linspace(-1, 1, 21333)[None], 16000), VideoFormat(), FPS, {"workflow": "{}"})
    target = (other if elsewhere else folder) / "video" / "v.mp4"
    with opened(folder / "journals", "video", MADE_OF) as journal:
        done, known = [], len(journal.segments)
        sample_to_file(video, journal, partial(sample, done), lambda: target)
        assert done == list(range(known, 3)), "a clip that was done is made again"


def pasted_video_to_file(folder: Path, other: Path) -> None:
    audio = AudioFeatures(torch.zeros(48, 1, 4), FPS, 40, 16)
    pasting = Pasting(torch.linspace(0, 1, 96 * 96 * 3).reshape(1, 96, 96, 3), Crop(16, 16, 64, (96, 96)), color_match="border")
    video = LongVideo(audio, 0, (16, 16), None, VideoFormat(), FPS, pasting=pasting)
    with opened(folder / "journals", "video", MADE_OF) as journal:
        done, known = [], len(journal.segments)
        sample_to_file(video, journal, partial(sample, done), lambda: folder / "v.mp4")
        assert done == list(range(known, 3)), "a clip that was done is made again"


def append_to_journal(folder: Path, other: Path) -> None:
    with opened(folder / "journals", "video", MADE_OF) as journal:
        for clip in range(len(journal.segments), 3):
            segment = journal.segment(".mp4")
            with whole_file(segment) as path:
                path.write_bytes(b"segment" * 100)
            journal.append(state(clip + 1), segment)
    with opened(folder / "journals", "video", MADE_OF) as journal:
        assert len(journal.segments) == 3
        write_whole(folder / "state.txt", str(journal.state(None).clips))


def with_old_journals(folder: Path, other: Path) -> None:
    for number in (1, 2):
        with opened(folder / "journals", "video", replace(MADE_OF, exact={"seed": str(number)})) as journal:
            journal.append(state(1), None)
    unfinished._own.clear()
    for path in (folder / "journals").rglob("*"):
        os.utime(path, (1.6e9, 1.6e9))
    dates = '["2021-01-01", "2021-01-02", "2021-01-03"]'
    for path in (folder / "journals").iterdir():
        (path / unfinished.SEEN).write_text(dates)


def removing_old_journals(folder: Path, other: Path) -> None:
    unfinished.clean(folder / "journals", 2 * unfinished.DAY, 0)


def pasted(folder: Path, other: Path) -> None:
    photo, frames = torch.zeros(1, 96, 96, 3), FRAMES.movedim(1, -1).repeat(1, 4, 4, 1)
    paste_to_file(folder / "a.mp4", photo, frames, Crop(16, 16, 64, (96, 96)), FPS, VideoFormat(), SOUND)


def video_sample(folder: Path, other: Path) -> None:
    write_video(folder / "sample.mp4", FRAMES, FPS, SOUND)


def picture(folder: Path, other: Path) -> None:
    write_png(folder / "a.png", Image.fromarray(np.zeros((8, 8, 3), np.uint8)))


def with_checkpoint(folder: Path, other: Path) -> None:
    with_others(folder, other)
    for name in (*NETS, f"misc/{CLASSIFIER}"):
        (folder / "memo" / name).mkdir(parents=True)
        save_file({"weight": TENSOR, "bias": TENSOR[:3].clone()}, folder / "memo" / name / "diffusion_pytorch_model.safetensors")
        (folder / "memo" / name / "config.json").write_text("{}")


def one_file(folder: Path, other: Path) -> None:
    to_single_files(folder / "memo", folder / "memo.safetensors")


def file_per_net(folder: Path, other: Path) -> None:
    to_single_files(folder / "memo", folder / "single", torch.bfloat16, one_per_net=True)


def with_single_file(folder: Path, other: Path) -> None:
    with_checkpoint(folder, other)
    one_file(folder, other)


def folder_of_nets(folder: Path, other: Path) -> None:
    to_folder(folder / "memo.safetensors", folder / "back")


def with_pickle(folder: Path, other: Path) -> None:
    with_others(folder, other)
    torch.save({"weight": TENSOR}, folder / "model.pt")


def from_pickle(folder: Path, other: Path) -> None:
    pickle_to_safetensors(folder / "model.pt", folder / "model.safetensors")


def with_training(folder: Path, other: Path) -> None:
    with_others(folder, other)
    for step in (2, 4):
        write_checkpoint(folder, step)


def write_checkpoint(folder: Path, step: int, content: float = 1.0) -> None:
    def write(place: Path) -> None:
        checkpoint_folders.write_state(place, {"step": step, "content": content}, {"a": torch.full((100,), content)})

    checkpoint_folders.write_checkpoint(folder / "training", step, 2, write)


def next_checkpoint(folder: Path, other: Path) -> None:
    write_checkpoint(folder, 6)


def checkpoint_again(folder: Path, other: Path) -> None:
    write_checkpoint(folder, 4, 2.0)
    assert checkpoint_folders.resume_from(folder / "training", "latest").name == "checkpoint-4"


def with_videos(folder: Path, other: Path) -> None:
    with_others(folder, other)
    (folder / "videos").mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "others.0123abcd.part").write_bytes(b"theirs")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / "videos" / name).write_bytes(b"a video")


def prepared(folder: Path, other: Path) -> None:
    def make(jobs):
        for job in jobs:
            if job.name.startswith("c"):
                yield Outcome(job, reason="no face")
                continue
            for field in FIELDS[1:]:
                write_tensor(job.output / job.entry[field], field, TENSOR, {"fps": "30"})
            yield Outcome(job, (job.entry,), FPS)

    prepare_folder(folder / "videos", folder / "data", {"audio_encoder": "abc"}, make)


REMOTE = {"net/model.safetensors": save({"weight": TENSOR}), "net/config.json": b'{"layers": 2}\n'}
"""Small enough that a connection brings each in one piece, which is one write."""


@cache
def hub() -> None:
    """A hub that serves REMOTE, as HF_ENDPOINT names it, and a cache of the hub's that holds it as of another repository.

    In a process of its own, which ends with this one: where threads are at work, not everything can be copied by fork.
    """
    place = Path(tempfile.mkdtemp())
    for name in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
        del os.environ[name]
    hub_server.LARGE_FILE = 100  # such that there is one
    cached = place / "home" / "hub" / "models--owner--cached"
    for name, content in REMOTE.items():
        digest = hashlib.sha256(content) if len(content) >= hub_server.LARGE_FILE else hashlib.sha1(b"blob %d\0" % len(content) + content)
        blob, link = cached / "blobs" / digest.hexdigest(), cached / "snapshots" / hub_server.COMMIT / name
        for path in (place / "served" / name, blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        (place / "served" / name).write_bytes(content)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(hub_server.COMMIT)
    (asked, answer), (ended, alive) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(alive)
        with hub_server.HubServer(dict.fromkeys(("owner/name", "owner/cached", hub_server.PLAIN), place / "served")) as server:
            os.write(answer, server.url.encode())
            os.read(ended, 1)
        os._exit(0)
    os.environ |= {"HF_ENDPOINT": os.read(asked, 1000).decode(), "HF_HOME": str(place / "home")}


def with_models(folder: Path, other: Path, begun: bool = False) -> None:
    """An older download of both files, and, where it was ``begun``, half of the new one."""
    with_others(folder, other)
    hub()
    for place in (folder, other):
        for name in REMOTE:
            (place / "models" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "models" / name).write_bytes(b"an older one")
            (place / "models" / f"{name}.sha256").write_text(f"{'0' * 64}  an older one\n")
    if begun:
        name, content = next(iter(REMOTE.items()))
        path = folder / "models" / "net" / ".downloads" / f"{Path(name).name}.{hashlib.sha256(content).hexdigest()[:16]}.partial"
        path.parent.mkdir()
        path.write_bytes(content[: len(content) // 2])


def downloaded(folder: Path, other: Path, repository: str = "owner/name", elsewhere: bool = False) -> None:
    models = (other if elsewhere else folder) / "models"
    fetching.fetch([ModelFile(repository, "main", name, name, None, None, True) for name in REMOTE], models)
    assert all((models / name).stat().st_size == len(content) for name, content in REMOTE.items())
    assert not list(models.rglob("*.partial"))


def careless(folder: Path, other: Path) -> None:
    """How not to write: for the test of the helper itself."""
    (folder / "a.txt").write_text("new" * 100)
    (folder / "others.mp4").write_bytes(b"theirs" * 100)


def first_lines(name: str, content: bytes, after: bytes) -> bool:
    """Lines are appended; the next run takes a half one off."""
    return name in ("data/metadata.jsonl", "data/failed.jsonl") and after.startswith(content)


DOWNLOADS = ("models/net/.downloads",)

WRITERS = {
    "a file that replaces another": Writer(replaced, with_old),
    "a file that refuses to": Writer(refusing, with_others, refuses="already exists"),
    "a file that takes the next name": Writer(numbered, with_old, again=lambda name: name.startswith("a_")),
    "the same without links": Writer(numbered_without_links, with_old, again=lambda name: name.startswith("a_"), hollow=True),
    "a journal": Writer(append_to_journal, with_others, apart=("journals",)),
    "old journals removed": Writer(removing_old_journals, with_old_journals, apart=("journals",)),
    "a long video": Writer(video_to_file, with_others, apart=("journals",), again=lambda name: name == "video/v_2.mp4"),
    "a long video on another disk": Writer(
        partial(video_to_file, elsewhere=True), with_others, apart=("journals",), again=lambda name: name == "second/video/v_2.mp4"
    ),
    "a long video in a photo": Writer(pasted_video_to_file, with_others, apart=("journals",), again=lambda name: name == "v_2.mp4"),
    "a pasted video": Writer(pasted, with_others, again=lambda name: name == "a_2.mp4"),
    "a sample of a training": Writer(video_sample, with_others),
    "a picture": Writer(picture, with_others),
    "one file of a checkpoint": Writer(one_file, with_checkpoint, refuses="already exists"),
    "a file per net": Writer(file_per_net, with_checkpoint, refuses="already exists"),
    "a folder of nets": Writer(folder_of_nets, with_single_file, refuses="already exists"),
    "safetensors of a pickle": Writer(from_pickle, with_pickle, refuses="already exists"),
    "a checkpoint of a training": Writer(next_checkpoint, with_training),
    "a checkpoint written again": Writer(checkpoint_again, with_training),
    "a download": Writer(downloaded, with_models, apart=DOWNLOADS),
    "a download that continues": Writer(downloaded, partial(with_models, begun=True), apart=DOWNLOADS),
    "a download that nobody vouches for": Writer(partial(downloaded, repository=hub_server.PLAIN), with_models, apart=DOWNLOADS),
    "a copy from the hub's cache": Writer(partial(downloaded, repository="owner/cached"), with_models, apart=DOWNLOADS),
    "a link to the hub's cache": Writer(partial(downloaded, repository="owner/cached", elsewhere=True), with_models, apart=DOWNLOADS),
    "prepared data": Writer(prepared, with_videos, between=first_lines),
}
CARELESS = {"careless": Writer(careless, with_old)}
