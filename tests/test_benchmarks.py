"""python -m benchmarks: the adapters, the statistics, what is kept, drawn and said, and how it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock, call

import pytest
import torch
from contender_cases import BOTH_DIRECTIONS, ONE_LAYER, judged, make_inputs, make_problem
from process import ROOT, fork_python, output_of, run_python, thread_count
from torch import Tensor, nn

from benchmarks import __main__ as command
from benchmarks import (
    check,
    contenders,
    cores,
    display,
    files,
    kernels,
    machine,
    measure,
    memory,
    plots,
    report,
    results,
    roofline,
    run,
    switches,
)
from benchmarks.contenders import OURS, PEERS, Contender, GruExt, Problem
from benchmarks.contenders.base import ModuleContender
from benchmarks.contenders.flashrnn import FlashRNN
from benchmarks.contenders.haste import Haste
from benchmarks.contenders.torch import Torch
from benchmarks.measure import Spread
from benchmarks.results import Row, Run, Timing
from benchmarks.roofline import Bound, Peaks
from benchmarks.run import Settings, Watcher, measure_suite
from benchmarks.suites import DEEPBENCH_INFERENCE, DEEPBENCH_TRAIN, PASSES, SUITES, Pass, Size
from gru_ext import library
from gru_ext.convert.directions import swap_r_and_z

# JAX, once it is loaded, objects to whoever forks; loading OpenVINO does.
pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PEAKS = Peaks(flops=1e11, bytes={1 << 20: 1e11, 1 << 30: 1e10}, step_seconds=1e-7, nearest_bytes=1 << 10)
CPU = torch.device("cpu")
ALL: dict[str, type[Contender]] = {OURS: GruExt, **PEERS}
TRAINING = (OURS, "torch", "keras")
INFERENCE = ("onnxruntime", "openvino")
ADAPTERS: list[tuple[str, Pass, Size, torch.dtype]] = [
    *product(TRAINING, PASSES, (ONE_LAYER, BOTH_DIRECTIONS), [torch.float32]),
    *[(name, "forward", size, torch.float32) for name in INFERENCE for size in (ONE_LAYER, BOTH_DIRECTIONS)],
    *[(name, "forward", Size(6, 4, 16), torch.bfloat16) for name in (OURS, "torch", "openvino", "keras")],
    # Compiling takes long. The backward, which must not write over what it will need again.
    ("compile", "backward", Size(1, 2, 4), torch.float32),
]


def contender_or_skip(name: str) -> type[Contender]:
    if reason := ALL[name].absent():
        pytest.skip(f"{name}: {reason}")
    return ALL[name]


# ---- the adapters


@pytest.mark.parametrize(("name", "kind", "size", "dtype"), ADAPTERS, ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers' own, and torch's of what it compiles with
def test_adapter_agrees_with_the_reference(name: str, kind: Pass, size: Size, dtype: torch.dtype) -> None:
    """And its weights come back as they went."""
    contender = contender_or_skip(name)
    made, problem, verdict = judged(contender, size, kind, dtype)
    assert contender.refuses(problem) is None
    assert verdict.right, verdict
    back = made.weights()
    assert back.keys() == problem.weights.keys()
    assert all(torch.equal(back[key], weight.float()) for key, weight in problem.weights.items())


@pytest.mark.parametrize(
    ("name", "kind", "dtype", "reason"),
    [
        ("onnxruntime", "train", torch.float32, "inference only"),
        ("onnxruntime", "forward", torch.bfloat16, "its GRU computes in float32 only"),
        ("openvino", "backward", torch.float32, "inference only"),
        ("openvino", "forward", torch.float64, "computes in float32 or bfloat16 only"),
        ("keras", "forward", torch.float64, "JAX leaves float64 out unless told otherwise"),
        ("haste", "forward", torch.float32, "runs on CUDA only"),
        ("flashrnn", "forward", torch.float32, "runs on CUDA only"),
    ],
)
def test_adapter_says_what_it_has_no_answer_to(name: str, kind: Pass, dtype: torch.dtype, reason: str) -> None:
    assert PEERS[name].refuses(make_problem(Size(1, 1, 8), kind, dtype)) == reason


class HasteGRU(nn.Module):
    """The layout of haste_pytorch.GRU, on a CPU: (I, 3H), (H, 3H), (3H), (3H); gates z, r, n."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(inputs, 3 * hidden))
        self.recurrent_kernel = nn.Parameter(torch.empty(hidden, 3 * hidden))
        self.bias = nn.Parameter(torch.empty(3 * hidden))
        self.recurrent_bias = nn.Parameter(torch.empty(3 * hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(T, B, I) to (T, B, H) and the last state."""
        h, states = x.new_zeros(x.shape[1], self.recurrent_kernel.shape[0]), []
        for x_t in x:
            x_z, x_r, x_n = (x_t @ self.kernel + self.bias).chunk(3, -1)
            h_z, h_r, h_n = (h @ self.recurrent_kernel + self.recurrent_bias).chunk(3, -1)
            z, r = torch.sigmoid(x_z + h_z), torch.sigmoid(x_r + h_r)
            h = z * h + (1 - z) * torch.tanh(x_n + r * h_n)
            states.append(h)
        return torch.stack(states), h


def flashrnn_gru(gates: Tensor, R: Tensor, b: Tensor, **options: str) -> tuple[Tensor, Tensor]:  # noqa: N803
    """The layout and equations of FlashRNN's GRU: Wx (B, T, 3, 1, H), R (3, 1, H, H), b (4, 1, H)."""
    assert options == {"function": "gru", "backend": "cuda", "dtype": str(gates.dtype).removeprefix("torch.")}
    h, states = gates.new_zeros(gates.shape[0], gates.shape[-1]), []
    for step in gates.squeeze(3).unbind(1):
        x_r, x_z, x_n = step.unbind(1)
        g, r, z = (h @ matrix.T for matrix in R.squeeze(1))
        r, z = torch.sigmoid(x_r + r + b[1, 0]), torch.sigmoid(x_z + z + b[2, 0])
        h = z * h + (1 - z) * torch.tanh(x_n + b[3, 0] + r * (g + b[0, 0]))
        states.append(h)
    return torch.stack(states, 1).unsqueeze(2).unsqueeze(0), h


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("contender", [Haste, FlashRNN])
def test_adapter_of_a_peer_that_needs_a_gpu(
    contender: type[ModuleContender], dtype: torch.dtype, kind: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in with that peer's layout of weights and its equations; the peer itself cannot run here."""
    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(GRU=HasteGRU))
    package = types.SimpleNamespace(flashrnn=flashrnn_gru)
    if kind == "train":  # the function is a level deeper where the folder at the top is no package
        package = types.SimpleNamespace(flashrnn=package)
    monkeypatch.setitem(sys.modules, "flashrnn", package)
    made, problem, verdict = judged(contender, ONE_LAYER, kind, dtype)
    assert verdict.right, verdict
    expected = problem.weights
    if contender is FlashRNN:  # one bias of r and z for both products
        joint = (expected["bias_ih_l0"] + expected["bias_hh_l0"])[:16]
        expected["bias_ih_l0"] = torch.cat([joint, expected["bias_ih_l0"][16:]])
        expected["bias_hh_l0"] = torch.cat([torch.zeros(16), expected["bias_hh_l0"][16:]])
    for key, weight in made.weights().items():
        assert torch.equal(weight, expected[key].float()), key


@pytest.mark.parametrize("name", ["torch", "compile"])
def test_weights_of_cudnn_lie_side_by_side(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else cuDNN copies them in every call, which deepcopy alone would cost it."""
    flattened: list[nn.Module] = []
    monkeypatch.setattr(nn.GRU, "flatten_parameters", lambda self: flattened.append(self))
    problem = make_problem(Size(1, 1, 8))
    flattened.clear()
    made = contender_or_skip(name)(problem)
    assert isinstance(made, ModuleContender)
    assert len(flattened) == 1
    assert all(a is b for a, b in zip(flattened[0].parameters(), made.parameters, strict=True))


def test_absent_peers_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert PEERS["openvino"].absent() == "not installed (no module openvino, onnx)"
    assert PEERS["haste"].absent() == "not installed (no module haste_pytorch)"


# ---- the check


class Swapped(Torch):
    """A GRU with its gates in the wrong order."""

    name = "swapped"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(swap_r_and_z(parameter))


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_wrong_gate_order_is_a_wrong_answer(dtype: torch.dtype, kind: Pass) -> None:
    *_, verdict = judged(Swapped, Size(4, 3, 8), kind, dtype)
    assert not verdict.right
    assert str(verdict).startswith("wrong answer: error of ")


def test_we_are_held_to_more_than_peers() -> None:
    exact = {"y": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    framework = {"y": torch.tensor([1.0, 2.001])}
    off = {"y": torch.tensor([1.0, 2.003])}  # three times the framework's error
    assert not check.judge(OURS, off, check.Answer(exact, framework)).right
    verdict = check.judge("torch", off, check.Answer(exact, framework))
    assert verdict.right
    assert verdict.times_framework == pytest.approx(3, rel=1e-3)


def test_not_a_number_is_wrong_and_other_results_are_errors() -> None:
    exact = {"y": torch.tensor([1.0], dtype=torch.float64)}
    truth = check.Answer(exact, {"y": torch.tensor([1.0])})
    assert not check.judge("torch", {"y": torch.tensor([math.nan])}, truth).right
    with pytest.raises(ValueError, match=r"expected results named \['y'\], got \['dx'\]"):
        check.judge("torch", {"dx": torch.tensor([1.0])}, truth)
    with pytest.raises(ValueError, match=r"expected y of shape \(1,\), got \(2,\)"):
        check.judge("torch", {"y": torch.tensor([1.0, 1.0])}, truth)


# ---- statistics


def test_spread_of_a_known_series() -> None:
    assert measure.Spread.of([4.0, 1.0, 3.0, 2.0]) == measure.Spread(2.5, 1.0, 4.0)


def test_ratio_is_taken_round_by_round() -> None:
    # Both drift by the same factors: the ratio does not.
    assert measure.ratio([2.0, 4.0, 20.0], [1.0, 2.0, 10.0]) == measure.Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        measure.ratio([1.0], [1.0, 2.0])


def test_rounds_alternate_in_a_drawn_order_and_leave_the_warm_up_out() -> None:
    order: list[str] = []

    def clock(step: Callable[[], object], calls: int) -> float:
        order.append(f"{step()}{calls}")
        return 0.01 * len(order)

    names = {name: (lambda name=name: name) for name in "ab"}
    times, calls = measure.alternate(names, clock, repeat=9, block_seconds=0.1)
    assert calls == {"a": 10, "b": 5}
    assert order[:2] == ["a1", "b1"]
    rounds = list(zip(order[2::2], order[3::2], strict=True))
    assert len(rounds) == 10
    assert set(rounds) == {("a10", "b5"), ("b5", "a10")}  # both in each, neither always first
    first = {name: 5 + order[4:6].index(f"{name}{calls[name]}") for name in "ab"}  # of the second round
    assert {name: times[name][0] for name in "ab"} == {n: pytest.approx(0.01 * first[n]) for n in "ab"}
    assert [len(values) for values in times.values()] == [9, 9]


def test_slow_calls_have_fewer_rounds_and_no_warm_up() -> None:
    times, calls = measure.alternate({"a": lambda: None}, lambda step, calls: 1.0, repeat=10, block_seconds=0.1)
    assert (times, calls) == ({"a": [1.0] * 5}, {"a": 1})


def test_the_clock_of_the_cpu_measures_time() -> None:
    times = iter(range(1, 1000))
    assert 0 < measure.cpu_clock(1)(lambda: next(times), 10) < 1
    assert next(times) == 13  # two calls of warm-up, then ten


@pytest.mark.parametrize(("spins", "looks"), [(0.0, 1), (0.021, 6), (60.0, 50)])
def test_a_block_begins_when_threads_of_the_one_before_sleep(
    monkeypatch: pytest.MonkeyPatch, spins: float, looks: int
) -> None:
    """Threads that spin for so many seconds are looked at so often; for ever they are not waited for."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.process_time", lambda: min(spins, sum(slept)))
    done = []
    measure.cpu_clock(1)(lambda: done.append(len(slept)), 1)
    assert done == [looks] * 3  # two calls of warm-up, and the one of the block


def test_the_clock_of_a_gpu_does_not_wait_between_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for a GPU's events: the order of what is asked of it."""
    gpu = Mock()
    gpu.start.elapsed_time.return_value = 6.0  # milliseconds
    event = Mock(side_effect=[gpu.start, gpu.end])
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "Event", event)
    seconds = measure.clock_for(torch.device("cuda", 1), threads=1)(gpu.step, 3)
    assert seconds == pytest.approx(2e-3)
    assert event.mock_calls == 2 * [call(enable_timing=True)]
    assert gpu.mock_calls == [
        *(2 * [call.step()]),
        call.start.record("stream of cuda:1"),
        *(3 * [call.step()]),
        call.end.record("stream of cuda:1"),
        call.end.synchronize(),
        call.start.elapsed_time(gpu.end),
    ]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_clock_of_a_gpu_waits_for_the_work() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    seconds = measure.cuda_clock(a.device)(lambda: a @ a, 3)
    assert 2 * 4096**3 / seconds < 1e15  # no GPU is that fast: the clock saw the products, not their launches


def test_inputs_rotate_over_twice_the_cache() -> None:
    assert measure.copies(100, 1000) == 20
    assert measure.copies(1, 10_000) == 1024
    assert measure.copies(1, 10_000, most=10) == 10
    assert measure.copies(10**6, 1000, most=0) == 2
    calls: list[int] = []
    step = measure.Rotation([lambda i=i: calls.append(i) for i in range(3)])  # type: ignore[misc]
    for _ in range(4):
        step()
    assert calls == [0, 1, 2, 0]


# ---- the limit


def test_operations_of_a_known_size() -> None:
    # 3 gates of 4 units, each a product with 2 inputs and 4 states: 72 multiply-adds a row and step.
    size = Size(5, 3, 4, I=2)
    assert roofline.flops(size, "forward") == 2 * 72 * 5 * 3
    assert roofline.flops(size, "train") == 3 * roofline.flops(size, "forward")
    both = Size(5, 3, 4, I=2, L=2, D=2)  # the second layer reads 8
    assert roofline.flops(both, "forward") == 2 * (2 * 72 + 2 * 3 * 4 * 12) * 5 * 3


@pytest.mark.parametrize(
    ("size", "by"), [(Size(10, 512, 64), "arithmetic"), (Size(10, 1, 1024), "memory"), (Size(100, 1, 8), "steps")]
)
def test_the_largest_limit_holds(size: Size, by: str) -> None:
    bound = roofline.bound(size, "forward", torch.float32, PEAKS)
    assert bound.by == by
    expected = {
        "arithmetic": roofline.flops(size, "forward") / PEAKS.flops,
        # R ten times, the first KiB of it for nothing and the rest of the first MiB faster; then W, x and y.
        "memory": 10 * (11 * 2**20 / 1e10 + (2**20 - 2**10) / 1e11) + (12 * 2**20 + 10 * 2 * 1024 * 4) / 1e10,
        "steps": 100 * 1e-7,
    }
    assert bound.seconds == pytest.approx(expected[by])


def test_bandwidth_is_the_best_of_as_many_bytes_or_more() -> None:
    peaks = dataclasses.replace(PEAKS, bytes={10_000: 1.0, 20_000: 3.0, 30_000: 2.0})
    assert [peaks.bandwidth(size) for size in (1000, 5000, 20_000, 25_000, math.inf)] == [math.inf, 3, 3, 2, 2]


def test_a_sweep_keeps_each_part_as_near_as_there_is_room() -> None:
    peaks = dataclasses.replace(PEAKS, bytes={10_000: 10.0, 20_000: 5.0}, nearest_bytes=1000)
    assert peaks.sweep_seconds(500) == 0
    assert peaks.sweep_seconds(4000) == pytest.approx(3000 / 10)
    assert peaks.sweep_seconds(15_000) == pytest.approx(9000 / 10 + 5000 / 5)
    assert peaks.sweep_seconds(50_000) == pytest.approx(9000 / 10 + 40_000 / 5)


def test_steps_that_must_follow_one_another() -> None:
    assert roofline.chain(Size(10, 1, 8), "forward") == 10
    assert roofline.chain(Size(10, 1, 8, L=3), "train") == 2 * 12  # a layer is a step behind the one below
    assert roofline.chain(Size(10, 1, 8, L=3, D=2), "forward") == 30


@pytest.mark.parametrize(("last_cache", "of_memory"), [(1 << 12, []), (3 << 12, [3 << 14])])
def test_peaks_are_measured(monkeypatch: pytest.MonkeyPatch, last_cache: int, of_memory: list[int]) -> None:
    small = {"GEMM": 64, "LEAST_PRODUCT": 1e-4, "CHAIN": 8, "READS": (1 << 12, 1 << 14), "TRIES": 1, "SECONDS": 0}
    for name, value in small.items():
        monkeypatch.setattr(roofline, name, value)
    monkeypatch.setattr(machine, "last_cache", lambda device: last_cache)
    peaks = roofline.measure(torch.float32, CPU, 1)
    assert 1e6 < peaks.flops < 1e15
    assert list(peaks.bytes) == [1 << 12, 1 << 14, *of_memory]
    assert all(1e6 < rate < 1e14 for rate in peaks.bytes.values())
    assert 1e-10 < peaks.step_seconds < 1
    assert peaks.nearest_bytes > 0


def test_rows_are_held_to_the_better_of_two_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that held a core while the peaks were measured first must not leave rows beyond their limit."""
    disturbed = dataclasses.replace(PEAKS, flops=PEAKS.flops / 2, step_seconds=PEAKS.step_seconds / 2)
    assert disturbed.best_of(PEAKS) == dataclasses.replace(PEAKS, step_seconds=PEAKS.step_seconds / 2)
    assert PEAKS.best_of(dataclasses.replace(PEAKS, bytes={n: 2 * rate for n, rate in PEAKS.bytes.items()})).bytes == {
        n: 2 * rate for n, rate in PEAKS.bytes.items()
    }
    monkeypatch.setattr(roofline, "measure", Mock(side_effect=[dataclasses.replace(PEAKS, flops=1.0), PEAKS]))
    settings = Settings("quick", CPU, torch.float32, ("forward",), (), 1, "^1,1,256$", 1, 0.0, math.inf)
    (row,) = measure_suite(settings, Watcher()).rows
    assert row.bound == roofline.bound(Size(1, 1, 256), "forward", torch.float32, PEAKS)


# ---- suites


def test_suites_are_what_they_say() -> None:
    assert set(SUITES) == {
        *("quick", "sizes", "deepbench", "latency", "scaling", "contended", "memory", "kernels", "sweep")
    }
    for name, suite in SUITES.items():
        cases = suite.cases(2)
        assert len(set(cases)) == len(cases) > 0, name
    assert (len(DEEPBENCH_TRAIN), len(DEEPBENCH_INFERENCE)) == (19, 54)
    assert all(case.size.T == 1 for case in SUITES["latency"].cases(2))
    assert {case.threads for case in SUITES["scaling"].cases(6)} == {0, 1, 2, 4, 6}
    assert {(case.threads, case.busy) for case in SUITES["contended"].cases(6)} == set(product((1, 6), (0, 1, 2)))


@pytest.mark.parametrize("backward", [False, True])
def test_batches_of_unequal_lengths_are_predicted(backward: bool) -> None:
    size = cores.UnequalLengths(20, 64, 32)
    predicted = cores.predict(size, backward, threads=4)
    assert predicted.row_groups > 1
    assert predicted.seconds > 0
    assert cores.predict_torch(size, backward, threads=4) > 0
    assert cores.clock(size, backward, threads=2) > 0
    assert str(size) == "20,64,32, unequal lengths"


def test_more_cores_than_there_are_are_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["scaling", "--cores", "3", "--filter", "^40,8,64"]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if " cores  " in line]
    assert [int(line.split()[0]) for line in lines] == 2 * [1, 2, 3]  # forward, backward
    assert all("nn.GRU" in line and "efficiency" in line for line in lines)
    assert ["clock" in line for line in lines] == 2 * [False, True, False]
    assert command.main(["scaling", "--cores", "2", "--filter", "^no size"]) == 2
    with pytest.raises(SystemExit):
        command.main(["quick", "--cores", "2"])
    assert "--cores goes with the suite scaling, got quick" in capsys.readouterr().err


def test_names_of_sizes() -> None:
    assert str(Size(10, 4, 256)) == "10,4,256"
    assert str(Size(10, 4, 256, I=8, L=2, D=2)) == "10,4,256, I=8, 2 layers, both directions"


# ---- our own parts


def test_parts_are_differences_of_neighbours() -> None:
    cumulative = dict(zip(kernels.PARTS, (1.0, 3.0, 2.9, 10.0, 14.0, 15.0), strict=True))
    assert list(kernels.parts(cumulative).values()) == [1.0, 2.0, 0.0, 10.0, 4.0, 1.0]


def test_kernels_compute_what_they_are_asked_for() -> None:
    module, (x, dy) = nn.GRU(8, 8), make_inputs(Size(3, 2, 8))
    steps: dict[str, Any] = {name: step() for name, step in kernels.steps(module, x, dy).items()}
    y = module(x)[0]
    torch.testing.assert_close(steps["input product"][0], y)
    assert steps["recurrence"][0].shape == y.shape
    assert [steps[name][2].numel() for name in ("input product", "saved gates")] == [0, 3 * 2 * 4 * 8]
    gradients = [(step[0].numel(), step[1].numel(), len(step[2])) for step in list(steps.values())[3:6]]
    assert gradients == [(0, 16, 0), (0, 16, 4), (48, 16, 4)]
    assert [len(steps[name][0]) for name in (kernels.SHORT, kernels.TWICE)] == [1, 2]  # two rows are (I + H) / 8


def test_packing_is_what_two_calls_take_more_than_one() -> None:
    assert kernels.packing({kernels.SHORT: 3.0, kernels.TWICE: 4.5}) == 1.5
    assert kernels.packing({kernels.SHORT: 3.0, kernels.TWICE: 6.5}) == 0
    assert kernels.packing({}) is None


# ---- memory


def test_memory_is_weighed_in_a_process_of_its_own() -> None:
    size = Size(64, 32, 256)
    gates = 4 * 4 * size.T * size.B * size.H  # bytes; four gates are saved for backward
    assert gates < memory.weigh(OURS, size, "train", torch.float32, CPU, 1) < 20 * gates


def test_failed_weighing_names_its_last_words() -> None:
    with pytest.raises(memory.WeighError, match="KeyError: 'nobody'"):
        memory.weigh("nobody", Size(1, 1, 8), "train", torch.float32, CPU, 1)


# ---- a run, kept and read again


def make_run(suite: str = "sizes", ours: float = 1e-3) -> Run:
    """A run of a grid and some other sizes, with made-up times."""
    kinds: tuple[str, ...] = ("kernels",) if suite == "kernels" else ("forward", "train")
    sizes = [Size(40, B, H) for B in (1, 4) for H in (64, 128, 256)] + [Size(7, 2, 64), Size(9, 2, 64, L=2)]
    rows = []
    for size in sizes:
        for kind in kinds:
            row = Row(size, kind, 2, Bound(ours / 2, "arithmetic", 1e6 * size.H, 1e5 * size.B))
            if suite == "memory":
                row.peak_bytes = {OURS: 1 << 20, "torch": 3 << 20}
            elif suite == "kernels":
                names = [*kernels.PARTS, kernels.SHORT, kernels.TWICE]
                row.times = {name: Timing([1e-3 * (i + 1)], 1, 0.0) for i, name in enumerate(names)}
            else:
                row.times = {
                    OURS: Timing([ours, ours, 2 * ours], 3, 0.9),
                    "torch": Timing([4 * ours, 4 * ours, 8 * ours], 1, 1.0),
                    "onnxruntime": Timing([ours / 2, ours / 2, ours], 1, 1.0),
                }
                row.again = [ours, 1.1 * ours, 2 * ours]
            rows.append(row)
    environment = {"dtype": "float32", "processor": "a test", "threads": 2, "torch": "2", "commit": "0"}
    described = {OURS: {"version": "1", "configuration": "eager"}}
    peaks = {"2": dataclasses.asdict(PEAKS) | {"bytes": {str(1 << n): 1e10 for n in (18, 20, 22, 24, 26, 28)}}}
    return Run(suite, {}, environment, described, {"haste": "not installed"}, peaks, rows)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where a run is kept."""
    return tmp_path / "new" / "run.json"


def test_a_run_comes_back_as_it_was_kept(kept: Path) -> None:
    made = make_run()
    made.save(kept)
    assert results.load(kept) == made


def test_schema_of_what_is_kept(kept: Path) -> None:
    make_run().save(kept)
    content = json.loads(kept.read_text())
    assert content["schema"] == results.SCHEMA == 1
    assert set(content) == {
        *("schema", "suite", "settings", "environment", "contenders", "absent", "peaks", "rows", "interrupted"),
        "noise",
    }
    assert content["noise"] == pytest.approx(0.1)
    keys = {"size", "kind", "threads", "bound", "times", "again", "left_out", "peak_bytes", "busy"}
    assert all(set(row) == keys for row in content["rows"])
    timing = {"seconds": [1e-3, 1e-3, 2e-3], "calls": 3, "times_framework": 0.9, "slow": None}
    assert content["rows"][0]["times"][OURS] == timing


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: No such file or directory"),
        ("no", "{path} is not JSON"),
        ("[]", "{path} is not a result of python -m benchmarks: expected schema 1, got None"),
        ('{"schema": 2}', "{path} is not a result of python -m benchmarks: expected schema 1, got 2"),
        ('{"schema": 1}', "{path} is damaged: 'rows'"),
    ],
)
def test_other_files_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(results.ResultError) as error:
        results.load(path)
    assert str(error.value) == message.format(path=path)


def test_noise_is_of_us_against_ourselves() -> None:
    assert make_run().noise() == pytest.approx(0.1)
    assert Run("quick", {}, {}, {}, {}).noise() is None


def test_changes_are_of_the_speed_over_torch() -> None:
    old, new = make_run(), make_run(ours=2e-3)
    assert all(change.factor == 1 for change in results.compare(old, new))  # half as fast a machine
    new.rows[0].times[OURS] = Timing([4e-3] * 3, 1, 1.0)
    changes = list(results.compare(old, new))
    assert len(changes) == len(new.rows)
    assert changes[0].factor == pytest.approx(0.5)
    assert str(changes[0]) == "40,1,64 forward 2 threads: speed over torch 4 to 2, 0.50 times"
    for row in (*old.rows, *new.rows):
        del row.times["torch"]
    assert next(results.compare(old, new)).figure == "calls a second"


# ---- what is said and drawn


def test_summary_names_who_is_faster_where_and_who_is_absent() -> None:
    lines = report.summary(make_run())
    assert lines[0] == (
        "noise: timed against ourselves, nine rounds of ten were within 10.0%; smaller differences mean nothing"
    )
    assert lines[1] == "4.00 times as fast as torch (geometric mean of 16 rows)"
    assert lines[2] == "0.50 times as fast as onnxruntime (geometric mean of 16 rows)"
    assert lines[3].startswith("  onnxruntime is faster in 16: 40,1,64 forward (0.50x); ")
    assert lines[-1] == "haste is absent: not installed"


def test_much_noise_comes_first_and_no_mean_follows() -> None:
    made = make_run()
    for row in made.rows:
        row.again = [2 * seconds for seconds in row.again]
    lines = report.summary(made)
    assert lines[0].startswith("too noisy to trust a figure: timed against ourselves, nine rounds of ten were within ")
    assert not any("times as fast" in words or "faster in" in words or "limit" in words for words in lines)


def test_other_programs_are_named() -> None:
    made = make_run()
    made.environment["used by others"] = 0.02
    assert report.used_by_others(made) == []
    made.environment["used by others"] = 0.43
    assert any(words.startswith("other programs used 43% of the processors") for words in report.summary(made))
    before = machine.processor_seconds()
    assert before is not None
    busy = (before[0] - 2.0 * (os.cpu_count() or 1), before[1])  # all of every processor for two seconds
    share = machine.used_by_others(busy, 2.0)
    assert share is not None
    assert 0.9 < share < 1.5
    assert machine.used_by_others(None, 2.0) is None


def test_what_was_left_out_is_said_once() -> None:
    made = make_run()
    for row in made.rows:
        row.left_out["keras"] = "inference only"
    made.rows[1].left_out["keras"] = "wrong answer: error of dx 1.00e+00, allowed 1.00e-06"
    assert report.left_out(made) == [
        "keras left out of 15 of 16 rows: inference only",
        "keras left out of 1 of 16 rows (40,1,64 train): wrong answer: error of dx 1.00e+00, allowed 1.00e-06",
    ]
    assert report.line(made.rows[0]).endswith("torch 4.00x, onnxruntime 0.50x, 50% of the limit (arithmetic)")
    assert "keras: wrong answer" in report.line(made.rows[1])


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("sizes", {"ratios", "heatmap", "per_step", "roofline"}),
        ("scaling", {"heatmap", "per_step", "roofline", "scaling"}),
        ("sweep", {"heatmap", "ratios", "sweep"}),
        ("memory", {"memory"}),
        ("kernels", {"parts"}),
    ],
)
def test_plots_are_written_and_not_empty(suite: str, names: set[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    from matplotlib.image import imread

    assert report.CAPTIONS.keys() == plots.PLOTS.keys()
    paths = plots.draw(make_run(suite), tmp_path)
    assert {path.stem for path in paths} == names
    for path in paths:
        pixels = imread(path)
        assert len({tuple(colour) for colour in pixels.reshape(-1, pixels.shape[-1])[::7].tolist()}) > 10, path


def test_a_new_contender_needs_no_colour(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    made = make_run()
    for row in made.rows:
        row.times["another"] = row.times.pop("onnxruntime")
    assert {path.stem for path in plots.draw(made, tmp_path)} == {"ratios", "heatmap", "per_step", "roofline"}
    assert "0.50 times as fast as another (geometric mean of 16 rows)" in report.summary(made)


def test_markdown_and_html_reports(tmp_path: Path) -> None:
    picture = tmp_path / "plots" / "ratios.png"
    picture.parent.mkdir()
    picture.write_bytes(b"\x89PNG")
    for name in ("report.md", "report.html"):
        report.write(make_run(), tmp_path / name, [picture])
    markdown, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert "![ratios](plots/ratios.png)" in markdown
    assert "| 40,1,64 | 1 | 4 | 4.00x | 4.00 | 4.00 | 0.5 | 0.50x | 0.50 | 0.50 | 50% | arithmetic |" in markdown
    assert '<img alt="ratios" src="data:image/png;base64,iVBORw==">' in page
    assert f"<figcaption>{report.CAPTIONS['ratios']}</figcaption>" in page
    assert '<td>4.00x</td><td>4.00</td><td>4.00</td><td>0.5</td><td class="slower">0.50x</td>' in page
    assert page.index('<p class="verdict">noise: ') < page.index("4.00 times as fast as torch")
    assert page.count('href="#reading"') == page.count('id="reading"') == 1
    for text in (markdown, page):
        assert text.count("haste is absent: not installed") == 1
        assert "peaks, 2 threads: 100 GFLOP/s" in text


def test_rows_of_other_programs_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    display.show("title", [Spread(1.23456, 0.5, 2e-5)])
    assert capsys.readouterr().out == (
        "title\n\n| median | low | high |\n| --- | --- | --- |\n| 1.23 | 0.5 | 2e-05 |\n"
    )


# ---- the command


Quick = Callable[..., int]


@pytest.fixture
def quick(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quick]:
    """The command with peaks that need no measuring, on the smallest size, in the shortest blocks."""
    monkeypatch.setattr(roofline, "measure", lambda dtype, device, threads: PEAKS)
    always = ["--filter=^1,", "--repeat=1", "--block-seconds=1e-4", "--threads=1", f"--json={kept}"]
    with thread_count(torch.get_num_threads()):
        yield lambda *options, suite="quick": command.main([suite, *always, *options])


def test_a_run_from_start_to_end(quick: Quick, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quick("--against=torch") == 0
    made = results.load(kept)
    assert [(str(row.size), row.kind, list(row.times)) for row in made.rows] == [
        ("1,1,256", "forward", [OURS, "torch"]),
        ("1,1,256", "train", [OURS, "torch"]),
    ]
    assert all(timing.seconds[0] > 0 for row in made.rows for timing in row.times.values())
    assert all(len(row.again) == 1 for row in made.rows)
    assert {"processor", "threads", "clock_mhz", "torch", "commit"} <= made.environment.keys()
    printed = capsys.readouterr().out
    assert "quick: 2 rows, gru_ext, torch" in printed
    assert f"kept in {kept}" in printed


@pytest.mark.parametrize(
    ("suite", "against", "size", "kinds"),
    [
        pytest.param("latency", "torch", "^1,4,64$", ["forward"], id="latency"),
        pytest.param("kernels", "none", "^50,8", ["kernels"], id="kernels"),
        pytest.param("sweep", "none", "^8,3,29$", ["forward", "train"], id="sweep"),
        pytest.param("deepbench", "torch", "^1,2,512,", ["forward"], id="deepbench"),  # of the list for inference
    ],
)
def test_every_suite_runs(suite: str, against: str, size: str, kinds: list[str], quick: Quick, kept: Path) -> None:
    assert quick(f"--against={against}", f"--filter={size}", suite=suite) == 0
    rows = results.load(kept).rows
    assert sorted(row.kind for row in rows) == kinds
    assert all(row.times for row in rows)


def test_every_call_beside_busy_processes_is_timed(quick: Quick, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Mock(wraps=machine.busy)
    monkeypatch.setattr(machine, "busy", busy)
    assert quick("--against=torch", "--filter=^50,8", "--repeat=2", "--block-seconds=0.02", suite="contended") == 0
    run = results.load(kept)
    assert [row.busy for row in run.rows] == [0, 1, 2]
    assert busy.mock_calls == [call(0), call(1), call(2)]
    timings = [timing for row in run.rows for timing in row.times.values()]
    assert all(timing.calls >= 1 and len(timing.seconds) == 2 and timing.slow is not None for timing in timings)
    assert run.noise() is None
    head, cells = report.table(run, "forward")
    assert head == ["T,B,H", "threads", "busy", "gru_ext ms (slow)", "torch ms (slow)"]
    assert [line[:3] for line in cells] == [["50,8,128", "1", str(busy)] for busy in (0, 1, 2)]


def test_calls_in_a_row_are_as_many_as_their_time_allows() -> None:
    """Each round anew, after one that is not counted; a call that takes longer than all of it is one."""
    steps = {"short": lambda: time.sleep(0.004), "long": lambda: time.sleep(0.05)}
    times = measure.each_call(steps, torch.device("cpu"), repeat=2, block_seconds=0.02)
    assert [len(calls) for calls in times["long"]] == [1, 1]
    assert all(seconds >= 0.05 for calls in times["long"] for seconds in calls)
    assert [1 <= len(calls) <= 5 for calls in times["short"]] == [True, True]


def test_the_slowest_hundredth() -> None:
    assert measure.slowest_hundredth([float(n) for n in range(1000)]) == 990
    assert measure.slowest_hundredth([3.0, 5.0, 4.0]) == 5


def test_busy_processes_compute_and_end() -> None:
    before = os.times()
    with machine.busy(2):
        time.sleep(0.5)
    after = os.times()  # of children that were waited for
    assert sum(after[2:4]) - sum(before[2:4]) > 0.1  # of a second of processor


def test_interrupted_run_keeps_what_was_measured(
    quick: Quick, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alternate = Mock(wraps=measure.alternate, side_effect=[DEFAULT, KeyboardInterrupt])
    monkeypatch.setattr(measure, "alternate", alternate)
    assert quick("--against=torch") == 130
    made = results.load(kept)
    assert made.interrupted
    assert [row.kind for row in made.rows] == ["forward"]
    assert "interrupted: 1 rows were measured before" in capsys.readouterr().out


def test_a_time_limit_keeps_what_was_measured(kept: Path) -> None:
    script = (
        "import os, runpy, signal, sys; from benchmarks import display, roofline;"
        " from benchmarks.roofline import Peaks;"
        " roofline.measure = lambda *_: Peaks(1e11, {1 << 20: 1e11}, 1e-7, 1024);"
        " display.Display.done = lambda *_: os.kill(os.getpid(), signal.SIGTERM);"
        f" sys.argv = ['benchmarks', '--filter=^1,', '--against=none', '--threads=1', '--json={kept}'];"
        " runpy.run_module('benchmarks', run_name='__main__')"
    )
    assert fork_python("-c", script).returncode == 130
    assert [row.kind for row in results.load(kept).rows] == ["forward"]


def test_our_wrong_answer_fails_and_is_not_ranked(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take = GruExt.take

    def take_wrongly(self: GruExt, problem: Problem, module: nn.Module) -> None:
        take(self, problem, module)
        with torch.no_grad():
            self.parameters[0].add_(0.01)

    monkeypatch.setattr(GruExt, "take", take_wrongly)
    assert quick("--against=torch", "--pass=forward") == 1
    printed = capsys.readouterr().out
    assert "gru_ext: wrong answer: error of y" in printed
    assert "times as fast" not in printed


def test_a_peer_that_fails_or_is_wrong_is_reported_and_not_ranked(
    quick: Quick, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Torch):
        def __init__(self, problem: Problem) -> None:
            raise RuntimeError("no\nmore")

    for contender, reason in ((Failing, "failed: RuntimeError: no"), (Swapped, "wrong answer: error of y")):
        monkeypatch.setattr(contender, "name", "torch")
        monkeypatch.setitem(contenders.PEERS, "torch", contender)
        assert quick("--against=torch", "--pass=forward") == 0
        (row,) = results.load(kept).rows
        assert list(row.times) == [OURS]
        assert row.left_out["torch"].startswith(reason)


def test_rows_that_would_take_too_long_are_named(quick: Quick, capsys: pytest.CaptureFixture[str]) -> None:
    assert quick("--against=none", "--longest=1e-9") == 0
    assert "all: one call takes at least 0.0 s here; --longest allows it" in capsys.readouterr().out


def test_without_any_peer_matplotlib_or_rich_it_says_so_and_works(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for module in ("matplotlib", "rich"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("onnxruntime", "openvino", "keras"):
        monkeypatch.setattr(PEERS[name], "absent", classmethod(lambda cls: "not installed"))
    page = tmp_path / "report.html"
    assert quick("--pass=forward", f"--report={page}") == 0
    printed = capsys.readouterr().out
    for name in ("onnxruntime", "openvino", "keras", "haste", "flashrnn"):
        assert f"{name} is absent: " in printed
    assert "no plots, as matplotlib is not installed (pip install matplotlib)" in printed
    assert "no live table, as rich is not installed (pip install rich)" in printed
    assert "<table>" in page.read_text()


def test_on_a_terminal_the_table_is_live(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="the bench extra is not installed")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert quick("--against=torch", "--pass=forward") == 0
    printed = capsys.readouterr().out
    assert "torch ms" in printed
    assert "1,1,256" in printed


def test_kept_runs_are_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    make_run().save(old)
    changed = make_run()
    changed.rows[3].times[OURS] = Timing([1.3e-3, 1.3e-3, 2.6e-3], 1, 1.0)
    changed.save(new)
    show = [f"--load={new}", f"--compare={old}"]
    assert command.main([f"--load={old}", f"--compare={old}"]) == 0
    capsys.readouterr()
    assert command.main(show) == 1
    printed = capsys.readouterr().out
    assert "compared with commit 0: 16 rows in both" in printed
    assert printed.count("WORSE") == 1
    assert "WORSE  40,1,128 train 2 threads: speed over torch 4 to 3.08, 0.77 times" in printed
    assert command.main([*show, "--worse=1.5"]) == 0
    assert command.main([f"--load={new}", "--at-least=3.05"]) == 0
    spoiled = make_run()
    spoiled.rows[3].times[OURS] = Timing([9.0, 9.0, 1e-3], 1, 1.0)  # by another program, in two of three rounds
    spoiled.save(tmp_path / "spoiled.json")
    assert command.main([f"--load={tmp_path / 'spoiled.json'}", "--at-least=3.05"]) == 0
    assert command.main([f"--load={new}", "--at-least=3.5"]) == 1
    assert "below 3.5 times the speed of torch in every round: 40,1,128" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fast"], "argument SUITE: invalid choice: 'fast'"),
        (["--against=torch,tensorrt"], "argument --against: expected none or some of torch, compile, onnxruntime"),
        (["--threads=0"], "argument --threads: expected a whole number of at least 1, got 0"),
        (["--repeat=few"], "argument --repeat: expected a whole number of at least 1, got few"),
        (["--longest=nan"], "argument --longest: expected a number above 0, got nan"),
        (["--device=tpu9"], "argument --device: expected cpu, cuda or cuda:N, got tpu9"),
        (["--device=cuda:99"], "argument --device: this PyTorch finds "),
        (["--filter=("], "argument --filter: expected a regular expression, got ("),
        (["--filter=nothing"], "no size of suite quick has nothing in its name (T,B,H)"),
        (["--load=nowhere.json"], "cannot read nowhere.json: No such file or directory"),
        (["--compare=nowhere.json"], "cannot read nowhere.json: No such file or directory"),
    ],
)
def test_bad_option_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        command.main(options)
    assert exit_info.value.code == 2
    assert f"python -m benchmarks: error: {message}" in capsys.readouterr().err


def test_help_names_every_suite_and_peer() -> None:
    printed = output_of(run_python("-m", "benchmarks", "--help", path=()))
    assert all(name in printed for name in (*SUITES, *PEERS))


def test_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for what only a GPU's driver answers."""
    properties = types.SimpleNamespace(
        L2_cache_size=50 << 20, shared_memory_per_multiprocessor=228 << 10, multi_processor_count=132
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(machine, "_output_of", lambda *command: " ".join(command) if "nvidia-smi" in command else "")
    gpu = torch.device("cuda", 1)
    assert machine.last_cache(gpu) == 50 << 20
    assert machine.nearest_cache(gpu, threads=4) == 132 * (484 << 10)
    facts = machine.facts(gpu, torch.float32, 4)
    assert facts["gpu"] == "a GPU"
    assert facts["gpu_clocks"].startswith("nvidia-smi --id=1 --query-gpu=clocks.sm")
    assert all("backends.cud" in switch for switch in facts["float32 products"])
    assert machine.title(facts).startswith("float32, a GPU, torch ")


def test_facts_of_the_machine() -> None:
    facts = machine.facts(CPU, torch.bfloat16, 3)
    assert (facts["dtype"], facts["threads"], facts["torch"]) == ("bfloat16", 3, torch.__version__)
    assert machine.last_cache(CPU) >= machine.nearest_cache(CPU, 1) > 0
    assert machine.title(facts).startswith("bfloat16, ")


@pytest.mark.parametrize(
    ("cudnn", "values"),
    [({"rnn": types.SimpleNamespace()}, {True: "tf32", False: "ieee"}), ({}, {True: "True", False: "False"})],
    ids=["new", "old"],
)
def test_switches_of_tf32_are_set_and_stated(
    cudnn: dict[str, Any], values: dict[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of PyTorch's interfaces, of which this torch has one."""
    assert switches.stated(CPU) == {"get_float32_matmul_precision()": torch.get_float32_matmul_precision()}
    cuda = types.SimpleNamespace(matmul=types.SimpleNamespace())
    monkeypatch.setattr(torch, "backends", types.SimpleNamespace(cudnn=types.SimpleNamespace(**cudnn), cuda=cuda))
    for allowed, value in values.items():
        switches.allow_tf32(allowed)
        stated = switches.stated(torch.device("cuda"))
        assert list(stated.values()) == [value, value]
        assert all(name.startswith("backends.cud") for name in stated)


def test_a_gpu_is_the_default_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, built, expected in ((True, True, "cuda"), (True, False, "cpu"), (False, True, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        monkeypatch.setattr(library, "has_cuda_kernels", built)
        assert command.default_device().type == expected


def test_who_takes_part_only_on_request_is_named() -> None:
    settings = command.settings_of(command.parser().parse_args(["quick"]))
    assert "takes part if --against names it" in run.new_run(settings).absent["compile"]
    chosen = dataclasses.replace(settings, against=("torch",))
    assert run.new_run(chosen).absent == {}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.name)
def test_kept_results_name_their_machine(path: Path) -> None:
    content = json.loads(path.read_text())
    assert {"processor", "torch", "commit"} <= content["environment"].keys()
    if "schema" in content:
        kept = results.load(path)
        assert len(kept.rows) > 0
        for row in kept.rows:
            line = report.line(row)
            assert " ms, " in line or (" MiB, " in line and row.peak_bytes) or row.left_out["all"] in line


def test_seeded_problems_are_the_same_for_everyone() -> None:
    settings = command.settings_of(command.parser().parse_args(["quick"]))
    case = SUITES["quick"].cases(1)[0]
    first, second = (run.problem_of(case, "forward", settings) for _ in range(2))
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_file_that_cannot_be_written_is_one_sentence_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept = tmp_path / "report.md", tmp_path / "run.json"
    page.write_text("the last report")
    monkeypatch.setattr(os, "getpid", lambda: 7)
    (tmp_path / "report.md.7.tmp").symlink_to("/dev/full")
    make_run().save(kept)
    arguments = ["--load", str(kept), "--json", str(tmp_path / "again.json"), "--report", str(page)]
    assert command.main(arguments) == 1
    assert capsys.readouterr().err == f"cannot write {page}: No space left on device\n"
    assert page.read_text() == "the last report"
    assert (tmp_path / "again.json").read_text() == kept.read_text()
    with pytest.raises(files.WriteError, match=r"^cannot write /dev/null/x: "):
        files.write(Path("/dev/null/x"), "x")
