"""Style and likely mistakes of the whole tree, types of what users run: python -m tools.check

What `python -m tools.test` does first. The rules are in pyproject.toml.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools import environment

REMEDIES = {"ruff format": "Run `ruff format .`."}


def failed(python: str, root: Path = environment.ROOT) -> list[str]:
    """Names of the checks that found something in the tree ``root``, which they have printed by then. python: the interpreter of the
    environment."""
    checks = {
        "ruff format": ("ruff", "format", "--check", "."),
        "ruff check": ("ruff", "check", "--quiet", "."),
        "pyright": ("pyright", "--pythonpath", python),
    }
    found, variables = [], {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # or pyright asks the network for a newer version
    for name, command in checks.items():
        run = subprocess.run([python, "-m", *command], check=False, cwd=root, env=variables, capture_output=True, text=True)
        if run.returncode:
            print(f"{name} found:\n{run.stdout}{run.stderr}{REMEDIES.get(name, '')}", flush=True)
            found.append(name)
    return found


def main() -> int:
    return bool(failed(str(environment.ensure(environment.find_comfyui()))))


if __name__ == "__main__":
    sys.exit(main())
