"""Write the cartoon and the voice that the demo of the small model runs on, neither of them in any training set.

python -m tools.small_model.demo_inputs        writes assets/cartoon.png and assets/cartoon.wav; needs the program espeak-ng
"""

import wave
from pathlib import Path

from PIL import Image

from tools.evaluation.variants import Case
from tools.small_world import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[2]

TEXT = "Hello, I am a small model and I can talk. I learned it from cartoons like me."

CASE = Case(identity=95_001, voice=95_001, mood="happy", seconds=4.8, words=TEXT)


def main() -> None:
    Image.fromarray(CASE.portrait(512)).save(ROOT / "assets" / "cartoon.png", optimize=True)
    with wave.open(str(ROOT / "assets" / "cartoon.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((CASE.clip().audio * 32768).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
