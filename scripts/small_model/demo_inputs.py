"""Write the cartoon and the voice that the demo of the small model runs on, neither of them in any training set.

python scripts/small_model/demo_inputs.py        writes assets/cartoon.png and assets/babble.wav
"""

import sys
import types
import wave
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if "comfyui_memo" not in sys.modules:  # the pack's folder as a package, without its __init__.py, which needs a ComfyUI
    sys.modules["comfyui_memo"] = types.ModuleType("comfyui_memo")
    sys.modules["comfyui_memo"].__path__ = [str(ROOT)]

from comfyui_memo.scripts.evaluation.variants import Case
from comfyui_memo.scripts.small_world import SAMPLE_RATE

CASE = Case(identity=95_001, voice=95_001, mood="happy", seconds=4.8)


def main() -> None:
    Image.fromarray(CASE.portrait(512)).save(ROOT / "assets" / "cartoon.png", optimize=True)
    with wave.open(str(ROOT / "assets" / "babble.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((CASE.clip().audio * 32768).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
