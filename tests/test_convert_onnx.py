"""Conversion from and to ONNX: exported models in ONNX Runtime, and GRU nodes of every kind imported."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_accurate, assert_near, assert_same_bits, assert_same_state
from torch import Tensor, nn
from torch.export import Dim

import gru_ext
from gru_ext import convert
from gru_ext.onnx_export import gru_padded
from gru_ext.variant import Variant

onnx = pytest.importorskip("onnx", reason="onnx is not installed (the convert extra)")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

FLOAT64 = torch.float64
STEPS, BATCH, INPUT, HIDDEN = 6, 3, 2, 4
TYPES = {torch.float32: TensorProto.FLOAT, FLOAT64: TensorProto.DOUBLE}


@pytest.fixture
def exporting() -> Iterator[None]:
    """torch.onnx meets deprecations of torch's own, and needs a package of its own."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (the convert extra)")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
        yield


def gru_nodes(model: Any) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == "GRU"]


def run_onnxruntime(model: Any, *inputs: Tensor) -> list[Tensor]:
    """The outputs of a model for its inputs in their order."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (the bench-light extra)")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    results = session.run(None, dict(zip(names, [tensor.numpy() for tensor in inputs], strict=True)))
    return [torch.from_numpy(array) for array in results]


def assert_same_outputs(model: Any, module: nn.Module, *inputs: Tensor) -> None:
    """ONNX Runtime's and ours each within twice the error of the other against float64, plus the floor."""
    theirs, ours = run_onnxruntime(model, *inputs), module(*inputs)
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
    exact = module.double()(*wide)
    for name, x, y, e in zip(("y", "h_n"), ours, theirs, exact, strict=True):
        assert_accurate(x.detach(), y, e.detach(), f"our {name}")
        assert_accurate(y, x.detach(), e.detach(), f"ONNX Runtime's {name}")


# ---- Export

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"bias": False, "reset_after": False},
    {"bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "reset_after": False, "dropout": 0.5},
    {"num_layers": 3, "bias": False, "batch_first": True},
]


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_an_exported_gru_has_one_node_a_layer_and_comes_back(arguments: dict[str, Any]) -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, **arguments).eval()
    x, hx = torch.randn(STEPS, BATCH, INPUT), torch.randn(len(gru.all_weights), BATCH, HIDDEN)
    if gru.batch_first:
        x = x.transpose(0, 1).contiguous()
    shapes = {"input": {0: Dim("first", min=1), 1: Dim("second", min=1)}, "hx": {1: Dim.DYNAMIC}}
    model = convert.to_onnx(gru, (x, hx), dynamic_shapes=shapes, verbose=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    nodes = gru_nodes(model)
    assert len(nodes) == gru.num_layers
    assert {node.op_type for node in model.graph.node} <= {"GRU", "Transpose", "Reshape", "Slice", "Concat"}

    back = convert.from_onnx(model, [node.name for node in nodes])
    assert_same_state(back, gru)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, weights in zip(nodes, convert.to_onnx_weights(gru), strict=True):
        for name, (kind, expected) in zip(node.input[1:], weights.items(), strict=False):
            assert_same_bits(torch.from_numpy(numpy_helper.to_array(initializers[name]).copy()), expected, kind)

    batch = 2 * BATCH
    sizes = (batch, STEPS + 3) if gru.batch_first else (STEPS + 3, batch)
    assert_same_outputs(model, gru, torch.randn(*sizes, INPUT), torch.randn(len(gru.all_weights), batch, HIDDEN))


class Tagger(nn.Module):
    """A model with GRUs in the middle, one of them with weights computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 3)
        self.first = gru_ext.GRU(3, 4, bidirectional=True)
        self.second = nn.utils.parametrizations.weight_norm(gru_ext.GRU(8, 5), "weight_hh_l0")
        self.head = nn.Linear(5, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (T, B, 2) of tokens (T, B), and the last state."""
        y, h_n = self.second(torch.relu(self.first(self.embedding(tokens))[0]))
        return self.head(y), h_n


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("program", [False, True])
def test_a_model_and_an_exported_program(program: bool) -> None:
    model = Tagger().eval()
    arguments = (torch.randint(11, (STEPS, BATCH)),)
    source = torch.export.export(model, arguments) if program else model
    exported = convert.to_onnx(source, arguments, verbose=False).model_proto
    assert len(gru_nodes(exported)) == 2
    assert_same_outputs(exported, model, *arguments)
    convert.from_onnx(exported, gru_nodes(exported)[1].name)  # weight norm was applied


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("arguments", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}], ids=str)
@pytest.mark.parametrize("with_hx", [False, True])
def test_lengths_are_the_nodes_own(arguments: dict[str, Any], with_hx: bool) -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, **arguments).eval()

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = gru

        def forward(self, x: Tensor, lengths: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return self.gru(x, hx, lengths=lengths)  # type: ignore[no-any-return]

    x, lengths = torch.randn(STEPS, BATCH, INPUT), torch.tensor([STEPS, 1, 3])
    if gru.batch_first:
        x = x.transpose(0, 1).contiguous()
    state = (torch.randn(len(gru.all_weights), BATCH, HIDDEN),) if with_hx else ()
    module = Padded().eval()
    model = convert.to_onnx(module, (x, lengths, *state), verbose=False).model_proto
    nodes = gru_nodes(model)
    assert len(nodes) == gru.num_layers
    assert all(node.input[4] for node in nodes)
    assert_same_state(convert.from_onnx(model, [node.name for node in nodes]), gru)
    assert_same_outputs(model, module, x, lengths, *state)


@pytest.mark.usefixtures("exporting")
def test_only_the_last_state() -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, 2, outputs="last", save="output").eval()
    x = torch.randn(STEPS, BATCH, INPUT)
    model = convert.to_onnx(gru, (x,), verbose=False).model_proto
    assert_same_outputs(model, gru, x)


@pytest.mark.usefixtures("exporting")
def test_what_cannot_be_exported_says_so() -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN).eval()
    x = torch.randn(STEPS, BATCH, INPUT)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4, 1]))
    with pytest.raises(NotImplementedError, match=r"^to_onnx: expected padded input, got a PackedSequence, which"):
        convert.to_onnx(gru, (packed,), verbose=False)
    with pytest.raises(NotImplementedError, match=r"^to_onnx: ONNX's GRU has no resets;"):
        convert.to_onnx(gru, (x,), kwargs={"resets": torch.zeros(STEPS, BATCH, dtype=torch.bool)}, verbose=False)
    for argument in ("f", "dynamo"):
        with pytest.raises(TypeError, match=f"^to_onnx: expected no argument {argument}; save what is returned with"):
            convert.to_onnx(gru, (x,), **{argument: None})


def test_lengths_with_another_recurrence_are_refused() -> None:
    x, weights = torch.randn(STEPS, BATCH, INPUT), [p.detach() for p in gru_ext.GRU(INPUT, HIDDEN).parameters()]
    y, _ = gru_padded(x, None, weights, [6, 4, 1], False, Variant(reset_after=False))
    expected, _ = gru_ext.functional.gru(x, None, weights, lengths=[6, 4, 1], reset_after=False)
    assert_same_bits(y, expected, "y")
    with pytest.raises(NotImplementedError, match=r"^to_onnx: ONNX's GRU has no zoneout: expected 0, got 0.5$"):
        gru_padded(x, None, weights, [6, 4, 1], False, Variant(zoneout=0.5))
    with pytest.raises(NotImplementedError, match=r"^to_onnx: ONNX's GRU has no recurrent_mask: expected None, got"):
        gru_padded(x, None, weights, [6, 4, 1], False, Variant(recurrent_mask=torch.ones(1, BATCH, HIDDEN)))
    with pytest.raises(RuntimeError, match=r"^gru: expected lengths of shape \(B\) = \(3,\), got \(2,\)$"):
        gru_padded(x, None, weights, [6, 4], False, Variant())


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_a_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"^to_onnx needs the package {package}: pip install {package}$"):
        convert.to_onnx(gru_ext.GRU(3, 4), (torch.randn(5, 2, 3),))
    if package == "onnx":
        with pytest.raises(ImportError, match=r"^from_onnx needs the package onnx: pip install onnx$"):
            convert.from_onnx(b"")


# ---- Import


def make_model(
    direction: str = "forward",
    dtype: torch.dtype = FLOAT64,
    inputs: tuple[str, ...] = ("x", "W", "R", "B"),
    shapes: dict[str, tuple[int, ...]] | None = None,
    drop: tuple[str, ...] = (),
    extra: dict[str, Tensor] | None = None,
    op_type: str = "GRU",
    **attributes: Any,
) -> Any:
    """A model of one GRU node with random weights."""
    directions = 2 if direction == "bidirectional" else 1
    sizes = {"W": (directions, 3 * HIDDEN, INPUT), "R": (directions, 3 * HIDDEN, HIDDEN), "B": (directions, 6 * HIDDEN)}
    weights = {name: torch.randn(shape, dtype=dtype) for name, shape in (sizes | (shapes or {})).items()}
    node = helper.make_node(
        op_type, inputs, ["Y", "Y_h"], name="node", direction=direction, **{"hidden_size": HIDDEN, **attributes}
    )
    constants = {name: tensor for name, tensor in (weights | (extra or {})).items() if name not in drop}
    graph = helper.make_graph(
        [node],
        "model",
        [helper.make_tensor_value_info("x", TYPES[dtype], (STEPS, BATCH, INPUT))],
        [
            helper.make_tensor_value_info("Y", TYPES[dtype], (STEPS, directions, BATCH, HIDDEN)),
            helper.make_tensor_value_info("Y_h", TYPES[dtype], (directions, BATCH, HIDDEN)),
        ],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def run_reference(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What onnx's own evaluator gives: y (T, B, D*H) and h_n."""
    y, h_n = (torch.from_numpy(array) for array in ReferenceEvaluator(model).run(None, {"x": x.numpy()}))
    return y.transpose(1, 2).flatten(2), h_n


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_a_node_gives_what_onnx_gives(direction: str, linear_before_reset: int, bias: bool) -> None:
    inputs = ("x", "W", "R", "B") if bias else ("x", "W", "R")
    model = make_model(direction, inputs=inputs, linear_before_reset=linear_before_reset)
    gru = convert.from_onnx(model)
    assert isinstance(gru, convert.Reversed if direction == "reverse" else gru_ext.GRU)
    x = torch.randn(STEPS, BATCH, INPUT, dtype=FLOAT64)
    assert_near(gru(x), run_reference(model, x))


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_weights_of_a_node_come_back_bit_for_bit(linear_before_reset: int) -> None:
    model = make_model("bidirectional", torch.float32, linear_before_reset=linear_before_reset)
    gru = convert.from_onnx(model)
    assert isinstance(gru, gru_ext.GRU)
    (weights,) = convert.to_onnx_weights(gru)
    for tensor in model.graph.initializer:
        assert_same_bits(weights[tensor.name], torch.from_numpy(numpy_helper.to_array(tensor).copy()), tensor.name)


@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.usefixtures("exporting")
def test_an_nn_gru_that_torch_exported(arguments: dict[str, Any]) -> None:
    """Whose weights are computed in the graph, and whose initial state is a constant of zeros."""
    peer = nn.GRU(INPUT, HIDDEN, **arguments).eval()
    program = torch.onnx.export(peer, (torch.randn(STEPS, BATCH, INPUT),), dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    back = convert.from_onnx(model, [node.output[0] for node in gru_nodes(model)])
    state, found = peer.state_dict(), back.state_dict()
    assert_same_bits({name: found[name] for name in state}, state)
    assert not any(found[name].any() for name in found.keys() - state.keys())  # biases, where nn.GRU has none


def test_a_model_may_be_bytes_or_a_file(tmp_path: Path) -> None:
    model = make_model()
    gru = convert.from_onnx(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    for source in (model.SerializeToString(), tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        assert_same_state(convert.from_onnx(source), gru)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert_same_state(convert.from_onnx_node(model.graph.node[0], weights), gru)


def test_weights_that_the_graph_computes() -> None:
    model = make_model(drop=("W",), extra={"W_transposed": torch.randn(1, INPUT, 3 * HIDDEN, dtype=FLOAT64)})
    model.graph.node.insert(0, helper.make_node("Transpose", ["W_transposed"], ["W"], perm=[0, 2, 1]))
    gru = convert.from_onnx(model)
    x = torch.randn(STEPS, BATCH, INPUT, dtype=FLOAT64)
    assert_near(gru(x)[0], run_reference(model, x)[0], "y")


AS_INPUT = "to be an input of the model, or to be left out, got a constant: pass it to the"
WRONG: dict[str, dict[str, Any]] = {
    "activations Sigmoid, Tanh of node, got Relu, Tanh": {"activations": ["Relu", "Tanh"]},
    "activations Sigmoid, Tanh, Sigmoid, Tanh of node, got Sigmoid, Tanh": {
        "direction": "bidirectional",
        "activations": ["Sigmoid", "Tanh"],
    },
    "no clip of node, got 3.0": {"clip": 3.0},
    "layout 0 of node, got 1": {"layout": 1},
    "direction forward, reverse or bidirectional of node, got sideways": {"direction": "sideways"},
    "W of node of shape (D, 3H, I) = (1, 12, 2), got (1, 11, 2)": {"shapes": {"W": (1, 11, INPUT)}},
    "W of node of shape (D, 3H, I) = (1, 12, 2), got (12, 2)": {"shapes": {"W": (12, INPUT)}},
    "R of node of shape (D, 3H, H) = (1, 12, 4), got (2, 12, 4)": {"shapes": {"R": (2, 12, HIDDEN)}},
    "B of node of shape (D, 6H) = (1, 24), got (1, 12)": {"shapes": {"B": (1, 12)}},
    "W of node of shape (D, 3H, I) = (1, 15, 2), got (1, 12, 2)": {"hidden_size": 5},
    "R of node to follow from constants, got 'R'": {"drop": ("R",)},
    "node with inputs X, W and R, got none for R": {"inputs": ("x", "W", "")},
    "the name of a node where there is not one GRU node alone, got no GRU node": {"op_type": "LSTM"},
    f"initial_h of node {AS_INPUT}": {
        "inputs": ("x", "W", "R", "B", "", "h"),
        "extra": {"h": torch.ones(1, BATCH, HIDDEN, dtype=FLOAT64)},
    },
    f"sequence_lens of node {AS_INPUT} GRU as lengths, and remove it from the node": {
        "inputs": ("x", "W", "R", "B", "n"),
        "extra": {"n": torch.full((BATCH,), STEPS, dtype=torch.int32)},
    },
    "weights of one dtype, got torch.float32 and torch.flo": {"extra": {"B": torch.ones(1, 6 * HIDDEN)}},
}


@pytest.mark.parametrize("text", WRONG)
def test_nodes_that_do_not_convert(text: str) -> None:
    with pytest.raises(ValueError, match=f"^from_onnx: expected {re.escape(text)}"):
        convert.from_onnx(make_model(**WRONG[text]))


@pytest.mark.parametrize("opset", [10, 13, 17, 21])
def test_weights_that_are_stored_as_int8(opset: int) -> None:
    rounded = torch.randint(-9, 9, (1, 12, INPUT), dtype=torch.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["rounded", "scale"], ["W"]),
        helper.make_node("GRU", ["x", "W", "R"], ["Y"], hidden_size=HIDDEN, name="node"),
    ]
    tensors = {"rounded": rounded, "scale": torch.tensor(0.1), "R": torch.randn(1, 12, HIDDEN)}
    constants = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()]
    x, y = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "Y")]
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    gru = convert.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    assert isinstance(gru, gru_ext.GRU)
    expected = 0.1 * rounded[0].float().view(3, HIDDEN, INPUT)[[1, 0, 2]].flatten(0, 1)
    assert_near(gru.state_dict()["weight_ih_l0"], expected, "weight_ih", 1e-6)


@pytest.fixture
def _autocast_caches_again() -> Iterator[None]:
    """After an export without dynamo that fails, torch leaves autocast's cache off."""
    yield
    torch.set_autocast_cache_enabled(True)


@pytest.mark.usefixtures("_autocast_caches_again")
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_the_plain_export_names_ours(dynamo: bool, tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = gru_ext.GRU(INPUT, HIDDEN)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.gru(x)[0]
            return y

    x = torch.randn(STEPS, BATCH, INPUT)
    # torch's own exception, around ours.
    with pytest.raises(Exception, match=r"expected gru_ext\.convert\.to_onnx\(model, args\)"):
        torch.onnx.export(Model(), (x,), str(tmp_path / "model.onnx"), dynamo=dynamo, verbose=False)
    single = nn.GRU(INPUT, HIDDEN), nn.GRUCell(INPUT, HIDDEN)
    for module in (*map(gru_ext.replace_gru, copy.deepcopy(single)), *map(gru_ext.quantize_dynamic, single)):
        legacy = (x if "Cell" not in type(module).__name__ else x[0],)
        with pytest.raises(NotImplementedError, match=r"^torch\.onnx\.export: expected gru_ext\.convert\.to_onnx"):
            torch.onnx.export(module, legacy, str(tmp_path / "model.onnx"), dynamo=False, verbose=False)
    with pytest.raises(NotImplementedError, match="to_onnx: expected GRUs with floating weights, got int8"):
        convert.to_onnx(gru_ext.quantize_dynamic(Model()), (x,))
    with pytest.raises(TypeError, match=r"^to_onnx: expected model of type torch\.nn\.Module or .*, got NoneType"):
        convert.to_onnx(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^from_onnx: expected model of type ModelProto, bytes or a path, got int"):
        convert.from_onnx(3)
    with pytest.raises(ValueError, match=r"^from_onnx: expected model to be an ONNX model, got bytes that are none"):
        convert.from_onnx(b"no model")


def test_a_node_is_found_by_its_name() -> None:
    model = make_model()
    second = helper.make_node("GRU", ["x", "W", "R"], ["Z"], hidden_size=HIDDEN)
    model.graph.node.append(second)
    assert convert.from_onnx(model, "Z").bias is False
    assert convert.from_onnx(model, "node").bias is True
    listed = "expected the name of a node where there is not one GRU node alone, got node, Z$"
    with pytest.raises(ValueError, match=listed):
        convert.from_onnx(model)
    with pytest.raises(ValueError, match=r"expected the name of a GRU node, got other; the model has node, Z$"):
        convert.from_onnx(model, "other")
    with pytest.raises(ValueError, match=r"expected layer 1 with .* = \(4, 4\), got \(2, 4\)"):
        convert.from_onnx(model, ["Z", "Z"])
    second.attribute.append(helper.make_attribute("linear_before_reset", 1))
    model.graph.node[1].CopyFrom(second)
    with pytest.raises(ValueError, match="expected one linear_before_reset for all nodes, got 0, 1"):
        convert.from_onnx(model, ["node", "Z"])
    with pytest.raises(ValueError, match="from_onnx_node: expected a node of the operator GRU, got LSTM"):
        convert.from_onnx_node(helper.make_node("LSTM", ["x"], ["y"]), {})
