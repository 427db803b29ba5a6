"""What a training program needs of ``torch.distributed`` where ``torchrun`` starts it several times, and without it.

Each process computes on its share of every batch. ``DistributedDataParallel`` averages the gradients, so that all hold
the same parameters; the first process, of rank 0, does what is done once: printing, plotting, saving.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# Before any group is made: the default arguments in it would keep a group that existed (torch 2.13).
import torch.distributed.nn
from torch import Tensor, nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel


class ProcessLostError(Exception):
    """Another process died or does not answer; the message is one sentence."""


@dataclass(frozen=True)
class Processes:
    """The processes that train one model, seen from one of them; by default, there is no other."""

    rank: int = 0
    count: int = 1
    restarted: bool = False  # by torchrun, after one of them had died

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and saves."""
        return self.rank == 0

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over the processes."""
        return DistributedDataParallel(model) if self.count > 1 else model

    def share(self, tensor: Tensor) -> Tensor:
        """The part of this process of a tensor (_, B): B / count columns; B is a multiple of the count."""
        return tensor.chunk(self.count, dim=1)[self.rank]

    def gather(self, tensor: Tensor) -> Tensor:
        """The parts (_, B / count, ...) of all processes, (_, B, ...): the reverse of ``share``."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim=1)

    def mean(self, value: Tensor) -> float:
        """The mean of the values, (), of all processes."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value.item() / self.count

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag), device=device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)


ALONE = Processes()


@contextmanager
def join_processes(device: str, timeout: float) -> Iterator[Processes]:
    """Meet the other processes that torchrun, or another launcher that sets RANK and WORLD_SIZE, started; or be alone.

    Args:
        device: cpu, where gloo connects them, or cuda, where NCCL does.
        timeout: seconds after which a process that does not answer counts as lost.

    Raises:
        ProcessLostError: one is lost.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield ALONE
        return
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    limit, lost = timedelta(seconds=timeout), False
    try:
        # torchrun may keep its store when it restarts the processes: under a prefix, the addresses of the dead are not
        # found in it.
        store, _, _ = next(rendezvous("env://", timeout=limit))
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo",
            store=PrefixStore(f"restart {restarts}", store),
            rank=rank,
            world_size=count,
            timeout=limit,
        )
        yield Processes(rank, count, restarts > 0)
    except RuntimeError as error:
        # gloo's errors have no type of their own
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if not lost:
            raise
        raise ProcessLostError(
            f"process {rank} of {count} stops: another one died or did not answer for {timeout:g} s"
            f" ({str(error).splitlines()[0]})"
        ) from error
    finally:
        # A group that lost a process is left alone: its threads may still wait.
        if not lost and dist.is_initialized():
            # The threads of gloo end with the last reference to the group, and a model that DDP replicated is in a
            # cycle of them. A thread that is still releasing a tensor when the interpreter ends aborts the process.
            gc.collect()
            dist.destroy_process_group()
