"""Small ONNX graphs that insightface and audio-separator load and run like the published ones.

They have the inputs, outputs and shapes of scrfd_10g_bnkps, glintr100 and Kim_Vocal_2; opset and IR version are low
enough for onnxruntime 1.17.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Boxes = Sequence[tuple[float, float, float, float]]

OPSET, IR_VERSION = 13, 8

DETECTOR_SIZE = 640
STRIDES = (8, 16, 32)
ANCHORS = 2

ONE_FACE = ((160.0, 64.0, 352.0, 320.0),)
TWO_FACES = ((400.0, 96.0, 528.0, 256.0), (64.0, 64.0, 256.0, 320.0))
"""Boxes x1 y1 x2 y2 on the detector's 640 x 640 canvas, whose top left corner holds the picture. The second of two is larger."""

FACE_SCORES = (0.9, 0.8)

LANDMARKS = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]])
"""Eyes, nose and mouth corners in parts of a face's box."""


def write_detector(path: Path, faces: Boxes = ONE_FACE, needs_margin: bool = False) -> None:
    """A face detector for 640 x 640 that sees ``faces`` in every picture but a dark one.

    The score rises with the brightest value, red before green before blue, up to FACE_SCORES. needs_margin: the darker
    the top left pixel the higher the score, so that faces are seen only in a picture with a dark margin.
    """
    boxes = np.asarray(faces)
    landmarks = boxes[:, None, :2] + LANDMARKS * (boxes[:, None, 2:] - boxes[:, None, :2])
    # the faces sit in the first rows of the coarsest grid, both anchors of a cell before the next cell
    stride = STRIDES[-1]
    centres = np.array([(i // ANCHORS * stride, 0) for i in range(len(boxes))])
    constants = {
        "scores": np.array(FACE_SCORES[: len(boxes)])[:, None],
        "distances": np.concatenate((centres - boxes[:, :2], boxes[:, 2:] - centres), axis=1) / stride,
        "offsets": (landmarks - centres[:, None]).reshape(len(boxes), 10) / stride,
    }
    nodes, outputs = _visibility(constants, needs_margin), []
    nodes.append(helper.make_node("Mul", ["scores", "visibility"], ["seen"]))
    for kind, found, width in (("score", "seen", 1), ("bbox", "distances", 4), ("kps", "offsets", 10)):
        for s in STRIDES:
            rows, name = ANCHORS * (DETECTOR_SIZE // s) ** 2, f"{kind}_{s}"
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"rows_{s}", width]))
            if s == stride:
                constants[f"pads_{kind}"] = np.array([0, 0, rows - len(boxes), 0])
                nodes.append(helper.make_node("Pad", [found, f"pads_{kind}"], [name]))
            else:
                constants[f"shape_{name}"] = np.array([rows, width])
                nodes.append(helper.make_node("ConstantOfShape", [f"shape_{name}"], [name]))
    save(path, nodes, float_input("input.1", [1, 3, "height", "width"]), outputs, constants)


def _visibility(constants: dict[str, np.ndarray], needs_margin: bool) -> list[onnx.NodeProto]:
    """Nodes from the picture to one number `visibility`; what they need is added to ``constants``."""
    constants["black"] = np.array(127.5 / 128)
    constants["colours"] = np.array([1, 0.9, 0.8]).reshape(1, 3, 1, 1)
    nodes = [
        helper.make_node("Add", ["input.1", "black"], ["light"]),
        helper.make_node("Mul", ["light", "colours"], ["coloured"]),
        helper.make_node("ReduceMax", ["coloured"], ["brightness"], keepdims=0),
    ]
    if needs_margin:
        constants |= {"start": np.array([0, 0]), "stop": np.array([1, 1]), "rows_columns": np.array([2, 3])}
        nodes += [
            helper.make_node("Slice", ["input.1", "start", "stop", "rows_columns"], ["corner"]),
            helper.make_node("ReduceMax", ["corner"], ["corner_value"], keepdims=0),
            helper.make_node("Neg", ["corner_value"], ["darkness"]),
            helper.make_node("Min", ["brightness", "darkness"], ["evidence"]),
        ]
    return [*nodes, helper.make_node("Tanh", [nodes[-1].output[0]], ["visibility"])]


def write_recogniser(path: Path, seed: int = 0) -> None:
    """A face recogniser: 112 x 112 to 512 numbers that depend on every part of the picture."""
    cells = 3 * 4 * 4
    weight = np.random.default_rng(seed).standard_normal((cells, 512))
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["pooled"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])
    save(path, nodes, float_input("input.1", ["batch", 3, 112, 112]), [output], {"weight": weight})


def write_vocal_separator(path: Path, seed: int = 0, dim_f: int = 2048, dim_t: int = 64) -> None:
    """An MDX separator on spectra [batch, 4, dim_f, dim_t]: keeps most of each channel and mixes in a little of the others.

    dim_f frequencies of n_fft 7680 (the rest is cut off), dim_t steps of 1024 samples, a power of two and at least 16.
    """
    noise = np.random.default_rng(seed).standard_normal((4, 4))
    weight = 0.8 * np.eye(4) + 0.02 * noise
    node = helper.make_node("Conv", ["input", "weight"], ["output"], kernel_shape=[1, 1])
    shape = ["batch_size", 4, dim_f, dim_t]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
    save(path, [node], float_input("input", shape), [output], {"weight": weight[:, :, None, None]})


def float_input(name: str, shape: list) -> onnx.ValueInfoProto:
    """An input of float32; sides that may vary have a name in ``shape`` instead of a number."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def save(path: Path, nodes: list, graph_input: onnx.ValueInfoProto, outputs: list, constants: dict[str, np.ndarray]) -> None:
    """Write a graph to ``path``, constants as int64 or float32. Raises ValidationError of onnx.checker when it is none."""
    initializers = [
        numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name) for name, array in constants.items()
    ]
    graph = helper.make_graph(nodes, path.stem, [graph_input], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
