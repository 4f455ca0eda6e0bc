"""Style and likely mistakes of the whole tree: python -m tools.check

What `python -m tools.test` does first. The rules are in pyproject.toml.
"""

import subprocess
import sys

from tools import environment

CHECKS = {
    "ruff format": ("ruff", "format", "--check", "--quiet", "."),
    "ruff check": ("ruff", "check", "--quiet", "."),
}
REMEDIES = {"ruff format": "Run `ruff format .`."}


def failed(python: str) -> list[str]:
    """Names of the checks that found something, which they have printed by then. python: the interpreter of the environment."""
    found = []
    for name, (module, *arguments) in CHECKS.items():
        run = subprocess.run([python, "-m", module, *arguments], check=False, cwd=environment.ROOT, capture_output=True, text=True)
        if run.returncode:
            print(f"{name} found:\n{run.stdout}{run.stderr}{REMEDIES.get(name, '')}", flush=True)
            found.append(name)
    return found


def main() -> int:
    return bool(failed(str(environment.ensure(environment.find_comfyui()))))


if __name__ == "__main__":
    sys.exit(main())
