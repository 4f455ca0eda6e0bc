"""Distil a MEMO model: a student that needs 2 to 4 passes and no guidance for what its teacher does in 40.

    python scripts/distil.py CONFIG.yaml [--resume latest|CHECKPOINT] [key=value ...]
    accelerate launch scripts/distil.py CONFIG.yaml ...        on several GPUs or machines

CONFIG.yaml: see scripts/configs/distil.yaml; what is said of scripts/train.py is true here, too. First the teacher, which is the checkpoint to
start from, makes trajectories, on prepared videos or on portraits and voices alone; then the student learns from them. With a section `lora`
the result is a file for Load MEMO LoRA. The samplers run it with preset turbo.
"""

import sys
from functools import partial

import bootstrap  # noqa: F401
from memo_modules.errors import InputError
from memo_modules.training.settings import TrainingSettings
from scripts.entry import run
from scripts.train import main


def check(settings: TrainingSettings) -> None:
    if settings.distil is None:
        raise InputError("distil: expected a section of that name in the settings, as in scripts/configs/distil.yaml. scripts/train.py finetunes.")


if __name__ == "__main__":
    run("distil.py", partial(main, sys.argv[1:], check), "stopped. --resume latest continues from the last checkpoint.")
