"""Runs all checks and tests in the project's own environment, on all cores: python3 -m tools.test [pytest arguments]

First style and likely mistakes (tools/check.py), unless arguments ask for some tests alone. Test files run in parallel, each
on one thread of one core; `-n 0` runs one after the other, as a debugger wants it.
"""

import subprocess
import sys

from tools import check, environment


def main() -> int:
    comfyui = environment.find_comfyui()
    python = str(environment.ensure(comfyui))
    if not sys.argv[1:] and check.failed(python):
        return 1
    command = [python, "-m", "pytest", "--numprocesses", "auto", "--dist", "loadfile", *sys.argv[1:]]
    variables = environment.variables(comfyui) | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, cwd=environment.ROOT, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main())
