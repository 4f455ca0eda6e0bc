"""Write talking cartoon portraits to train on, as videos with sound and the truth about every frame.

    python -m tools.make_small_world DIR [--clips 100] [--seed 0] [--seconds 4.8] [--size 128] [--words 0.5] [--blinks 2]
        [--first 0] [--sheet FILE]

Every clip has a character of its own; another seed has other characters. Needs numpy, pillow, torch and av,
and for words the program espeak-ng.
"""

import argparse
import time
from pathlib import Path

from scripts.entry import run
from tools.small_world.sheets import contact_sheet
from tools.small_world.videos import CLIPS_PER_SEED, write_world

SHOWN = 8
LARGEST, LONGEST, LAST_SEED = 2048, 600, 10**6
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the videos go")
    parser.add_argument("--clips", type=int, default=100, help=f"how many, each of another character (default: 100, at most {CLIPS_PER_SEED})")
    parser.add_argument("--seed", type=int, default=0, help="of all characters, voices and moods (default: 0)")
    parser.add_argument("--seconds", type=float, default=4.8, help="length of a clip, rounded up to a multiple of 1.6 (default: 4.8)")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels, even (default: 128)")
    parser.add_argument("--words", type=float, default=0.0, help="share of the clips that speak words instead of babbling, 0 to 1 (default: 0)")
    parser.add_argument("--blinks", type=float, default=1.0, help="factor on how often eyes blink (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first clip, for a world that grows in parts (default: 0)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help=f"also a picture of the first {SHOWN} characters in four moods")
    arguments = parser.parse_args()
    if not 0 <= arguments.words <= 1 or not 0 < arguments.blinks <= 10 or arguments.first < 0:
        parser.error("--words, --blinks, --first: expected 0 to 1, above 0 up to 10, and at least 0")
    if not 1 <= arguments.clips <= CLIPS_PER_SEED - arguments.first:
        parser.error(f"--clips: expected 1 to {CLIPS_PER_SEED - arguments.first}, got {arguments.clips}")
    if not 32 <= arguments.size <= LARGEST or arguments.size % 2:
        parser.error(f"--size: expected an even number from 32 to {LARGEST}, got {arguments.size}")
    if not 1 / 30 <= arguments.seconds <= LONGEST:
        parser.error(f"--seconds: expected at least one frame, 1/30 s, and at most {LONGEST}, got {arguments.seconds}")
    if not 0 <= arguments.seed <= LAST_SEED:
        parser.error(f"--seed: expected 0 to {LAST_SEED}, got {arguments.seed}")
    if arguments.sheet and (arguments.sheet.suffix.lower() not in PICTURES or not arguments.sheet.absolute().parent.is_dir()):
        parser.error(f"--sheet: expected a file {', '.join(PICTURES)} in a folder that is there, got {arguments.sheet}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    began = time.monotonic()

    def progress(done: int, total: int) -> None:
        left = (time.monotonic() - began) / done * (total - done)
        print(f"\r{done} of {total} clips, {left:.0f} s left ", end="" if done < total else "\n", flush=True)

    more = {name: getattr(arguments, name) for name in ("words", "blinks", "first")}
    write_world(arguments.folder, arguments.clips, arguments.seed, arguments.seconds, arguments.size, progress, **more)
    if arguments.sheet:
        first = arguments.seed * CLIPS_PER_SEED + arguments.first
        contact_sheet(range(first, first + min(SHOWN, arguments.clips)), size=arguments.size).save(arguments.sheet)
    print(arguments.folder)


if __name__ == "__main__":
    run("make_small_world.py", main)
