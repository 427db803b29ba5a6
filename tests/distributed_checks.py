"""What two processes of torchrun's find, each comparing its share of the work with the whole done alone, in float64.

``torchrun --nproc-per-node=2 tests/distributed_checks.py FILE`` writes to FILE.RANK, as JSON, each check's name and its
traceback, empty where it passed. A check that fails ends the others: the two processes may be out of step.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import Size
from compare import assert_near
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import gru_ext

STEPS = 3  # of the optimizer
SIZE = Size(steps=5, batch=4, input=3, hidden=5)  # 3H = 15 rows of weights do not divide by two processes

Check = Callable[[], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


class Model(nn.Module):
    """Two GRUs with a linear layer; the second GRU may be recomputed in the backward."""

    def __init__(self, reentrant: bool | None = None, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.encoder = gru_ext.GRU(SIZE.input, SIZE.hidden, num_layers=2, bidirectional=True, dtype=dtype)
        self.decoder = gru_ext.GRU(2 * SIZE.hidden, SIZE.hidden, dtype=dtype)
        self.head = nn.Linear(SIZE.hidden, 2, dtype=dtype)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        """Scores (T, B, 2) of x (T, B, I)."""
        y, h_n = self.encoder(x)
        if self.reentrant is None:
            y, _ = self.decoder(y, h_n[:1])
        else:
            y, _ = checkpoint(self.decoder, y, h_n[:1], use_reentrant=self.reentrant)
        scores: Tensor = self.head(y)
        return scores


def replicas(**options: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A model, the same for DistributedDataParallel, and that wrapped."""
    torch.manual_seed(0)
    alone = Model(options.pop("reentrant", None))
    ours = copy.deepcopy(alone)
    return alone, ours, DistributedDataParallel(ours, **options)


def share(x: Tensor) -> Tensor:
    """The columns of this process, of a batch (T, B, _)."""
    return x.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]


def whole(tensor: Tensor | None) -> Tensor:
    """A sharded tensor put together; a plain one as it is."""
    assert tensor is not None
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def assert_trains_alike(alone: nn.Module, ours: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
    """``call``, on a share of the batch, has the losses, gradients and parameters of ``alone`` on all, at each step."""
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.1) for model in (alone, ours)]
    for step in range(STEPS):
        x = torch.randn(SIZE[:3], dtype=torch.float64)  # the same in all processes
        expected = alone(x).square().mean()
        loss = call(share(x)).square().mean()
        for result in (expected, loss):
            result.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        assert_near(mean / dist.get_world_size(), expected, f"loss of step {step}")
        step_alike(alone, ours, optimizers, step)


def step_alike(alone: nn.Module, ours: nn.Module, optimizers: list[torch.optim.Adam], step: int) -> None:
    """Compare gradients, step both optimizers, compare parameters."""
    pairs = list(zip(alone.named_parameters(), ours.parameters(), strict=True))
    for (name, parameter), shared in pairs:
        assert_near(whole(shared.grad), parameter.grad, f"gradient of {name} in step {step}")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for (name, parameter), shared in pairs:
        assert_near(whole(shared), parameter, f"{name} after step {step}")


def assert_accumulates_alike(
    alone: nn.Module,
    ours: nn.Module,
    call: Callable[[Tensor], Tensor],
    no_sync: Callable[[], AbstractContextManager[None]],
) -> None:
    """Two backward passes of which the first is not synchronised, then a step."""
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.1) for model in (alone, ours)]
    for step in range(STEPS):
        first, last = torch.randn((2, *SIZE[:3]), dtype=torch.float64)
        for x in (first, last):
            alone(x).square().mean().backward()
        with no_sync():
            call(share(first)).square().mean().backward()
        call(share(last)).square().mean().backward()
        step_alike(alone, ours, optimizers, step)


# ---- DistributedDataParallel


@check
def replicated() -> None:
    """As it is."""
    assert_trains_alike(*replicas())


@check
def replicated_with_a_static_graph() -> None:
    """Whose order of gradients is learned in the first step."""
    assert_trains_alike(*replicas(static_graph=True))


@check
def replicated_with_gradients_as_views() -> None:
    """Gradients that live in the communication's buffers, in more than one of them."""
    assert_trains_alike(*replicas(gradient_as_bucket_view=True, bucket_cap_mb=0.001))


@check
def replicated_and_accumulated() -> None:
    """With no_sync."""
    alone, ours, replica = replicas()
    assert isinstance(replica, DistributedDataParallel)
    assert_accumulates_alike(alone, ours, replica, replica.no_sync)


@check
def replicated_with_recomputed_activations() -> None:
    """torch.utils.checkpoint, in both of its forms."""
    assert_trains_alike(*replicas(reentrant=False))
    assert_trains_alike(*replicas(reentrant=True, static_graph=True))


@check
def replicated_and_compiled() -> None:
    """torch.compile of the wrapped model."""
    alone, ours, replica = replicas()
    assert_trains_alike(alone, ours, torch.compile(replica, backend="aot_eager"))


@check
def replicated_with_a_state_as_the_only_result() -> None:
    """The loss sees h_n alone, and packed sequences of other lengths in each process."""
    torch.manual_seed(0)
    alone = gru_ext.GRU(SIZE.input, SIZE.hidden, bidirectional=True, dtype=torch.float64)
    replica = DistributedDataParallel(copy.deepcopy(alone))
    x, lengths = torch.randn(SIZE[:3], dtype=torch.float64), torch.tensor([5, 1, 3, 4])

    def loss(model: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
        _, h_n = model(pack_padded_sequence(x, lengths, enforce_sorted=False))
        mean: Tensor = h_n.square().mean()
        return mean

    loss(alone, x, lengths).backward()
    loss(replica, share(x), share(lengths.unsqueeze(0)).squeeze(0)).backward()
    for (name, parameter), shared in zip(alone.named_parameters(), replica.parameters(), strict=True):
        assert_near(shared.grad, parameter.grad, f"gradient of {name}")


# ---- FSDP2


def sharded(reentrant: bool | None = None) -> tuple[Model, Model]:
    """A model, and the same with its parameters sharded over the processes, GRU by GRU."""
    torch.manual_seed(0)
    alone = Model(reentrant)
    ours = copy.deepcopy(alone)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (ours.encoder, ours.decoder, ours):
        fully_shard(module, mesh=mesh)
    return alone, ours


@check
def sharded_parameters() -> None:
    """Each process holds a part of each parameter between the steps; a full state_dict is that of the model alone."""
    alone, ours = sharded()
    weight = ours.get_parameter("decoder.weight_hh_l0")
    assert isinstance(weight, DTensor)
    assert weight.to_local().shape[0] in (7, 8), weight
    assert_trains_alike(alone, ours, ours)
    state = get_model_state_dict(ours, options=StateDictOptions(full_state_dict=True))
    if dist.get_rank() == 0:
        fresh = Model()
        fresh.load_state_dict(state)
        x = torch.randn(SIZE[:3], dtype=torch.float64)
        assert_near(fresh(x), alone(x), "scores of the state_dict")


@check
def sharded_and_accumulated() -> None:
    """With set_requires_gradient_sync."""
    alone, ours = sharded()

    @contextmanager
    def no_sync() -> Iterator[None]:
        assert isinstance(ours, FSDPModule)
        ours.set_requires_gradient_sync(False)
        yield
        ours.set_requires_gradient_sync(True)

    assert_accumulates_alike(alone, ours, ours, no_sync)


@check
def sharded_in_bfloat16() -> None:
    """Parameters kept and gradients summed in float32, computed with in bfloat16."""
    torch.manual_seed(0)
    ours = Model(dtype=torch.float32)
    halves = [copy.deepcopy(ours).bfloat16() for _ in range(dist.get_world_size())]
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(ours, mesh=init_device_mesh("cpu", (len(halves),)), mp_policy=policy)
    x = torch.randn(SIZE[:3])
    for half, part in zip(halves, x.chunk(len(halves), dim=1), strict=True):
        half(part.bfloat16()).square().mean().backward()
    ours(share(x)).square().mean().backward()
    for name, parameter in ours.named_parameters():
        gradients = [half.get_parameter(name).grad for half in halves]
        expected = torch.stack([gradient.float() for gradient in gradients if gradient is not None]).mean(0)
        assert_near(whole(parameter.grad), expected, f"gradient of {name}", 1e-6)


@check
def sharded_with_recomputed_activations() -> None:
    """torch.utils.checkpoint, in both of its forms."""
    for reentrant in (False, True):
        alone, ours = sharded(reentrant)
        assert_trains_alike(alone, ours, ours)


def main() -> None:
    """Run every check."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    outcomes: dict[str, str] = {}
    for name, function in CHECKS.items():
        try:
            torch.manual_seed(0)
            function()
            outcomes[name] = ""
        except Exception:
            outcomes[name] = traceback.format_exc()
            break
    Path(f"{sys.argv[1]}.{dist.get_rank()}").write_text(json.dumps(outcomes))
    dist.destroy_process_group()
    os._exit(0)  # FSDP2 keeps the group, whose threads may abort an interpreter that ends under them


if __name__ == "__main__":
    main()
