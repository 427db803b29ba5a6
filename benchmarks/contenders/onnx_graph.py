"""The GRU as an ONNX graph (operator GRU, opset 14), for ONNX Runtime and OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from benchmarks.contenders.base import Problem, by_layer, swap_r_and_z
from benchmarks.suites import Size

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def build(problem: Problem, reset_after: bool = True) -> bytes:
    """The serialized model: input x (T, B, I), output y (T, B, D*H), float32.

    ONNX orders the gates z, r, n and joins both biases; with ``reset_after``, its ``linear_before_reset``, it has the
    recurrence of ``nn.GRU``.
    """
    import onnx
    from onnx import helper, numpy_helper

    size = problem.size
    nodes, constants = [], [numpy_helper.from_array(numpy.array([0, 0, -1]), "rows")]
    directions = by_layer({name: weight.float().cpu() for name, weight in problem.weights.items()})
    source = "x"
    for layer in range(size.L):
        parts = [[swap_r_and_z(w) for w in d] for d in directions[layer * size.D : (layer + 1) * size.D]]
        tensors = {
            "W": torch.stack([weight_ih for weight_ih, _, _, _ in parts]),  # (D, 3H, I)
            "R": torch.stack([weight_hh for _, weight_hh, _, _ in parts]),  # (D, 3H, H)
            "B": torch.stack([torch.cat(biases) for _, _, *biases in parts]),  # (D, 6H)
        }
        constants += [numpy_helper.from_array(tensor.numpy(), f"{name}{layer}") for name, tensor in tensors.items()]
        target = "y" if layer == size.L - 1 else f"y{layer}"
        nodes += [
            helper.make_node(
                "GRU",
                [source, *(f"{name}{layer}" for name in tensors)],
                [f"Y{layer}"],  # (T, D, B, H)
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
    import onnx
    from onnx import numpy_helper

    constants: dict[str, Any] = {
        constant.name: torch.from_numpy(numpy_helper.to_array(constant).copy())
        for constant in onnx.load_from_string(model).graph.initializer
    }
    weights = {}
    for layer in range(size.L):
        for d, suffix in enumerate(("", "_reverse")[: size.D]):
            bias_ih, bias_hh = constants[f"B{layer}"][d].chunk(2)
            tensors = (constants[f"W{layer}"][d], constants[f"R{layer}"][d], bias_ih, bias_hh)
            for name, tensor in zip(NAMES, tensors, strict=True):
                weights[f"{name}_l{layer}{suffix}"] = swap_r_and_z(tensor)
    return weights
