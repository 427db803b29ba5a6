"""The persistent kernels as layers: a launch on the CPU, and in plain PyTorch what the host does around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from cases import Problem, Size
from emulation import SOME_SCHEDULE, Schedule, run
from process import ROOT
from torch import Tensor

from gru_ext import reference
from gru_ext.variant import PLAIN, Variant

PERSISTENT = ROOT / "csrc" / "cuda" / "persistent"
DTYPES = {"16BIT": torch.bfloat16, "TF32": torch.float32, "IEEE": torch.float32}
DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float"}


@dataclass(frozen=True)
class _Named:
    """An instantiation by its names."""

    dtype: torch.dtype

    @property
    def parts(self) -> tuple[str, str, str]:
        """Family, kind of operands and shape, of which its names are made."""
        raise NotImplementedError

    @property
    def peer_dtype(self) -> torch.dtype:
        """In which ``nn.GRU`` rounds as this kernel does: TF32 has the 10 bits of float16."""
        return torch.float16 if self.parts[1] == "float" else self.dtype

    @property
    def name(self) -> str:
        """As the operators name it."""
        family, kind, shape = self.parts
        return f"{family}_{shape}{'_ieee' if kind == 'ieee' else ''}"

    def kernel(self, way: str) -> str:
        """Name of the forward ("fwd") or backward ("bwd") kernel."""
        family, kind, shape = self.parts
        return f"gru_{family}_{way}_{kind}_{shape}"

    def __str__(self) -> str:
        return "_".join(self.parts)


@dataclass(frozen=True)
class HeldConfig(_Named):
    """An instantiation of tests/emulator/run_cluster.cpp."""

    hidden: int  # the largest H
    blocks: int  # of a cluster
    rows: int  # of a tile of the batch
    group: bool = False  # blocks of the grid, which exchange packets
    ieee: bool = False  # float32 on the FMA units
    shared_slabs: int = 0  # for streamed kernels alone

    @property
    def parts(self) -> tuple[str, str, str]:
        """As ``_Named`` has them."""
        kind = "ieee" if self.ieee else DTYPE_NAMES[self.dtype]
        return "group" if self.group else "cluster", kind, f"H{self.hidden}_C{self.blocks}_rows{self.rows}"

    def memory(self, hidden: int, batch: int, directions: int, gates: int) -> dict[str, Tensor | None]:
        """What the blocks of a group exchange by, for an operand of so many gates: packets, all zero."""
        if not self.group:
            return {}
        tiles = -(-batch // self.rows)
        words = self.hidden * self.dtype.itemsize // 4
        nbytes = 8 if gates == 1 else 16
        return {"packets": torch.zeros(directions * tiles, 2, self.rows, words, nbytes, dtype=torch.uint8)}


@dataclass(frozen=True)
class StreamedConfig(_Named):
    """An instantiation of tests/emulator/run_streamed.cpp."""

    units: int  # of a block
    rows: int  # of a tile of the batch
    shared_slabs: int = -1  # of the weights of a slice, kept in shared memory, the others being streamed; -1 for all
    masked: bool = False  # the one for layers with zoneout or dropouts

    @property
    def parts(self) -> tuple[str, str, str]:
        """As ``_Named`` has them."""
        shape = f"U{self.units}_rows{self.rows}{'_masked' if self.masked else ''}"
        return "streamed", DTYPE_NAMES[self.dtype], shape

    def memory(self, hidden: int, batch: int, directions: int, gates: int) -> dict[str, Tensor | None]:
        """Flags and operand, zero, and the weights that are streamed: room for all of them, by up to 15 slices."""
        blocks, of_slab = -(-hidden // self.units), 64 // self.dtype.itemsize
        slabs = -(-blocks * self.units // of_slab) * gates
        groups = directions * -(-batch // self.rows)
        fragments = 2 * self.units * 3 // gates // 16
        return {
            "flags": torch.zeros(groups, blocks, dtype=torch.int32),
            "operand": torch.zeros(groups, 2, slabs, self.rows // 8, 32, 4, dtype=torch.int32),
            "weights": torch.full((directions, blocks, slabs + 15, fragments, 32, 4), -1, dtype=torch.int32),
        }

    def __str__(self) -> str:
        return super().__str__() + ("" if self.shared_slabs < 0 else f"_kept{self.shared_slabs}")


Config = HeldConfig | StreamedConfig


# ---- Which there are


def _rows(family: str, direction: str) -> Iterator[tuple[str, list[int]]]:
    """The tables of a family's configs.h for FWD or BWD: the name of the kind of each row, and its numbers."""
    text = (PERSISTENT / family / "configs.h").read_text()
    tables = re.findall(rf"#define GRU_{family.upper()}_{direction}_(\w+)\(X\)((?:.*\\\n)*.*)", text)
    assert tables
    for kind, rows in tables:
        for numbers in re.findall(r"X\(([\d, ]+)\)", rows):
            yield kind, [int(number) for number in numbers.split(",")]


def held_instantiations(family: str, direction: str) -> list[HeldConfig]:
    """The kernels of clusters or groups, FWD or BWD."""
    return [
        HeldConfig(DTYPES[kind], hidden, blocks, rows, group=family == "group", ieee=kind == "IEEE")
        for kind, (hidden, blocks, rows, *_) in _rows(family, direction)
    ]


def streamed_instantiations(direction: str) -> dict[StreamedConfig, int]:
    """The streamed kernels, FWD or BWD; of each an H of which registers do not hold all."""
    found = {}
    for kind, (units, rows, slices, _, in_registers, *_) in _rows("streamed", direction):
        of_slab = 64 // DTYPES[kind].itemsize // (1 if direction == "FWD" else 3)
        found[StreamedConfig(DTYPES[kind], units, rows, shared_slabs=0)] = slices * in_registers * of_slab + 2
    return found


# Of every exchange, with one block and several, one tile of rows and several: compiled for tests alone.
DTYPES_OF_GROUPS = (torch.bfloat16, torch.float16, torch.float32)
BFLOAT16 = [HeldConfig(torch.bfloat16, 64, blocks, rows) for blocks, rows in ((1, 8), (2, 8), (4, 16))]
SMALL_CONFIGS: list[Config] = [
    *BFLOAT16,
    *(HeldConfig(dtype, 64, *shape) for dtype in (torch.float16, torch.float32) for shape in ((1, 8), (4, 16))),
    *(HeldConfig(dtype, 64, 4, 16, group=True) for dtype in DTYPES_OF_GROUPS),
    StreamedConfig(torch.bfloat16, 16, 8),
    StreamedConfig(torch.bfloat16, 48, 16, shared_slabs=0),
    StreamedConfig(torch.float16, 32, 16, shared_slabs=1),
    StreamedConfig(torch.float32, 48, 8, shared_slabs=0),
    HeldConfig(torch.float32, 64, 1, 8, ieee=True),
    *(HeldConfig(torch.float32, 64, 4, 16, group=group, ieee=True) for group in (False, True)),
]


SMALL_SIZES = [Size(1, 1, 1, 1), Size(2, 3, 5, 7), Size(5, 9, 3, 34), Size(4, 17, 6, 64), Size(9, 2, 2, 63)]


# ---- Launches


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


def _numbers(
    config: Config, problem: Problem, tensors: Sequence[Tensor | None], rows: Mapping[str, Tensor]
) -> dict[str, int]:
    """Sizes, what is aligned of all tensors with the weights, and the strides of those that have a row a step."""
    matrices = [w.hh for w in reference.split_weights(problem.weights, problem.bidirectional)]
    numbers = {
        **_sizes(problem),
        "paired": _is_paired([*matrices, *tensors]),
        "aligned": _is_aligned(matrices),
        "shared_slabs": config.shared_slabs,
    }
    for name, tensor in rows.items():
        numbers[f"{name}_step_stride"], numbers[f"{name}_row_stride"] = _strides(tensor)
    return numbers


def _packed(problem: Problem) -> dict[str, Tensor | None]:
    sizes = problem.batch_sizes
    if sizes is None:
        return {"lengths": None, "offsets": None}
    lengths = (sizes[:, None] > torch.arange(int(sizes[0]))).sum(0)
    return {"lengths": lengths.to(torch.int32), "offsets": sizes.cumsum(0) - sizes}


def _masks(variant: Variant, directions: int) -> dict[str, Tensor | None]:
    """Of each direction, and the part of a state that is kept, and the scales of what dropouts let through."""
    if variant == PLAIN:
        return {}
    factors = [variant.zoneout, 1 / (1 - variant.candidate_dropout), 1 / (1 - variant.recurrent_dropout)]
    masks: dict[str, Tensor | None] = {"mask_factors": torch.tensor(factors, dtype=torch.float32)}
    for name in ("zoneout", "candidate", "recurrent"):
        mask = getattr(variant, f"{name}_mask")
        masks |= {f"{name}_{d}": None if mask is None else mask[d] for d in range(directions)}
    return masks


def _empty_like_rows(problem: Problem, features: int, batch_first: bool) -> Tensor:
    """NaN, (T, B, features) or (N, features); in memory (B, T, features) if batch_first."""
    if problem.batch_sizes is None and batch_first:
        steps, batch, _ = problem.x.shape
        return problem.x.new_full((batch, steps, features), torch.nan).transpose(0, 1)
    return problem.x.new_full((*problem.x.shape[:-1], features), torch.nan)


def persistent_fwd(
    config: Config,
    problem: Problem,
    save_gates: bool = True,
    batch_first: bool = False,
    schedule: Schedule = SOME_SCHEDULE,
    variant: Variant = PLAIN,
) -> Forward:
    """Results of the forward kernel; the input's product is PyTorch's."""
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
    numbers = _numbers(config, problem, [*a_x, problem.hx, y, h_n, gates], {"a_x": a_x[0], "y": y})
    inputs: dict[str, Tensor | None] = {"h0": problem.hx, **_packed(problem), **_masks(variant, directions)}
    for d, w in enumerate(weights):
        inputs |= {f"a_x_{d}": a_x[d], f"weight_hh_{d}": w.hh, f"bias_hh_{d}": w.bias_hh}
    outputs: dict[str, Tensor | None] = {"y": y, "h_n": h_n, "gates": gates, "error": error}
    outputs |= config.memory(hidden, sizes["B"], directions, gates=1)
    run(config.kernel("fwd"), numbers, inputs, outputs, schedule)
    return Forward(y, h_n, gates, error)


@dataclass
class Backward:
    """What a backward launch leaves."""

    dgates: list[Tensor]  # of each direction, (T, B, 4H) or (N, 4H): n, r, z, q
    dh0: Tensor  # (D, B, H)
    dbias: Tensor  # (D, tiles, 4, H) float32
    h_prev: list[Tensor]  # of each direction, (T, B, H) or (N, H)
    error: Tensor  # (1) int32


def persistent_bwd(
    config: Config,
    problem: Problem,
    forward: Forward,
    batch_first: bool = False,
    schedule: Schedule = SOME_SCHEDULE,
    variant: Variant = PLAIN,
) -> Backward:
    """Results of the backward kernel for what the forward left, which has the gates."""
    assert forward.gates is not None
    sizes = _sizes(problem)
    hidden, directions = sizes["H"], sizes["D"]
    weights = reference.split_weights(problem.weights, problem.bidirectional)
    dy, y, gates = problem.dy, forward.y, forward.gates
    if dy is not None and batch_first and dy.dim() == 3:
        dy = dy.transpose(0, 1).contiguous().transpose(0, 1)
    dgates = [_empty_like_rows(problem, 4 * hidden, batch_first) for _ in weights]
    h_prev = [_empty_like_rows(problem, hidden, batch_first) for _ in weights]
    dh0 = problem.x.new_full((directions, sizes["B"], hidden), torch.nan)
    tiles = -(-sizes["B"] // config.rows)
    dbias = torch.full((directions, tiles, 4, hidden), torch.nan)
    error = torch.zeros(1, dtype=torch.int32)
    tensors = [dy, problem.dh_n, y, problem.hx, gates, *dgates, *h_prev, dh0]
    rows = {"dy": y if dy is None else dy, "y": y, "dgates": dgates[0], "h_prev": h_prev[0]}
    numbers = _numbers(config, problem, tensors, rows)
    inputs: dict[str, Tensor | None] = {"dy": dy, "dh_n": problem.dh_n, "y": y, "h0": problem.hx, "gates": gates}
    inputs |= {f"weight_hh_{d}": w.hh for d, w in enumerate(weights)} | _packed(problem) | _masks(variant, directions)
    outputs: dict[str, Tensor | None] = {"dh0": dh0, "dbias": dbias, "error": error}
    outputs |= config.memory(hidden, sizes["B"], directions, gates=3)
    outputs |= {f"dgates_{d}": t for d, t in enumerate(dgates)} | {f"h_prev_{d}": t for d, t in enumerate(h_prev)}
    run(config.kernel("bwd"), numbers, inputs, outputs, schedule)
    return Backward(dgates, dh0, dbias, h_prev, error)


def run_way(config: Config, way: str, problem: Problem, schedule: Schedule) -> Forward | Backward:
    """By a schedule the forward kernel ("fwd"), or the backward one ("bwd") of what a forward without faults left."""
    if way == "fwd":
        return persistent_fwd(config, problem, schedule=schedule)
    forward = persistent_fwd(config, problem, schedule=Schedule(library=schedule.library))
    return persistent_bwd(config, problem, forward, schedule=schedule)


def solve_persistent(
    config: Config,
    problem: Problem,
    batch_first: bool = False,
    schedule: Schedule = SOME_SCHEDULE,
    variant: Variant = PLAIN,
) -> dict[str, Tensor]:
    """As ``cases.solve``, by the kernels; products over all steps are PyTorch's, summed in float32.

    Without a gradient of y or h_n by the forward kernel of inference alone.
    """
    has_backward = problem.dy is not None or problem.dh_n is not None
    forward = persistent_fwd(config, problem, has_backward, batch_first, schedule, variant)
    assert not forward.error.any()
    if not has_backward:
        return {"y": forward.y, "h_n": forward.h_n}
    backward = persistent_bwd(config, problem, forward, batch_first, schedule, variant)
    assert not backward.error.any()
    dtype, hidden = config.dtype, problem.weights[1].shape[1]
    dx = torch.zeros_like(problem.x, dtype=torch.float32)
    gradients: list[Tensor] = []
    x = problem.x.reshape(-1, problem.x.shape[-1]).float()
    for d, w in enumerate(reference.split_weights(problem.weights, problem.bidirectional)):
        n, r, z, q = backward.dgates[d].reshape(-1, 4, hidden).float().unbind(1)
        da_x, da_h = torch.cat([r, z, n], dim=1), torch.cat([r, z, q], dim=1)
        dx += (da_x @ w.ih.float()).view(dx.shape)
        gradients += [da_x.t() @ x, da_h.t() @ backward.h_prev[d].reshape(-1, hidden).float()]
        if w.bias_ih is not None:
            b_n, b_r, b_z, b_q = backward.dbias[d].sum(0)
            gradients += [torch.cat([b_r, b_z, b_n]), torch.cat([b_r, b_z, b_q])]
    results = {"y": forward.y, "h_n": forward.h_n, "dx": dx.to(dtype)}
    if problem.hx is not None:
        results["dhx"] = backward.dh0
    results |= {f"d{name}": g.to(dtype) for name, g in zip(problem.names, gradients, strict=True)}
    return results
