"""What only a GPU can show: streams, graphs, repeatability, large tensors, several devices.

``make gpu-check`` runs this file and what test_accuracy.py has for a GPU; docs/gpu-checklist.md says what
has been run, and where.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accuracy import SMALL, Results, by_gru_ext, check_problems
from cases import (
    FLOATING,
    Options,
    Size,
    function_of,
    lengths_of,
    make_problem,
    ours,
    pair_of_grus,
    results_of,
    solve,
    solve_by,
)
from compare import assert_all_accurate, assert_near, assert_same_bits
from member_cases import of_member, problems_of, solve_members_by, stacked
from on_cuda import cuda_problem, float32_precision, on_cuda
from process import output_of, run_python
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import gru_ext

pytestmark = [
    pytest.mark.cuda,
    # cuDNN's, where parameters are passed one by one as here.
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk"),
]


@pytest.fixture(autouse=True)
def _ieee() -> Iterator[None]:
    """No TF32 but where a test asks for it."""
    with float32_precision("ieee", "ieee"):
        yield


# ---- Results


def test_the_gradient_of_a_sum_which_has_stride_zero() -> None:
    one = torch.ones((), device="cuda")
    check_problems([replace(cuda_problem(SMALL), dy=one.expand(5, 3, 9), dh_n=one.expand(1, 3, 9))], by_gru_ext)


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_float64_agrees_with_the_cpu(options: Options) -> None:
    problem = make_problem(Size(12, 6, 20, 48), options, torch.float64)
    on_gpu = {name: tensor.cpu() for name, tensor in solve(ours, on_cuda(problem)).items()}
    assert_near(on_gpu, solve(ours, problem))


@pytest.mark.parametrize("shared", [True, False], ids=["shared input", "own inputs"])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_members_agree_with_calls_of_their_own(options: Options, shared: bool) -> None:
    """In one launch; torch's batched products may sum in another order."""
    problems = [on_cuda(p) for p in problems_of(Size(12, 16, 20, 256), options, torch.float32, 8, shared)]
    if shared:
        problems = [replace(p, x=problems[0].x) for p in problems]
    results = solve_members_by(torch.ops.gru_ext, stacked(problems))
    for e, problem in enumerate(problems):
        assert_near(of_member(e, results), solve_by(torch.ops.gru_ext, problem), tolerance=1e-4)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_empty_batch(dtype: torch.dtype) -> None:
    problem = cuda_problem(Size(4, 0, 3, 5), Options(bidirectional=True), dtype)
    results = solve(ours, problem)
    assert results["y"].shape == (4, 0, 10)
    for name, weight in zip(problem.names, problem.weights, strict=True):
        assert_same_bits(results[f"d{name}"], torch.zeros_like(weight), name)


def test_one_step_of_few_rows_is_one_launch() -> None:
    """By the choice, and by what the profiler saw; nothing is computed besides."""
    gru = gru_ext.GRU(256, 256, device="cuda").requires_grad_(False)
    x, hx = torch.randn(1, 4, 256, device="cuda"), torch.randn(1, 4, 256, device="cuda")
    assert gru_ext.kernels(1, 4, 256, device="cuda").forward.name == "one_step"
    gru(x, hx)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        gru(x, hx)
        torch.cuda.synchronize()
    launched = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
    assert len(launched) == 1, launched
    assert "gru_one_step_fwd_kernel" in launched[0]


# ---- TF32


def test_tf32_is_used_only_where_both_switches_allow_it() -> None:
    """By the stepwise kernels, whose products are torch's."""
    problem = cuda_problem(Size(20, 64, 128, 128))
    with gru_ext.use_cuda_kernels("stepwise"):
        expected = solve(ours, problem)
        for rnn, matmul in (("ieee", "tf32"), ("tf32", "ieee")):
            with float32_precision(rnn, matmul):
                assert_same_bits(solve(ours, problem), expected, f"with {rnn}, {matmul}")


def test_persistent_kernels_use_tf32_where_the_switch_for_rnns_allows_it() -> None:
    names = []
    for rnn in ("ieee", "tf32"):
        with float32_precision(rnn, "ieee"):
            names.append(gru_ext.kernels(20, 64, 128, dtype=torch.float32, device="cuda").forward.name)
    if torch.cuda.get_device_capability()[0] >= 9:
        assert all(name.startswith("cluster") for name in names)
    assert not names[1].endswith("_ieee")
    assert names[0] == "stepwise" or names[0].endswith("_ieee")


# ---- Autograd, modules, transforms


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_gradcheck_and_gradgradcheck(options: Options) -> None:
    problem = cuda_problem(Size(2, 2, 2, 3), options, torch.float64)
    function, leaves = function_of(ours, problem), problem.trainable().tensors
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("op", ["gru_fwd", "gru_bwd"])
def test_opcheck(op: str) -> None:
    problem = cuda_problem(SMALL, Options(bidirectional=True))
    y, _, gates = torch.ops.gru_ext.gru_fwd(*problem.layer, True)
    arguments: dict[str, tuple[Any, ...]] = {
        "gru_fwd": (*problem.layer, True),
        "gru_bwd": (problem.dy, problem.dh_n, *problem.layer, y, gates, True, True, True),
    }
    torch.library.opcheck(getattr(torch.ops.gru_ext, op).default, arguments[op])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_module_of_two_layers_and_directions(packed: bool, batch_first: bool) -> None:
    pair = pair_of_grus(6, 16, 2, bidirectional=True, batch_first=batch_first, device="cuda")
    padded = torch.randn((5, 9, 6) if batch_first else (9, 5, 6), device="cuda")
    x: Any = padded
    if packed:
        x = pack_padded_sequence(padded, lengths_of(9, 5)[::-1], batch_first, enforce_sorted=False)
    results = []
    for module in pair:
        y, h_n = module(x)
        loss = (y.data if packed else y).square().sum() + h_n.sum()
        results.append([loss.detach(), *torch.autograd.grad(loss, list(module.parameters()))])
    assert_near(results[0], results[1], tolerance=1e-4)


def test_autocast_computes_in_its_dtype() -> None:
    module = gru_ext.GRU(6, 16, device="cuda")
    x = torch.randn(5, 3, 6, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        y, _ = module(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


def test_compile_without_graph_breaks() -> None:
    module = gru_ext.GRU(6, 16, device="cuda")
    x = torch.randn(5, 3, 6, device="cuda")
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(x)[0], module(x)[0])


# ---- Streams, graphs, the host


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_the_current_stream_is_used(dtype: torch.dtype) -> None:
    """The input arrives late on a stream that nothing else waits for."""
    problem = cuda_problem(Size(20, 8, 16, 64), Options(bidirectional=True), dtype)
    expected = solve(ours, problem)
    late = replace(problem, x=torch.full_like(problem.x, torch.nan))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.x.copy_(problem.x)
        results = solve(ours, late)
    stream.synchronize()
    assert_same_bits(results, expected)


def test_two_streams_at_once() -> None:
    problems = [cuda_problem(Size(60, 16, 16, 128), Options(), dtype) for dtype in (torch.float32, torch.bfloat16)]
    expected = [solve(ours, problem) for problem in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    for _ in range(10):
        results = []
        for stream, problem in zip(streams, problems, strict=True):
            with torch.cuda.stream(stream):
                results.append(solve(ours, problem))
        torch.cuda.synchronize()
        assert_same_bits(results, expected)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(
    ("kernels", "options"),
    [
        ("auto", Options()),
        ("stepwise", Options()),
        ("stepwise", Options(bidirectional=True, packed=True)),  # captured by the stepwise kernels in any case
    ],
    ids=str,
)
def test_graph_capture_and_replay(kernels: str, options: Options, dtype: torch.dtype) -> None:
    problem, other = (cuda_problem(Size(7, 4, 5, 33), options, dtype) for _ in range(2))
    with gru_ext.use_cuda_kernels(kernels):
        expected = [solve(ours, problem), solve(ours, other)]
        static = copy.deepcopy(problem)
        graph, results = captured(lambda: solve(ours, static))
        for given, wanted in ((other, expected[1]), (problem, expected[0]), (other, expected[1])):
            for target, source in zip(static.all_tensors, given.all_tensors, strict=True):
                target.copy_(source)
            graph.replay()
            assert_same_bits(results, wanted)


def test_graph_capture_without_a_call_before() -> None:
    """A kernel that has not been tested yet is not used, and nothing is done that a capture forbids."""
    result = run_python("-c", CAPTURE_AT_ONCE)
    assert output_of(result).strip() == "True"


CAPTURE_AT_ONCE = """
import torch, gru_ext
x = torch.randn(5, 3, 32, device="cuda", dtype=torch.bfloat16)
gru = gru_ext.GRU(32, 32, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
torch.mm(x[0], x[0].t())  # sets up cuBLAS, which no capture may
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y, _ = gru(x)
graph.replay()
with gru_ext.use_cuda_kernels("stepwise"):
    expected, _ = gru(x)
print(torch.equal(y, expected))
"""


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_graph_capture_of_a_decoding_loop(dtype: torch.dtype) -> None:
    """A step at a time, each from the state and the output of the one before; without a call before the capture."""
    gru = gru_ext.GRU(64, 64, device="cuda", dtype=dtype).requires_grad_(False)
    assert gru_ext.kernels(1, 2, 64, dtype=dtype, device="cuda").forward.name == "one_step"

    def decode(x: Tensor, h: Tensor) -> Tensor:
        outputs = []
        for _ in range(5):
            x, h = gru(x, h)
            outputs.append(x)
        return torch.cat(outputs)

    x, h = (torch.randn(1, 2, 64, device="cuda", dtype=dtype) for _ in range(2))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = decode(x, h)
    for _ in range(3):
        x.normal_()
        h.normal_()
        graph.replay()
        assert_same_bits(captured, decode(x, h))


def captured(step: Callable[[], Results]) -> tuple[torch.cuda.CUDAGraph, Results]:
    """A graph of a step that ran once before, on another stream, and what its replays write to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        return graph, step()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_the_same_bits_in_100_runs(dtype: torch.dtype) -> None:
    problem = cuda_problem(Size(20, 60, 64, 130), Options(bidirectional=True, packed=True), dtype)
    first = solve(ours, problem)
    for _ in range(100):
        assert_same_bits(solve(ours, problem), first)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_autotune_measures_once_and_results_stay_right(dtype: torch.dtype, tmp_path: Path) -> None:
    """float64 has one kernel, and so nothing to measure."""
    size, cache = Size(256, 32, 64, 256), tmp_path / "autotune.tsv"
    gru_ext.autotune(True, cache)
    try:
        check_problems([cuda_problem(size, dtype=dtype)], by_gru_ext)
        reason = gru_ext.kernels(size.steps, size.batch, size.hidden, dtype=dtype, device="cuda").forward.reason
        if dtype == torch.float64:
            assert not cache.exists()
            return
        milliseconds = [float(words.split()[-2]) for words in reason.split(";")[0].split(", ")]
        assert len(milliseconds) > 1
        assert milliseconds == sorted(milliseconds)
        records = cache.read_text()
        check_problems([cuda_problem(size, dtype=dtype)], by_gru_ext)
        assert cache.read_text() == records
    finally:
        gru_ext.autotune(False)


@contextmanager
def no_waits() -> Iterator[None]:
    """Within it, to wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_the_host_never_waits(options: Options, dtype: torch.dtype) -> None:
    problem = cuda_problem(Size(7, 4, 5, 33), options, dtype)
    solve(ours, problem)  # cuBLAS is set up at its first call
    with no_waits():
        solve(ours, problem)


# ---- Layers at the same time


OVERLAPPING: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "bias": False, "save": "output"},
    {"outputs": "last", "reset_after": False},
]


def overlapping(dtype: torch.dtype, **arguments: Any) -> tuple[gru_ext.GRU, list[Tensor]]:
    """Three layers in 6 chunks, the last one shorter; their input and initial state."""
    gru = gru_ext.GRU(24, 64, 3, **arguments, overlap_layers=16, device="cuda", dtype=dtype)
    shape = (4, 90, 24) if gru.batch_first else (90, 4, 24)
    return gru, [torch.randn(s, device="cuda", dtype=dtype, requires_grad=True) for s in (shape, (3, 4, 64))]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_accuracy_of_overlapped_layers(dtype: torch.dtype) -> None:
    gru, inputs = overlapping(dtype)
    theirs = nn.GRU(24, 64, 3, device="cuda", dtype=dtype)
    theirs.load_state_dict(gru.state_dict())
    in_float64 = [tensor.detach().double().requires_grad_() for tensor in inputs]
    in_framework = results_of(theirs, *inputs)
    assert_all_accurate(results_of(gru, *inputs), in_framework, results_of(theirs.double(), *in_float64))


@pytest.mark.parametrize("arguments", OVERLAPPING, ids=str)
def test_overlapped_layers_agree_with_one_after_another(arguments: dict[str, Any]) -> None:
    gru, inputs = overlapping(torch.float64, **arguments)
    results = results_of(gru, *inputs)
    gru.overlap_layers = 0
    assert_near(results, results_of(gru, *inputs))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_overlapped_layers_wait_for_one_another(dtype: torch.dtype) -> None:
    """The same bits in 50 steps whose memory is used anew at once, on a stream where the input comes late."""
    gru, inputs = overlapping(dtype)
    expected = results_of(gru, *inputs)
    late = [torch.full_like(tensor, torch.nan, requires_grad=True) for tensor in inputs]
    different = torch.zeros((), device="cuda", dtype=torch.int64)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        with torch.no_grad():
            for tensor, value in zip(late, inputs, strict=True):
                tensor.copy_(value)
        for _ in range(50):
            for name, result in results_of(gru, *late).items():
                different += (result != expected[name]).sum()
                result.detach().fill_(torch.nan)
    assert different.item() == 0


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_graph_capture_of_overlapped_layers(dtype: torch.dtype) -> None:
    """A step of training; the one before tests the kernels."""
    gru, inputs = overlapping(dtype)
    graph, results = captured(lambda: results_of(gru, *inputs))
    for _ in range(3):
        with torch.no_grad():
            for tensor in inputs:
                tensor.normal_()
        graph.replay()
        assert_same_bits(results, results_of(gru, *inputs))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_the_host_never_waits_for_overlapped_layers() -> None:
    gru, inputs = overlapping(torch.bfloat16)
    results_of(gru, *inputs)
    with no_waits():
        results_of(gru, *inputs)


def test_two_layers_compute_at_the_same_time() -> None:
    """As the profiler sees it, forward and backward: a kernel of ours begins before another one has ended."""
    gru = gru_ext.GRU(256, 256, 2, overlap_layers=64, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(1024, 8, 256, device="cuda", dtype=torch.bfloat16)
    gru(x)[0].sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        gru(x)[0].sum().backward()
        torch.cuda.synchronize()
    for kernel in ("_fwd_kernel", "_bwd_kernel"):
        ranges = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type.name == "CUDA" and "gru_" in event.name and kernel in event.name
        )
        assert any(start < end for (_, end), (start, _) in pairwise(ranges)), (kernel, ranges)


# ---- Sizes, devices, bad luck


def needs_gigabytes(gigabytes: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory, {free >> 30} are")


def test_more_than_2_to_the_31_elements() -> None:
    needs_gigabytes(40)
    size = Size(2, 2**17, 1, 2049)
    assert size.steps * size.batch * 4 * size.hidden > 2**31
    weights = [torch.randn(3 * size.hidden, n, device="cuda", dtype=torch.bfloat16) / 45 for n in (1, size.hidden)]
    x = torch.randn(2, size.batch, 1, device="cuda", dtype=torch.bfloat16)
    last = x[:, -8:].clone()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        y, _ = ours(leaf, None, [weight.requires_grad_() for weight in weights], None, False)
        (dx,) = torch.autograd.grad(y[:, -8:].float().square().sum(), [leaf])
        return y[:, -8:].clone(), dx[:, -8:]

    assert_near(run(x), run(last), tolerance=2**-7)


def test_many_rows_of_one_unit() -> None:
    problem = cuda_problem(Size(2, 2**22, 1, 1))
    y, _ = ours(problem.x, None, problem.weights, None, False)
    expected, _ = ours(problem.x[:, -9:], None, problem.weights, None, False)
    assert_near(y[:, -9:], expected, "y", 1e-6)


def test_a_wide_layer() -> None:
    check_problems([cuda_problem(Size(3, 2, 8, 4099))], by_gru_ext)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one() -> None:
    problem = make_problem(Size(7, 4, 5, 33), Options(bidirectional=True), torch.float32)
    results, expected = (solve(ours, on_cuda(problem, device)) for device in ("cuda:1", "cuda:0"))
    for name, tensor in results.items():
        assert tensor.device == torch.device("cuda:1")
        assert_near(tensor.to("cuda:0"), expected[name], name, 1e-6)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("where", ["x", "weights"])
def test_tensors_on_two_devices_are_refused(where: str) -> None:
    p = make_problem(SMALL)
    x, weights = (p.x.cuda(), p.weights) if where == "x" else (p.x, [w.cuda() for w in p.weights])
    with pytest.raises(RuntimeError, match="on the device of x"):
        torch.ops.gru_ext.gru_fwd(x, None, weights, None, False, True)


def test_after_running_out_of_memory_the_next_call_works() -> None:
    problem = cuda_problem(SMALL)
    expected = solve(ours, problem)
    huge = torch.zeros((), device="cuda").expand(2**20, 2**20, 4)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        ours(huge, None, problem.weights, None, False)
    assert_same_bits(solve(ours, problem), expected)
