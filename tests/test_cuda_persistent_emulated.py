"""The persistent kernels called by the CUDA operators, without a GPU: choice of kernel, bad luck.

The host side is as it is, the kernels run in the emulator, and what the device is like is up to the test: how many
multiprocessors it has, whether it refuses a launch, leaves a wrong value, loses a message or captures a graph.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from accuracy import check_problems, forbid_tf32
from cases import Options, Problem, Size, make_problem, variants_of
from compare import assert_same_bits
from emulated_backend import SMALL, check_emulated, choice, emulate, emulate_tested, emulated_operators, solve_emulated
from layouts import transposed

from gru_ext.variant import PLAIN

pytestmark = pytest.mark.usefixtures("emulated")


@pytest.fixture
def problem() -> Problem:
    """A layer that every family serves."""
    return make_problem(SMALL, Options(), torch.bfloat16)


# ---- The kernels with their host side


def test_masks_need_a_kernel_that_takes_them(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    ops, size = emulate(), Size(100, 17, 64, 64)
    assert choice(size=size)[0] == "cluster_H64_C1_rows8"
    assert choice(size=size, masked=True)[0] == "streamed_U32_rows16_masked"
    forbid_tf32(monkeypatch)
    assert choice(torch.float32, size, masked=True)[0] == "stepwise"
    for asked in ("cluster", "streamed_U32_rows16"):
        ops.use_cuda_kernels(asked, "auto")
        with pytest.raises(RuntimeError, match=f"asks for {asked}, which cannot serve this call"):
            ops.gru_fwd(*problem.layer, True, zoneout=0.1)


@pytest.mark.parametrize("absent", ["dy", "dh_n"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_windows_take_any_strides_and_absent_gradients(batch_first: bool, absent: str) -> None:
    emulate_tested("cluster")
    problem = make_problem(Size(9, 9, 5, 34), Options(hx=False), torch.bfloat16)
    if batch_first:
        problem = problem.map(transposed)
    check_emulated(replace(problem, dy=None) if absent == "dy" else replace(problem, dh_n=None), save_gates=False)


@pytest.mark.parametrize("name", ["cluster_H64_C1_rows8", "cluster_H64_C4_rows16"])
def test_a_kernel_can_be_asked_for_by_name(name: str) -> None:
    emulate_tested(name)
    assert choice()[0] == name
    check_emulated(make_problem(Size(3, 18, 4, 40), Options(bidirectional=True, packed=True), torch.bfloat16))


# ---- Choice


def test_the_fastest_by_the_time_model_serves() -> None:
    """One block, which exchanges nothing, before four; both before two launches a step."""
    emulate()
    name, reason = choice(size=Size(100, 17, 64, 64))
    assert name == "cluster_H64_C1_rows8"
    times = re.search(r"model (\S+) ms, stepwise (\S+) ms; 3 clusters, 40 at a time", reason)
    assert times is not None
    assert float(times[1]) < float(times[2])


@pytest.mark.parametrize(
    ("dtype", "size", "multiprocessors", "reason"),
    [
        (torch.float64, SMALL, 40, "no float64"),
        (torch.bfloat16, Size(4, 3, 2, 321), 10, "no cluster of the 11 blocks that H = 321 needs fits on this device"),
        (torch.bfloat16, Size(2**31, 3, 2, 64), 40, "32 bits"),
        (torch.bfloat16, Size(4, 2**34, 2, 64), 40, "32 bits"),
        (torch.bfloat16, Size(4, 2**32 + 8, 2, 1), 40, "32 bits"),
        (torch.bfloat16, SMALL, 0, "blocks that H = 34 needs fits on this device"),
        (torch.bfloat16, Size(100, 3000, 64, 64), 1, "by the time model"),  # as clusters would be slower
    ],
    ids=str,
)
def test_why_stepwise(dtype: torch.dtype, size: Size, multiprocessors: int, reason: str) -> None:
    emulate(multiprocessors)
    name, why = choice(dtype, size)
    assert name == "stepwise"
    assert reason in why


def test_streamed_kernels_need_shared_memory() -> None:
    emulate().emulate_shared_memory(False)
    assert choice(size=Size(4, 3, 2, 129)) == ("stepwise", "H = 129 needs more shared memory than this device has")


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
@pytest.mark.parametrize(
    "size", [Size(3, 9, 5, 34), Size(4, 17, 6, 64), Size(5, 3, 2, 63), Size(3, 9, 5, 100)], ids=str
)
def test_tf32_only_where_the_switch_for_rnns_allows_it(
    size: Size, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without, the kernels on the FMA units serve, as accurate as ``nn.GRU`` in float32."""
    ops = emulate()
    assert not choice(torch.float32, size)[0].endswith("ieee")
    forbid_tf32(monkeypatch)
    assert choice(torch.float32, size)[0].endswith("ieee")
    problem = make_problem(size, options, torch.float32)
    check_problems([problem], solve_emulated)
    assert ops.persistent_launches() > 0


OLD_SWITCHES: list[Callable[[], None]] = [
    lambda: None,
    lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", False),
    lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    lambda: torch.set_float32_matmul_precision("medium"),
]
NEW_SWITCHES = [("", ""), ("cuda.matmul", "tf32"), ("cuda.matmul", "ieee"), ("cudnn.rnn", "ieee"), ("", "tf32")]


@pytest.fixture
def _tf32_switches_stay() -> Iterator[None]:
    """Those for TF32 are afterwards as they were."""
    backends: Any = torch.backends
    owners = (backends.cudnn.rnn, backends.cudnn.conv, backends.cuda.matmul, backends.cudnn, backends)
    before = [(owner, owner.fp32_precision) for owner in owners]
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for owner, precision in before:
        owner.fp32_precision = precision


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "rnn"), reason="torch before 2.9 has the old switches alone")
@pytest.mark.usefixtures("_tf32_switches_stay")
@pytest.mark.parametrize("old_first", [True, False])
def test_every_combination_of_the_switches_for_tf32(old_first: bool, tmp_path: Path) -> None:
    """Old and new ones mixed, which torch's old getters refuse: gru_ext does as torch's products and RNNs do.

    It tells apart by them what was measured.
    """
    path = tmp_path / "autotune.tsv"
    kinds = {" tf32": 1, " tf32 of R h": 2, "": 3}
    device = "gru_ext 0 for torch any by emulator, emulated"
    records = [f"{device}, forward Float{k} T<=4 B<=3 H=34 D=1\tstepwise={ms}e-3\n" for k, ms in kinds.items()]
    path.write_text("".join(records))
    emulate().autotune(True, str(path))
    found = set()
    rnns: Any = torch.backends.cudnn.rnn
    for old, (place, precision) in product(OLD_SWITCHES, NEW_SWITCHES):

        def new(place: str = place, precision: str = precision) -> None:
            if precision:
                operator.attrgetter(f"backends.{place}".rstrip("."))(torch).fp32_precision = precision

        for switch in (old, new) if old_first else (new, old):
            switch()
        of_products = torch.backends.cuda.matmul.fp32_precision == "tf32"
        of_rnns = rnns.fp32_precision == "tf32"
        kind = "" if not of_rnns else " tf32" if of_products else " tf32 of R h"
        assert choice(torch.float32) == ("stepwise", f"measured stepwise {kinds[kind]} ms")
        found.add(kind)
    assert found == set(kinds)


def test_stepwise_can_be_asked_for(problem: Problem) -> None:
    ops = emulate(asked=("stepwise", "stepwise"))
    solve_emulated(problem)
    assert ops.persistent_launches() == 0
    assert choice() == ("stepwise", "gru_ext.use_cuda_kernels asks for it")


@pytest.mark.parametrize(
    ("name", "hidden", "reason"),
    [
        ("cluster", 65, "the forward kernels hold R up to H = 64"),
        ("cluster_H64_C1_rows8", 65, "the forward kernels hold R up to H = 64"),
        ("cluster_H64_C4_rows16_ieee", 64, "of those for such a call none is that one"),
    ],
)
def test_what_is_asked_for_but_cannot_serve_is_an_error(name: str, hidden: int, reason: str) -> None:
    emulate(asked=(name, "auto"))
    words = f"asks for {name}, which cannot serve this call with H = {hidden}: .*{reason}"
    with pytest.raises(RuntimeError, match=words):
        solve_emulated(make_problem(Size(2, 3, 4, hidden), Options(), torch.bfloat16))


@pytest.mark.parametrize("variant", [{"layer_norm": 2}, {"reset_after": False}], ids=str)
def test_a_variant_is_an_error_where_other_kernels_than_the_stepwise_are_asked_for(variant: dict[str, Any]) -> None:
    ops = emulate()
    problem = make_problem(SMALL, Options(gains="layer_norm" in variant), torch.bfloat16)
    for name in ("stepwise", "auto"):
        ops.use_cuda_kernels(name, name)
        ops.gru_fwd(*problem.layer, True, **variant)
    assert ops.persistent_launches() == 0
    ops.use_cuda_kernels("cluster", "auto")
    with pytest.raises(RuntimeError, match=r"asks for cluster, but layer_norm .* by the stepwise kernels alone"):
        ops.gru_fwd(*problem.layer, True, **variant)


def test_an_unknown_kernel_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected backward to be one of auto, stepwise, cluster, .*, got 'fast'"):
        emulate().use_cuda_kernels("auto", "fast")


def test_names_of_all_kernels() -> None:
    ops = emulated_operators()
    for backward in (False, True):
        assert ops.cuda_kernel_names(torch.float32, backward) == [
            "cluster_H64_C4_rows16",
            "cluster_H64_C4_rows16_ieee",
            "group_H128_C4_rows16",
            "group_H128_C4_rows16_ieee",
            "streamed_U32_rows16",
            "streamed_U32_rows16_masked",
        ]
    assert ops.cuda_kernel_names(torch.float64, True) == []


def test_asking_for_a_kernel_returns_what_was_asked_for_before() -> None:
    ops = emulate()
    assert ops.use_cuda_kernels("cluster", "stepwise") == ("auto", "auto")
    assert ops.use_cuda_kernels("auto", "auto") == ("cluster", "stepwise")


# ---- The self-test, and bad luck


def test_the_first_call_tests_the_kernel_once(problem: Problem) -> None:
    ops = emulate()
    assert "the stepwise kernels" in choice()[1]
    for launches in (2, 3, 4):
        ops.gru_fwd(*problem.layer, True)
        assert ops.persistent_launches() == launches
    assert "tests it" not in choice()[1]


@pytest.mark.parametrize(
    ("family", "multiprocessors", "launches"), [("group", 4, 8), ("group", 9, 4), ("streamed", 9, 8)]
)
def test_the_self_test_has_two_tiles_directions_and_members(
    problem: Problem, family: str, multiprocessors: int, launches: int
) -> None:
    """So eight groups, of which so many run at a time as the device has multiprocessors for; then one of the call."""
    ops = emulate(multiprocessors, (family, family))
    solve_emulated(problem)
    assert ops.persistent_launches() == 2 * (launches + 1)  # forward and backward


@pytest.mark.parametrize("ieee", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_every_kernel_passes_its_self_test(dtype: torch.dtype, ieee: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward; one that is asked for and does not pass is an error."""
    ops, problem = emulate(), make_problem(SMALL, Options(), dtype)
    if ieee:
        forbid_tf32(monkeypatch)
    names = [name for name in ops.cuda_kernel_names(dtype, False) if name.endswith("_ieee") == ieee]
    assert bool(names) == (not ieee or dtype == torch.float32)
    for name in names:
        ops.use_cuda_kernels(name, name)
        solve_emulated(problem, variants_of(problem)["all"] if name.endswith("_masked") else PLAIN)


def test_the_self_test_leaves_generators_alone(problem: Problem) -> None:
    state = torch.get_rng_state()
    emulate().gru_fwd(*problem.layer, True)
    assert_same_bits(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("luck", "words"),
    [({"spoiled": 1}, "(h_n|dhx) differs by"), ({"refusals": 1}, "could not be launched: refused by the test")],
    ids=["fails its test", "is refused"],
)
def test_a_kernel_that_fails_is_not_used_again(
    problem: Problem, luck: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One warning that names it, of torch's C++ side and so on stderr; then the next best. The results are right."""
    ops = emulate(**luck)
    name = choice()[0]
    check_emulated(problem)
    said = capfd.readouterr().err
    assert said.count("Warning: gru:") == 1
    assert re.search(f"the kernel forward {name} is not used on .*{words}", said)
    assert choice()[0] not in (name, "stepwise")
    launches = ops.persistent_launches()
    check_emulated(problem)
    assert ops.persistent_launches() == launches + 2


RESULTS = {"forward": ("h_n", "y", "gates"), "backward": ("dhx", "weight_ih|dx", "bias_ih")}


@pytest.mark.parametrize("result", range(3))
@pytest.mark.parametrize("of", RESULTS)
def test_the_self_test_tolerates_a_twentieth_of_the_largest_value(of: str, result: int) -> None:
    """In every result a kernel may differ by less than that from the stepwise ones, which round elsewhere."""
    problem = make_problem(SMALL, Options(), torch.float16)
    name = "cluster_H64_C4_rows16"

    def fault_of(spoil: float) -> str:
        ops = emulate(asked=(name, "stepwise") if of == "forward" else ("stepwise", name), spoiled=1)
        ops.emulate_spoil(spoil, result)
        try:
            solve_emulated(problem)
        except RuntimeError as error:
            return str(error)
        return ""

    found = re.search(rf"({RESULTS[of][result]}) differs by \S+, where the largest value is (\S+) ?", fault_of(1000.0))
    assert found
    if of == "backward" and result > 0:
        return  # of products of what was spoiled, which are larger or smaller than that
    largest = float(found[2].strip("."))
    assert "differs by" in fault_of(0.06 * largest)
    assert "differs by" in fault_of(-0.06 * largest)
    assert fault_of(0.04 * largest) == ""
    assert "nan, where" in fault_of(torch.nan)


@pytest.mark.parametrize("masks", ["", "all"], ids=["plain", "masked"])
def test_the_self_test_has_two_tiles_and_the_masks_of_the_kernel(problem: Problem, masks: str) -> None:
    ops = emulate(asked=("streamed", "auto"), spoiled=1)
    variant = variants_of(problem)[masks] if masks else PLAIN
    with pytest.raises(RuntimeError, match="differs by"):
        solve_emulated(problem, variant)
    assert ops.last_launch()[:2] == (17, bool(masks))


@pytest.mark.parametrize("strides", [(2**30 + 2, 68, 1), (68, 2**30 + 2, 1)], ids=["steps", "rows"])
@pytest.mark.parametrize("kernel", ["stepwise", "cluster", "group", "streamed"])
def test_gradients_that_lie_further_apart_than_32_bits_count(kernel: str, strides: tuple[int, ...]) -> None:
    """Of 4 GB that are reserved, the rows of the gradient alone are touched."""
    emulate(asked=("stepwise", kernel))
    problem = make_problem(Size(3, 3, 2, 34), Options(), torch.float16)
    assert problem.dy is not None
    dy = torch.empty(2 * max(strides) + 4096, dtype=torch.float16).as_strided(problem.dy.shape, strides)
    check_emulated(replace(problem, dy=dy.copy_(problem.dy)))


def test_stepwise_when_every_kernel_fails(problem: Problem, capfd: pytest.CaptureFixture[str]) -> None:
    ops = emulate(refusals=1000)
    check_emulated(problem)
    assert capfd.readouterr().err.count("is not used on") == 8  # four forward, four backward
    name, reason = choice()
    assert name == "stepwise"
    assert "could not be launched: refused by the test" in reason
    check_emulated(problem)
    assert capfd.readouterr().err == ""
    assert ops.persistent_launches() == 0


def test_a_kernel_that_is_asked_for_and_fails_is_an_error(problem: Problem) -> None:
    emulate(asked=("cluster", "auto"), refusals=1)
    with pytest.raises(RuntimeError, match=r"which gru_ext.use_cuda_kernels asks for, failed: .*refused by the test"):
        solve_emulated(problem)


def test_of_several_kernels_that_failed_each_has_its_own_reason(problem: Problem) -> None:
    ops = emulate(refusals=1, spoiled=1)
    first, second = ops.cuda_kernel_names(torch.bfloat16, False)[:2]
    solve_emulated(problem)
    refused = "refused by the test"
    for name, reason in ((first, refused), (second, "h_n differs by"), ("cluster", refused)):
        ops.use_cuda_kernels(name, "auto")
        with pytest.raises(RuntimeError, match=f"asks for {name}, which cannot serve .*{reason}"):
            choice()


@pytest.mark.parametrize("throws", [True, False])
def test_a_kernel_without_the_memory_for_its_self_test_is_tested_later(
    problem: Problem, throws: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """The others serve, at last the stepwise ones, and nobody is told."""
    ops = emulate()
    name = choice()[0]
    ops.emulate_no_memory(1000, throws)
    check_emulated(problem)
    assert capfd.readouterr().err == ""
    assert choice()[0] == name
    launches = ops.persistent_launches()
    ops.emulate_no_memory(0, throws)
    check_emulated(problem)
    assert ops.persistent_launches() == launches + 4
    if not throws:  # at a launch of a kernel that is tested; what torch throws there is the caller's
        ops.emulate_no_memory(1000, throws)
        check_emulated(problem)
        assert capfd.readouterr().err == ""
        ops.emulate_no_memory(0, throws)
        assert choice()[0] == name
    emulate(asked=("cluster", "auto")).emulate_no_memory(1000, throws)
    with pytest.raises(torch.OutOfMemoryError, match="there is not the memory on cpu to test and launch the kernel"):
        solve_emulated(problem)


# What a device is compiled for, shared memory of a block, and the forward kernels in bfloat16 that can serve there.
EVERY = {"cluster_H64_C1_rows8", "cluster_H64_C4_rows16", "group_H128_C4_rows16", "streamed_U32_rows16"}
LIMITS = [
    (75, 64 << 10, set()),
    (80, 163 << 10, EVERY - {"cluster_H64_C4_rows16"}),
    (86, 99 << 10, EVERY - {"cluster_H64_C4_rows16"}),
    (120, 99 << 10, EVERY),
    (120, 1 << 10, set()),
]


@pytest.mark.parametrize(("architecture", "shared_bytes", "serve"), LIMITS)
def test_what_serves_within_the_limits_of_a_device(
    problem: Problem, architecture: int, shared_bytes: int, serve: set[str]
) -> None:
    ops = emulate()
    ops.emulate_limits(architecture, shared_bytes)
    for name in EVERY:
        ops.use_cuda_kernels(name, "auto")
        if name in serve:
            assert choice()[0] == name
            continue
        reason = "compiled for this device" if architecture < 90 else "fits on this device|more shared memory"
        with pytest.raises(RuntimeError, match=reason):
            choice()
    ops.use_cuda_kernels("auto", "auto")
    assert (choice()[0] == "stepwise") == (not serve)
    assert choice(size=SMALL._replace(steps=1))[0] == "one_step"
    check_emulated(problem)


def test_the_limit_of_a_wait_is_the_callers(problem: Problem) -> None:
    ops = emulate(asked=("cluster_H64_C4_rows16", "auto"))
    assert ops.set_cuda_wait_limit(0.25) == 4
    try:
        ops.gru_fwd(*problem.layer, True)
        assert ops.last_launch()[2] == pytest.approx(0.25, rel=1e-4)
        ops.lose_store(0)
        ops.gru_fwd(*problem.layer, True)
        ops.lose_store(-1)
        with pytest.raises(RuntimeError, match=r"waited more than 0\.25 seconds"):
            ops.gru_fwd(*problem.layer, True)
    finally:
        assert ops.set_cuda_wait_limit(4) == 0.25
    with pytest.raises(ValueError, match=r"expected seconds from 0\.001 to 3600, got 0"):
        ops.set_cuda_wait_limit(0)


def test_a_wait_that_takes_too_long_is_an_error_at_the_next_call(problem: Problem) -> None:
    """And no cluster kernel is used from then on."""
    ops = emulate(asked=("cluster_H64_C4_rows16", "cluster_H64_C4_rows16"))
    solve_emulated(problem)
    ops.lose_store(0)
    ops.gru_fwd(*problem.layer, True)
    ops.lose_store(-1)
    ops.use_cuda_kernels("auto", "auto")
    with pytest.raises(RuntimeError, match=r"waited more than 4 seconds .* results of the calls since then are wrong"):
        ops.gru_fwd(*problem.layer, True)
    launches = ops.persistent_launches()
    check_emulated(problem)
    assert ops.persistent_launches() == launches
    assert "waited too long" in choice()[1]


@pytest.mark.parametrize("backward", [False, True])
def test_a_wait_that_takes_too_long_in_the_self_test_rules_the_kernel_out(problem: Problem, backward: bool) -> None:
    """And the next call is told of nothing."""
    name = "cluster_H64_C4_rows16"
    ops = emulate(asked=("stepwise", name) if backward else (name, "auto"))
    ops.lose_store(0)
    with pytest.raises(RuntimeError, match="failed: it waited too long for other blocks"):
        solve_emulated(problem)
    ops.lose_store(-1)
    ops.use_cuda_kernels("auto", "auto")
    check_emulated(problem)


def test_the_self_test_does_not_take_the_error_of_an_earlier_call(problem: Problem) -> None:
    """A forward that still runs as the backward is tested: the next call is told, and the backward's kernel serves."""
    ops = emulate(asked=("cluster_H64_C4_rows16", "cluster_H64_C4_rows16"))
    y, _, gates = ops.gru_fwd(*problem.layer, True)
    ops.fail_late()
    launches = ops.persistent_launches()
    ops.gru_bwd(problem.dy, problem.dh_n, *problem.layer, y, gates, True, True, True)
    assert ops.persistent_launches() == launches + 2  # its test, and itself
    with pytest.raises(RuntimeError, match="waited more than 4 seconds"):
        ops.gru_fwd(*problem.layer, True)


def test_capture_takes_only_kernels_that_were_tested_before(problem: Problem) -> None:
    """A self-test waits for the device, which a capture forbids."""
    ops = emulate(capturing=True)
    solve_emulated(problem)
    assert ops.persistent_launches() == 0
    assert ops.residency_queries() == 0  # which load kernels, as a capture does not allow
    ops.emulate_capture(False)
    choice()
    assert ops.residency_queries() > 0
    ops.emulate_capture(True)
    solve_emulated(problem)
    assert ops.persistent_launches() == 0  # loaded, and not tested
    ops.emulate_capture(False)
    solve_emulated(problem)
    assert ops.persistent_launches() == 4
    ops.emulate_capture(True)
    solve_emulated(problem)
    assert ops.persistent_launches() == 6


def test_capture_of_a_packed_batch_is_stepwise() -> None:
    """The cluster kernels would read its lengths from memory that is gone at the replay."""
    ops = emulate()
    problem = make_problem(SMALL, Options(packed=True), torch.bfloat16)
    solve_emulated(problem)
    launches = ops.persistent_launches()
    ops.emulate_capture(True)
    check_emulated(problem)
    assert ops.persistent_launches() == launches


@pytest.mark.parametrize("family", ["cluster", "group", "streamed"])
def test_a_kernel_is_asked_about_once(problem: Problem, family: str) -> None:
    """How many of its clusters run at a time."""
    ops = emulate_tested(family)
    solve_emulated(problem)
    asked = ops.residency_queries()
    assert asked > 0
    solve_emulated(problem)
    assert ops.persistent_launches() == 4
    assert ops.residency_queries() == asked


def test_another_device_is_tested_anew(problem: Problem) -> None:
    for _ in range(2):
        ops = emulate()
        solve_emulated(problem)
        assert ops.persistent_launches() == 4
