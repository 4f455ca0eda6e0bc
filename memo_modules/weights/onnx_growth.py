"""How much the graph of an ONNX file makes of its input: known before any runtime opens the file, or the file is refused."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..words import first_line, quoted

_MOST_NUMBERS = 2**30
"""That are held at one time: the largest of the published networks, a separator, holds a quarter of them."""

_SMALL = 4096
"""Values of a tensor that may be a size, or sizes."""

_ARITHMETIC = {
    *("Abs", "Add", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Floor", "Gather", "Identity", "Max", "Min"),
    *("Mod", "Mul", "Neg", "ReduceProd", "Reshape", "Round", "Slice", "Split", "Squeeze", "Sub", "Unsqueeze", "Where"),
}
"""Operators that exporters compute sizes with: what they make of known numbers is known."""


def growth_fault(model: Any, inputs: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why what a ModelProto makes of ``inputs`` (names to shapes, float32) may not fit into memory, or never end; None when it does fit.

    Only the arithmetic of sizes is run. A size that is not known by that, as one that depends on the values of the input, is a fault.
    """
    graph = model.graph
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return f"it has an operator {quoted(node.op_type)}, which may never end, and which no network of its kind has."
    if model.functions or graph.sparse_initializer:
        return "it has functions or sparse weights, which no network of its kind has."
    names = Counter([*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output if name)])
    if twice := next((name for name, times in names.items() if times > 1), None):
        return f"it has two tensors of the name {quoted(twice)}."
    sizes = _Sizes(model, inputs)
    for node in graph.node:
        try:
            sizes.add(node)
        except Exception as error:  # of several kinds; a runtime would most often fail at the same node
            why = f" ({first_line(error)})" if str(error) else ""
            return (
                f"it makes {quoted(node.output[0] if node.output else '')} ({quoted(node.op_type)}) of a size that is not known before it runs{why}."
            )
        for name in filter(None, node.output):
            if math.prod(sizes.shape(name)) > _MOST_NUMBERS:
                return f"it makes {quoted(name)} of {list(sizes.shape(name))} numbers, more than fits into memory."
    if (most := sizes.most_at_once(graph)) > _MOST_NUMBERS:
        return f"it holds {most} numbers at one time, more than fits into memory."
    return None


class _Sizes:
    """The types of the tensors of a graph, with shapes, and the values of those that are small and known; node after node."""

    def __init__(self, model: Any, inputs: Mapping[str, tuple[int, ...]]):
        import onnx

        self.onnx, self.model = onnx, model
        self.versions = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
        self.types = {name: onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()}
        self.values: dict[str, np.ndarray] = {}
        for tensor in model.graph.initializer:
            self.types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tuple(tensor.dims))
            if math.prod(tensor.dims) <= _SMALL:
                self.values[tensor.name] = onnx.numpy_helper.to_array(tensor)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises ValueError where it is not known."""
        kind = self.types[name].tensor_type
        if not kind.HasField("shape") or not all(side.HasField("dim_value") and side.dim_value >= 0 for side in kind.shape.dim):
            raise ValueError
        return tuple(side.dim_value for side in kind.shape.dim)

    def add(self, node: Any) -> None:
        """What ``node`` makes of what is known. Raises an exception of any kind where its shapes are not known by that."""
        known = {name: self.onnx.numpy_helper.from_array(self.values[name]) for name in node.input if name in self.values}
        schema = self.onnx.defs.get_schema(node.op_type, self.versions[node.domain or "ai.onnx"], node.domain)
        types = {name: self.types[name] for name in node.input if name}
        made = self.onnx.shape_inference.infer_node_outputs(
            schema, node, types, known, opset_imports=list(self.model.opset_import), ir_version=self.model.ir_version
        )
        self.types |= made
        if all(math.prod(self.shape(name)) <= _SMALL for name in node.output if name):
            self.values |= dict(zip(node.output, self._computed(node), strict=False))

    def _computed(self, node: Any) -> list[np.ndarray]:
        """What a node makes; nothing where it is not made of known shapes and values by arithmetic."""
        from onnx.reference import ReferenceEvaluator

        onnx = self.onnx
        if node.op_type in ("Shape", "Size"):
            shape, attributes = self.shape(node.input[0]), {attribute.name: attribute.i for attribute in node.attribute}
            sides = shape[attributes.get("start", 0) : attributes.get("end")]
            return [np.array(sides if node.op_type == "Shape" else math.prod(shape), np.int64)]
        if node.op_type not in _ARITHMETIC or any(name not in self.values for name in node.input if name):
            return []
        inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in names if name] for names in (node.input, node.output))
        alone = onnx.GraphProto(name="g", node=[node], input=inputs, output=outputs)
        model = onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import, graph=alone)
        made = ReferenceEvaluator(model).run(None, {name: self.values[name] for name in node.input if name})
        return [np.asarray(value) for value in made]

    def most_at_once(self, graph: Any) -> int:
        """Numbers that are held at one time when each tensor is given back after the last node that takes it."""
        last = {name: number for number, node in enumerate(graph.node) for name in (*node.output, *node.input)}
        given_back, now, most = Counter(), 0, 0
        for number, node in enumerate(graph.node):
            for name in filter(None, node.output):
                now += math.prod(self.shape(name))
                given_back[last[name]] += math.prod(self.shape(name))
            most = max(most, now)
            now -= given_back[number]
        return most
