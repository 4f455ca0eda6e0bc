"""Sheets of training pictures: what training will see of each prepared video, in order, and which cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memo_modules.training import sheets
from memo_modules.training.dataset import ClipDataset, ClipLayout, clip_indices, read_metadata
from memo_modules.training.sheets import COLUMNS, GAP, LABEL, SIDE, draw_sheets
from scripts import prepare_data
from scripts.entry import run
from tests.helpers.prepared_files import prepare, write_metadata
from tests.helpers.scenes import placed, write_scene
from tools.small_world import make_clip

FRAMES = 20
LAYOUT = ClipLayout(frames=4, past_frames=3)


def make_prepared(folder: Path, *names: str) -> Path:
    """A folder of prepared videos, 320 x 180, whose face lies further to the right in each. Returns their metadata.jsonl."""
    entries = [prepare(folder, name, FRAMES) for name in names]
    for k, name in enumerate(names):
        clip = make_clip(k, FRAMES / 30)
        write_scene(folder / f"{name}.mp4", placed(clip.frames(100), 180, 320, 40, 40 * k), clip)
    return write_metadata(folder, *entries)


def tile(sheet: np.ndarray, number: int, columns: int) -> np.ndarray:
    top, left = number // columns * (SIDE + LABEL), number % columns * (SIDE + GAP)
    return sheet[top : top + SIDE, left : left + SIDE]


@pytest.fixture
def three(tmp_path) -> Path:
    return make_prepared(tmp_path, "a", "b", "c")


def test_each_video_is_shown_as_training_sees_it(three, tmp_path):
    videos = read_metadata([three])
    assert draw_sheets(videos, tmp_path / "sheet.png") == {}
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (SIDE + LABEL, 3 * (SIDE + GAP), 3) and COLUMNS > 3
    dataset = ClipDataset(videos, SIDE, SIDE, LAYOUT)
    for number, video in enumerate(videos):
        sample = dataset.clip(video, clip_indices(LAYOUT, 5, FRAMES // 2, still_past=False, cut_audio=False))
        seen = (sample["pixel_values_ref_img"][0].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(tile(sheet, number, 3) - seen).max() <= 0.51
    assert not np.array_equal(tile(sheet, 0, 3), tile(sheet, 1, 3))
    assert (sheet[SIDE + 2 :].min(axis=(0, 2)) < 100).reshape(3, -1).any(axis=1).all(), "each has its name below it"


def test_a_video_that_cannot_be_read_is_named_and_the_others_are_shown(three, tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    assert list(draw_sheets(read_metadata([three]), tmp_path / "sheet.png")) == [tmp_path / "b.mp4"]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    spread = [tile(sheet, number, 3).std() for number in range(3)]
    assert spread[0] > 5 < spread[2] and (tile(sheet, 1, 3) == 255).mean() > 0.9


def test_more_videos_than_a_sheet_holds_go_to_the_next(three, tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "ROWS", 1)
    monkeypatch.setattr(sheets, "COLUMNS", 2)
    draw_sheets(read_metadata([three]), tmp_path / "sheet.jpg")
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("sheet*")}
    assert sizes == {"sheet.jpg": (2 * (SIDE + GAP), SIDE + LABEL), "sheet_2.jpg": (SIDE + GAP, SIDE + LABEL)}


def test_of_a_long_name_the_end_is_shown():
    draw = sheets.ImageDraw.Draw(Image.new("RGB", (8, 8)))
    shown = sheets._fitting(draw, "12: ", "a folder of a name as long as a disk takes/" * 9 + "clip.0001of0003.mp4")
    assert shown.startswith("12: …") and shown.endswith("clip.0001of0003.mp4") and draw.textlength(shown, font=sheets._font()) <= SIDE


def test_the_command_draws_what_was_prepared(three, tmp_path, monkeypatch, capsys):
    def call(*arguments) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["prepare_data.py", "videos", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run("prepare_data.py", prepare_data.main)
        captured = capsys.readouterr()
        return end.value.code, captured.out + captured.err

    status, said = call(tmp_path, "--sheet", tmp_path / "sheet.webp")
    assert status == 0 and "3 of 3 drawn" in said and "3 pictures, numbered by the lines of metadata.jsonl." in said
    assert Image.open(tmp_path / "sheet.webp").format == "WEBP"
    (tmp_path / "c.mp4").write_bytes(b"")
    status, said = call(tmp_path, "--sheet", tmp_path / "sheet.webp")
    assert status == 1 and "c.mp4: the file is empty." in said and "2 pictures" in said
    status, said = call(tmp_path, "--sheet", tmp_path / "sheet.mp4")
    assert status == 2 and "--sheet: expected a name that ends in .jpg, .jpeg, .png, .webp" in said
    status, said = call(tmp_path / "nowhere", "--sheet", tmp_path / "sheet.png")
    assert status == 1 and "cannot be read" in said
    write_metadata(tmp_path)
    status, said = call(tmp_path, "--sheet", tmp_path / "sheet.png")
    assert status == 1 and "no video has been prepared in" in said
