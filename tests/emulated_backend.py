"""The CUDA backend on CPU tensors: its host side as it is, its kernels in the emulator. Built on first use."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from accuracy import TF32_PEERS, check_problems
from building import load_operators, united
from cases import Problem, Size, solve_by
from emulated_sources import HOST_SIDE, INCLUDES, MACROS, OWN
from process import ROOT
from torch import Tensor

from gru_ext.variant import PLAIN, Variant

SMALL = Size(4, 3, 2, 34)  # a layer that every family serves


@cache
def emulated_operators() -> Any:
    """``gru_fwd`` and ``gru_bwd``, as in ``torch.ops.gru_ext``; see emulator/backend/operators.cpp.

    Those of ``$GRU_EXT_EMULATED_LIBRARY`` where that is set, else built here.
    """
    if library := os.environ.get("GRU_EXT_EMULATED_LIBRARY"):
        torch.ops.load_library(library)
        return torch.ops.gru_ext_emulated
    directory = ROOT / "build" / f"emulated_cuda_{torch.__version__}"
    with_torch = [path for path in OWN if path.stem == "operators"]
    load_operators(
        "gru_ext_emulated",
        directory,
        [
            *(path for path in OWN if path not in with_torch),
            united(directory / "host_side.cpp", HOST_SIDE + with_torch, ROOT),
        ],
        extra_include_paths=[str(path) for path in (ROOT, *INCLUDES)],
        extra_cflags=["-O1", *(f"-D{name}='{value}'" for name, value in MACROS.items())],
    )
    return torch.ops.gru_ext_emulated


def emulate(
    multiprocessors: int = 40,
    asked: tuple[str, str] | None = None,
    *,
    refusals: int = 0,
    spoiled: int = 0,
    capturing: bool = False,
    tested: bool = False,
) -> Any:
    """A new device; see tests/emulator/backend/device.h. Returns the operators.

    Forward and backward, the kernels that are asked for stay what they are unless ``asked`` names others.
    """
    ops = emulated_operators()
    ops.emulate(multiprocessors, refusals, spoiled, capturing, tested)
    ops.lose_store(-1)
    if asked is not None:
        ops.use_cuda_kernels(*asked)
    return ops


def emulate_tested(family: str, multiprocessors: int = 40) -> Any:
    """A new device whose kernels count as tested; ``family``, or a name, is asked for. Returns the operators."""
    return emulate(multiprocessors, (family, family), tested=True)


def choice(
    dtype: torch.dtype = torch.bfloat16,
    size: Size = SMALL,
    packed: bool = False,
    saves_gates: bool = True,
    masked: bool = False,
    members: int = 1,
) -> tuple[str, str]:
    """Name and reason of the forward's kernel."""
    name, reason = emulated_operators().cuda_kernel(
        dtype, size.steps, size.batch, size.hidden, False, packed, saves_gates, False, masked, members
    )
    return name, reason


def solve_emulated(
    problem: Problem,
    variant: Variant = PLAIN,
    save_gates: bool = True,
    need: tuple[bool, bool, bool] = (True, True, True),
) -> dict[str, Tensor]:
    """``solve_by`` these operators."""
    return solve_by(emulated_operators(), problem, variant, save_gates, need)


def check_emulated(problem: Problem, save_gates: bool = True) -> None:
    """Accuracy of whatever kernels serve; TF32 is allowed."""
    check_problems([problem], solve_emulated, save_gates=save_gates, peer=TF32_PEERS.get(problem.x.dtype))
