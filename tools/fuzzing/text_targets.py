"""What people and scripts write as text, and what lies next to it: a training's YAML, prepared data, journals."""

from pathlib import Path

import torch

from memo_modules.preparation.tensor_files import read_rows, write_tensor
from memo_modules.training.dataset import read_metadata
from memo_modules.training.settings import read_settings
from memo_modules.types import VideoState
from memo_modules.video.journal import Inputs, opened
from tools.fuzzing.mutations import damage, damaged_lines, damaged_safetensors, damaged_yaml, damaged_zip
from tools.fuzzing.targets import Target

FINETUNE = Path(__file__).resolve().parents[2] / "scripts" / "configs" / "finetune.yaml"
MADE_OF = Inputs({"seed": "42", "image": "abc"}, {"face": torch.arange(1.0, 5.0)})


def text_targets(folder: Path) -> dict[str, Target]:
    prepared, made = _prepared(folder / "prepared"), _journal(folder / "journals")
    rows = {"metadata.jsonl": damaged_lines, "face.safetensors": damaged_safetensors, "emotion.pt": damaged_zip}
    entries = {file.name: damaged_safetensors for file in made.glob("*.safetensors")} | {"clip-00000.mp4": damage}
    (folder / "train.yaml").write_bytes(FINETUNE.read_bytes())
    return {
        "training settings": Target(folder / "train.yaml", {"": damaged_yaml}, lambda place: read_settings(place, ["steps=3"])),
        "prepared data": Target(prepared, rows, _read_prepared),
        "journal": Target(made, entries, _read_journal),
    }


def _prepared(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes(b"video")
    write_tensor(folder / "face.safetensors", "face_emb", torch.ones(512))
    write_tensor(folder / "audio.safetensors", "audio_emb", torch.ones(20, 2, 3))
    torch.save(torch.ones(20, dtype=torch.int32), folder / "emotion.pt")
    line = '{"video": "video.mp4", "face_emb": "face.safetensors", "audio_emb": "audio.safetensors", "audio_emotion": "emotion.pt"}\n'
    (folder / "metadata.jsonl").write_text(2 * line, encoding="utf-8")
    return folder


def _read_prepared(folder: Path) -> None:
    for video in read_metadata([folder / "metadata.jsonl"]):
        for field in ("face_emb", "audio_emb", "audio_emotion"):
            read_rows(getattr(video, field), field, 0, 3)


def _journal(root: Path) -> Path:
    with opened(root, "video", MADE_OF) as journal:
        for clip in range(1, 4):
            segment = journal.segment(".mp4")
            segment.write_bytes(b"video" * clip)
            state = VideoState((torch.ones(2, 4, 1, 1),), torch.ones(16, 4, 1, 1), 16, clip, torch.Generator().get_state(), "model")
            journal.append(state, segment)
    return journal.folder


def _read_journal(folder: Path) -> None:
    """Whatever is damaged is dropped: a resume never fails."""
    with opened(folder.parent, "video", MADE_OF) as journal:
        state = journal.state(None)
        if state is not None:
            torch.Generator().set_state(state.generator)
    (folder / "lock").unlink(missing_ok=True)  # the copies are made of links, and no lock may be one
