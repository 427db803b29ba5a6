"""Memory that is not there: an error, nothing lost, and the next call is right."""

from __future__ import annotations

import pytest
from failing_calls import build
from process import output_of, run_python


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return build(tmp_path_factory.mktemp("failing_calls"))


# Of so many units that packed weights and their gradients come from the pool of buffers.
MEMORY = """
import sys

import torch
from cases import Options, Size, make_problem
from compare import assert_same_bits
from failing_calls import until_none_fails

import gru_ext
from gru_ext.regularizers import bernoulli

torch.set_num_threads(1)
problem = make_problem(Size(4, 4, 8, 304), Options(hx=False), torch.float32)
plain = gru_ext.GRU(8, 304)
quantized = gru_ext.quantize_dynamic(torch.nn.GRU(8, 304))
x, lengths = torch.randn(4, 4, 8), torch.arange(4)
stacked = torch.randn(2, 912, 304)


# By the operators: an autograd node of torch's allocates while it is deleted, which ends the process there.
def forward_and_backward():
    arguments = (problem.x, problem.hx, problem.weights, None, False)
    y, h_n, gates = torch.ops.gru_ext.gru_fwd(*arguments, True)
    dx, dhx, dweights = torch.ops.gru_ext.gru_bwd(problem.dy, problem.dh_n, *arguments, y, gates, True, True, True)
    return {"y": y, "h_n": h_n, "dx": dx, "dhx": dhx, "dweight_hh": dweights[1]}


def members():
    weights = [w.detach() for w in plain.parameters()]
    call = lambda r: gru_ext.functional.gru(x, None, [weights[0], r, *weights[2:]])[0]
    return {"y": torch.vmap(call)(stacked)}


def masks():
    torch.manual_seed(1)
    return {"mask": bernoulli(0.5, (300, 500), torch.device("cpu"))}


CALLS = {
    "forward and backward": forward_and_backward,
    "lengths": lambda: dict(zip(("y", "h_n"), plain(x, lengths=lengths))),
    "int8": lambda: dict(zip(("y", "h_n"), quantized(x))),
    "members": members,
    "masks": masks,
}
torch.set_grad_enabled(False)
call = CALLS[sys.argv[1]]
expected = call()


def after(error):
    assert error is None or isinstance(error, (RuntimeError, MemoryError)), repr(error)
    for name, result in call().items():
        assert_same_bits(result, expected[name], name)


print(until_none_fails("memory", call, after))
"""


@pytest.mark.parametrize("call", ["forward and backward", "lengths", "int8", "members", "masks"])
def test_every_allocation_may_fail(call: str, preloaded: dict[str, str]) -> None:
    """The process lives, the error is one of torch's, and the next call has the bits of one before."""
    assert int(output_of(run_python("-c", MEMORY, call, environment=preloaded))) >= 1
