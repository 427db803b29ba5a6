"""Accuracy of results and gradients: every way to compute a layer, by the variants of the recurrence, by its cases.

A test is a way: the CPU's kernels; the CUDA backend and its kernels under emulation, as nvcc compiles them, on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from accuracy import (
    ABSENT,
    BOTH,
    CPU,
    IN_THREADS,
    LARGE_PLAIN,
    LAYOUTS,
    MAGNITUDES,
    NORMS,
    SIZES,
    SMALL,
    STRIDES,
    TF32_PEERS,
    Case,
    Results,
    by_gru_ext,
    check,
    grid,
)
from cases import ALL_OPTIONS, Options, Problem, Size, make_problem, solve_by
from compare import assert_same_bits
from compiled_backend import new_device
from compiled_kernels import SAMPLE, SAMPLE_LIBRARY, STREAMED, STREAMING, missing
from emulated_backend import SMALL as CLUSTER_SMALL
from emulated_backend import emulate, emulate_tested
from emulation import Schedule
from on_cuda import float32_precision, kernels_of
from persistent_kernels import (
    BFLOAT16,
    SMALL_CONFIGS,
    SMALL_SIZES,
    Config,
    HeldConfig,
    StreamedConfig,
    held_instantiations,
    solve_persistent,
    streamed_instantiations,
)
from process import thread_count

import gru_ext
from gru_ext.variant import Variant

PLAIN = Options()
HALVES_AND_TF32 = (torch.bfloat16, torch.float16, torch.float32)
with_nvcc = pytest.mark.skipif(missing() != "", reason=missing() or "none")


def on_a_gpu(test: Any) -> Any:
    """Marks a test that needs one."""
    # cuDNN warns where parameters are passed one by one as here.
    ignored = pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
    return pytest.mark.cuda(ignored(test))


def each(*tables: Sequence[Case]) -> pytest.MarkDecorator:
    """A test of every case."""
    return pytest.mark.parametrize("case", [case for table in tables for case in table], ids=str)


def each_of(table: Sequence[tuple[Config, Case]]) -> pytest.MarkDecorator:
    """A test of every kernel with its cases."""
    return pytest.mark.parametrize(("config", "case"), table, ids=str)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_have_the_same_values(layout: str) -> None:
    steps = 1 if layout == "of_a_long_sequence" else 5
    given = make_problem(Size(steps, 3, 4, 9), Options(bidirectional=True), torch.float32)
    laid_out = given.map(LAYOUTS[layout])
    assert_same_bits(laid_out.all_tensors, given.all_tensors)
    assert not laid_out.x.is_contiguous() or laid_out.x.data_ptr() % 16
    assert layout in ("beside_a_boundary", "of_a_long_sequence") or not laid_out.weights[0].is_contiguous()


# ---- The CPU's kernels; tests/test_isa.py has those of each instruction set


@each(CPU)
def test_cpu(case: Case) -> None:
    check(case, by_gru_ext)


@each(IN_THREADS)
@pytest.mark.parametrize("count", [2, 3])
def test_cpu_with_several_threads(case: Case, count: int) -> None:
    """And the same bits each time."""

    def solve_twice(problem: Problem, variant: Variant, save_gates: bool) -> Results:
        with thread_count(count):
            results, again = (by_gru_ext(problem, variant, save_gates) for _ in range(2))
        assert_same_bits(again, results)
        return results

    check(case, solve_twice)


# ---- The CUDA backend under emulation: its host side as it is, on a device of 40 multiprocessors


emulated = pytest.mark.usefixtures("emulated")
# The last has one unit more than a block.
STEPWISE_SIZES = [Size(1, 1, 1, 1), Size(3, 5, 4, 7), Size(4, 3, 6, 33)]
STEPWISE_SMALL = Size(4, 3, 2, 5)
# More rows than the emulated grid has threads for.
STEPWISE_LARGE = [
    (Size(3, 70, 3, 5), PLAIN),
    (Size(3, 70, 3, 5), BOTH),
    (Size(2, 30, 3, 40), Options(bias=False)),
    (Size(60, 2, 4, 3), BOTH),
]
STEPWISE_NORMALISED = [
    (Size(2, 3, 4, 7), PLAIN),
    (STEPWISE_SIZES[2], BOTH),
    (Size(3, 12, 3, 90), Options(bias=False, hx=False)),  # more units than a block has threads
]
AGAIN = [STEPWISE_SIZES[0], Size(7, 5, 4, 7)]  # in one chunk of time and in several


@emulated
@each(
    grid([*product(STEPWISE_SIZES, ALL_OPTIONS), *STEPWISE_LARGE]),
    grid(product([STEPWISE_SMALL], [PLAIN, BOTH]), changes=(*ABSENT, "transposed", "every_other")),
    grid([(STEPWISE_SMALL, PLAIN)], changes=MAGNITUDES),
    grid(product(AGAIN, ALL_OPTIONS), save_gates=False),
    grid(
        product(AGAIN[1:], [PLAIN, BOTH]), [torch.float64], ["every mask", "every mask, reset before"], save_gates=False
    ),
    grid(
        [*product(STEPWISE_SIZES, [PLAIN, Options(bias=False, hx=False), BOTH]), *STEPWISE_LARGE],
        variants=["reset before"],
    ),
    grid(
        [(STEPWISE_SIZES[2], BOTH), *STEPWISE_LARGE[:2]],
        variants=["every mask", "every mask, reset before"],
    ),
    grid(STEPWISE_NORMALISED, variants=NORMS),
    grid(STEPWISE_NORMALISED, variants=["layer norm"], save_gates=False),
    *(
        grid([(STEPWISE_SIZES[2], BOTH)], [torch.float64], ["every mask, layer norm"], save_gates=s)
        for s in (True, False)
    ),
)
def test_emulated_stepwise(case: Case) -> None:
    ops = emulate(multiprocessors=0)
    ops.use_cuda_kernels("stepwise", "stepwise")
    check(case, partial(solve_by, ops))


# Rows that are not aligned, and that are, except bfloat16's of x.
ONE_STEP_SIZES = [Size(1, 1, 1, 1), Size(1, 3, 5, 33), Size(1, 2, 40, 64)]
# One warp, or several with several windows each, for a row; every tile of rows, full and not.
ONE_STEP_LARGE = [
    (Size(1, 2, 1096, 9), PLAIN),
    (Size(1, 4, 1096, 3), Options(bidirectional=True)),
    (Size(1, 8, 24, 16), PLAIN),
    (Size(1, 21, 7, 16), Options(bidirectional=True)),
]
ONE_STEP_SMALL = Size(1, 3, 24, 40)


@emulated
@each(
    grid([*product(ONE_STEP_SIZES, ALL_OPTIONS), *ONE_STEP_LARGE]),
    grid([(Size(1, 1, 16, 520), PLAIN)], changes=["forward alone"]),
    grid(product([ONE_STEP_SMALL], [PLAIN, BOTH, Options(bias=False, hx=False)]), save_gates=False),
    grid([(ONE_STEP_SMALL, PLAIN)], changes=MAGNITUDES),
    grid(
        product([ONE_STEP_SMALL], [PLAIN, Options(bidirectional=True), BOTH]),
        changes=("transposed", "every_other", "beside_a_boundary", "of_a_long_sequence"),
    ),
    grid(
        [(ONE_STEP_SMALL, PLAIN)],
        changes=[f"beside_a_boundary of {tensor}" for tensor in ("x", "hx", "weights")],
    ),
)
def test_emulated_one_step(case: Case) -> None:
    """The gradients by the stepwise kernels, from the gates that the one-step kernel leaves."""
    ops = emulate(multiprocessors=0)
    ops.use_cuda_kernels("one_step", "auto")
    check(case, partial(solve_by, ops))
    assert case.change != "forward alone" or ops.block_launches() == 1


CLUSTER_SIZES = [Size(1, 1, 1, 1), Size(3, 9, 5, 34), Size(4, 17, 6, 64), Size(5, 3, 2, 63)]


@emulated
@each(
    grid(product(CLUSTER_SIZES, ALL_OPTIONS), HALVES_AND_TF32),
    grid(product([CLUSTER_SMALL], [PLAIN, BOTH]), HALVES_AND_TF32, changes=("transposed", "every_other")),
    grid([(CLUSTER_SMALL, Options(bidirectional=True))], HALVES_AND_TF32, changes=ABSENT),
)
def test_emulated_cluster(case: Case) -> None:
    ops = emulate_tested("cluster")
    check(case, partial(solve_by, ops), TF32_PEERS.get(case.dtype), draws=1)
    assert ops.persistent_launches() == 2  # forward and backward


@emulated
@each(grid(product([Size(9, 9, 5, 34)], ALL_OPTIONS), HALVES_AND_TF32, save_gates=False))
def test_emulated_cluster_in_windows(case: Case) -> None:
    """One direction in windows, of which the backward has more; both directions in one."""
    ops = emulate_tested("cluster")
    check(case, partial(solve_by, ops), TF32_PEERS.get(case.dtype))
    windows = ops.persistent_launches()
    assert windows == 2 if case.options.bidirectional else windows > 9


@emulated
@each(grid(product([Size(3, 9, 5, 100), Size(4, 33, 2, 128)], [PLAIN, BOTH]), HALVES_AND_TF32))
@pytest.mark.parametrize("multiprocessors", [4, 9, 40])
def test_emulated_group(case: Case, multiprocessors: int) -> None:
    """With one, two or all groups at a time."""
    ops = emulate_tested("group", multiprocessors)
    check(case, partial(solve_by, ops), TF32_PEERS.get(case.dtype))
    groups = (2 if case.options.bidirectional else 1) * -(-case.size.batch // 16)
    assert ops.persistent_launches() == 2 * -(-groups // (multiprocessors // 4))  # forward and backward


@emulated
@pytest.mark.parametrize(
    ("multiprocessors", "case"),
    [
        (multiprocessors, case)
        for multiprocessors, hidden in [(5, 160), (9, 129), (40, 100), (40, 3), (40, 330)]
        for case in grid(product([Size(3, 17, 5, hidden)], [PLAIN, BOTH]), HALVES_AND_TF32)
    ],
    ids=str,
)
def test_emulated_streamed(case: Case, multiprocessors: int) -> None:
    """With one, two, three or all groups at a time; of the wider layers some weights are read again every step."""
    ops = emulate_tested("streamed", multiprocessors)
    check(case, partial(solve_by, ops), TF32_PEERS.get(case.dtype))
    groups = 4 if case.options.bidirectional else 2
    at_a_time = min(groups, multiprocessors // -(-case.size.hidden // 32))
    assert ops.persistent_launches() == 2 * -(-groups // at_a_time)  # forward and backward


@emulated
@each(
    *(
        grid(product([Size(7, 17, 5, 35)], [PLAIN, BOTH]), HALVES_AND_TF32, ["every mask"], save_gates=saves)
        for saves in (True, False)
    )
)
def test_emulated_streamed_with_masks(case: Case) -> None:
    """Where gates are not saved, in windows."""
    ops = emulate_tested("streamed")
    check(case, partial(solve_by, ops), TF32_PEERS.get(case.dtype))
    assert ops.persistent_launches() >= 2 * len(case.variants(case.problem()))


# ---- The persistent kernels alone, emulated


def small_configs() -> Iterator[tuple[Config, Case]]:
    """Every kernel meets all options, and so does every size."""
    for i, (size, config) in enumerate(product(SMALL_SIZES, SMALL_CONFIGS)):
        for case in grid(product([size], ALL_OPTIONS[i % 3 :: 3]), [config.dtype]):
            yield config, case
    for config in SMALL_CONFIGS:
        size = Size(5, 11, 4, 36)
        for case in [
            *grid(
                product(SMALL_SIZES[1:], [PLAIN, Options(bidirectional=True)]), [config.dtype], changes=["batch first"]
            ),
            *grid(product([size], [PLAIN, BOTH]), [config.dtype], changes=ABSENT),
            *grid([(size, PLAIN)], [config.dtype], changes=["x * 0.0", "x * 1e-4", "x * 30.0"]),
        ]:
            yield config, case
    for config in BFLOAT16[1:]:
        yield config, Case(Size(100, 9, 4, 48), BOTH, config.dtype)


def every_instantiation() -> Iterator[tuple[Config, Case]]:
    """An H whose rows are not aligned; in small layers two tiles, the last not full, and all of H.

    Large layers of all of H are run from what nvcc makes of them, by check_compiled_kernels.py. Of large ones two steps
    show what is of the instantiation: its shape, and where every unit and row is. That buffers are used again in the
    third step is the same code in all of them, and small ones show it.
    """
    for config in held_instantiations("cluster", "BWD"):
        small = config.hidden <= 256
        steps = 3 if small else 2
        yield config, Case(Size(steps, config.rows + 3 if small else 3, 2, config.hidden - 14), dtype=config.dtype)
        if small:
            yield config, Case(Size(3, config.rows - 3, 2, config.hidden), dtype=config.dtype)
    backward = held_instantiations("group", "BWD")
    for group in held_instantiations("group", "FWD"):
        alone = "" if group in backward else "forward alone"
        steps = 3 if group.hidden <= 256 else 2
        yield group, Case(Size(steps, group.rows - 3, 2, group.hidden - 14), PLAIN, group.dtype, change=alone)
        if group.hidden <= 512:
            yield group, Case(Size(steps, 3, 2, group.hidden), PLAIN, group.dtype, change=alone)
    # So wide that some weights are in registers and others streamed.
    widest = streamed_instantiations("BWD")
    for streamed, hidden in streamed_instantiations("FWD").items():
        if streamed in widest:
            yield streamed, Case(Size(2, 5, 2, max(hidden, widest[streamed])), PLAIN, streamed.dtype)
        else:
            yield streamed, Case(Size(2, 9, 2, max(hidden, 65)), PLAIN, streamed.dtype, change="forward alone")


@each_of([*small_configs()])
def test_emulated_kernel(config: Config, case: Case) -> None:
    solver = partial(solve_persistent, config, batch_first=case.change == "batch first")
    check(case, lambda problem, *_: solver(problem), config.peer_dtype, draws=1)


@each_of([*every_instantiation()])
def test_emulated_instantiation(config: Config, case: Case) -> None:
    races = isinstance(config, HeldConfig) and not config.group and config.hidden < 256
    check(
        case,
        lambda problem, *_: solve_persistent(config, problem, schedule=Schedule(races=races)),
        config.peer_dtype,
        draws=1,
    )


# ---- What nvcc makes of the kernels, in the interpreter


def sample() -> Iterator[tuple[Config, int, Case]]:
    """Rows that are not aligned, two tiles, both directions, packed; then rows that are, by other schedules."""
    for config in SAMPLE:
        # All of H of a cluster, or an H that shows as much.
        hidden = min(config.hidden, 256) if isinstance(config, HeldConfig) else 130
        variant = "all masks" if isinstance(config, StreamedConfig) and config.masked else ""
        yield config, 1, Case(Size(4, config.rows + 1, 5, hidden - 31), BOTH, config.dtype, variant)
        for seed, options in ((2, PLAIN), (3, Options(bias=False, hx=False))):
            yield config, seed, Case(Size(3, 3, 5, hidden), options, config.dtype, variant)
    # So wide that it has neither registers nor shared memory for all weights.
    yield STREAMED, 1, Case(Size(3, 3, 2, STREAMING), PLAIN, STREAMED.dtype)


@with_nvcc
@pytest.mark.parametrize(("config", "seed", "case"), [*sample()], ids=str)
def test_compiled_kernel(config: Config, seed: int, case: Case) -> None:
    schedule = Schedule(seed=seed, library=SAMPLE_LIBRARY)

    def solver(problem: Problem, variant: Variant, _: bool) -> Results:
        return solve_persistent(config, problem, schedule=schedule, variant=variant)

    check(case, solver, config.peer_dtype, draws=1)


COMPILED_SMALL = Size(3, 2, 4, 6)
ODD = Size(3, 2, 3, 7)  # no row of H values is aligned to the next, so that none is loaded as pairs or words
COMPILED_CLUSTER = "cluster_H64_C1_rows8"
FAMILIES = [
    ("stepwise", torch.bfloat16, Options(bidirectional=True)),
    ("stepwise", torch.float16, PLAIN),
    ("stepwise", torch.float32, BOTH),
    ("stepwise", torch.float64, PLAIN),
    (COMPILED_CLUSTER, torch.bfloat16, BOTH),
    (COMPILED_CLUSTER, torch.float16, PLAIN),
    (COMPILED_CLUSTER, torch.float32, PLAIN),
    ("cluster_H256_C4_rows8", torch.bfloat16, PLAIN),
    ("group_H512_C8_rows8", torch.bfloat16, PLAIN),
    ("streamed_U32_rows8", torch.bfloat16, PLAIN),
]


def of_the_backend() -> Iterator[tuple[str, Case]]:
    for kernel, dtype, options in FAMILIES:
        for size in (COMPILED_SMALL, ODD):
            yield kernel, Case(size, options, dtype)
    for save_gates in (True, False):
        for variant in ("reset before", *NORMS):
            yield "auto", Case(ODD, BOTH, torch.float32, variant, save_gates=save_gates)
        for kernel in ("streamed_U32_rows8_masked", "stepwise"):
            packed = Options(packed=True)
            yield kernel, Case(COMPILED_SMALL, packed, torch.bfloat16, "all masks", save_gates=save_gates)


@with_nvcc
@pytest.mark.parametrize(("kernel", "case"), [*of_the_backend()], ids=str)
def test_compiled_backend(kernel: str, case: Case) -> None:
    """The first call tests the kernel against the stepwise ones, then it serves."""
    with new_device() as ops:
        ops.check_order(kernel == "stepwise")  # of the others test_compiled_kernel does
        ops.use_cuda_kernels(kernel, kernel)
        peer = TF32_PEERS.get(case.dtype) if kernel not in ("stepwise", "auto") else None
        check(case, partial(solve_by, ops), peer, draws=1)


# ---- On a GPU, against cuDNN; `make gpu-check` runs these functions with those of test_cuda.py


def check_on_cuda(case: Case, kernels: str, backward: str | None = None) -> None:
    """No TF32."""
    with float32_precision("ieee", "ieee"), gru_ext.use_cuda_kernels(kernels, backward):
        check(case, by_gru_ext, device="cuda")


@on_a_gpu
@each(grid(product(SIZES, ALL_OPTIONS)))
@pytest.mark.parametrize("kernels", ["auto", "stepwise"])
def test_cuda_of_results_and_gradients(case: Case, kernels: str) -> None:
    check_on_cuda(case, kernels)


@on_a_gpu
@each(
    grid(product([SMALL], [PLAIN, BOTH]), changes=ABSENT),
    grid([(SMALL, PLAIN)], changes=MAGNITUDES),
    grid(product([SMALL], [PLAIN, Options(packed=True), Options(bidirectional=True)]), changes=STRIDES),
)
def test_cuda_of_any_arguments(case: Case) -> None:
    check_on_cuda(case, "auto")


@on_a_gpu
# The last two have several chunks of time, in csrc/cuda/stepwise/steps.cpp.
@each(grid([*LARGE_PLAIN, (Size(512, 64, 64, 512), PLAIN), (Size(400, 64, 64, 511), BOTH)]))
def test_cuda_of_large_problems(case: Case) -> None:
    check_on_cuda(case, "auto")


ONE_STEP_ON_CUDA = [*ONE_STEP_SIZES[:1], Size(1, 3, 17, 33), Size(1, 8, 256, 512), Size(1, 2, 2048, 256)]


@on_a_gpu
@each(
    grid(product([*ONE_STEP_ON_CUDA, Size(1, 64, 24, 40)], ALL_OPTIONS)),
    grid([(ONE_STEP_SMALL, Options(bidirectional=True))], changes=STRIDES),
)
def test_cuda_of_one_step(case: Case) -> None:
    check_on_cuda(case, "one_step", "auto")


def check_kernel_on_cuda(config: Config, hidden: int, backwards: Iterable[Config], sizes: Iterable[Size]) -> None:
    """Backwards too, where there is such a kernel."""
    with kernels_of(config, hidden, config.name if config in backwards else "auto"):
        for size, options in product(sizes, [PLAIN, BOTH]):
            check(Case(size, options, config.dtype), by_gru_ext, config.peer_dtype, "cuda")


@on_a_gpu
@pytest.mark.parametrize("config", held_instantiations("cluster", "BWD"), ids=str)
def test_cuda_of_every_cluster_kernel(config: HeldConfig) -> None:
    """All of H, and an H whose rows are not aligned; several tiles, the last not full."""
    sizes = [(config.rows, config.hidden), (2 * config.rows + 3, config.hidden - 14)]
    check_kernel_on_cuda(config, config.hidden, [config], (Size(20, batch, 24, hidden) for batch, hidden in sizes))


def groups_at_a_time(blocks: int) -> int:
    """How many groups of so many blocks the device runs."""
    multiprocessors: int = torch.cuda.get_device_properties(0).multi_processor_count
    return multiprocessors // blocks


@on_a_gpu
@pytest.mark.parametrize("config", held_instantiations("group", "FWD"), ids=str)
def test_cuda_of_every_group_kernel(config: HeldConfig) -> None:
    """As above; more groups than the device runs at a time."""
    sizes = [
        (config.rows, config.hidden),
        (config.rows * (groups_at_a_time(config.blocks) + 1), config.hidden - 14),
    ]
    layers = (Size(20, batch, 24, hidden) for batch, hidden in sizes)
    check_kernel_on_cuda(config, config.hidden, held_instantiations("group", "BWD"), layers)


@on_a_gpu
@pytest.mark.parametrize("hidden", [100, 2111, 2816])
@pytest.mark.parametrize("config", streamed_instantiations("FWD"), ids=str)
def test_cuda_of_every_streamed_kernel(config: StreamedConfig, hidden: int) -> None:
    """As above; weights that all stay, and that are read again every step."""
    groups = groups_at_a_time(-(-hidden // config.units)) + 1
    batches = (config.rows, config.rows * min(groups, 4) - 3)
    layers = (Size(9, batch, 24, hidden) for batch in batches)
    check_kernel_on_cuda(config, hidden, streamed_instantiations("BWD"), layers)


@on_a_gpu
@each(grid(product([Size(7, 17, 5, 100), Size(7, 17, 5, 1500)], [PLAIN, BOTH]), HALVES_AND_TF32, ["every mask"]))
@pytest.mark.parametrize("kernels", ["streamed", "stepwise"])
def test_cuda_with_masks(case: Case, kernels: str) -> None:
    """In TF32, where there is no other precision to ask for."""
    with float32_precision("tf32", "ieee"), gru_ext.use_cuda_kernels(kernels):
        size = case.size
        chosen = gru_ext.kernels(
            size.steps, size.batch, size.hidden, dtype=case.dtype, device="cuda", masked=True
        ).forward.name
        assert chosen == "stepwise" if kernels == "stepwise" else chosen.endswith("_masked")
        check(case, by_gru_ext, TF32_PEERS.get(case.dtype), "cuda")


@on_a_gpu
@each(grid(product([Size(20, 64, 128, 128), Size(20, 64, 128, 129)], [PLAIN]), [torch.float32]))
def test_cuda_with_tf32(case: Case) -> None:
    with float32_precision("tf32", "tf32"):
        check(case, by_gru_ext, torch.float16, "cuda")
