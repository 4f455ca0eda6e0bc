"""`tools.evaluate videos` on videos of the small world's characters, with the recogniser of the small model."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.errors import InputError
from memo_modules.video.files import write_video
from tools import evaluate
from tools.evaluation.intervals import FEWEST
from tools.evaluation.real_videos import Seen, compared, every_so_many, values
from tools.small_world import make_clip

SIZE, FRAMES = 128, 48

pytestmark = pytest.mark.usefixtures("one_thread")


def write(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    write_video(path, torch.from_numpy(frames.copy()).movedim(-1, 1).float() / 255, Fraction(30), None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """True videos; the same, soft and with a jump every 16 frames; and those of other characters under their names."""
    place = tmp_path_factory.mktemp("videos")
    clips = [make_clip(910_000_000 + number, FRAMES / 30, "neutral", 910_000_000 + number).frames(SIZE) for number in range(FEWEST + 1)]
    for number, frames in enumerate(clips[:FEWEST]):
        write(place / "true" / f"{number}.mp4", frames)
        soft = ((frames.astype(int) + np.roll(frames, 1, axis=1) + np.roll(frames, 1, axis=2)) // 3).astype(np.uint8)
        write(place / "soft" / f"{number}.mkv", np.concatenate([np.roll(part, 4 * (k % 2), axis=2) for k, part in enumerate(np.split(soft, 3))]))
        write(place / "others" / f"{number}.mp4", clips[number + 1])
    return place


def test_what_was_done_to_videos_shows_in_its_own_figure(folders, capsys):
    path = folders / "out" / "all.json"
    evaluate.main(["videos", str(folders / "soft"), str(folders / "others"), "--true", str(folders / "true"), "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    true, soft, others = (rows[name]["figures"] for name in ("true", "soft", "others"))
    assert true["identity"]["mean"] > 0.9 and soft["identity"]["mean"] > others["identity"]["mean"] + 0.3
    assert soft["seam"]["mean"] > 2 > true["seam"]["mean"] and true["seam"]["mean"] > 0.5
    assert soft["sharpness"]["mean"] < 0.9 * true["sharpness"]["mean"]
    assert true["faces"]["mean"] == 1 and abs(true["drift"]["mean"]) < 0.1
    assert rows["others"]["minus_base"]["identity"][1] < 0 < rows["true"]["minus_base"]["sharpness"][0]
    out = capsys.readouterr().out
    assert "others, identity: lower (minus soft" in out and "| true | 4 |" in out


def test_a_difference_is_one_only_where_chance_does_not_explain_it():
    base = {str(k): {"identity": float(k), "drift": 0.0} for k in range(8)}
    other = {name: {"identity": each["identity"] + 0.1, "drift": (-1.0) ** int(name)} for name, each in base.items()}
    rest = dict.fromkeys(("faces", "seam", "motion", "sharpness"), float("nan"))
    other, base = ({name: each | rest for name, each in videos.items()} for videos in (other, base))
    found = compared(other, base)
    assert found["identity"] == pytest.approx([0.1, 0.1]), "the same videos, so that how they differ among themselves does not count"
    low, high = found["drift"]
    assert low < 0 < high and found.keys() == {"identity", "drift"}
    few = {name: other[name] for name in "012"}
    assert compared(few, base) == {}


def test_identity_drift_and_seams_of_one_video():
    portrait, other = np.eye(512)[0], np.eye(512)[1]
    motion = np.ones(89)
    motion[[15, 31, 47, 63, 79]] = 3
    faces = np.array([portrait, portrait, portrait, 0.6 * portrait + 0.8 * other])
    seen = Seen(faces, np.array([0, 15, 30, 75]), 5, motion, np.ones(5), 30.0)
    found = values(seen, None, lambda frames: every_so_many(16, frames))
    assert found["seam"] == pytest.approx(3) and found["faces"] == pytest.approx(0.8)
    assert found["identity"] == pytest.approx((1 + 1 + 0.6) / 3) and found["drift"] == pytest.approx(0.4)
    nobody = values(Seen(np.zeros((0, 512)), np.zeros(0, int), 5, motion, np.ones(5), 30.0), None, lambda frames: every_so_many(99, frames))
    assert np.isnan([nobody["identity"], nobody["drift"], nobody["seam"]]).all() and nobody["faces"] == 0


def test_a_video_without_its_true_one_is_named(folders):
    (folders / "more").mkdir(exist_ok=True)
    (folders / "more" / "9.mp4").write_bytes((folders / "true" / "0.mp4").read_bytes())
    with pytest.raises(InputError, match="true has no video named 9"):
        evaluate.main(["videos", str(folders / "more"), "--true", str(folders / "true")])
