"""Helpers that need ComfyUI's modules run in a process of their own: what they read when they are imported cannot be taken back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def found_by(helper: str, comfyui: Path, *arguments: Path | str, cwd: Path | None = None) -> Any:
    """What a program of tests/helpers prints, in JSON, as its last line. cwd: ComfyUI's folder by default."""
    command = [sys.executable, Path(__file__).with_name(helper), *arguments]
    run = subprocess.run(command, cwd=cwd or comfyui, env=os.environ | {"PYTHONPATH": str(comfyui)}, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
