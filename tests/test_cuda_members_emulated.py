"""Members on CUDA, without a GPU: one launch for all of them each way, with the bits of calls of their own.

The kernels run in the emulator. Where a kernel takes no members they are a loop.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Options, Size, make_problem, solve_by, variants_of
from compare import assert_near, assert_same_bits
from emulated_backend import SMALL as SIZE
from emulated_backend import choice, emulate, emulate_tested
from layouts import transposed
from member_cases import assert_members_alone, of_member, problems_of, solve_members_by, stacked

pytestmark = pytest.mark.usefixtures("emulated")
FAMILIES = ("cluster", "group", "streamed")
PLAIN = Options()


def check_members(
    ops: Any,
    size: Size = SIZE,
    options: Options = PLAIN,
    dtype: torch.dtype = torch.bfloat16,
    members: int = 3,
    shared: bool = False,
    launches: int = 1,
) -> None:
    """So many launches forward and as many backward, and then the bits of each member alone."""
    problems = problems_of(size, options, dtype, members, shared)
    results = solve_members_by(ops, stacked(problems))
    assert ops.persistent_launches() == 2 * launches
    assert_members_alone(results, problems, ops)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [Options(bidirectional=True), Options(packed=True, bias=False, hx=False)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_members_are_one_launch_with_the_bits_of_their_own(family: str, options: Options, dtype: torch.dtype) -> None:
    check_members(emulate_tested(family), options=options, dtype=dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "options", "members", "shared"),
    [
        (Size(3, 18, 5, 33), Options(bidirectional=True, packed=True), 2, True),  # two tiles, odd sizes
        (Size(4, 3, 2, 61), Options(), 5, True),
        (SIZE, Options(bidirectional=True), 1, False),
        (Size(1, 2, 3, 34), Options(), 3, False),
    ],
    ids=str,
)
def test_members_of_other_sizes(family: str, size: Size, options: Options, members: int, shared: bool) -> None:
    check_members(emulate_tested(family), size, options, members=members, shared=shared)


@pytest.mark.parametrize(
    ("family", "multiprocessors", "members", "launches"),
    [("group", 8, 5, 3), ("streamed", 4, 5, 3), ("cluster", 4, 6, 1)],
)
def test_more_members_than_fit_at_once(family: str, multiprocessors: int, members: int, launches: int) -> None:
    """Rounds of two groups at a time, of five; of clusters one launch, as the device runs the others as some end."""
    check_members(emulate_tested(family, multiprocessors), members=members, launches=launches)


def test_members_of_any_strides() -> None:
    """Inputs that have the batch first, and gradients that no kernel can take as they lie."""
    ops = emulate_tested("cluster")
    problems = [p.map(transposed) for p in problems_of(SIZE, Options(), torch.bfloat16)]
    whole = stacked(problems)
    x = whole.x.transpose(1, 2).contiguous().transpose(1, 2)
    assert whole.dy is not None
    within_steps = whole.dy.transpose(0, 1).contiguous().transpose(0, 1)
    for dy in (whole.dy, within_steps, whole.dy[:1].expand(whole.dy.shape)):
        given = replace(whole, x=x, dy=dy)
        assert_members_alone(
            solve_members_by(ops, given), [replace(p, dy=of) for p, of in zip(problems, dy, strict=True)], ops
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_all_members_share(family: str) -> None:
    """As in the gradients of each sample: they are not copied for every member."""
    ops = emulate_tested(family)
    problems = problems_of(SIZE, Options(bidirectional=True), torch.bfloat16)
    problems = [replace(p, weights=problems[0].weights) for p in problems]
    whole = stacked(problems)
    expanded = [weight.expand(3, *weight.shape) for weight in problems[0].weights]
    assert_members_alone(solve_members_by(ops, replace(whole, weights=expanded)), problems, ops)


@pytest.mark.parametrize("packed", [False, True])
def test_members_without_gates_go_window_after_window(packed: bool) -> None:
    """Windows are shorter than those of one member, so that sums over them differ in their last bits."""
    ops = emulate_tested("cluster")
    problems = problems_of(Size(9, 9, 5, 34), Options(packed=packed), torch.float32)
    results = solve_members_by(ops, stacked(problems), save_gates=False)
    assert ops.persistent_launches() > 4
    for e, problem in enumerate(problems):
        expected, member = solve_by(ops, problem, save_gates=False), of_member(e, results)
        assert_near(member, expected, tolerance=1e-5)
        assert_same_bits((member["y"], member["h_n"]), (expected["y"], expected["h_n"]))


# ---- Where members are a loop


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_stepwise_kernels_run_members_one_after_another(dtype: torch.dtype) -> None:
    check_members(emulate(asked=("stepwise", "stepwise")), options=Options(bidirectional=True), dtype=dtype, launches=0)


def test_members_with_masks_are_a_loop_of_launches() -> None:
    ops = emulate_tested("streamed")
    problems = problems_of(SIZE, Options(), torch.bfloat16)
    variants = [variants_of(problem)["all"] for problem in problems]
    names = ("zoneout_mask", "recurrent_mask", "candidate_mask")
    masks: dict[str, Any] = {name: torch.stack([getattr(v, name) for v in variants]) for name in names}
    whole = variants[0]._replace(**masks)
    results = solve_members_by(ops, stacked(problems), whole)
    assert ops.persistent_launches() == 2 * 3
    for e, (problem, variant) in enumerate(zip(problems, variants, strict=True)):
        assert_same_bits(of_member(e, results), solve_by(ops, problem, variant), f"member {e}")


def test_one_step_of_members_is_a_loop() -> None:
    ops = emulate(asked=("one_step", "stepwise"))
    problems = problems_of(Size(1, 2, 4, 6), Options(), torch.bfloat16)
    before = ops.block_launches()
    y, h_n, _ = ops.gru_fwd_members(*stacked(problems).layer, False)
    assert ops.block_launches() - before == 3
    for e, p in enumerate(problems):
        assert_same_bits((y[e], h_n[e]), ops.gru_fwd(*p.layer, False)[:2])


def test_empty_members_need_no_kernel() -> None:
    ops, problems = emulate(), problems_of(Size(4, 0, 3, 5), Options(bidirectional=True), torch.bfloat16)
    assert solve_members_by(ops, stacked(problems))["y"].shape == (3, 4, 0, 10)
    assert ops.persistent_launches() == 0


# ---- The choice


def seconds_of(reason: str) -> float:
    """Of the time model, in milliseconds."""
    return float(reason.split("model ")[1].split(" ms")[0])


def test_the_choice_counts_the_clusters_of_all_members() -> None:
    """They take the time of one as long as they fit; then that of rounds."""
    emulate()
    size = Size(100, 8, 2, 64)
    _, one = choice(size=size)
    name, reason = choice(size=size, members=8)
    assert name == "cluster_H64_C1_rows8"
    assert "; 8 clusters, 40 at a time" in reason
    assert seconds_of(reason) == seconds_of(one)
    _, many = choice(size=size, members=80)
    assert "; 80 clusters, 40 at a time" in many
    assert 1.5 * seconds_of(one) < seconds_of(many) < 2 * seconds_of(one)


def test_a_loop_takes_the_time_of_all_members() -> None:
    emulate()
    one, all_ = (seconds_of(choice(size=Size(100, 8, 2, 34), masked=True, members=e)[1]) for e in (1, 8))
    assert all_ == pytest.approx(8 * one, rel=0.01)


def test_decoding_of_many_members_is_no_loop() -> None:
    """A step of one member is fastest by the one-step kernel, of many by one launch of all."""
    emulate()
    size = SIZE._replace(steps=1)
    assert choice(size=size)[0] == "one_step"
    assert choice(size=size, members=8)[0] == "cluster_H64_C1_rows8"


def test_steps_of_all_members_are_counted_in_32_bits() -> None:
    emulate()
    assert choice(size=Size(2**20, 8, 2, 64), members=2**7)[0] != "stepwise"
    name, reason = choice(size=Size(2**20, 8, 2, 64), members=2**9)
    assert name == "stepwise"
    assert "32 bits" in reason


def test_autotune_keeps_apart_how_many_members_there_are(tmp_path: Path) -> None:
    path = tmp_path / "autotune.tsv"
    kind = "gru_ext 0 for torch any by emulator, emulated, forward BFloat16 T<=4 B<=3 H=34 D=1"
    path.write_text(f"{kind}\tstepwise=1e-3\n{kind} E=3\tstepwise=2e-3\n")
    emulate().autotune(True, str(path))
    assert choice() == ("stepwise", "measured stepwise 1 ms")
    assert choice(members=3) == ("stepwise", "measured stepwise 2 ms")
    assert choice(members=2)[0] != "stepwise"


def test_the_self_test_has_members() -> None:
    """Though the call has none."""
    ops = emulate(asked=("cluster", "auto"), spoiled=1)
    with pytest.raises(RuntimeError, match="differs by"):
        solve_by(ops, make_problem(SIZE, Options(), torch.bfloat16))
    assert ops.last_launch()[3] == 2
