"""The whole CUDA backend as it is compiled, on the CPU: host side, launchers, and kernels in the interpreter.

CUDA's runtime is a stand-in that refuses what a driver refuses, and that fails the call that a test names. What only a
GPU can show is in docs/gpu-checklist.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cases
import pytest
import torch
from cases import Options, Problem, Size, exact, framework, make_problem
from compare import assert_all_accurate, assert_same_bits
from compiled_backend import compiled_operators
from compiled_kernels import missing
from torch import Tensor

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "none")

MULTIPROCESSORS = 132
SMALL = Size(3, 2, 4, 6)
CLUSTER = "cluster_H64_C1_rows8"


@pytest.fixture
def ops() -> Iterator[Any]:
    """The operators, with a device that nothing is known of, and the choice of kernels left to them."""
    operators = compiled_operators()
    operators.new_device(MULTIPROCESSORS)
    operators.use_cuda_kernels("auto", "auto")
    yield operators
    operators.use_cuda_kernels("auto", "auto")
    operators.fail_call(0)
    operators.capture(False)
    assert operators.errors_left() == 0, "a call has left an error behind for the next one to find"
    assert not operators.capture_was_invalidated()


def solve(ops: Any, p: Problem, **variant: Any) -> dict[str, Tensor]:
    """Results and gradients, by the names of ``cases.solve``."""
    arguments = (p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    y, h_n, gates = ops.gru_fwd(*arguments, True, **variant)
    dx, dhx, dweights = ops.gru_bwd(p.dy, p.dh_n, *arguments, y, gates, True, True, True, **variant)
    results = {"y": y, "h_n": h_n, "dx": dx, **({"dhx": dhx} if p.hx is not None else {})}
    return results | dict(zip([f"d{name}" for name in p.names], dweights, strict=True))


def check_accuracy(ops: Any, problem: Problem, tf32: bool = False) -> None:
    """Within the policy; TF32 has the 10 bits of float16, and is judged by nn.GRU in that."""
    peer = problem.to(torch.float16) if tf32 else problem
    theirs = {name: result.to(problem.x.dtype) for name, result in cases.solve(framework, peer).items()}
    assert_all_accurate(solve(ops, problem), theirs, cases.solve(exact, problem.to(torch.float64)))


@pytest.mark.parametrize(
    ("kernel", "dtype", "options"),
    [
        ("stepwise", torch.bfloat16, Options(bidirectional=True)),
        ("stepwise", torch.float16, Options()),
        ("stepwise", torch.float32, Options(packed=True)),
        ("stepwise", torch.float64, Options()),
        (CLUSTER, torch.bfloat16, Options(bidirectional=True, packed=True)),
        (CLUSTER, torch.float32, Options()),
        ("cluster_H256_C4_rows8", torch.bfloat16, Options()),
        ("group_H512_C8_rows8", torch.bfloat16, Options()),
        ("streamed_U32_rows8", torch.bfloat16, Options()),
    ],
    ids=str,
)
def test_accuracy_of_every_family(ops: Any, kernel: str, dtype: torch.dtype, options: Options) -> None:
    """The first call tests the kernel against the stepwise ones, then it serves."""
    ops.use_cuda_kernels(kernel, kernel)
    check_accuracy(ops, make_problem(SMALL, options, dtype), tf32=kernel != "stepwise" and dtype == torch.float32)


def test_one_step(ops: Any) -> None:
    p = make_problem(Size(1, 2, 4, 6), Options(), torch.bfloat16)
    ops.use_cuda_kernels("auto", "stepwise")
    check_accuracy(ops, p)
    assert "one_step" not in ops.last_kernel()  # the backward pass was last
    ops.gru_fwd(p.x, p.hx, p.weights, None, False, True)
    assert "gru_one_step_fwd_kernel" in ops.last_kernel()


def test_the_device_chooses_and_is_tested_once(ops: Any) -> None:
    problem = make_problem(SMALL, Options(), torch.bfloat16)
    assert ops.cuda_kernel(torch.bfloat16, 3, 2, 6, False, False, True, False)[0] == CLUSTER
    solve(ops, problem)
    launches = ops.launches()
    solve(ops, problem)
    assert ops.launches() == launches + 2


def test_every_runtime_call_may_fail(ops: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a first call, each in turn: right results by other kernels, or a clear error; and the next call is right."""
    problem = make_problem(SMALL, Options(), torch.bfloat16)
    ops.fail_call(0)
    right = solve(ops, problem)
    calls = ops.calls()
    assert calls > 10
    for number in range(1, calls + 1):
        ops.new_device(MULTIPROCESSORS)
        ops.fail_call(number)
        try:
            results = solve(ops, problem)
        except RuntimeError as error:
            assert re.search(r"gru", str(error)), (number, error)  # noqa: PT017
        else:
            assert_close(results, right, number)
        assert ops.errors_left() == 0, f"call {number} has left its error behind"
        ops.fail_call(0)
        assert_close(solve(ops, problem), right, number)
    said = capfd.readouterr().err
    assert "could not be launched: unknown error" in said


def assert_close(results: dict[str, Tensor], right: dict[str, Tensor], number: int) -> None:
    for name, result in results.items():
        scale = right[name].abs().max().item()
        difference = (result - right[name]).abs().max().item()
        assert difference <= 0.05 * scale, f"call {number} failed: {name} differs by {difference}"


def test_a_capture_is_not_disturbed(ops: Any) -> None:
    """During a first call, and of a kernel that was tested before."""
    problem = make_problem(SMALL, Options(), torch.bfloat16)
    ops.capture(True)
    solve(ops, problem)
    ops.capture(False)
    solve(ops, problem)
    ops.capture(True)
    solve(ops, problem)


def test_autotune_measures_with_events(ops: Any) -> None:
    problem = make_problem(SMALL, Options(), torch.bfloat16)
    ops.autotune(True, "")
    try:
        check_accuracy(ops, problem)
        assert "measured" in ops.cuda_kernel(torch.bfloat16, 3, 2, 6, False, False, True, False)[1]
    finally:
        ops.autotune(False, "")


def test_a_wait_that_takes_too_long_is_an_error_at_the_next_call(ops: Any) -> None:
    name = "cluster_H256_C4_rows8"
    ops.use_cuda_kernels(name, name)
    p = make_problem(SMALL, Options(), torch.bfloat16)
    solve(ops, p)
    ops.lose_store(0)
    ops.gru_fwd(p.x, p.hx, p.weights, None, False, True)
    ops.lose_store(-1)
    ops.use_cuda_kernels("auto", "auto")
    with pytest.raises(RuntimeError, match="waited more than 4 seconds"):
        ops.gru_fwd(p.x, p.hx, p.weights, None, False, True)
    check_accuracy(ops, p)


def test_too_little_shared_memory_rules_kernels_out(ops: Any) -> None:
    ops.limit_shared_memory(8 * 1024)
    check_accuracy(ops, make_problem(SMALL, Options(), torch.bfloat16))
    assert "gru_step" in ops.last_kernel()


def test_members_of_an_ensemble(ops: Any) -> None:
    """Weights of their own: each member has the bits that it has alone."""
    ops.use_cuda_kernels("stepwise", "stepwise")
    problems = [make_problem(SMALL, Options(), torch.float32) for _ in range(2)]
    stacked = [torch.stack(tensors) for tensors in zip(*(p.weights for p in problems), strict=True)]
    x, hx, dy, dh_n = (torch.stack([getattr(p, name) for p in problems]) for name in ("x", "hx", "dy", "dh_n"))
    arguments = (x, hx, stacked, None, False)
    y, h_n, gates = ops.gru_fwd_members(*arguments, True)
    dx, dhx, dweights = ops.gru_bwd_members(dy, dh_n, *arguments, y, gates, True, True, True)
    for e, problem in enumerate(problems):
        alone = solve(ops, problem)
        members = {"y": y[e], "h_n": h_n[e], "dx": dx[e], "dhx": dhx[e]}
        members |= dict(zip([f"d{name}" for name in problem.names], (d[e] for d in dweights), strict=True))
        for name, result in members.items():
            assert_same_bits(result, alone[name])
