"""Runs the tests in the project's own environment: python3 scripts/test.py [pytest arguments]"""

import subprocess
import sys

import environment


def main() -> int:
    comfyui = environment.find_comfyui()
    python = environment.ensure(comfyui)
    command = [python, "-m", "pytest", *sys.argv[1:]]
    return subprocess.run(command, check=False, cwd=environment.ROOT, env=environment.variables(comfyui)).returncode


if __name__ == "__main__":
    sys.exit(main())
