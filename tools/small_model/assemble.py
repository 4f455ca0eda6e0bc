"""Put the trained parts together as the models folder that is in the repository, the nets in half precision.

    python -m tools.small_model.assemble MODELS_DIR CHECKPOINT [TARGET]     TARGET: assets/models by default

MODELS_DIR holds what the other scripts here trained; CHECKPOINT is a checkpoint-N of scripts/train.py, whose log goes along.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from memo_modules.weights.checkpoints import NETS
from tools.diffusers_layout import write_diffusers

ROOT = Path(__file__).resolve().parents[2]

FROZEN = ("audio_encoders/wav2vec2-small", "memo/emotion2vec_small", "memo/small/misc", "memo/small/vae")


def assemble(models: Path, checkpoint: Path, target: Path) -> None:
    """Write ``target``, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    for part in FROZEN:
        shutil.copytree(models / part, target / part)
    for net in NETS:
        config = json.loads((checkpoint / net / "config.json").read_text(encoding="utf-8"))
        weights = load_file(checkpoint / net / "diffusion_pytorch_model.safetensors")
        write_diffusers(target / "memo" / "small" / net, config, {name: tensor.to(torch.float16) for name, tensor in weights.items()})
    shutil.copy(checkpoint.parent / "log.jsonl", target / "memo" / "small" / "training_log.jsonl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="MODELS_DIR")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("target", type=Path, nargs="?", default=ROOT / "assets" / "models", metavar="TARGET")
    arguments = parser.parse_args()
    assemble(arguments.models, arguments.checkpoint, arguments.target)
    size = sum(file.stat().st_size for file in arguments.target.rglob("*") if file.is_file())
    print(f"{arguments.target}: {size / 1e6:.1f} MB")
