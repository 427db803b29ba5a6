"""The int8 kernels against their specification, a step at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from cases import Problem, Size
from compare import assert_near, assert_same_bits
from torch import Tensor, nn

import gru_ext
from gru_ext.quantize import pack
from gru_ext.reference import Int8Weights, cell_int8, quantize_rows

# Units beside groups of 16, columns beside words of four, rows beside tiles of two, four and eight.
SIZES = [
    Size(1, 1, 1, 1),
    Size(3, 2, 4, 16),
    Size(4, 3, 5, 17),
    Size(2, 9, 64, 33),
    Size(5, 7, 3, 48),
    Size(3, 20, 70, 65),
]
# More steps than a chunk of 128 rows has, and more columns than the exact integers of float32 would allow.
LARGE = [Size(40, 12, 9, 40), Size(300, 1, 6, 20), Size(2, 3, 2000, 1100)]
# Of the gates, computed in float32 from the same sums.
ROUNDING = 3e-6


def quantized_weights(problem: Problem) -> list[Int8Weights]:
    """Of each direction."""
    directions = 2 if problem.bidirectional else 1
    count = len(problem.weights) // directions
    result = []
    for d in range(directions):
        ih, hh, *biases = problem.weights[d * count : (d + 1) * count]
        (q_ih, scale_ih), (q_hh, scale_hh) = quantize_rows(ih), quantize_rows(hh)
        bias_ih, bias_hh = biases or (None, None)
        result.append(Int8Weights(q_ih, q_hh, scale_ih, scale_hh, bias_ih, bias_hh))
    return result


def arguments_of(problem: Problem) -> dict[str, Any]:
    """Of the operator."""
    weights = [
        tensor for w in quantized_weights(problem) for tensor in (pack(w.ih), pack(w.hh), *w[2:]) if tensor is not None
    ]
    names = ("x", "hx", "weights", "batch_sizes", "bidirectional")
    return dict(zip(names, replace(problem, weights=weights).layer, strict=True))


def run(problem: Problem) -> tuple[Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor] = torch.ops.gru_ext.gru_int8(**arguments_of(problem))
    return outputs


def check_every_step(problem: Problem, tolerance: float = ROUNDING) -> None:
    """Each state is what the specification makes of the state before it, as the kernel left that.

    Compared step by step, an input near the middle of two integers cannot turn a difference in rounding into a larger
    one.
    """
    y, h_n = run(problem)
    sizes = [problem.x.shape[1]] * problem.x.shape[0] if problem.batch_sizes is None else problem.batch_sizes.tolist()
    hidden = h_n.shape[-1]
    for d, weights in enumerate(quantized_weights(problem)):
        state = torch.zeros(sizes[0], hidden) if problem.hx is None else problem.hx[d]
        flat = y.reshape(-1, y.shape[-1])[:, d * hidden : (d + 1) * hidden]
        xs, ys = (t.split(sizes) for t in (problem.x.reshape(-1, problem.x.shape[-1]), flat))
        for t in reversed(range(len(sizes))) if d else range(len(sizes)):
            expected = cell_int8(xs[t], state[: sizes[t]], weights)
            assert_near(ys[t], expected.float(), f"direction {d}, step {t}", tolerance)
            state = torch.cat([ys[t], state[sizes[t] :]])
        assert_same_bits(h_n[d], state, "h_n")


class Model(nn.Module):
    """(T, B, I) to (B, 2): GRUs of every kind, one of them under two names, and others that are none."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.theirs = nn.GRU(inputs, 4)
        self.ours = gru_ext.GRU(4, 5, zoneout=0)
        self.cells = nn.ModuleList([nn.GRUCell(5, 6), gru_ext.GRUCell(6, 7)])
        self.again = self.theirs
        self.linear = nn.Linear(7, 2)
        self.other = Subclass(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Of the last step."""
        x = self.ours(self.theirs(x)[0])[0][-1]
        for cell in self.cells:
            x = cell(x)
        result: Tensor = self.linear(x)
        return result

    def kinds(self) -> list[type]:
        """Of the modules, but for the second name."""
        return [type(m) for m in (self.theirs, self.ours, *self.cells, self.linear, self.other)]


class Subclass(nn.GRU):
    """Whose forward may be another."""
