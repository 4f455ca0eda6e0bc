"""Draws the moving picture at the top of the README, assets/talking.webp: cartoons that the small model makes talk, over their voice.

python -m tools.draw_talking; some minutes on a CPU. On one machine it draws the same picture every time.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from memo_modules.audio.io import decode
from memo_modules.clips import FPS
from memo_modules.pipeline import MemoPipeline
from memo_modules.portrait.pictures import eight_bits
from memo_modules.types import SamplerSettings
from tools.draw_icon import SKIN, VOICE, background
from tools.evaluation.variants import Case

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "assets" / "talking.webp"
SOUND = ROOT / "assets" / "cartoon.wav"

SETTINGS = SamplerSettings(steps=5, guidance_scale=1.0, seed=42, num_init_past_frames=2, noise="smooth")
"""The settings of the demo."""

CAST = {95_001: "happy", 95_020: "angry", 95_015: "neutral", 95_016: "sad"}
"""Characters that no model has seen, with their moods."""

RENDERED, SHOWN, INSET = 128, 228, 56
"""Sides in pixels: of the frames that the small model makes, of what is shown of them, and of the portraits in their corners."""

GAP, MARGIN, LABEL, WAVE = 12, 20, 30, 76
BARS = 96


@dataclass(frozen=True)
class Act:
    """portrait: the picture that went in. frames: uint8 (f size size 3), what came out."""

    mood: str
    portrait: Image.Image
    frames: np.ndarray


def acts() -> list[Act]:
    """The whole CAST, saying the same."""
    pipeline = MemoPipeline.from_models(ROOT / "assets" / "models", "small")
    made = []
    for identity, mood in CAST.items():
        portrait = Case(identity, identity, mood, 1).portrait(512)
        conditioning = pipeline.condition(portrait, SOUND, size=(RENDERED, RENDERED), emotion=mood, separate=False)
        frames = pipeline.sample(conditioning, SETTINGS).frames()
        made.append(Act(mood, Image.fromarray(portrait), eight_bits(frames.movedim(1, -1))))
        print(f"{identity}: {mood}, {len(frames)} frames", flush=True)
    return made


def loudness(bars: int) -> np.ndarray:
    """float (bars) in [0, 1]: of the voice, from its beginning to its end."""
    wave = decode(SOUND).waveform.mean(0)
    parts = torch.tensor_split(wave, bars)
    levels = torch.stack([part.square().mean().sqrt() for part in parts]).numpy()
    return (levels / levels.max()) ** 0.7


def rounded(picture: Image.Image, side: int) -> tuple[Image.Image, Image.Image]:
    """``picture`` at another size, and a mask that rounds its corners."""
    mask = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * side - 1, 4 * side - 1), 4 * 10, fill=255)
    return picture.resize((side, side), Image.Resampling.LANCZOS), mask.resize((side, side), Image.Resampling.LANCZOS)


def stage(cast: list[Act]) -> Image.Image:
    """What does not move: the background, the moods' names."""
    width = 2 * MARGIN + len(cast) * SHOWN + (len(cast) - 1) * GAP
    picture = background(width, 2 * MARGIN + SHOWN + LABEL + WAVE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for number, act in enumerate(cast):
        draw.text((left_of(number) + SHOWN / 2, MARGIN + SHOWN + LABEL / 2 + 2), act.mood, font=font, fill=SKIN, anchor="mm")
    return picture


def left_of(number: int) -> int:
    return MARGIN + number * (SHOWN + GAP)


def draw_voice(picture: Image.Image, levels: np.ndarray, part: float) -> None:
    """The voice below the faces; what has been said, a ``part`` in [0, 1], is bright."""
    draw = ImageDraw.Draw(picture)
    middle, step = MARGIN + SHOWN + LABEL + WAVE / 2 + 4, (picture.width - 2 * MARGIN) / len(levels)
    dim = tuple((3 * ground + voice) // 4 for ground, voice in zip(picture.getpixel((1, round(middle))), VOICE, strict=True))
    for bar, level in enumerate(levels):
        x, half = MARGIN + (bar + 0.5) * step, max(level * WAVE / 2, 2)
        said = bar < part * len(levels)
        draw.rounded_rectangle((x - 0.3 * step, middle - half, x + 0.3 * step, middle + half), 0.3 * step, fill=VOICE if said else dim)


def pictures(cast: list[Act]) -> list[Image.Image]:
    """One per frame of the videos."""
    ground, levels, count = stage(cast), loudness(BARS), len(cast[0].frames)
    insets = [rounded(act.portrait, INSET) for act in cast]
    made = []
    for frame in range(count):
        picture = ground.copy()
        for number, (act, inset) in enumerate(zip(cast, insets, strict=True)):
            left = left_of(number)
            shown, mask = rounded(Image.fromarray(act.frames[frame]), SHOWN)
            picture.paste(shown, (left, MARGIN), mask)
            picture.paste(inset[0], (left + SHOWN - INSET - 6, MARGIN + SHOWN - INSET - 6), inset[1])
        draw_voice(picture, levels, (frame + 1) / count)
        made.append(picture)
    return made


def write(made: list[Image.Image], target: Path) -> None:
    """An animation that repeats forever; each frame lasts as long as in the videos, to the millisecond."""
    ends = [round(1000 * (number + 1) / FPS) for number in range(len(made))]
    durations = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    made[0].save(target, save_all=True, append_images=made[1:], duration=durations, loop=0, quality=70, method=4)


def main() -> None:
    write(pictures(acts()), TARGET)
    print(json.dumps({"picture": TARGET.relative_to(ROOT).as_posix(), "bytes": TARGET.stat().st_size}))


if __name__ == "__main__":
    main()
