"""The GRU as an ONNX graph (operator GRU, opset 14), for ONNX Runtime and OpenVINO."""

from __future__ import annotations

import copy

from torch import Tensor

from benchmarks.contenders.base import Problem
from benchmarks.suites import Size
from gru_ext import convert


def build(problem: Problem, reset_after: bool = True) -> bytes:
    """The serialized model: input x (T, B, I), output y (T, B, D*H), float32.

    With ``reset_after``, its ``linear_before_reset``, it has the recurrence of ``nn.GRU``.
    """
    import numpy
    import onnx
    from onnx import helper, numpy_helper

    size = problem.size
    nodes, constants = [], [numpy_helper.from_array(numpy.array([0, 0, -1]), "rows")]
    source = "x"
    for layer, tensors in enumerate(convert.to_onnx_weights(copy.deepcopy(problem.module).float().cpu())):
        constants += [numpy_helper.from_array(tensor.numpy(), f"{name}{layer}") for name, tensor in tensors.items()]
        target = "y" if layer == size.L - 1 else f"y{layer}"
        nodes += [
            helper.make_node(
                "GRU",
                [source, *(f"{name}{layer}" for name in tensors)],
                [f"Y{layer}"],  # (T, D, B, H)
                name=f"gru{layer}",
                hidden_size=size.H,
                direction="bidirectional" if size.D == 2 else "forward",
                linear_before_reset=int(reset_after),
            ),
            helper.make_node("Transpose", [f"Y{layer}"], [f"rows{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"rows{layer}", "rows"], [target]),
        ]
        source = target
    graph = helper.make_graph(
        nodes,
        "gru",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [size.T, size.B, size.inputs])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [size.T, size.B, size.D * size.H])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def read_weights(model: bytes, size: Size) -> dict[str, Tensor]:
    """The weights of such a graph, as ``nn.GRU`` names and lays them out."""
    return convert.from_onnx(model, [f"gru{layer}" for layer in range(size.L)]).state_dict()
