"""Says in figures whether a change to the sampler, or to a model of the small world, makes the picture better or worse.

    python -m tools.evaluate                                           all variants, into output/evaluation
    python -m tools.evaluate --models DIR --quick --checkpoint DIR     a few clips at 10 steps, while training
    python -m tools.evaluate --json benchmarks/evaluation.json         the first, for the README
    python -m tools.evaluate --speed --student DIR                     what presets, their parts and a student cost; stop and repeat at will
    python -m tools.evaluate videos GENERATED [--true TRUE]            videos of anybody, made by whatever model

Without --models it runs the small model in assets/models, on characters and voices of tools/small_world that the model has never seen. It
measures lips against sound, moods against the commanded ones, likeness and its drift over a minute, and the seams between clips; the
same measures of the true videos tell how far to trust them. Needs torch,
diffusers, pillow and what the workflow needs.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from memo_modules.errors import InputError
from memo_modules.models.config import DiffusionNetConfig
from memo_modules.sampler.solvers import flow_sigmas
from memo_modules.types import SamplerSettings
from memo_modules.weights.checkpoints import net_source
from memo_modules.weights.fingerprints import file_digest
from memo_modules.words import quoted
from scripts.entry import run as run_script
from tools.benchmarking.device import Device
from tools.benchmarking.results import stamp
from tools.evaluation import real_videos, report
from tools.evaluation.keeping import Kept
from tools.evaluation.reader import obtain_reader
from tools.evaluation.rendering import weights_hash
from tools.evaluation.running import Setup, run
from tools.evaluation.variants import BASE, SPEED, TRUTH, USUAL, VAE, VARIANTS, WORLD, long_cases, short_cases

ROOT = Path(__file__).resolve().parents[1]

RESULTS = ROOT / "benchmarks" / "evaluation.json"
SPEEDY = {"variants": list(SPEED), "identities": 6, "long_identities": 6, "base": ["steps=6", "guidance_scale=1"]}
QUICK = {"variants": [TRUTH, VAE, BASE], "identities": 1, "seconds": 2.2, "long_seconds": 0.0, "base": ["steps=10"]}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="python -m tools.regenerate tables writes the table of the pages.")
    parser.add_argument(
        "--models",
        type=Path,
        default=ROOT / "assets" / "models",
        metavar="DIR",
        help="models folder with a model of the small world, see tools/small_model (default: assets/models)",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="folder of the nets (default: memo/small in --models)")
    parser.add_argument("--quick", action="store_true", help="four short videos at 10 steps: a minute or less")
    parser.add_argument("--speed", action="store_true", help="presets, each of their parts, the student: 24 videos each, 6 of a minute for the drift")
    parser.add_argument("--student", type=Path, metavar="DIR", help="folder of the nets that scripts/distil.py made, for the variant turbo")
    parser.add_argument(
        "--variants", nargs="+", choices=tuple(VARIANTS), metavar="NAME", help=f"of {', '.join(VARIANTS)} (default: {USUAL[-1]} and before)"
    )
    parser.add_argument("--identities", type=int, help="characters, each in four moods (default: 2)")
    parser.add_argument("--seconds", type=float, help="of their videos (default: 3.2)")
    parser.add_argument("--words", action="store_true", help="voices of the short videos speak words, for which the program espeak-ng is needed")
    parser.add_argument("--long-seconds", type=float, help="of the long video, 0 for none (default: 60)")
    parser.add_argument("--long-identities", type=int, help="characters of long videos (default: 1)")
    parser.add_argument("--all-long", action="store_true", help="render the long video in every variant, not only in those that it may tell apart")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="sampler settings to start from, as steps=10 guidance_scale=2")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side (default: 128)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side (default: 1)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "evaluation", metavar="DIR", help="pictures and results (default: output/evaluation)"
    )
    parser.add_argument(
        "--reader", type=Path, default=ROOT / "output" / "reader.safetensors", metavar="FILE", help="what reads the pictures: trained once, kept here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here (default: results.json in --output)")
    parser.add_argument("--videos", action="store_true", help="keep the videos, too")
    arguments = parser.parse_args(argv)
    usual = {"variants": list(USUAL), "identities": 2, "seconds": 3.2, "long_seconds": 60.0, "long_identities": 1}
    chosen = QUICK if arguments.quick else SPEEDY if arguments.speed else {"base": []}
    for name, value in (usual | chosen).items():
        if getattr(arguments, name, None) is None:
            setattr(arguments, name, value)
    arguments.base = base_settings([*chosen["base"], *arguments.set])
    for name, least, most in (
        ("identities", 1, 1000),
        ("seconds", 0.6, 600),
        ("long_seconds", 0, 3600),
        ("long_identities", 1, 1000),
        ("workers", 1, 256),
        ("size", 32, 2048),
    ):
        if not least <= getattr(arguments, name) <= most:
            parser.error(f"--{name.replace('_', '-')}: expected {least} to {most}, got {getattr(arguments, name)}")
    return arguments


def base_settings(changes: list[str]) -> SamplerSettings:
    """The published settings with ``changes``, each NAME=VALUE. Raises InputError for an unknown name and a value that is none."""
    kinds = {field.name: type(field.default) for field in fields(SamplerSettings)}
    values = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds or not value:
            raise InputError(f"--set: expected NAME=VALUE with a name of {', '.join(kinds)}, got {quoted(change)}.")
        try:
            values[name] = kinds[name](value)
        except ValueError:
            raise InputError(f"--set: {name}: expected a value of the kind {kinds[name].__name__}, got {quoted(value)}.") from None
    settings = replace(SamplerSettings(), **values)
    flow_sigmas(settings.steps)  # raises for steps that cannot be, before anything is trained or rendered
    return settings


def evaluate(arguments: argparse.Namespace) -> dict:
    """Render, measure, write; returns the document of the JSON."""
    folder, base = arguments.output, arguments.base
    checkpoint = arguments.checkpoint or arguments.models / "memo" / "small"
    figures = obtain_reader(arguments.reader, say=_say).figures  # before there are several processes
    short = short_cases(arguments.identities, arguments.seconds, words=arguments.words)
    long = long_cases(arguments.long_identities, arguments.long_seconds) if arguments.long_seconds else []
    student = arguments.student
    keys = [key for key in arguments.variants if student or VARIANTS[key].preset != "turbo"]
    weights = weights_hash(arguments.models, checkpoint) if set(keys) != {TRUTH} else None
    setup = Setup(
        models=arguments.models,
        checkpoint=checkpoint,
        reader=arguments.reader,
        base=base,
        size=arguments.size,
        device=arguments.device,
        videos=folder / "videos" if arguments.videos else None,
        threads=1 if arguments.workers > 1 else 0,
        student=student,
        recipe=recipe_of(student) if student else {},
        kept=Kept(folder / "readings", (weights, weights_hash(arguments.models, student) if student else None, file_digest(arguments.reader))),
    )
    results = run(setup, keys, short, long, arguments.all_long, arguments.workers, _say)
    variants = report.entries(results, setup.settings, {"name": Device(arguments.device).name, "workers": arguments.workers})
    document = {
        "model": {"name": checkpoint.name, "sha256": weights},
        "base": asdict(base),
        "cases": {
            "first_seed": WORLD,
            "identities": arguments.identities,
            "seconds": arguments.seconds,
            **({"words": True} if arguments.words else {}),
            "long_seconds": arguments.long_seconds,
            **({"long_identities": arguments.long_identities} if arguments.long_identities > 1 else {}),
            "size": arguments.size,
        },
        "reader": {name: round(figure, 4) for name, figure in figures.items()},  # trained anew elsewhere it rounds otherwise
        **stamp(),
        "variants": variants,
    }
    document = report.write_json(arguments.json or folder / "results.json", document)
    for path in report.write_pictures(folder, results, variants):
        print(path)
    print(report.table(document))
    return document


def recipe_of(student: Path) -> Mapping[str, Any]:
    """The settings that a student brings along. Raises InputError where it brings none."""
    source = net_source(student, "diffusion_net")
    recipe = DiffusionNetConfig.from_dict(source.read_config(), str(student)).recipe
    if not recipe:
        raise InputError(f"--student: {student} was not distilled: its config.json has no recipe. scripts/distil.py writes one.")
    return recipe


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def main(argv: list[str]) -> None:
    if argv[:1] == ["videos"]:
        real_videos.main(argv[1:])
    else:
        evaluate(parse(argv))


if __name__ == "__main__":
    run_script("evaluate.py", partial(main, sys.argv[1:]))
