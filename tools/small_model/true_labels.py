"""Put the moods of a small world, as they are, instead of those that data preparation heard.

    python -m tools.small_model.true_labels WORLD_DIR DATA_DIR

WORLD_DIR is what tools/make_small_world.py wrote, DATA_DIR what scripts/prepare_data.py made of it. Moods heard in a voice
are wrong in a tenth of the frames and late by half a second where moods change: nets that learn from them cannot do better.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from memo_modules.preparation.folder import METADATA
from memo_modules.preparation.tensor_files import read_rows, write_tensor

FIELD = "audio_emotion"


def put_true_labels(world: Path, data: Path) -> int:
    """Returns how many frames had another label."""
    changed = 0
    for line in (data / METADATA).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        truth = torch.from_numpy(np.load(world / f"{Path(entry['video']).stem}.npz")["emotion"])
        heard = read_rows(data / entry[FIELD], FIELD)
        truth = truth[: len(heard)].to(heard.dtype)
        if len(truth) != len(heard):
            raise ValueError(f"{entry['video']}: {len(heard)} frames are prepared, {world} has the moods of {len(truth)}")
        if not torch.equal(truth, heard):
            changed += int((truth != heard).sum())
            write_tensor(data / entry[FIELD], FIELD, truth)
    return changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("world", type=Path, metavar="WORLD_DIR")
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    arguments = parser.parse_args()
    print(f"{put_true_labels(arguments.world, arguments.data)} labels changed")
