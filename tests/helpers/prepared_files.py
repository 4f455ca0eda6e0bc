"""Prepared videos as files of a few numbers, and their metadata: all that a data set reads but the pictures."""

import json
from pathlib import Path

import torch

from memo_modules.preparation.tensor_files import write_tensor
from memo_modules.training.dataset import ClipLayout

LAYOUT = ClipLayout(frames=4, past_frames=3, audio_margin=2)


def states(frames: int) -> torch.Tensor:
    """Audio states (frames 2 3) that carry their frame's number."""
    return torch.arange(frames).float()[:, None, None].expand(-1, 2, 3)


def prepare(folder: Path, stem: str = "a", frames: int = 20, suffix: str = ".safetensors") -> dict[str, str]:
    """The files of a video of ``frames`` frames and its line of metadata."""
    entry = {"video": f"{stem}.mp4", **{field: f"{stem}_{field}{suffix}" for field in ("face_emb", "audio_emb", "audio_emotion")}}
    (folder / entry["video"]).write_bytes(b"")
    tensors = {"face_emb": torch.ones(5), "audio_emb": states(frames), "audio_emotion": torch.arange(frames, dtype=torch.int32) // 3}
    for field, tensor in tensors.items():
        path = folder / entry[field]
        write_tensor(path, field, tensor) if suffix == ".safetensors" else torch.save(tensor, path)
    return entry


def write_metadata(folder: Path, *entries: dict | str) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return path
