"""Graphs in ONNX files: those that are others than they should be, or make more than fits, are named; those that torch exports run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.audio.vocals import VocalSeparator
from memo_modules.errors import CheckpointError
from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, Detection, FaceAnalyzer, embed_face
from memo_modules.types import Audio
from tests.helpers.exported_nets import Detector, Recogniser, Separator, export

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

PICTURE = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5


def separate(misc: Path) -> None:
    VocalSeparator(misc / "vocal_separator" / "Kim_Vocal_2.onnx").separate(Audio(torch.rand(2, 44100) - 0.5, 44100))


def describe(misc: Path) -> None:
    embed_face(FaceAnalyzer(misc / "face_analysis" / "models"), PICTURE)


def rename_input(graph) -> None:
    for names in (node.input for node in graph.node):
        names[:] = ["mix" if name == graph.input[0].name else name for name in names]
    graph.input[0].name = "mix"


def take_two(graph) -> None:
    graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


def give_two(graph) -> None:
    graph.node.append(onnx.helper.make_node("Neg", [graph.output[0].name], ["more"]))
    graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, None))


def set_weights(value: float):
    def edit(graph) -> None:
        for tensor in graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                array = np.full(tuple(tensor.dims), value, np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    return edit


def give(sides: list | None, *nodes: tuple):
    """Its output goes through ``nodes``, and is stated to have those sides, or any."""

    def edit(graph) -> None:
        name = graph.output[0].name
        for number, (kind, attributes) in enumerate(nodes):
            graph.node.append(onnx.helper.make_node(kind, [name], [f"more_{number}"], **attributes))
            name = f"more_{number}"
        graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides))

    return edit


def narrow(stated: bool):
    def edit(graph) -> None:
        [weight] = graph.initializer
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[:, :128].copy(), weight.name))
        graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", 128] if stated else None))

    return edit


def state_terabytes(graph) -> None:
    graph.initializer[0].dims[:] = [2**20, 2**22]


def point_elsewhere(graph) -> None:
    tensor = graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../elsewhere.bin")


def grow(kind: str, *constants: object, takes_data: bool = True, times: int = 1, **attributes):
    """Its output goes through an operator that makes more of it, so many times."""

    def edit(graph) -> None:
        name = graph.output[0].name
        names = [f"constant_{number}" for number in range(len(constants))]
        graph.initializer.extend(onnx.numpy_helper.from_array(np.array(value), name) for name, value in zip(names, constants, strict=True))
        for number in range(times):
            graph.node.append(onnx.helper.make_node(kind, [name] * takes_data + (names or [name]), [f"grown_{number}"], **attributes))
            name = f"grown_{number}"
        graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))

    return edit


def expand_by_its_own_shape(graph) -> None:
    name = graph.output[0].name
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**6]), "factor"))
    for kind, inputs, output in (("Shape", [name], "shape"), ("Concat", ["factor", "shape"], "larger"), ("Expand", [name, "larger"], "grown_0")):
        graph.node.append(onnx.helper.make_node(kind, inputs, [output], **({"axis": 0} if kind == "Concat" else {})))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("grown_0", onnx.TensorProto.FLOAT, None))


def never_end(graph) -> None:
    body = onnx.helper.make_graph([], "body", [], [])
    graph.node.append(onnx.helper.make_node("Loop", [], [], body=body))


def hide_in_a_branch(graph) -> None:
    """The weight of terabytes stands in a graph within a graph."""
    inner = onnx.helper.make_graph([], "inner", [], [onnx.helper.make_tensor_value_info("big", onnx.TensorProto.FLOAT, None)])
    inner.initializer.add(name="big", data_type=onnx.TensorProto.FLOAT, dims=[2**40])
    graph.node.append(onnx.helper.make_node("If", ["condition"], ["unused"], then_branch=inner, else_branch=inner))


def grow_by_values(*nodes: tuple, operator: str = "ConstantOfShape"):
    """A size comes out of ``nodes``, the first of which takes the output; ``operator`` makes so much."""

    def edit(graph) -> None:
        taken = name = graph.output[0].name
        for number, (kind, inputs, attributes) in enumerate(nodes):
            graph.node.append(onnx.helper.make_node(kind, [name, *inputs], [f"step_{number}"], **attributes))
            name = f"step_{number}"
        graph.initializer.extend(onnx.numpy_helper.from_array(np.array(value), name) for name, value in CONSTANTS.items())
        inputs = {"ConstantOfShape": [name], "Range": ["zero", name, "one"], "Resize": [taken, "none", "none", name]}.get(operator, [taken, name])
        graph.node.append(onnx.helper.make_node(operator, inputs, ["grown_0"]))
        graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("grown_0", onnx.TensorProto.FLOAT, [1, 4, 2048, 64]))

    return edit


CONSTANTS = {
    "all": np.int64([-1]),
    "four": np.int64([4, 1, 1, 1]),
    "huge": np.float32(1e9),
    "wide": np.float32([1e6, 4, 2048, 64]),
    "zero": np.int64(0),
    "one": np.int64(1),
    "none": np.float32([]),
    "second": np.int64([1, 0, 0, 0]),
}
LARGEST = [("ReduceMax", [], {"keepdims": 0}), ("Mul", ["huge"], {}), ("Exp", [], {}), ("Cast", [], {"to": onnx.TensorProto.INT64})]
AS_SHAPE = [*LARGEST, ("Reshape", ["all"], {})]
FOUR_SIDES = [*AS_SHAPE, ("Mul", ["four"], {})]
FROM_SHAPE = [
    ("Shape", [], {}),
    ("Gather", ["second"], {}),
    ("Cast", [], {"to": onnx.TensorProto.FLOAT}),
    ("Mul", ["wide"], {}),
    ("Floor", [], {}),
    ("Cast", [], {"to": onnx.TensorProto.INT64}),
]


def multiply_outer(graph) -> None:
    """Two that fit make one that does not, in numbers that only show when it runs."""
    name = graph.output[0].name
    graph.initializer.extend(onnx.numpy_helper.from_array(np.int64(sides), name) for name, sides in (("column", [-1, 1]), ("row", [1, -1])))
    for kind, inputs, output in (
        ("NonZero", [name], "places"),
        ("Cast", ["places"], "numbers"),
        ("Reshape", ["numbers", "column"], "down"),
        ("Reshape", ["numbers", "row"], "along"),
        ("Mul", ["down", "along"], "grown_0"),
    ):
        graph.node.append(onnx.helper.make_node(kind, inputs, [output], **({"to": onnx.TensorProto.FLOAT} if kind == "Cast" else {})))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("grown_0", onnx.TensorProto.FLOAT, None))


def keep_all(graph) -> None:
    """Each of 40 copies is small enough, and all are needed at the end."""
    name = graph.output[0].name
    graph.initializer.append(onnx.numpy_helper.from_array(np.int64([100, 1, 1, 1]), "times"))
    copies = [f"copy_{number}" for number in range(40)]
    graph.node.extend(onnx.helper.make_node("Tile", [name, "times"], [copy]) for copy in copies)
    graph.node.append(onnx.helper.make_node("Max", copies, ["grown_0"]))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("grown_0", onnx.TensorProto.FLOAT, None))


def hide_in_a_function(edit):
    """The nodes that ``edit`` adds stand in a function of the file, whose output is one number."""

    def hidden(model) -> None:
        name, before = model.graph.output[0].name, len(model.graph.node)
        edit(model.graph)
        nodes = [*model.graph.node[before:], onnx.helper.make_node("ReduceMax", ["grown_0"], ["last"])]
        constants = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer[1:]]
        del model.graph.node[before:], model.graph.initializer[1:]
        opsets = [onnx.helper.make_opsetid("", 13)]
        model.functions.append(onnx.helper.make_function("own", "Grow", [name], ["last"], [*constants, *nodes], opsets))
        model.opset_import.append(onnx.helper.make_opsetid("own", 1))
        model.graph.node.append(onnx.helper.make_node("Grow", [name], ["last"], domain="own"))
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("last", onnx.TensorProto.FLOAT, None))

    hidden.whole_model = True
    return hidden


def state_a_sparse_weight(graph) -> None:
    """Of one number, which the runtime makes as large as it says when it opens the file."""
    sparse = graph.sparse_initializer.add(dims=[2**40])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.float32([1]), "sparse"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.int64([0]), "sparse_places"))


def name_twice(graph) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1]), graph.initializer[0].name))


GROWS = r"it makes 'grown_0' of \[.*\] numbers, more than fits into memory"
UNKNOWN = r"it makes 'step_\d' \('Reshape'\) of a size|it makes 'grown_0' \('.*'\) of a size that is not known before it runs"

SPOILT = {
    "separator, another name": (separate, rename_input, "expected an MDX vocal separator, a network from 'input' "),
    "separator, two inputs": (separate, take_two, "expected an MDX vocal separator, a network from "),
    "separator, two outputs": (separate, give_two, "expected an MDX vocal separator, a network from "),
    "separator, states one channel": (separate, give([1, 1, 2048, 64], ("Identity", {})), "expected an MDX vocal separator"),
    "separator, makes one number": (
        separate,
        give(None, ("ReduceMean", {})),
        "expected it to make float32 .1, 4, 2048, 64., got float32 .1, 1, 1, 1.",
    ),
    "separator, NaN": (separate, set_weights(float("nan")), "makes numbers that are NaN or infinite"),
    "separator, infinite": (separate, set_weights(3e38), "makes numbers that are NaN or infinite"),
    "separator, fails": (separate, give(None, ("Squeeze", {}), ("Transpose", {"perm": [0, 1, 2, 3, 4, 5]})), "it makes .* of a size"),
    "separator, terabytes": (separate, state_terabytes, "the weight 'weight' states 4398046511104 values of shape .1048576, 4194304."),
    "separator, terabytes inside": (separate, hide_in_a_branch, "the weight 'big' states 1099511627776 values"),
    "separator, tiles": (separate, grow("Tile", [1, 1, 2**20, 2**20]), GROWS),
    "separator, expands": (separate, grow("Expand", [2**20, 4, 2048, 64]), GROWS),
    "separator, expands by its shape": (separate, expand_by_its_own_shape, GROWS),
    "separator, fills": (separate, grow("ConstantOfShape", [2**40], takes_data=False), GROWS),
    "separator, counts": (separate, grow("Range", *map(np.float32, (0, 2**40, 1)), takes_data=False), GROWS),
    "separator, pads": (separate, grow("Pad", [0, 0, 0, 0, 0, 0, 0, 2**40]), GROWS),
    "separator, resizes": (separate, grow("Resize", np.float32([]), np.float32([1, 1, 1e5, 1e5])), GROWS),
    "separator, doubles": (separate, grow("Concat", times=40, axis=0), r"it makes 'grown_\d+' of "),
    "separator, fills by values": (separate, grow_by_values(*AS_SHAPE), UNKNOWN),
    "separator, counts by values": (separate, grow_by_values(*LARGEST, operator="Range"), UNKNOWN),
    "separator, tiles by values": (separate, grow_by_values(*FOUR_SIDES, operator="Tile"), UNKNOWN),
    "separator, expands by values": (separate, grow_by_values(*FOUR_SIDES, operator="Expand"), UNKNOWN),
    "separator, resizes by values": (separate, grow_by_values(*FOUR_SIDES, operator="Resize"), UNKNOWN),
    "separator, expands by arithmetic": (separate, grow_by_values(*FROM_SHAPE, operator="Expand"), GROWS),
    "separator, fills by arithmetic": (separate, grow_by_values(*FROM_SHAPE), GROWS),
    "separator, multiplies": (separate, multiply_outer, r"it makes 'places' \('NonZero'\) of a size that is not known"),
    "separator, keeps all": (separate, keep_all, r"it holds \d{10} numbers at one time, more than fits into memory"),
    "separator, in a function": (separate, hide_in_a_function(grow_by_values(*AS_SHAPE)), "it has functions or sparse weights"),
    "separator, sparse": (separate, state_a_sparse_weight, "it has functions or sparse weights"),
    "separator, two of a name": (separate, name_twice, "it has two tensors of the name 'weight'"),
    "separator, a million steps": (separate, give(None, *[("Identity", {})] * 30_000), "it has 30001 operators, expected at most 20000"),
    "separator, never ends": (separate, never_end, "it has an operator 'Loop', which may never end"),
    "separator, other file": (separate, point_elsewhere, "the weight 'weight' lies in another file"),
    "separator, an operation of nobody": (separate, give(None, ("Frobnicate", {})), "it makes 'more_0' .'Frobnicate'. of a size that is not known"),
    "recogniser, 128 numbers": (describe, narrow(stated=True), "expected a model for face recognition, .* to .any, 512.; got .* .any, 128."),
    "recogniser, 128 numbers unsaid": (describe, narrow(stated=False), r"expected it to make float32 .512., got float32 .128."),
    "recogniser, NaN": (describe, set_weights(float("nan")), "makes numbers that are NaN or infinite"),
    "recogniser, two inputs": (describe, take_two, "expected a model for face recognition"),
    "recogniser, other file": (describe, point_elsewhere, "the weight 'weight' lies in another file"),
    "detector, infinite": (describe, set_weights(3e38), "makes numbers that are NaN or infinite"),
    "detector, ten outputs": (describe, give_two, "expected a model for face detection"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_graph_that_is_another_is_named(misc, tmp_path, name):
    use, edit, sentence = SPOILT[name]
    copy = tmp_path / "misc"
    shutil.copytree(misc, copy)
    files = {"separator": "Kim_Vocal_2.onnx", "recogniser": RECOGNISER_FILE, "detector": DETECTOR_FILE}
    [path] = copy.rglob(files[name.split(",")[0]])
    use(copy)  # or it might fail for another reason
    model = onnx.load(path)
    edit(model if hasattr(edit, "whole_model") else model.graph)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=f"{path.name}:? {sentence}"):
        use(copy)


@pytest.mark.parametrize("text", [b"input.1", b"AveragePool", b"kernel_shape", b"weight", b"embedding"])
def test_text_that_is_none_is_refused(misc, tmp_path, text):
    shutil.copytree(misc / "face_analysis", tmp_path / "face_analysis")
    path = tmp_path / "face_analysis" / "models" / RECOGNISER_FILE
    path.write_bytes(path.read_bytes().replace(text, b"\xff" + text[1:]))
    with pytest.raises(CheckpointError, match=f"{path.name}.* Fetch this file again"):
        FaceAnalyzer.load(path.parent)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("normed_in_groups", [False, True])
def test_a_separator_as_torch_exports_it_runs(tmp_path, opset, normed_in_groups):
    path = tmp_path / "Kim_Vocal_2.onnx"
    export(Separator(1024, normed_in_groups), path, (1, 4, 1024, 16), opset, "input", output=[0])
    made = VocalSeparator.load(path).separate(Audio(torch.rand(2, 20000) - 0.5, 44100)).waveform
    assert made.shape == (2, 20000) and made.any()


@pytest.mark.parametrize("opset", [11, 13])
def test_faces_as_torch_exports_their_networks_are_looked_at(tmp_path, opset):
    """With sizes that come out of the picture's, by arithmetic."""
    outputs = {f"{kind}_{stride}": [0] for kind in ("score", "bbox", "kps") for stride in (8, 16, 32)}
    export(Detector(), tmp_path / DETECTOR_FILE, (1, 3, 640, 640), opset, "input.1", **{"input.1": [2, 3]}, **outputs)
    export(Recogniser(), tmp_path / RECOGNISER_FILE, (1, 3, 112, 112), opset, "input.1", **{"input.1": [0]}, embedding=[0])
    operators = {node.op_type for node in onnx.load(tmp_path / DETECTOR_FILE).graph.node}
    assert {"Shape", "Resize", "Concat", "Cast", "Slice"} <= operators
    analyzer = FaceAnalyzer.load(tmp_path)
    analyzer.detect(np.zeros((64, 48, 3), np.uint8))
    face = Detection((0, 0, 48, 64), 1.0, np.float32([[12, 20], [36, 20], [24, 32], [14, 48], [34, 48]]))
    assert analyzer.embed(np.full((64, 48, 3), 200, np.uint8), face).shape == (1, 512)
