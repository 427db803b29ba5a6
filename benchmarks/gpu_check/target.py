"""What is checked: the operators on a GPU; or, in a rehearsal, the same host side and kernels in the emulator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from benchmarks.gpu_check.stages import AbsentError
from benchmarks.measure import Clock, clock_for
from benchmarks.suites import Size
from benchmarks.switches import allow_tf32
from gru_ext import library

# By the names of the tables; tf32 is float32 with TF32 allowed.
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
MOST_EMULATED_H = 62  # that every family of emulated kernels serves
# What choice.cpp says of a kernel that has no room on the device; any other reason is a defect.
_NO_ROOM = re.compile(r"fits on this device|than this device has")


def has_no_room(error: RuntimeError) -> bool:
    """Whether a kernel that was asked for by name cannot serve only because the device is too small for it."""
    return _NO_ROOM.search(str(error)) is not None


@dataclass(frozen=True)
class Target:
    """A device, and the operators that compute on it."""

    device: torch.device
    ops: Any  # gru_fwd, gru_bwd, cuda_kernel, cuda_kernel_names, use_cuda_kernels, as in torch.ops.gru_ext
    rehearses: bool

    @property
    def clock(self) -> Clock:
        """Seconds of a call."""
        return clock_for(self.device, threads=1)

    @contextmanager
    def use(self, forward: str, backward: str = "auto") -> Iterator[None]:
        """As ``gru_ext.use_cuda_kernels``, of these operators.

        Raises:
            AbsentError: the device has no room for it.
        """
        before = self.ops.use_cuda_kernels(forward, backward)
        try:
            yield
        except RuntimeError as error:
            if has_no_room(error):
                raise AbsentError(str(error).partition("\n")[0]) from error
            raise
        finally:
            self.ops.use_cuda_kernels(*before)

    def names(self, dtype: str, backward: bool) -> list[str]:
        """The cluster, group and streamed kernels of a dtype; IEEE kernels are those of fp32, the others of tf32."""
        found: list[str] = self.ops.cuda_kernel_names(DTYPES[dtype], backward)
        return [name for name in found if DTYPES[dtype] != torch.float32 or name.endswith("_ieee") == (dtype == "fp32")]

    def hidden(self, hidden: int) -> int:
        """H itself, or one that the emulator has room for."""
        return min(hidden, MOST_EMULATED_H) if self.rehearses else hidden

    def chosen(self, size: Size, dtype: str, members: int = 1) -> str:
        """What would serve a layer, or members of one call, forward and backward."""
        layer = (DTYPES[dtype], size.T, size.B, size.H, False, False, True)
        return ", ".join(self.ops.cuda_kernel(*layer, backward, False, members)[0] for backward in (False, True))

    def randn(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Normal numbers on the device."""
        return torch.randn(*shape, device=self.device, dtype=dtype)


@cache
def target(rehearses: bool) -> Target:
    """The GPU of this machine; or the emulated device, of the size of an H200.

    Raises:
        RuntimeError: there is no GPU, or there are no kernels for it in this build.
    """
    torch.manual_seed(0)
    if rehearses:
        from benchmarks.gpu_check.emulated import operators

        torch.set_num_threads(1)
        return Target(torch.device("cpu"), operators(), rehearses)
    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} sees no GPU on this machine; run it on one that has a GPU")
    if not library.has_cuda_kernels:
        raise RuntimeError(f"this build of gru_ext has no CUDA kernels ({library.cuda_build})")
    return Target(torch.device("cuda", 0), torch.ops.gru_ext, rehearses)


def switch_tf32(dtype: str) -> None:
    """Set torch's switches as a dtype of the tables asks for."""
    allow_tf32(dtype == "tf32")


def peer_of(dtype: str) -> torch.dtype:
    """In which plain arithmetic rounds as much as in this one: TF32 has the 10 bits of float16.

    Not float32 with TF32 allowed: cuDNN and cuBLAS use it only for some sizes, and would then judge it by IEEE float32.
    """
    return torch.float16 if dtype == "tf32" else DTYPES[dtype]


def numbers_of(kernel: str) -> list[int]:
    """Of a kernel's name: the largest H, or the units of a block; ...; the rows of a tile."""
    return [int(digits) for digits in re.findall(r"\d+", kernel)]


def in_turns(names: list[tuple[str, bool, str]]) -> list[tuple[str, bool, str]]:
    """(dtype, backward, kernel): the first of each family, dtype and pass, then the second of each, and so on."""
    seen: dict[tuple[str, bool, str], int] = {}
    turns = []
    for dtype, backward, kernel in names:
        kind = (dtype, backward, kernel.split("_")[0])
        turns.append(seen.setdefault(kind, 0))
        seen[kind] += 1
    return [names[i] for i in sorted(range(len(names)), key=turns.__getitem__)]
