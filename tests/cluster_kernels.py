"""The cluster-persistent kernels as layers: what the host does around them, in plain PyTorch, and an emulated launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from cases import Problem
from emulation import Schedule, run
from torch import Tensor

from gru_ext import reference


@dataclass(frozen=True)
class ClusterConfig:
    """An instantiation of tests/emulator/run_gru_cluster.cpp."""

    dtype: torch.dtype
    hidden: int  # the largest H
    blocks: int  # of a cluster
    rows: int  # of a tile of the batch

    def kernel(self, name: str) -> str:
        """Name of the forward ("fwd") or backward ("bwd") kernel."""
        dtype = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float"}[self.dtype]
        return f"gru_cluster_{name}_{dtype}_H{self.hidden}_C{self.blocks}_rows{self.rows}"

    def __str__(self) -> str:
        return self.kernel("").removeprefix("gru_cluster__")


@dataclass
class Forward:
    """What a forward launch leaves."""

    y: Tensor  # (T, B, D*H) or (N, D*H)
    h_n: Tensor  # (D, B, H)
    gates: Tensor | None  # (D, N, 4, H)
    error: Tensor  # (1) int32


def _strides(tensor: Tensor) -> tuple[int, int]:
    """Between steps and between rows of (T, B, F), or of (N, F)."""
    return (tensor.stride(0), tensor.stride(-2)) if tensor.dim() == 3 else (0, tensor.stride(0))


def _is_paired(tensors: Sequence[Tensor | None]) -> bool:
    return all(
        t is None
        or (
            t.shape[-1] % 2 == 0
            and t.data_ptr() % (2 * t.element_size()) == 0
            and all(s % 2 == 0 for s in t.stride()[:-1])
        )
        for t in tensors
    )


def _is_aligned(matrices: Sequence[Tensor]) -> bool:
    return all(m.data_ptr() % 16 == 0 and m.shape[1] * m.element_size() % 16 == 0 for m in matrices)


def _sizes(problem: Problem) -> dict[str, int]:
    directions = 2 if problem.bidirectional else 1
    rows = problem.x.numel() // problem.x.shape[-1]
    packed = problem.batch_sizes
    return {
        "T": problem.x.shape[0] if packed is None else len(packed),
        "B": problem.x.shape[1] if packed is None else int(packed[0]),
        "H": problem.weights[1].shape[1],
        "D": directions,
        "N": rows,
    }


def _packed(problem: Problem) -> dict[str, Tensor | None]:
    sizes = problem.batch_sizes
    if sizes is None:
        return {"lengths": None, "offsets": None}
    lengths = (sizes[:, None] > torch.arange(int(sizes[0]))).sum(0)
    return {"lengths": lengths.to(torch.int32), "offsets": sizes.cumsum(0) - sizes}


def _empty_like_rows(problem: Problem, features: int, batch_first: bool) -> Tensor:
    """NaN, (T, B, features) or (N, features); in memory (B, T, features) if batch_first."""
    if problem.batch_sizes is None and batch_first:
        steps, batch, _ = problem.x.shape
        return problem.x.new_full((batch, steps, features), torch.nan).transpose(0, 1)
    return problem.x.new_full((*problem.x.shape[:-1], features), torch.nan)


def cluster_fwd(
    config: ClusterConfig,
    problem: Problem,
    save_gates: bool = True,
    batch_first: bool = False,
    schedule: Schedule = Schedule(),
) -> Forward:
    """Results of the emulated forward kernel; the input's product is PyTorch's."""
    sizes = _sizes(problem)
    hidden, directions = sizes["H"], sizes["D"]
    weights = reference.split_weights(problem.weights, problem.bidirectional)
    a_x = []
    for w in weights:
        rows = _empty_like_rows(problem, 3 * hidden, batch_first)
        a_x.append(rows.copy_(torch.nn.functional.linear(problem.x, w.ih, w.bias_ih)))
    y = _empty_like_rows(problem, directions * hidden, batch_first)
    h_n = problem.x.new_full((directions, sizes["B"], hidden), torch.nan)
    gates = problem.x.new_full((directions, sizes["N"], 4, hidden), torch.nan) if save_gates else None
    error = torch.zeros(1, dtype=torch.int32)
    matrices = [w.hh for w in weights]
    numbers = {
        **sizes,
        "paired": _is_paired([*a_x, *matrices, problem.hx, y, h_n, gates]),
        "aligned": _is_aligned(matrices),
    }
    for name, tensor in (("a_x", a_x[0]), ("y", y)):
        numbers[f"{name}_step_stride"], numbers[f"{name}_row_stride"] = _strides(tensor)
    inputs: dict[str, Tensor | None] = {"h0": problem.hx, **_packed(problem)}
    for d, w in enumerate(weights):
        inputs |= {f"a_x_{d}": a_x[d], f"weight_hh_{d}": w.hh, f"bias_hh_{d}": w.bias_hh}
    run(config.kernel("fwd"), numbers, inputs, {"y": y, "h_n": h_n, "gates": gates, "error": error}, schedule)
    return Forward(y, h_n, gates, error)
