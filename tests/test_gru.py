"""functional.gru and the operators behind it: strides, edge cases, repeatability, threads, memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from accuracy import SMALL, by_gru_ext, check_problems
from cases import ALL_OPTIONS, FLOATING, Options, Size, framework, layer_with, make_problem, ours, solve, variants_of
from compare import assert_near, assert_same_bits
from process import fork_python, output_of, thread_count
from recorded import saved_by
from torch import Tensor

from gru_ext import functional
from gru_ext.variant import Variant

# ---- Strides


@pytest.mark.parametrize("strides", [(2**30 + 2, 40, 1), (40, 2**30 + 2, 1)], ids=["steps", "rows"])
def test_rows_that_lie_further_apart_than_32_bits_count(strides: tuple[int, ...]) -> None:
    """Of 8 GB that are reserved, the rows of the input and of the gradient alone are touched."""
    problem = make_problem(Size(3, 3, 20, 20), dtype=torch.float16)
    assert problem.dy is not None

    def apart(tensor: Tensor) -> Tensor:
        memory = torch.empty(2 * max(strides) + 4096, dtype=tensor.dtype)
        return memory.as_strided(tensor.shape, strides).copy_(tensor)

    check_problems([replace(problem, x=apart(problem.x), dy=apart(problem.dy))], by_gru_ext)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_expanded_input_and_gradients(dim: int) -> None:
    problem = make_problem(SMALL, Options(bidirectional=True), torch.float32)

    def expanded(tensor: Tensor) -> Tensor:
        return tensor.narrow(dim, 0, 1).expand(tensor.shape) if tensor.dim() == 3 else tensor

    check_problems([problem.map(expanded)], by_gru_ext)


def test_the_gradient_of_a_sum_which_has_stride_zero() -> None:
    problem = make_problem(SMALL, Options(), torch.float32)
    ones = torch.ones((), dtype=torch.float32)
    check_problems([replace(problem, dy=ones.expand(5, 3, 9), dh_n=ones.expand(1, 3, 9))], by_gru_ext)
    x = problem.x.clone().requires_grad_()
    ours(x, None, problem.weights, None, False)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


# ---- Edge cases


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("gates", ["reset after", "reset before", "layer_norm"])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True, bias=False)], ids=str)
def test_an_input_without_features_is_one_of_zeros(options: Options, gates: str, dtype: torch.dtype) -> None:
    norms = 2 if gates == "layer_norm" else 0
    one = make_problem(Size(5, 3, 1, 17), replace(options, gains=norms > 0), dtype)
    one = replace(one, x=torch.zeros_like(one.x))
    none = replace(one, x=one.x[..., :0], weights=[w[:, :0] if w.shape[-1] == 1 else w for w in one.weights])
    for variant in (Variant(), *variants_of(one).values()):
        layer = layer_with(variant._replace(reset_after=gates != "reset before", layer_norm=norms))
        expected = solve(layer, one)
        dirty = [torch.full_like(w, torch.nan) for w in expected.values()]
        del dirty  # whose memory the results may get
        for name, result in solve(layer, none).items():
            assert_same_bits(result, expected[name][..., : result.shape[-1]], name)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_row_touches_itself_only_from_its_step_on(value: float, packed: bool, dtype: torch.dtype) -> None:
    problem = make_problem(Size(6, 4, 3, 17), Options(packed=packed), dtype)
    step, row = 2, 1
    sizes = [4] * 6 if problem.batch_sizes is None else problem.batch_sizes.tolist()
    assert sizes[step] > row
    x = problem.x.clone()
    x.view(-1, 3)[sum(sizes[:step]) + row, 0] = value
    good = torch.split(solve(ours, problem)["y"].view(-1, 17), sizes)
    bad = torch.split(solve(ours, replace(problem, x=x))["y"].view(-1, 17), sizes)
    for t, (g, b) in enumerate(zip(good, bad, strict=True)):
        for i in range(sizes[t]):
            if i != row or t < step:
                assert_same_bits(b[i], g[i], f"y at step {t}, row {i}")
            elif math.isnan(value):
                assert b[i].isnan().all()
    # An infinite input saturates the gates and leaves a state; what it is, nn.GRU says.
    expected = framework(x, problem.hx, problem.weights, problem.batch_sizes, False)[0].view(-1, 17)
    assert torch.equal(torch.cat(bad).isnan(), expected.isnan())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("where", ["hx", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_nan_elsewhere_is_not_hidden(where: str, dtype: torch.dtype) -> None:
    problem = make_problem(Size(3, 2, 4, 5), Options(), dtype)
    # Of a weight: of the candidate's gate, one unit first, then all.
    problem.named[where][(0, 1, 2) if where == "hx" else 11] = torch.nan
    expected = framework(*problem.layer)[0]
    assert torch.equal(solve(ours, problem)["y"].isnan(), expected.isnan())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("magnitude", [1e4, torch.inf])
def test_huge_inputs_saturate_as_in_nn_gru(magnitude: float, dtype: torch.dtype) -> None:
    problem = make_problem(Size(4, 3, 1, 19), Options(bias=False), dtype)
    problem = replace(problem, x=torch.where(problem.x > 0, magnitude, -magnitude).to(dtype))
    results = ours(*problem.layer)
    assert all(result.isfinite().all() for result in results)
    assert_near(results, framework(*problem.layer), tolerance=4 * torch.finfo(dtype).eps)


# ---- Repeatability, threads, processes


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(
    ("size", "options"),
    [(Size(5, 4, 33, 65), Options(bidirectional=True)), (Size(40, 60, 16, 128), Options(packed=True))],
    ids=str,
)
def test_the_same_bits_from_run_to_run(size: Size, options: Options, dtype: torch.dtype) -> None:
    problem = make_problem(size, options, dtype)
    first = solve(ours, problem)
    for _ in range(3):
        assert_same_bits(solve(ours, problem), first)


@pytest.mark.parametrize("count", [1, 2])
def test_python_threads_at_once_give_the_bits_of_one_by_one(count: int) -> None:
    problems = [make_problem(Size(20, 24, 16, 64), ALL_OPTIONS[i], FLOATING[i % 4]) for i in range(8)]
    results: list[dict[str, Tensor]] = [{} for _ in problems]
    start = threading.Barrier(len(problems))

    def work(index: int) -> None:
        start.wait()
        for _ in range(5):
            results[index] = solve(ours, problems[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(problems))]
    with thread_count(count):
        expected = [solve(ours, problem) for problem in problems]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_same_bits(results, expected)


AFTER_FORK = """
import multiprocessing
import sys

import torch
from cases import Options, Size, make_problem, ours, solve
from accuracy import SMALL, by_gru_ext, check_problems
from compare import assert_near, assert_same_bits

torch.set_num_threads(int(sys.argv[1]))
problem = make_problem(Size(20, 40, 16, 64), Options(bidirectional=True), torch.float32)


def work(queue):
    if sys.argv[2]:
        torch.set_num_threads(int(sys.argv[2]))
    queue.put({name: tensor.numpy() for name, tensor in solve(ours, problem).items()})


expected = solve(ours, problem)
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=work, args=(queue,), daemon=True)
child.start()
results = queue.get(timeout=40)
assert results.keys() == expected.keys()
for name, array in results.items():
    if sys.argv[1] == "1":
        assert_same_bits(torch.from_numpy(array), expected[name], name)
    else:  # the directions' parts of dx may be added otherwise on another number of threads
        assert_near(torch.from_numpy(array), expected[name], name, tolerance=1e-5)
print("same")
"""


# OpenMP's threads do not survive a fork; a child that waited for them, as torch's own matrix products do unless it has
# set one thread, would wait forever.
@pytest.mark.parametrize(("threads", "threads_set_by_child"), [("1", ""), ("2", "1"), ("2", "")])
def test_a_forked_child_computes_the_same(threads: str, threads_set_by_child: str) -> None:
    result = fork_python("-c", AFTER_FORK, threads, threads_set_by_child, timeout=90)
    assert output_of(result) == "same\n"


# The parent has used torch's threads, but never ours.
FIRST_CALL_AFTER_FORK = """
import os
import signal

import torch

import gru_ext
from gru_ext.functional import gru

torch.set_num_threads(2)
inputs, hidden = 64, 256
rates = {"zoneout": 0.1, "recurrent_dropout": 0.1, "candidate_dropout": 0.1}
weights = [torch.randn(3 * hidden, inputs), torch.randn(3 * hidden, hidden)]
x, dy = torch.randn(50, 32, inputs), torch.randn(50, 32, hidden)
quantized = gru_ext.quantize_dynamic(gru_ext.GRU(inputs, hidden))
of_members = [torch.randn(3, *w.shape) for w in weights]
half = x.bfloat16(), None, [w.bfloat16() for w in weights]
transposed = x.mT.contiguous().mT, None, [w.t().contiguous().t() for w in weights]


def grads(**options):
    leaves = [w.detach().requires_grad_() for w in weights]
    return torch.autograd.grad(gru(x, None, leaves, **options)[0], leaves, dy)


cases = {
    "forward": lambda: gru(x, None, weights),
    "masks": lambda: gru(x, None, weights, training=True, **rates),
    "bfloat16": lambda: gru(*half),
    "transposed": lambda: gru(*transposed),
    "int8": lambda: quantized(x),
    "gradients": grads,
    "gradients of one output": lambda: grads(save="output", reset_after=False),
    "members": lambda: torch.func.vmap(lambda *w: gru(x, None, w)[0])(*of_members),
}
(torch.randn(1 << 20) + 1).sum()  # starts torch's threads
for name, case in cases.items():
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        case()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
print("done")
"""


def test_the_first_call_may_be_in_a_forked_child() -> None:
    assert output_of(fork_python("-c", FIRST_CALL_AFTER_FORK)) == "done\n"


# ---- Inputs and memory


@pytest.mark.parametrize("hx", [False, True])
def test_results_share_no_memory(hx: bool) -> None:
    problem = make_problem(Size(1, 3, 2, 4), Options(hx=hx), torch.float32)
    y, h_n = ours(problem.x, problem.hx, problem.weights, None, False)
    before = y.clone()
    h_n.zero_()
    assert_same_bits(y, before)
    if problem.hx is not None:
        assert problem.hx.any()


def test_nothing_is_saved_without_gradients() -> None:
    problem = make_problem(SMALL, Options(), torch.float32)

    def call(weights: Sequence[Tensor]) -> Tensor:
        return ours(problem.x, problem.hx, weights, None, False)[0]

    assert not saved_by(lambda: call(problem.weights))
    trainable = [weight.requires_grad_() for weight in problem.weights]
    with torch.no_grad():
        assert not saved_by(lambda: call(trainable))
    with torch.inference_mode():
        assert not saved_by(lambda: call(trainable))
    assert saved_by(lambda: call(trainable))


# ---- Several layers, and layouts, of functional.gru; modules are in test_modules.py


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_run_one_after_another(bidirectional: bool, dtype: torch.dtype) -> None:
    directions = 2 if bidirectional else 1
    options = Options(bidirectional=bidirectional)
    first = make_problem(Size(4, 3, 2, 5), options, dtype)
    second = make_problem(Size(4, 3, 5 * directions, 5), options, dtype)
    assert first.hx is not None
    assert second.hx is not None
    hx = torch.cat([first.hx, second.hx])
    weights = [*first.weights, *second.weights]
    results = functional.gru(first.x, hx, weights, num_layers=2, bidirectional=bidirectional)
    between, state = ours(*first.layer)
    y, last_state = ours(between, *second.layer[1:])
    assert_same_bits(results, (y, torch.cat([state, last_state])))


def test_batch_first_and_unbatched_are_other_layouts_of_the_same() -> None:
    p = make_problem(Size(4, 3, 2, 5), Options(), torch.float64)
    assert p.hx is not None
    y, h_n = functional.gru(p.x, p.hx, p.weights)
    assert_near(functional.gru(p.x.transpose(0, 1), p.hx, p.weights, batch_first=True), (y.transpose(0, 1), h_n))
    for batch_first in (False, True):
        unbatched = functional.gru(p.x[:, 1], p.hx[:, 1], p.weights, batch_first=batch_first)
        assert_near(unbatched, (y[:, 1], h_n[:, 1]))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_gru_cell_is_one_step(bias: bool, dtype: torch.dtype) -> None:
    p = make_problem(Size(1, 3, 2, 5), Options(bias=bias), dtype)
    assert p.hx is not None
    _, h_n = functional.gru(p.x, p.hx, p.weights)
    assert_same_bits(functional.gru_cell(p.x[0], p.hx[0], *p.weights), h_n[0])
    assert_near(functional.gru_cell(p.x[0, 1], p.hx[0, 1], *p.weights), h_n[0, 1], "h", 4 * torch.finfo(dtype).eps)
    from_zero = functional.gru_cell(p.x[0], torch.zeros_like(p.hx[0]), *p.weights)
    assert_same_bits(functional.gru_cell(p.x[0], None, *p.weights), from_zero)
