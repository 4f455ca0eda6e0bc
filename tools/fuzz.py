"""Damage small valid files at random and see that reading them ends well: with the content, or with an error that says why.

    python -m tools.fuzz checkpoints [--seconds 600] [--seed 0] [--keep DIR]
    python -m tools.fuzz sound | texts | onnx

Every case runs in a process of its own with limits of time and memory, so that a crash, a hang and running out of memory are
findings like any other. Linux only. Exits with 1 when there is a finding.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tools.fuzzing.children import FINE, Outcome, outcome_of
from tools.fuzzing.onnx_targets import onnx_targets
from tools.fuzzing.targets import Target, checkpoint_targets, sound_targets
from tools.fuzzing.text_targets import text_targets

KINDS = {"checkpoints": checkpoint_targets, "sound": sound_targets, "texts": text_targets, "onnx": onnx_targets}


def fuzz(targets: dict[str, Target], scratch: Path, seed: int, continues: Callable[[int], bool]) -> dict[str, Counter[Outcome]]:
    """Outcomes by target, while ``continues(cases)``. Cases follow from the seed. What is found first of its kind stays in
    ``scratch``, in a folder named after its number."""
    outcomes: dict[str, Counter[Outcome]] = {name: Counter() for name in targets}
    for target in targets.values():
        target.read(target.valid)  # or all damage would be refused for what is wrong before; and all packages are imported
    names, cases = list(targets), 0
    while continues(cases):
        draw = random.Random(f"{seed} {cases}")
        name = draw.choice(names)
        place = scratch / str(cases)
        outcome = outcome_of(targets[name].case(draw, place))
        if outcome.kind in FINE or outcomes[name][outcome]:
            shutil.rmtree(place)
        else:
            print(f"case {cases}, {name}: {outcome.kind}: {outcome.what}", flush=True)
        outcomes[name][outcome] += 1
        cases += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of all damage (default: 0)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the files of findings stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-fuzz-") as scratch:
        targets = KINDS[arguments.kind](Path(scratch) / "valid")
        cases, end = arguments.keep or Path(scratch) / "cases", time.monotonic() + arguments.seconds
        outcomes = fuzz(targets, cases, arguments.seed, lambda case: time.monotonic() < end)
    findings = 0
    for name, counts in outcomes.items():
        kinds = Counter()
        for outcome, count in counts.items():
            kinds[outcome.kind] += count
        findings += sum(count for kind, count in kinds.items() if kind not in FINE)
        print(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    print(f"{sum(counts.total() for counts in outcomes.values())} cases, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
