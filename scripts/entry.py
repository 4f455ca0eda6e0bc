"""How a script ends: with what it made, or with one sentence on what stood in its way.

if __name__ == "__main__":
    run("convert.py", main)
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from memo_modules.crew.ray_actors import PATIENCE, RayActors
from memo_modules.crew.running import Work
from memo_modules.errors import MemoError
from memo_modules.words import first_line, printable, quoted, shortened

_MOST_SAID = 2000


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of the script with the docstring ``doc``, None under -OO: its first line is what the script is for, the others are shown at the end."""
    first, _, rest = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_ray(parser: argparse.ArgumentParser) -> None:
    """The arguments of a program that can work on a Ray cluster."""
    parser.add_argument("--ray", metavar="ADDRESS", help="workers on a Ray cluster: its address, auto, or local to start one here")
    parser.add_argument("--gpus-per-worker", type=float, metavar="N", help="of the cluster, also a part of one (default: 1, or 0 with --device cpu)")
    parser.add_argument("--ray-patience", type=float, default=PATIENCE, metavar="SECONDS", help="to wait for room in it (default: %(default)g)")


def check_ray(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    gpus = arguments.gpus_per_worker
    if gpus is not None and not (0 <= gpus <= 1 or (gpus <= 64 and gpus == int(gpus))):
        parser.error(f"--gpus-per-worker: expected a part of one, or a whole number up to 64, got {gpus:g}")
    if not 1 <= arguments.ray_patience <= 86400:
        parser.error(f"--ray-patience: expected 1 to 86400 seconds, got {arguments.ray_patience:g}")


def ray_crew(arguments: argparse.Namespace, workers: int, work: Work, device: str) -> RayActors:
    gpus = arguments.gpus_per_worker
    return RayActors(arguments.ray, workers, work, float(device.startswith("cuda")) if gpus is None else gpus, arguments.ray_patience)


def run(name: str, main: Callable[[], int | None], stopped: str = "stopped.") -> NoReturn:
    """Run ``main`` and end the process with the number that it returns.

    What is wrong with the user's files, disk or input is said in a sentence, and the number is 1; Ctrl-C, of which ``stopped``
    says what it means, ends with 130. A traceback is left to what nobody expected.
    """
    for stream in (sys.stdout, sys.stderr):  # names that a console cannot write
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say(name, stopped)
        status = 130
    except BrokenPipeError:  # what it was piped into has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    except MemoError as error:
        _say(name, str(error))
        status = 1
    except OSError as error:
        _say(name, in_words(error))
        status = 1
    except MemoryError as error:
        _say(name, f"this machine has too little memory for it ({first_line(error)}).")
        status = 1
    sys.exit(status)


def in_words(error: OSError) -> str:
    """What the system objects to, and the file or folder that it is about."""
    reason = error.strerror or first_line(error)
    places = [quoted(os.fsdecode(place), 300) for place in (error.filename, error.filename2) if isinstance(place, str | bytes)]
    return f"{' -> '.join(places)}: {reason}. Choose another file or folder." if places else f"{reason}."


def _say(name: str, sentence: str) -> None:
    print(f"{name}: {shortened(printable(sentence), _MOST_SAID)}", file=sys.stderr, flush=True)
