"""Write the small model's vocal separator, for a world whose voices have nothing around them to be separated from.

    python -m tools.small_model.vocals MODELS_DIR

Writes MODELS_DIR/memo/small/misc/vocal_separator/Kim_Vocal_2.onnx. Needs numpy and onnx.
"""

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tools.tiny_onnx import float_input, save

FILE = Path("memo/small/misc/vocal_separator/Kim_Vocal_2.onnx")


def write_vocal_separator(path: Path, frequencies: int = 2048, steps: int = 64) -> None:
    """Kim_Vocal_2's inputs and outputs, spectra (batch 4 frequencies steps), with every spectrum kept exactly as it is.

    It separates nothing. In the small world every sound is one voice and nothing else, so the identity is the right
    answer there; music and noise around a voice pass unchanged. frequencies: of n_fft 7680, those above are cut off;
    2048 of them reach 11.8 kHz, more than a voice at 16 kHz has. steps: of 1024 samples, a power of two.
    """
    shape = ["batch_size", 4, frequencies, steps]
    node = helper.make_node("Conv", ["input", "weight"], ["output"], kernel_shape=[1, 1])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
    save(path, [node], float_input("input", shape), [output], {"weight": np.eye(4)[:, :, None, None]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="MODELS_DIR", help="the models folder of a ComfyUI")
    path = parser.parse_args().models / FILE
    write_vocal_separator(path)
    print(path)


if __name__ == "__main__":
    main()
