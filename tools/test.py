"""Runs the tests in the project's own environment, on all cores: python3 tools/test.py [pytest arguments]

Files go side by side, each on one thread of one core; `-n 0` runs one behind the other, as a debugger wants it.
"""

import subprocess
import sys

from tools import environment


def main() -> int:
    comfyui = environment.find_comfyui()
    python = environment.ensure(comfyui)
    command = [python, "-m", "pytest", "--numprocesses", "auto", "--dist", "loadfile", *sys.argv[1:]]
    variables = environment.variables(comfyui) | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, cwd=environment.ROOT, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main())
