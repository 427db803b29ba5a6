"""Memory of the CPU kernels: what they keep, and what happens where there is none."""

from __future__ import annotations

import torch
from failing_calls import preloaded
from process import fork_python, output_of

import gru_ext

EVERY_ALLOCATION = """
from functools import partial

import torch
from cases import Options, Size, make_problem, solve_by
from compare import assert_same_bits
from failing_calls import until_none_fails
from member_cases import solve_members_by, stacked

import gru_ext

torch.set_num_threads(1)  # OpenMP's own runtime ends the process where it finds no memory
ops = torch.ops.gru_ext
small, halves = (make_problem(Size(2, 4096, 16, 16), Options(), dtype) for dtype in (torch.float32, torch.bfloat16))


def attempts(call, pool_is_empty):
    # Fails each allocation of a call in turn. Returns how many calls failed.
    failures = []

    def after(error):
        assert error is None or isinstance(error, (RuntimeError, MemoryError)), repr(error)
        failures.extend([] if error is None else [str(error)])
        if pool_is_empty:
            gru_ext.empty_cache()

    call()
    after(None)
    until_none_fails("allocation", call, after)
    return len(failures)


for name, call, pool_is_empty in (  # gates have 2 MiB
    ("a full pool", partial(solve_by, ops, small), False),
    ("an empty pool", partial(solve_by, ops, small), True),
    ("bfloat16, gates computed again", partial(solve_by, ops, halves, save_gates=False), False),
    ("members", partial(solve_members_by, ops, stacked([small])), False),
):
    expected = call()
    failed = attempts(call, pool_is_empty)
    assert failed > 10, f"{name}: {failed}"
    assert_same_bits(call(), expected, name)
seed = torch.tensor(5)
expected = ops.bernoulli(seed, (1000, 3000), 0.5)
attempts(lambda: ops.bernoulli(seed, (1000, 3000), 0.5), False)
assert torch.equal(ops.bernoulli(seed, (1000, 3000), 0.5), expected)
print("alive")
"""


def test_a_call_of_which_any_allocation_fails_raises_and_the_next_is_right() -> None:
    assert output_of(fork_python("-c", EVERY_ALLOCATION, environment=preloaded())) == "alive\n"


# A call that needs what the pool keeps: buffers of other sizes than its own, too large to lie in the heap.
LITTLE_MEMORY = """
import resource

import torch

import gru_ext

torch.set_num_threads(1)
weights = [torch.randn(48, size) for size in (1, 16)]


def last_state(rows):
    torch.manual_seed(0)
    x = torch.randn(1, 1, 1).expand(1, rows, 1)
    return torch.ops.gru_ext.gru_fwd(x, None, weights, None, False, True)[1][0, -1]


expected = last_state(1)
for rows in (160_000, 190_000, 220_000):
    last_state(rows)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (100 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
torch.testing.assert_close(last_state(400_000), expected)
assert gru_ext.empty_cache() < 400 << 20  # of the last call alone
print("done")
"""


def test_a_call_without_memory_takes_back_what_is_kept() -> None:
    assert output_of(fork_python("-c", LITTLE_MEMORY)) == "done\n"


def test_empty_cache_gives_back_what_is_kept() -> None:
    gru_ext.empty_cache()
    assert gru_ext.empty_cache() == 0
    module = gru_ext.GRU(4, 64)
    with torch.no_grad():
        for steps in (60, 100, 100):  # a kept buffer serves a call of its own size, and no other
            module(torch.zeros(steps, 100, 4))
    of_outputs = (60 + 100) * 100 * 64 * 4
    assert of_outputs <= gru_ext.empty_cache() < 1.2 * of_outputs
    assert gru_ext.empty_cache() == 0


def test_what_is_kept_has_a_limit() -> None:
    """The oldest buffers go first: of 672 MB of outputs, each of another size, at most 512 MB are kept."""
    gru_ext.empty_cache()
    module = gru_ext.GRU(1, 64)
    with torch.no_grad():
        for steps in range(2400, 4500, 300):
            module(torch.zeros(1, 1, 1).expand(steps, 110, 1))
    assert 400 << 20 < gru_ext.empty_cache() <= 512 << 20
