"""Turn a published checkpoint folder into single safetensors files and back, and a pickle into safetensors.

    python scripts/convert.py models/memo/memo                    writes models/memo/memo.safetensors
    python scripts/convert.py models/memo/memo --one-per-net DIR  writes DIR/diffusion_net.safetensors and so on
    python scripts/convert.py models/memo/memo.safetensors DIR    writes the folder DIR
    python scripts/convert.py FILE.pt                             writes FILE.safetensors
    python scripts/convert.py models/memo/memo speaker.safetensors --lora models/loras/speaker.safetensors:0.8
    python scripts/convert.py models/memo/memo --beside

The last but one merges a LoRA with strength 0.8. The last keeps a bfloat16 copy next to the float32 weights of both UNets, which is loaded
instead of them where bfloat16 is wanted; --delete-float32 then deletes these. Tensors stay as they are, bit by bit, unless --dtype, --lora or
--beside is given. Nothing in a pickle is executed. Needs torch, safetensors, einops and numpy, as ComfyUI's Python has them.
"""

import sys
from functools import partial
from pathlib import Path

import torch

import bootstrap  # noqa: F401
from memo_modules.errors import InputError
from memo_modules.store.bfloat16_copies import keep_bfloat16
from memo_modules.store.converting import pickle_to_safetensors, to_folder, to_single_files
from memo_modules.weights.checkpoints import NETS
from memo_modules.weights.checks import PICKLES
from memo_modules.weights.lora import Loras, named_lora
from scripts import entry
from scripts.entry import run

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def convert(source: Path, target: Path | None, dtype: torch.dtype | None, one_per_net: bool, loras: Loras = ()) -> list[Path]:
    """What was written. Raises MemoError for a source that cannot be converted and a target that is there already."""
    source = source.absolute()
    if not source.name:
        raise InputError(f"{source} is the root of a disk, expected a checkpoint folder, what this script made of one, or a pickle.")
    if source.suffix in PICKLES:
        if loras:
            raise InputError("--lora: expected a checkpoint as the source, got a pickle. Convert that first.")
        return [pickle_to_safetensors(source, target or source.with_suffix(".safetensors"), dtype)]
    is_checkpoint = any((source / net).is_dir() for net in NETS)  # those of the trainer have other files in addition to the nets
    if not is_checkpoint and (source.suffix == ".safetensors" or any(source.glob("*.safetensors"))):
        return to_folder(source, target or source.with_name(f"{source.stem}_folder"), dtype, loras)
    ending = "_single" if one_per_net else ".safetensors"
    return to_single_files(source, target or source.with_name(source.name + ending), dtype, one_per_net, loras)


def main(argv: list[str]) -> None:
    parser = entry.parser(__doc__)
    parser.add_argument("source", type=Path, help="a checkpoint folder, what this script made of one, or a pickle")
    parser.add_argument("target", type=Path, nargs="?", help="what to write (default: next to the source)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights (default: as they are)")
    parser.add_argument("--one-per-net", action="store_true", help="a folder with one file per net, not one file with all")
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE[:STRENGTH]", help="merge it into the weights (strength: 1); may be given several times"
    )
    parser.add_argument("--beside", action="store_true", help="keep bfloat16 copies of the UNets next to them, in a checkpoint folder")
    parser.add_argument("--delete-float32", action="store_true", help="with --beside: delete what was copied")
    arguments = parser.parse_args(argv)
    others = [arguments.target, arguments.dtype, arguments.one_per_net, arguments.lora]
    if arguments.beside and any(others):
        parser.error("--beside takes a checkpoint folder, and no target, --dtype, --one-per-net or --lora")
    if arguments.delete_float32 and not arguments.beside:
        parser.error("--delete-float32 needs --beside")
    if arguments.beside:
        written = keep_bfloat16(arguments.source.absolute(), arguments.delete_float32)
        print("\n".join(map(str, written)) or f"{arguments.source} has no float32 UNet without a copy.")
        return
    loras = [named_lora(text) for text in arguments.lora]
    for path in convert(arguments.source, arguments.target, DTYPES.get(arguments.dtype), arguments.one_per_net, loras):
        print(path)


if __name__ == "__main__":
    run("convert.py", partial(main, sys.argv[1:]))
