"""What a call does besides its results: the operators of ours that it calls, what autograd keeps of it, its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """Remembers the calls of our operators within it, each with its arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.arguments: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "gru_ext":
            self.names.append(func.overloadpacket.__name__)
            self.arguments.append(args)
        return func(*args, **(kwargs or {}))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of the calls of one of them."""
        return [given for called, given in zip(self.names, self.arguments, strict=True) if called == name]


def saved_by(call: Callable[[], object]) -> list[Tensor]:
    """Every tensor that autograd keeps for the backward of a call."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return saved


def peak_of(call: Callable[[], object]) -> float:
    """How much more memory than before a call has in use at a time, in MiB; in a process of its own."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = _mebibytes("VmRSS")
    call()
    return _mebibytes("VmHWM") - before


def _mebibytes(name: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024
