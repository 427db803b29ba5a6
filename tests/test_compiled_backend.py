"""The whole CUDA backend as it is compiled, on the CPU: host side, launchers, and kernels in the interpreter.

CUDA's runtime is a stand-in that refuses what a driver refuses, and that fails the call that a test names. What only a
GPU can show is in docs/gpu-checklist.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accuracy import check_problems, forbid_tf32
from cases import Options, Problem, Size, make_problem, solve_by
from compare import assert_near, assert_same_bits
from compiled_backend import MULTIPROCESSORS, new_device
from compiled_kernels import missing
from member_cases import assert_members_alone, of_member, problems_of, solve_members_by, stacked
from simulated_streams import SimulatedStreams
from torch import Tensor

from gru_ext.overlap import lend_weights, run_wavefront
from gru_ext.variant import PLAIN, Variant

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "none")


@pytest.fixture
def ops() -> Iterator[Any]:
    """The operators, on a new device."""
    with new_device() as operators:
        yield operators


SMALL = Size(3, 2, 4, 6)
LONG = Size(20, 3, 4, 34)  # so long that without gates it is computed in windows
CLUSTER = "cluster_H64_C1_rows8"
MEASUREMENTS = 6  # of a kernel by autotune


@pytest.fixture
def problem(ops: Any) -> Problem:
    """A layer that every family serves, in memory that the operators' library knows: it is there before."""
    return make_problem(SMALL, Options(), torch.bfloat16)


@pytest.mark.parametrize("packed", [False, True])
def test_accuracy_of_windows(ops: Any, packed: bool) -> None:
    """Of a long sequence whose gates are not saved: in windows of steps, of which the backward has more."""
    ops.use_cuda_kernels(CLUSTER, CLUSTER)
    problem = make_problem(LONG, Options(packed=packed), torch.bfloat16)
    check_problems([problem], partial(solve_by, ops), save_gates=False)
    launches = ops.launches()
    ops.gru_fwd(*problem.layer, False)
    assert ops.launches() - launches == 2


@pytest.mark.parametrize("kernel", [CLUSTER, "streamed_U32_rows8"])
def test_members_are_one_launch_with_the_bits_of_their_own(ops: Any, kernel: str) -> None:
    ops.use_cuda_kernels(kernel, kernel)
    problems = problems_of(SMALL, Options(bidirectional=True), torch.bfloat16, members=2)
    whole = stacked(problems)
    solve_members_by(ops, whole)  # the self-test
    launches = ops.launches()
    results = solve_members_by(ops, whole)
    assert ops.launches() - launches == 2
    assert_members_alone(results, problems, ops)


def test_members_that_share_an_input_and_lie_anywhere(ops: Any) -> None:
    """The gradient of the output lies at no whole number of steps from member to member, and all read the same x."""
    ops.use_cuda_kernels(CLUSTER, CLUSTER)
    problems = problems_of(SMALL, Options(), torch.bfloat16, members=2, shared=True)
    whole = stacked(problems)
    weights = [weight[:1].expand_as(weight) for weight in whole.weights]
    problems = [replace(problem, weights=problems[0].weights) for problem in problems]
    assert whole.dy is not None
    apart = whole.dy[0].numel() + 1
    dy = whole.dy.new_zeros(2 * apart).as_strided(whole.dy.shape, (apart, *whole.dy.stride()[1:]))
    whole = replace(whole, weights=weights, dy=dy.copy_(whole.dy))
    assert_members_alone(solve_members_by(ops, whole), problems, ops)


def test_members_whose_gates_are_computed_again(ops: Any) -> None:
    ops.use_cuda_kernels(CLUSTER, CLUSTER)
    problems = problems_of(SMALL, Options(bidirectional=True), torch.float32, members=2)
    results = solve_members_by(ops, stacked(problems), save_gates=False)
    for e, problem in enumerate(problems):
        assert_near(of_member(e, results), solve_by(ops, problem, PLAIN, False), f"member {e}")


def test_layers_that_overlap(ops: Any) -> None:
    """Chunks of a layer are calls of their own, of other sizes at the end: results and gradients of whole layers."""

    class Layer(torch.autograd.Function):
        """A layer by the compiled backend."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
            y, h_n, gates = ops.gru_fwd(x, hx, weights, None, False, True)
            ctx.save_for_backward(x, hx, y, gates, *weights)
            return y, h_n

        @staticmethod
        def backward(ctx: Any, dy: Tensor, dh_n: Tensor) -> tuple[Tensor, ...]:
            x, hx, y, gates, *weights = ctx.saved_tensors
            dx, dhx, dweights = ops.gru_bwd(dy, dh_n, x, hx, weights, None, False, y, gates, True, True, True)
            return dx, dhx, *dweights

    run: Any = Layer.apply
    problems = [make_problem(Size(7, 2, 6, 6), Options(), torch.float64) for _ in range(2)]
    weights = [weight.requires_grad_() for p in problems for weight in p.weights]
    x = problems[0].x.requires_grad_()
    hx = torch.cat([p.hx for p in problems if p.hx is not None]).requires_grad_()

    def gradients(y: Tensor, h_n: Tensor, of: Sequence[Tensor]) -> dict[str, Tensor]:
        found = torch.autograd.grad(y.sin().sum() + h_n.cos().sum(), list(of))
        return {"y": y.detach(), "h_n": h_n.detach()} | {str(i): gradient for i, gradient in enumerate(found)}

    ops.use_cuda_kernels("stepwise", "stepwise")
    inputs = [x, hx, *weights]
    below, first = run(x, hx[:1], *weights[:4])
    y, second = run(below, hx[1:], *weights[4:])
    expected = gradients(y, torch.cat([first, second]), inputs)
    streams = SimulatedStreams(2)
    with streams.checked():
        lent = lend_weights(streams, weights, num_layers=2)
        y, h_n = run_wavefront(
            lambda layer, x, hx: run(x, hx, *lent[4 * layer : 4 * layer + 4]),
            x,
            hx,
            num_layers=2,
            steps=3,
            streams=streams,
            between=None,
            needs_y=True,
        )
    assert_near(gradients(y, h_n, inputs), expected)


def test_one_gradient_without_the_others(problem: Problem, ops: Any) -> None:
    """Of each kind, and of one result: the bits that they have together."""
    ops.use_cuda_kernels(CLUSTER, CLUSTER)
    y, _, gates = ops.gru_fwd(*problem.layer, True)
    for dy, dh_n in ((problem.dy, problem.dh_n), (None, problem.dh_n), (problem.dy, None)):
        given = (dy, dh_n, *problem.layer, y, gates)
        dx, dhx, dweights = ops.gru_bwd(*given, True, True, True)
        assert_same_bits(ops.gru_bwd(*given, True, False, False)[0], dx)
        assert_same_bits(ops.gru_bwd(*given, False, True, False)[1], dhx)
        assert_same_bits(ops.gru_bwd(*given, False, False, True)[2], dweights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", [75, 90])
def test_products_of_16_bits_into_float(ops: Any, dtype: torch.dtype, architecture: int) -> None:
    """In one operation where torch and the device have it, else of converted operands: the same values."""
    ops.set_architecture(architecture)
    a, weight = torch.randn(3, 5).to(dtype), torch.randn(4, 5).to(dtype)
    before = ops.mixed_products()
    assert_same_bits(ops.product(a, weight), a.float() @ weight.float().t())
    has_it = hasattr(torch.ops.aten.mm, "dtype_out") and (dtype == torch.float16 or architecture >= 80)
    assert ops.mixed_products() - before == has_it


def test_one_step(ops: Any) -> None:
    p = make_problem(Size(1, 2, 4, 6), Options(), torch.bfloat16)
    ops.use_cuda_kernels("one_step", "stepwise")
    check_problems([p], partial(solve_by, ops))
    ops.use_cuda_kernels("auto", "stepwise")
    check_problems([p], partial(solve_by, ops))
    assert "one_step" not in ops.last_kernel()  # the backward pass was last
    for save_gates in (False, True):
        ops.gru_fwd(*p.layer, save_gates)
        assert "gru_one_step_fwd_kernel" in ops.last_kernel()


def test_the_device_chooses_and_is_tested_once(problem: Problem, ops: Any) -> None:
    assert ops.cuda_kernel(torch.bfloat16, 3, 2, 6, False, False, True, False)[0] == CLUSTER
    solve_by(ops, problem)
    launches = ops.launches()
    solve_by(ops, problem)
    assert ops.launches() == launches + 2


@pytest.mark.parametrize("kernel", [CLUSTER, "cluster_H256_C4_rows8", "group_H512_C8_rows8", "streamed_U32_rows8"])
def test_a_kernel_is_asked_about_once(problem: Problem, ops: Any, kernel: str) -> None:
    """Of the runtime's calls that need it, later calls of the operators make launches alone."""
    ops.use_cuda_kernels(kernel, kernel)
    solve_by(ops, problem)
    calls, launches = ops.calls_of_kernels(), ops.launches()
    solve_by(ops, problem)
    assert ops.launches() - launches == 2
    assert ops.calls_of_kernels() - calls == 2


@pytest.mark.parametrize("no_memory", [False, True])
def test_every_runtime_call_may_fail(
    problem: Problem, ops: Any, no_memory: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of those that a first call makes, at each place in the code the first and the last.

    Either results are right, by other kernels, or there is a clear error; and the next call is right.
    """

    def renew_device() -> None:
        ops.new_device(1)  # multiprocessor: kernels of several blocks are asked about, and do not fit
        ops.check_order(False)

    renew_device()
    ops.fail_call(0)
    right = solve_by(ops, problem)
    numbers = ops.calls_of_places()
    assert len(numbers) > 10
    for number in numbers:
        renew_device()
        ops.fail_call(number, no_memory)
        try:
            results = solve_by(ops, problem)
        except RuntimeError as error:
            assert re.search(r"gru", str(error)), (number, error)  # noqa: PT017
        else:
            assert_close(results, right, number)
        assert ops.errors_left() == 0, f"call {number} has left its error behind"
        ops.fail_call(0)
        assert_close(solve_by(ops, problem), right, number)
    said = capfd.readouterr().err
    assert ("could not be launched: unknown error" in said) != no_memory


def test_every_call_of_a_measurement_may_fail(ops: Any) -> None:
    ops.fail_call(0)
    assert math.isfinite(ops.measure_nothing())
    for number in range(1, ops.calls() + 1):
        ops.fail_call(number)
        ops.measure_nothing()
        assert ops.errors_left() == 0, f"call {number} has left its error behind"


def test_a_kernel_that_computes_something_else_is_not_used(ops: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Multiplies bfloat16 as if it were float16; in others nothing is planted but what was there."""
    ops.new_device(1)
    ops.plant(r"(ret;)|(mma\.\S+\.f32\.)b(f16\.)b(f16\.)", "$1$2$3$4")
    check_problems([make_problem(SMALL, Options(), torch.bfloat16)], partial(solve_by, ops))
    said = capfd.readouterr().err
    assert re.search(r"the kernel forward \S+ is not used .* differs by", said)


MANY = 1 << 32


@pytest.mark.parametrize(
    ("query", "kernel", "words"),
    [
        ((torch.float64, 3, 2, 6), "stepwise", "the cluster kernels have no float64"),
        ((torch.bfloat16, MANY, 2, 6), "stepwise", "count steps, rows and blocks in 32 bits"),
        ((torch.bfloat16, 3, 2, 1 << 14), "stepwise", "."),
        ((torch.bfloat16, 3, 1 << 20, 60), "stepwise", "by the time model .* ms, "),
        ((torch.bfloat16, 1, 2, 6), "one_step", "one launch reads all weights once"),
        ((torch.bfloat16, 3, 2, 6), CLUSTER, "by the time model"),
    ],
    ids=str,
)
def test_why_a_kernel_is_chosen(ops: Any, query: tuple[Any, ...], kernel: str, words: str) -> None:
    chosen, reason = ops.cuda_kernel(*query, False, False, True, False)
    assert chosen == kernel, reason
    assert re.search(words, reason)


def test_a_kernel_that_cannot_serve_says_why(ops: Any) -> None:
    for asked, masked, words in (
        ("one_step", False, "serves calls with T = 1"),
        (CLUSTER, True, "of those for such a call none is that one"),
    ):
        ops.use_cuda_kernels(asked, "auto")
        with pytest.raises(RuntimeError, match=words):
            ops.cuda_kernel(torch.bfloat16, 3, 2, 6, False, False, True, False, masked)


def test_masks_in_ieee_float32_are_stepwise(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_tf32(monkeypatch)
    chosen = ops.cuda_kernel(torch.float32, 3, 2, 6, False, False, True, False, True)
    assert chosen == ("stepwise", "the cluster kernels have no zoneout and dropouts in IEEE float32")


def test_a_kernel_of_another_dtype_cannot_serve(ops: Any) -> None:
    assert CLUSTER in ops.cuda_kernel_names(torch.bfloat16, False)
    assert ops.cuda_kernel_names(torch.float64, False) == []
    ops.use_cuda_kernels(CLUSTER, "auto")
    with pytest.raises(RuntimeError, match=f"asks for {CLUSTER}, which cannot serve this call with H = 6: the cluster"):
        ops.cuda_kernel(torch.float64, 3, 2, 6, False, False, True, False)


def test_calls_of_a_kind_have_a_name_on_any_device(ops: Any) -> None:
    """By which autotune keeps their times: also where a call fails by which the device tells its name or limits."""

    def choose() -> str:
        ops.new_device(1)
        ops.fail_call(number)
        return str(ops.cuda_kernel(torch.bfloat16, 1, 2, 6, False, False, True, False)[1])

    ops.autotune(True, "")
    number = 0
    assert choose().endswith("its first call measures the candidates")
    for number in range(1, ops.calls() + 1):
        assert choose().endswith("its first call measures the candidates")
        assert ops.errors_left() == 0, f"call {number} has left its error behind"


def test_the_limit_of_a_wait(ops: Any) -> None:
    before = ops.set_cuda_wait_limit(2.0)
    assert ops.set_cuda_wait_limit(before) == 2
    with pytest.raises(ValueError, match=r"expected seconds from 0\.001 to 3600, got 0"):
        ops.set_cuda_wait_limit(0.0)


def assert_close(results: dict[str, Tensor], right: dict[str, Tensor], number: int) -> None:
    for name, result in results.items():
        scale = right[name].abs().max().item()
        difference = (result - right[name]).abs().max().item()
        assert difference <= 0.05 * scale, f"call {number} failed: {name} differs by {difference}"


def test_a_capture_is_not_disturbed(problem: Problem, ops: Any) -> None:
    """During a first call, of packed sequences, and of a kernel that was tested before."""
    ops.capture(True)
    solve_by(ops, problem)
    solve_by(ops, make_problem(SMALL, Options(packed=True), torch.bfloat16))
    ops.capture(False)
    solve_by(ops, problem)
    ops.capture(True)
    solve_by(ops, problem)


@pytest.mark.parametrize("kernel", [CLUSTER, "streamed_U32_rows8"])
def test_a_capture_of_another_thread_is_not_disturbed(problem: Problem, ops: Any, kernel: str) -> None:
    """By a first call, which loads kernels. That its self-test waits for a stream, tensors of the CPU do not show."""
    ops.use_cuda_kernels(kernel, kernel)
    ops.capture_elsewhere(True)
    check_problems([problem], partial(solve_by, ops))
    assert not ops.capture_was_invalidated()
    ops.capture_elsewhere(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_no_launch_in_a_capture_loads_a_kernel(ops: Any, dtype: torch.dtype) -> None:
    """Of the stepwise ones and the one-step kernel, at the first call that there is, of whichever kind."""
    calls = [
        ("stepwise", SMALL, PLAIN),
        ("stepwise", SMALL, Variant(reset_after=False)),
        ("stepwise", SMALL, Variant(layer_norm=1)),
        *(("one_step", SMALL._replace(steps=1, batch=batch), PLAIN) for batch in (1, 2, 4, 8)),
    ]
    for kernel, size, variant in calls:
        ops.new_device(MULTIPROCESSORS)
        ops.use_cuda_kernels(kernel, "stepwise")
        ops.capture(True)
        solve_by(ops, make_problem(size, Options(gains=variant.layer_norm > 0), dtype), variant=variant)
        ops.capture(False)


def test_a_launch_in_a_capture_that_loads_a_kernel_would_invalidate_it(ops: Any) -> None:
    """Which no other test does. The driver here loads nothing before a launch."""
    ops.use_cuda_kernels("stepwise", "stepwise")
    ops.unload_kernels(True)
    ops.capture(True)
    with pytest.raises(RuntimeError, match="could not be launched"):
        solve_by(ops, make_problem(SMALL, Options(), torch.bfloat16))
    assert ops.capture_was_invalidated()
    ops.new_device(MULTIPROCESSORS)


def test_autotune_measures_with_events(problem: Problem, ops: Any, tmp_path: Path) -> None:
    """Once for a kind of calls, also in the next process, which reads what this one has written."""
    path, query = tmp_path / "autotune.tsv", (torch.bfloat16, 3, 2, 6, False, False, True)
    ops.check_order(False)
    ops.autotune(True, str(path))
    ops.set_seconds([1e-9] * MEASUREMENTS)  # of the first that is measured
    check_problems([problem], partial(solve_by, ops))
    measured = [ops.cuda_kernel(*query, backward) for backward in (False, True)]
    assert measured[0][0] != "stepwise"
    assert all("measured" in reason for _, reason in measured)
    with path.open("a") as file:
        file.write("half of a rec")
    ops.autotune(True, str(path))
    launches = ops.launches()
    assert [ops.cuda_kernel(*query, backward)[0] for backward in (False, True)] == [name for name, _ in measured]
    assert "measures" in ops.cuda_kernel(torch.float32, *query[1:], False)[1]
    assert ops.launches() == launches


def test_what_autotune_cannot_write_is_kept(
    problem: Problem, ops: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ops.new_device(1)  # multiprocessor, so that there is little to measure
    ops.check_order(False)
    ops.autotune(True, str(tmp_path))  # which is no file
    solve_by(ops, problem)
    assert "measured" in ops.cuda_kernel(torch.bfloat16, 3, 2, 6, False, False, True, False)[1]
    assert capfd.readouterr().err.count(f"cannot be written to {tmp_path}, and is kept in memory alone") == 1


@pytest.mark.parametrize("backward", [False, True])
def test_a_wait_that_takes_too_long_is_an_error_at_the_next_call(problem: Problem, ops: Any, backward: bool) -> None:
    name = "cluster_H256_C4_rows8"
    ops.use_cuda_kernels(name, name)
    solve_by(ops, problem)
    y, _, gates = ops.gru_fwd(*problem.layer, True)
    ops.lose_store(0)
    if backward:
        ops.gru_bwd(problem.dy, problem.dh_n, *problem.layer, y, gates, True, True, True)
    else:
        ops.gru_fwd(*problem.layer, True)
    ops.lose_store(-1)
    ops.use_cuda_kernels("auto", "auto")
    with pytest.raises(RuntimeError, match="waited more than 4 seconds"):
        ops.gru_fwd(*problem.layer, True)
    check_problems([problem], partial(solve_by, ops))


def test_too_little_shared_memory_rules_kernels_out(ops: Any) -> None:
    ops.limit_shared_memory(8 * 1024)
    check_problems([make_problem(SMALL, Options(), torch.bfloat16)], partial(solve_by, ops))
    assert "gru_step" in ops.last_kernel()


def test_groups_take_turns_where_not_all_are_resident(ops: Any) -> None:
    """A cooperative launch of more blocks than the device runs at a time is refused: none is asked for."""
    ops.new_device(16)  # two groups of eight blocks at a time
    ops.check_order(False)
    name = "group_H512_C8_rows8"
    ops.use_cuda_kernels(name, "auto")
    p = make_problem(Size(2, 17, 2, 6), Options(), torch.bfloat16)
    ops.gru_fwd(*p.layer, True)
    launches = ops.launches()
    y, h_n, _ = ops.gru_fwd(*p.layer, True)
    assert ops.launches() - launches == 2
    ops.use_cuda_kernels("stepwise", "auto")
    expected = ops.gru_fwd(*p.layer, True)
    assert_close({"y": y, "h_n": h_n}, {"y": expected[0], "h_n": expected[1]}, 0)
    ops.new_device(7)
    ops.use_cuda_kernels(name, "auto")
    with pytest.raises(RuntimeError, match="no cluster of the 8 blocks that H = 6 needs fits on this device"):
        ops.gru_fwd(*p.layer, True)


def test_a_launcher_that_forgets_the_attribute_for_shared_memory_is_refused(problem: Problem, ops: Any) -> None:
    name = "group_H512_C8_rows8"  # which has weights in shared memory
    ops.use_cuda_kernels(name, name)
    ops.forget_attributes(True)
    with pytest.raises(RuntimeError, match=f"{name}, .* could not be launched: invalid argument"):
        ops.gru_fwd(*problem.layer, True)


@pytest.mark.parametrize(
    ("refusal", "allowed", "refused"),
    [
        ("cluster target block not valid", {"cluster": 8}, {"cluster": 16}),
        ("too many blocks in cooperative launch", {"cooperative": True}, {"cooperative": True, "grid": 16 * 132 + 16}),
        ("invalid argument", {"shared_bytes": 48 << 10}, {"shared_bytes": (48 << 10) + 16}),
        ("too many resources requested for launch", {}, {"threads": 1024}),
        ("invalid configuration argument", {"cluster": 4}, {"cluster": 5}),
    ],
    ids=str,
)
def test_the_driver_refuses(
    problem: Problem, ops: Any, refusal: str, allowed: dict[str, Any], refused: dict[str, Any]
) -> None:
    """The stand-in for it, what lies just beyond what it allows."""
    ops.use_cuda_kernels(CLUSTER, "auto")
    ops.gru_fwd(*problem.layer, True)
    kernel = ops.last_kernel()
    ops.new_device(MULTIPROCESSORS)
    plain = {"grid": 16, "threads": 128, "shared_bytes": 1024}
    assert ops.launch(kernel, **plain | allowed) == "launched"
    assert ops.launch(kernel, **plain | refused) == refusal


def test_a_measurement_during_a_capture_would_invalidate_it(ops: Any) -> None:
    """Which no other test does: each asks at its end."""
    assert math.isfinite(ops.measure_nothing())
    ops.capture(True)
    assert math.isnan(ops.measure_nothing())
    assert ops.capture_was_invalidated()
    ops.new_device(MULTIPROCESSORS)


def test_members_of_an_ensemble(ops: Any) -> None:
    """Weights of their own: each member has the bits that it has alone."""
    ops.use_cuda_kernels("stepwise", "stepwise")
    problems = problems_of(SMALL, Options(), torch.float32, members=2)
    assert_members_alone(solve_members_by(ops, stacked(problems)), problems, ops)
