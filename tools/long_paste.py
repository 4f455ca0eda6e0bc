"""Minutes of a talking portrait, pasted back into a photo of 24 megapixels on the CPU: memory over length, and what a kill costs.

python -m tools.long_paste FOLDER [--minutes 10] [--fps 30]; with the small model. The video is made twice: in one go, and with the process
killed when half of the clips are done and started again. Both files have to be the same, byte for byte. FOLDER gets both, what each process
used after each clip (once.jsonl, killed.jsonl), and result.json. A frame takes about half a second of one core.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch.nn import functional as F

from memo_modules.audio.io import decode
from memo_modules.clips import FPS, frame_rate
from memo_modules.pipeline import Conditioning, MemoPipeline, load_picture
from memo_modules.portrait.framing import face_square
from memo_modules.portrait.pasting import Pasting
from memo_modules.types import Audio, SamplerSettings
from memo_modules.video.formats import VideoFormat
from memo_modules.video.journal import Inputs, opened
from memo_modules.video.long_videos import LongVideo, sample_to_file

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SETTINGS = SamplerSettings(steps=2, guidance_scale=1.0, seed=42, num_init_past_frames=2, noise="smooth")
"""The settings of the demo, with fewer steps: how good the frames are is not what is measured."""

WIDTH, HEIGHT, CARTOON, RENDERED = 6000, 4000, 1600, 128


def photo() -> torch.Tensor:
    """(1 h w 3) in [0, 1]: a cartoon before a wall with some grain."""
    generator, whole = torch.Generator().manual_seed(0), torch.empty(1, HEIGHT, WIDTH, 3)
    for strip in whole[0].split(500):
        coarse = torch.rand(1, 3, 10, 120, generator=generator)
        strip.copy_(F.interpolate(coarse, strip.shape[:2], mode="bilinear")[0].movedim(0, -1))
    cartoon = load_picture(ASSETS / "cartoon.png").movedim(-1, 0)[None]
    top, left = (HEIGHT - CARTOON) // 2, WIDTH // 3
    whole[0, top : top + CARTOON, left : left + CARTOON] = F.interpolate(cartoon, (CARTOON, CARTOON), mode="bicubic")[0].movedim(0, -1)
    for strip in whole[0].split(500):
        strip.add_(torch.rand(strip.shape, generator=generator), alpha=0.02)
    return whole.clamp_(0, 1)


def voice(minutes: float) -> Audio:
    """The cartoon's voice, over and over."""
    said = decode(ASSETS / "cartoon.wav")
    samples = round(minutes * 60 * said.sample_rate)
    return Audio(said.waveform.repeat(1, samples // said.waveform.shape[1] + 1)[:, :samples], said.sample_rate)


def memory() -> dict[str, int]:
    """Bytes that this process uses, and its peak."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {"now": int(fields["VmRSS"].split()[0]) * 1024, "peak": int(fields["VmHWM"].split()[0]) * 1024}


def make(folder: Path, minutes: float, fps: Fraction) -> None:
    """The video, or what is left of it; prints a line of JSON after each clip."""
    torch.set_num_threads(1)
    pipeline, whole = MemoPipeline.from_models(ASSETS / "models", "small"), photo()
    pixels = (whole[0] * 255).round().byte().numpy()
    [found] = pipeline.face_analyzer.find(pixels)
    portrait, face = pipeline.portrait(pixels, (RENDERED, RENDERED), margin=0.4)
    del pixels
    sound, audio = pipeline.voice(voice(minutes), fps, separate=False)
    conditioning = Conditioning(portrait, face, audio, pipeline.emotion("neutral", sound), sound)
    pasting = Pasting(whole, face_square(found.box, (WIDTH, HEIGHT)), color_match="border")
    video = LongVideo(audio, 0, (RENDERED, RENDERED), sound, VideoFormat(), fps, pasting=pasting)

    def sample(state, done: int) -> Iterator:
        for number, clip in enumerate(pipeline.sample(conditioning, SETTINGS, state=state, done=done), start=done):
            yield clip
            print(json.dumps({"clips": number + 1, "seconds": round(time.process_time(), 1), **memory()}), flush=True)

    with opened(folder / "journals", "video", Inputs({"video": f"{minutes} {fps}"}, {})) as journal:
        sample_to_file(video, journal, sample, lambda: folder / "video.mp4")
    print(json.dumps({"clips": audio.clips, "frames": audio.frame_count, "seconds": round(time.process_time(), 1), **memory()}), flush=True)


def run(folder: Path, arguments: list[str], stop_after: int | None = None) -> list[dict]:
    """What a process said of itself; killed as soon as it has made ``stop_after`` clips."""
    said = []
    command = [sys.executable, "-m", "tools.long_paste", str(folder), "--make", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ASSETS.parent) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(json.loads(line))
            with folder.with_suffix(".jsonl").open("a", encoding="utf-8") as curve:
                curve.write(line)
            if said[-1]["clips"] == stop_after:
                process.send_signal(signal.SIGKILL)
    if stop_after is None and process.returncode:
        raise SystemExit(process.returncode)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--fps", type=Fraction, default=FPS, help="frames per second, 1 to 240 (default: 30)")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder, fps = arguments.folder.resolve(), frame_rate(arguments.fps)
    if arguments.make:
        return make(folder, arguments.minutes, fps)
    options = ["--minutes", str(arguments.minutes), "--fps", str(arguments.fps)]
    once, killed = folder / "once", folder / "killed"
    for each in (once, killed):
        each.mkdir(parents=True)
    whole = run(once, options)
    half = whole[-1]["clips"] // 2
    said = [*run(killed, options, half), *run(killed, options)]
    same = (once / "video.mp4").read_bytes() == (killed / "video.mp4").read_bytes()
    result = {
        "minutes": arguments.minutes, "frames": whole[-1]["frames"], "clips": whole[-1]["clips"], "killed_after": half, "same": same,
        "peak": max(line["peak"] for line in [*whole, *said]), "seconds_per_frame": round(whole[-1]["seconds"] / whole[-1]["frames"], 3),
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
