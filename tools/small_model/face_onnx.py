"""The trained face models as the ONNX files that insightface takes for scrfd_10g_bnkps and glintr100."""

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn

from tools.small_model.face_nets import ANCHORS, CROP, EMBEDDING, SHRINK, Conv, Detector, Recogniser, Residual
from tools.tiny_onnx import STRIDES, float_input, save

NO_FACE = -20.0
"""Score before the sigmoid of the stride that has no anchors."""


class _Graph:
    """Nodes and constants, written layer by layer; a layer takes the name of a tensor and gives that of the next."""

    def __init__(self):
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, *inputs: str | np.ndarray, name: str | None = None, **attributes) -> str:
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        names = []
        for i, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                self.constants[f"{name}_{i}"] = value
                value = f"{name}_{i}"
            names.append(value)
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def convolution(self, x: str, weight: Tensor, bias: Tensor, stride: int = 1) -> str:
        kernel = weight.shape[-1]
        return self.node("Conv", x, _array(weight), _array(bias), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def layers(self, x: str, *modules: nn.Module) -> str:
        for module in modules:
            if isinstance(module, Conv):
                x = self.convolution(x, *module.folded(), stride=module[0].stride[0])
                x = self.node("Relu", x) if module.relu else x
            elif isinstance(module, Residual):
                x = self.node("Relu", self.node("Add", x, self.layers(x, module.first, module.second)))
            elif isinstance(module, nn.Sequential):
                x = self.layers(x, *module)
        return x

    def twice_as_large(self, x: str) -> str:
        scales = np.array([1, 1, 2, 2], dtype=np.float32)
        return self.node("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def write_detector(path: Path, net: Detector) -> None:
    """``net`` as SCRFD: `input.1` (1 3 height width), sides multiples of 256, RGB as (value - 127.5) / 128, to the scores,
    the distances of boxes and the offsets of landmarks of strides 8, 16 and 32, two anchors a point.

    Stride 8, of faces too small for the network, has none.
    """
    graph = _Graph()
    x = graph.node("AveragePool", "input.1", kernel_shape=[SHRINK] * 2, strides=[SHRINK] * 2)
    finest = graph.layers(x, net.stem[0])
    fine = graph.layers(finest, *net.stem[1:])
    middle = graph.layers(fine, net.deep[0])
    middle = graph.node("Add", middle, graph.twice_as_large(graph.layers(middle, net.deep[1], net.back[0])))
    fine = graph.node("Add", fine, graph.twice_as_large(graph.layers(middle, net.back[1])))
    heads = {stride: _scaled(head, stride) for stride, head in zip(ANCHORS, net.heads, strict=True)}
    features = {stride: graph.layers(x, neck) for stride, x, neck in zip(ANCHORS, (fine, middle), net.necks, strict=True)}
    features[8], heads[8] = finest, _blind(heads[16][0].shape[0], net.stem[0][0].out_channels)
    parts = {"score": (0, 1), "bbox": (1, 5), "kps": (5, 15)}
    for stride in STRIDES:
        weight, bias = heads[stride]
        for kind, (start, stop) in parts.items():
            rows = [anchor * 15 + i for anchor in range(2) for i in range(start, stop)]
            out = graph.node("Conv", features[stride], weight[rows], bias[rows], kernel_shape=[1, 1])
            out = graph.node("Sigmoid", out) if kind == "score" else out
            out = graph.node("Transpose", out, perm=[0, 2, 3, 1])  # (1 h w a·n)
            graph.node("Reshape", out, np.array([-1, stop - start]), name=f"{kind}_{stride}")
    outputs = [
        helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [f"rows_{stride}", stop - start])
        for kind, (start, stop) in parts.items()
        for stride in STRIDES
    ]
    save(path, graph.nodes, float_input("input.1", [1, 3, "height", "width"]), outputs, graph.constants)


def _scaled(head: nn.Conv2d, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a head that gives distances in strides instead of sides of anchors."""
    factor = np.ones((30, 1, 1, 1), dtype=np.float32)
    for anchor, base in enumerate(ANCHORS[stride]):
        factor[anchor * 15 + 1 : anchor * 15 + 15] = base / stride
    return _array(head.weight) * factor, _array(head.bias) * factor[:, 0, 0, 0]


def _blind(size: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a head that sees nothing."""
    bias = np.zeros(size, dtype=np.float32)
    bias[[0, 15]] = NO_FACE
    return np.zeros((size, d, 1, 1), dtype=np.float32), bias


def write_recogniser(path: Path, net: Recogniser, projection: np.ndarray) -> None:
    """``net`` followed by the ``projection`` (d 512): `input.1` (batch 3 112 112), RGB as (value - 127.5) / 127.5."""
    graph = _Graph()
    x = graph.node("Flatten", graph.layers("input.1", net.body))
    x = graph.node("Gemm", x, _array(net.head.weight), _array(net.head.bias), transB=1)
    graph.node("MatMul", x, projection, name="embedding")
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", EMBEDDING])
    save(path, graph.nodes, float_input("input.1", ["batch", 3, CROP, CROP]), [output], graph.constants)
