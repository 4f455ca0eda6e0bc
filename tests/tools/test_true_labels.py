"""The moods of a small world instead of those that were heard."""

import json

import numpy as np
import pytest
import torch

from memo_modules.preparation.tensor_files import read_rows, write_tensor
from tools.small_model.true_labels import put_true_labels
from tools.small_world.videos import write_world


def prepared(folder, frames: int):
    """What data preparation leaves of two videos, every label wrong."""
    lines = []
    for i in range(2):
        name = f"clip_{i:05d}.safetensors"
        write_tensor(folder / name, "audio_emotion", torch.full((frames,), 8, dtype=torch.int32))
        lines.append(json.dumps({"video": f"/elsewhere/clip_{i:05d}.mp4", "audio_emotion": name}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_labels_become_those_of_the_world_and_stay_so(tmp_path):
    (tmp_path / "data").mkdir()
    write_world(tmp_path / "world", clips=2, seed=5, seconds=1.6, size=32)
    data = prepared(tmp_path / "data", 48)
    assert put_true_labels(tmp_path / "world", data) == 96
    for i in range(2):
        labels = read_rows(data / f"clip_{i:05d}.safetensors", "audio_emotion")
        assert labels.dtype == torch.int32
        assert labels.tolist() == np.load(tmp_path / "world" / f"clip_{i:05d}.npz")["emotion"].tolist()
    assert put_true_labels(tmp_path / "world", data) == 0


def test_a_world_with_shorter_clips_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    write_world(tmp_path / "world", clips=2, seed=5, seconds=1.6, size=32)
    with pytest.raises(ValueError, match="60 frames are prepared, .* has the moods of 48"):
        put_true_labels(tmp_path / "world", prepared(tmp_path / "data", 60))
