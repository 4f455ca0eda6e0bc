"""Make a portrait talk.

    python3 scripts/demo.py [--image FILE] [--audio FILE] [--checkpoint DIR] [--output FILE]

In an environment of its own it starts ComfyUI without a window and runs workflows/api/talking_portrait_all_nodes.json in it. The
published weights are 13 GB and not part of this project: without --checkpoint, a cartoon talks, made by the small model in
assets/models. Where no ComfyUI is to be had, the same steps run through the library.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path

import bootstrap  # noqa: F401
from scripts import entry
from tools import environment
from tools.comfyui_server import ComfyUIServer, ServerError

ROOT = environment.ROOT
WORKFLOW = ROOT / "workflows" / "api" / "talking_portrait_all_nodes.json"
REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
CLONE = ROOT / ".comfyui"
SMALL = ROOT / "assets" / "models" / "memo" / "small"
PUBLISHED = {"vae": "sd-vae-ft-mse.safetensors", "audio_encoder": "wav2vec2-base-960h", "emotion2vec": "emotion2vec_plus_large", "rest": "memo"}


def parse_arguments() -> argparse.Namespace:
    parser = entry.parser(__doc__)
    parser.add_argument("--image", type=Path, help="a portrait (default: one in assets)")
    parser.add_argument("--audio", type=Path, help="a voice (default: one in assets)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=SMALL,
        metavar="DIR",
        help="MEMO checkpoint, models/memo/NAME of a ComfyUI; its models folder holds the rest (default: the small model)",
    )
    parser.add_argument(
        "--vae", default=PUBLISHED["vae"], metavar="NAME", help=f"as Load MEMO VAE lists it, with --checkpoint (default: {PUBLISHED['vae']})"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output", "talking_portrait.mp4"), help="the video (default: output/talking_portrait.mp4)"
    )
    parser.add_argument("--steps", type=_whole_number(1, 1000), help="denoising steps per clip (default: 20, with the small model 5)")
    parser.add_argument("--size", type=_whole_number(64, 2048, 8), help="width and height in pixels (default: 512, with the small model 128)")
    parser.add_argument("--seed", type=_whole_number(0, 2**64 - 1), default=42)
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI choose the device; the environment made here has torch for the CPU on Linux")
    arguments = parser.parse_args()
    arguments.checkpoint = arguments.checkpoint.resolve()
    small = arguments.checkpoint == SMALL
    arguments.image = arguments.image or ROOT / "assets" / ("cartoon.png" if small else "portrait.jpg")
    arguments.audio = arguments.audio or ROOT / "assets" / ("cartoon.wav" if small else "speech.wav")
    arguments.steps = arguments.steps or (5 if small else 20)
    arguments.size = arguments.size or (128 if small else 512)
    for name, file in (("image", arguments.image), ("audio", arguments.audio)):
        if not file.is_file():
            parser.error(f"argument --{name}: {file} is no file")
    if not arguments.checkpoint.is_dir() or len(arguments.checkpoint.parents) < 2:
        parser.error(f"argument --checkpoint: {arguments.checkpoint} is no folder models/memo/NAME")
    if arguments.output.is_dir():
        parser.error(f"argument --output: {arguments.output} is a folder; name a file in it")
    return arguments


def _whole_number(least: int, most: int, multiple_of: int = 1) -> Callable[[str], int]:
    """What reads an argument; the bounds are those of MEMO Sampler."""

    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most or number % multiple_of:
            multiple = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
            raise argparse.ArgumentTypeError(f"expected {least} to {most}{multiple}, got {number}")
        return number

    read.__name__ = "whole number"  # for what is none
    return read


def clone_comfyui() -> Path | None:
    """The official repository in a folder of ours, None when git or the network fails."""
    if not (CLONE / "main.py").is_file():
        shutil.rmtree(CLONE, ignore_errors=True)
        print(f"No ComfyUI found; cloning {REPOSITORY}", flush=True)
        try:
            subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, CLONE], check=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"That failed ({error}). The same steps run through the library instead.", flush=True)
            return None
    return CLONE


def graph(arguments: argparse.Namespace, image: str, audio: str) -> dict:
    """The workflow in API format with the arguments in it."""
    checkpoint = arguments.checkpoint
    if checkpoint == SMALL:
        names = {"vae": "small", "audio_encoder": "wav2vec2-small", "emotion2vec": "emotion2vec_small", "rest": "small"}
    else:
        names = PUBLISHED | {"vae": arguments.vae}
        if (checkpoint / "misc").is_dir():  # a finetuned one holds the nets alone
            names["rest"] = checkpoint.name
    inputs = {
        "LoadImage": {"image": image},
        "LoadAudio": {"audio": audio},
        "MemoLoadAll": {
            "model": checkpoint.name,
            "vae": names["vae"],
            "audio_encoder": names["audio_encoder"],
            "emotion2vec": names["emotion2vec"],
            **dict.fromkeys(("classifier", "vocal_separator", "face_analysis"), names["rest"]),
        },
        "MemoSampler": {"width": arguments.size, "height": arguments.size, **sampling(arguments)},
    }
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= inputs.get(node["class_type"], {})
    return prompt


def sampling(arguments: argparse.Namespace) -> dict:
    """Settings of the sampler, by name; for the small model those of "init_past_2" and "smooth_noise" in benchmarks/evaluation.json."""
    own = {"guidance_scale": 1.0, "num_init_past_frames": 2, "noise": "smooth"} if arguments.checkpoint == SMALL else {}
    return {"steps": arguments.steps, "seed": arguments.seed, **own}


def fit_for_video(sound: Path, folder: Path) -> Path:
    """A voice that ComfyUI's Save Video can write: the file itself, or one in ``folder`` with one channel and another rate."""
    from memo_modules.audio.io import decode, mixed_down, resample
    from memo_modules.progress import counted
    from memo_modules.video.formats import storable_rate

    voice = decode(sound)
    rate = storable_rate("aac", voice.sample_rate)
    if len(voice.waveform) <= 2 and rate == voice.sample_rate:
        return sound
    fit, file = resample(mixed_down(voice), rate), folder / "voice.wav"
    print(f"{sound.name}: {counted(len(voice.waveform), 'channel')} at {voice.sample_rate} samples per second become one at {rate}", flush=True)
    with wave.open(str(file), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes((fit.waveform[0].clamp(-1, 1) * 32767).short().numpy().astype("<i2").tobytes())
    return file


def run_in_comfyui(comfyui: Path, arguments: argparse.Namespace, folder: Path) -> Path:
    """The video that the workflow makes in a ComfyUI whose base directory is in ``folder``."""
    print(f"Starting ComfyUI from {comfyui}", flush=True)
    device = () if arguments.gpu else ("--cpu",)
    with ComfyUIServer(comfyui, folder / "comfyui", models=arguments.checkpoint.parents[1], arguments=device) as server:
        prompt = graph(arguments, server.add_input(arguments.image), server.add_input(arguments.audio))

        def show(kind: str, data: dict) -> None:
            if kind == "executing" and data.get("node"):
                print(f"  {prompt[data['node']]['class_type']}", flush=True)
            if kind == "progress":
                print(f"    {data['value']}/{data['max']}", end="\r", flush=True)

        outputs = server.run(prompt, show, timeout=24 * 3600)
        [video] = [entry for output in outputs.values() for entry in output.get("images", []) if entry["filename"].endswith(".mp4")]
        return Path(shutil.copy(server.output_file(video), folder / "video.mp4"))


def run_in_library(arguments: argparse.Namespace, folder: Path) -> Path:
    """The video that the same steps make without a ComfyUI."""
    from memo_modules.host import Host
    from memo_modules.pipeline import MemoPipeline
    from memo_modules.types import SamplerSettings

    def show(done: int, total: int, preview) -> None:
        print(f"    {done}/{total}", end="\r", flush=True)

    print("No ComfyUI: running the same steps through the library", flush=True)
    checkpoint, side = arguments.checkpoint, arguments.size
    pipeline = MemoPipeline.from_models(checkpoint.parents[1], checkpoint)
    video = pipeline(arguments.image, arguments.audio, SamplerSettings(**sampling(arguments)), size=(side, side), host=Host(show))
    return video.save(folder / "video.mp4")


def make(arguments: argparse.Namespace, comfyui: Path | None) -> None:
    # A program that still has its files open must not turn a finished video into a failure (Windows).
    with tempfile.TemporaryDirectory(prefix="memo-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        arguments.audio = fit_for_video(arguments.audio, folder)
        video = run_in_comfyui(comfyui, arguments, folder) if comfyui else run_in_library(arguments, folder)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, arguments.output)
    print(arguments.output.resolve())


def _sentences(said: str) -> str:
    """What ComfyUI says of a prompt that it refuses, without the JSON around it."""
    try:
        nodes = json.loads(said[said.index("{") :])["node_errors"].values()
        return " ".join(f"{node['class_type']}: {fault['details'] or fault['message']}" for node in nodes for fault in node["errors"]) or said
    except (ValueError, LookupError, TypeError, AttributeError):  # it says something else
        return said


def main() -> int:
    arguments = parse_arguments()
    if Path(sys.prefix).resolve() == environment.VENV.resolve():
        from memo_modules.errors import MemoError

        try:
            make(arguments, environment.find_comfyui())
        except (ServerError, MemoError, OSError) as error:
            sys.exit(f"demo.py: {_sentences(str(error))}")
        except KeyboardInterrupt:
            sys.exit("\ndemo.py: stopped.")
        return 0
    comfyui = environment.find_comfyui() or clone_comfyui()
    python = environment.ensure(comfyui)
    return subprocess.run([python, __file__, *sys.argv[1:]], check=False, env=environment.variables(comfyui)).returncode


if __name__ == "__main__":
    sys.exit(main())
