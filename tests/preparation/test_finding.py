"""Whatever lies in a folder of videos is read, listed with a reason, or counted; nothing is passed over without a word."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memo_modules.errors import InputError
from memo_modules.preparation.finding import Found, find_videos
from memo_modules.preparation.folder import FAILED, prepare_folder
from memo_modules.preparation.videos import read_video
from tests.helpers.video_files import ramp, record

links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def names(found: Found, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found.videos]


def touch(folder: Path, *places: str) -> None:
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()


def test_videos_are_found_in_order_and_hidden_ones_are_not(tmp_path):
    touch(tmp_path, "b.mp4", "A/z.MOV", "A/y.mkv", "._b.mp4", ".trash/c.mp4", "A/notes.txt", "prepared/videos/d.mp4", "folder.mp4/e.webm")
    found = find_videos(tmp_path, leave_out=tmp_path / "prepared")
    assert names(found, tmp_path) == ["A/y.mkv", "A/z.MOV", "b.mp4", "folder.mp4/e.webm"]
    assert found.passed_over == "2 hidden, 1 *.txt" and not found.refused
    with pytest.raises(InputError, match=r"hold none of \*.mp4"):
        find_videos(tmp_path / "A", leave_out=tmp_path / "A")
    with pytest.raises(InputError, match="is not a folder"):
        find_videos(tmp_path / "b.mp4")


@links
def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "disk/a.mp4", "disk/in/b.MTS", "disk/in/c.wmv", "videos/d.mp4")
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "in" / "loop").symlink_to(tmp_path / "videos")
    found = find_videos(tmp_path / "videos")
    assert names(found, tmp_path / "videos") == ["d.mp4", "linked/a.mp4", "linked/in/b.MTS", "linked/in/c.wmv"] and not found.refused


ANIMATION = [Image.fromarray(np.full((64, 64, 3), 20 * k, np.uint8)) for k in range(10)]


def animated(path: Path, form: str) -> Path:
    ANIMATION[0].save(path, form, save_all=True, append_images=ANIMATION[1:], duration=40)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "flv", "wmv", "ts", "mpg", "m2ts", "mxf", "ogv"])
def test_a_video_is_known_by_its_first_bytes_where_its_name_says_nothing(tmp_path, suffix):
    forms = {"mkv": "matroska", "wmv": "asf", "ts": "mpegts", "m2ts": "mpegts", "mpg": "mpeg", "ogv": "ogg"}
    make_container(tmp_path / "video", forms.get(suffix, suffix), {"mpegts_m2ts_mode": "1"} if suffix == "m2ts" else {})
    shutil.copy(tmp_path / "video", tmp_path / "video.mp4.part")
    assert names(find_videos(tmp_path), tmp_path) == ["video", "video.mp4.part"]


def make_container(path: Path, form: str, options: dict[str, str]) -> None:
    """Twelve black pictures, in a codec that the container takes."""
    import av

    codec = {"webm": "libvpx", "ogg": "libtheora", "wmv": "wmv2", "flv": "flv", "mpeg": "mpeg1video", "mxf": "mpeg2video"}.get(form, "mpeg4")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV does not write {codec}")
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "form", "kind"), [("a.gif", "GIF", "gif"), ("a.webp", "WEBP", "webp"), ("a.apng", "PNG", "png"), ("still.gif", None, "gif")]
)
def test_an_animation_is_listed_with_its_reason(tmp_path, name, form, kind):
    animated(tmp_path / name, form) if form else ANIMATION[0].save(tmp_path / name)
    assert names(find_videos(tmp_path), tmp_path) == [name]
    with pytest.raises(InputError, match=rf"^no sound: the file has no audio stream\. It is a picture or an animation \(a?{kind}"):
        read_video(tmp_path / name)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_picture_that_is_called_a_video_is_listed_as_a_picture(tmp_path, form):
    ANIMATION[3].save(tmp_path / "a.mp4", form)
    assert names(find_videos(tmp_path), tmp_path) == ["a.mp4"]
    with pytest.raises(InputError, match="It is a picture or an animation"):
        read_video(tmp_path / "a.mp4")


def test_pictures_sounds_and_texts_beside_the_videos_are_counted(tmp_path):
    record(tmp_path / "a.mp4", sound=ramp(6400))
    record(tmp_path / "voice.m4a", [], ramp(6400))
    for form in ("jpg", "png", "webp", "avif"):
        ANIMATION[3].save(tmp_path / f"thumb.{form}")
    (tmp_path / "LICENSE").write_text("G" * 600, encoding="utf-8")
    for name in ("a.txt", "b.TXT", "c.srt", "empty"):
        (tmp_path / name).write_text("hello" if name != "empty" else "")
    found = find_videos(tmp_path)
    assert not found.refused and sum(found.others.values()) == 10
    assert found.others == {"*.txt": 2, "without a suffix": 2, "*.m4a": 1, "*.jpg": 1, "*.png": 1, "*.webp": 1, "*.avif": 1, "*.srt": 1}


@links
def test_what_is_no_file_is_listed_with_its_reason(tmp_path):
    touch(tmp_path, "a.mp4", "empty.mp4/notes.txt", "bundle.mov/in/b.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "disk").symlink_to("/nowhere/disk")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe")
    found = find_videos(tmp_path)
    reasons = {path.name: reason for path, reason in found.refused.items()}
    assert names(found, tmp_path) == ["a.mp4", "bundle.mov/in/b.mp4"] and reasons.keys() == {"loop.mp4", "disk", "pipe.mp4", "empty.mp4"}
    assert reasons["loop.mp4"] == "a link that leads nowhere, or to itself (to 'loop.mp4')." and "'/nowhere/disk'" in reasons["disk"]
    assert "a named pipe" in reasons["pipe.mp4"] and reasons["empty.mp4"] == "it is a folder, with no video in it."
    report = prepare_folder(tmp_path, tmp_path / "out", {}, lambda jobs: (job for job in ()))
    lines = [json.loads(line) for line in (tmp_path / "out" / FAILED).read_text(encoding="utf-8").splitlines()]
    assert {Path(line["video"]).name: line["reason"] for line in lines} == reasons and report.passed_over == "1 *.txt, 1 without a suffix"


@links
def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "locked/b.mp4")
    scan = os.scandir

    def guarded(place):
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", guarded)
    assert find_videos(tmp_path).refused == {tmp_path / "locked": "the folder cannot be read (Permission denied)."}


def test_where_there_is_no_video_it_is_said_what_there_is(tmp_path):
    touch(tmp_path, *(f"{k}.jpg" for k in range(3)), "empty.mp4/a.srt")
    with pytest.raises(InputError, match=r"There are 3 \*\.jpg, 1 \*\.srt\. .*empty\.mp4: it is a folder, with no video in it\.$"):
        find_videos(tmp_path)
