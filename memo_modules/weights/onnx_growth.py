"""How much the graph of an ONNX file makes of its input: known before any runtime opens the file, or the file is refused."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..words import quoted

_MOST_NUMBERS = 2**30
"""That are held at one time: the largest of the published networks, a separator, holds a quarter of them."""

_MOST_NODES = 20_000
"""The largest of the published ones have a thousand."""

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
    if len(graph.node) > _MOST_NODES:
        return f"it has {len(graph.node)} operators, expected at most {_MOST_NODES}."
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
        except Exception:  # of several kinds; a runtime would most often fail at the same node
            made = quoted(node.output[0]) if node.output else "something"
            return f"it makes {made} ({quoted(node.op_type)}) of a size that is not known before it runs."
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

        self._onnx, self._model = onnx, model
        self._types = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()}
        self._values = {}
        for tensor in model.graph.initializer:
            self._types[tensor.name] = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims))
            if math.prod(tensor.dims) <= _SMALL:
                self._values[tensor.name] = tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises LookupError where it is not known."""
        kind = self._types[name].type.tensor_type
        if not kind.HasField("shape") or not all(side.HasField("dim_value") and side.dim_value >= 0 for side in kind.shape.dim):
            raise LookupError(name)
        return tuple(side.dim_value for side in kind.shape.dim)

    def add(self, node: Any) -> None:
        """What ``node`` makes of what is known. Raises an exception of any kind where its shapes are not known by that."""
        taken = [name for name in dict.fromkeys(node.input) if name]
        types = [self._types[name] for name in taken if name not in self._values]
        values = [self._values[name] for name in taken if name in self._values]
        graph = self._onnx.GraphProto(name="g", node=[node], input=types, initializer=values)
        alone = self._onnx.ModelProto(ir_version=max(4, self._model.ir_version), opset_import=self._model.opset_import, graph=graph)
        self._types |= {value.name: value for value in self._onnx.shape_inference.infer_shapes(alone).graph.value_info}
        made = [name for name in node.output if name]
        if all(math.prod(self.shape(name)) <= _SMALL for name in made):
            found = self._sizes_of(node) or ([] if types or node.op_type not in _ARITHMETIC else self._computed(alone, made))
            self._values |= {name: self._onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in zip(made, found, strict=False)}

    def _sizes_of(self, node: Any) -> list[Any]:
        """What a node makes that asks for the shape of a tensor, with whatever values."""
        if node.op_type not in ("Shape", "Size"):
            return []
        shape, attributes = self.shape(node.input[0]), {attribute.name: attribute.i for attribute in node.attribute}
        sides = shape[attributes.get("start", 0) : attributes.get("end")]
        return [np.array(sides if node.op_type == "Shape" else math.prod(shape), np.int64)]

    @staticmethod
    def _computed(alone: Any, made: list[str]) -> list[Any]:
        from onnx.reference import ReferenceEvaluator

        try:
            return list(ReferenceEvaluator(alone).run(made, {}))
        except Exception:  # of any kind: then the values are not known
            return []

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
