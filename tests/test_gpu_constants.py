"""The time model's constants from a check on a GPU: found again where the check is made up from known ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process import ROOT

from benchmarks import gpu_constants, needed_kernels, predicted_constants
from benchmarks.gpu_check.journal import PASSED

# Nobody measured these.
MADE_UP = {
    "kAssumedClockRate": 1.5e9,
    "kForwardMultiplyAdds": 1000.0,
    "kBackwardMultiplyAdds": 900.0,
    "kSharedBytes": 100.0,
    "kForwardStep": 900.0,
    "kBackwardStep": 1400.0,
    "kForwardPair": 300.0,
    "kBackwardPair": 500.0,
    "kFmaMultiplyAdds": 80.0,
    "kExchangeLatency": 700.0,
    "kExchangeBytes": 8.0,
    "kPacketLatency": 1500.0,
    "kPacketBytes": 16.0,
    "kFlagLatency": 4000.0,
    "kStreamedMultiplyAdds": 1100.0,
    "kSlabCycles": 250.0,
    "kCopyBytes": 30.0,
    "kCachedBytes": 32e6,
    "kMemoryBytes": 3e12,
    "kLoadBytes": 2e12,
    "kClusterSeconds": 20e-6,
    "kStepwiseStepSeconds": 12e-6,
    "kOneStepSeconds": 6e-6,
    "kWeightBytes": 2e12,
    "kOneStepMultiplyAdds": 5e12,
    "kProductRate16Bit": 300e12,
    "kProductRateFloat": 20e12,
}
MULTIPROCESSORS, BARRIER = 132, 50.0


@pytest.fixture(scope="module")
def program() -> Path:
    return gpu_constants.build()


def steps(kernels: list[gpu_constants.Kernel]) -> list[dict[str, Any]]:
    """What each kernel takes, if the model is right with these constants."""
    c, rows = MADE_UP, []
    for kernel in kernels:
        ieee = kernel.dtype == "fp32"
        way = "Backward" if kernel.backward else "Forward"
        rate = c["kFmaMultiplyAdds"] if ieee else c[f"k{way}MultiplyAdds"] / (2 if kernel.dtype == "tf32" else 1)
        cycles = c[f"k{way}Step"] + c[f"k{way}Pair"] * kernel.pairs
        together = [3 * kernel.hidden**2 * kernel.rows / kernel.blocks / rate]
        together.append(kernel.overflow_bytes * math.ceil(kernel.rows / (8 if ieee else 16)) / c["kSharedBytes"])
        if kernel.packet_bytes:
            cycles += c["kPacketLatency"] + kernel.packet_bytes / 2 / c["kPacketBytes"]
        elif kernel.blocks > 1:
            unit = 2 if kernel.dtype == "bf16" and not kernel.backward else 4
            together.append(c["kExchangeLatency"] + unit * kernel.hidden * kernel.rows / c["kExchangeBytes"])
        cycles += max(together)
        times = {"us_a_step": 1e6 * cycles / c["kAssumedClockRate"], "launch_us": 1e6 * c["kClusterSeconds"]}
        of = {"kernel": kernel.name, "dtype": kernel.dtype, "backward": kernel.backward}
        rows.append({**of, "H": kernel.hidden, "B": kernel.rows, **times})
    plain = {"dtype": "bf16", "backward": False, "B": 8, "launch_us": 0.0}
    for hidden in (1024, 2048, 4096):
        launch = 1e6 * (30e-6 + 6 * hidden**2 / c["kLoadBytes"])
        cycles = c["kForwardStep"] + c["kForwardPair"] + c["kFlagLatency"] + c["kSlabCycles"] * hidden / 128
        times = {"us_a_step": 1e6 * cycles / c["kAssumedClockRate"], "launch_us": launch}
        rows.append({**plain, "kernel": "streamed_U32_rows8", "H": hidden, **times})
    us = 1e6 * (c["kStepwiseStepSeconds"] + 6 * 512**2 / c["kWeightBytes"])
    rows.append({**plain, "kernel": "stepwise", "H": 512, "us_a_step": us})
    for dtype, rate in (("bf16", c["kProductRate16Bit"]), ("fp32", c["kProductRateFloat"])):
        us = 1e6 * (c["kStepwiseStepSeconds"] + 3 * 512 * 2048**2 / rate)
        rows.append({**plain, "kernel": "stepwise", "dtype": dtype, "H": 2048, "B": 512, "us_a_step": us})
    return rows


def check_of(kernels: list[gpu_constants.Kernel]) -> dict[str, Any]:
    """The JSON of such a check."""
    c = MADE_UP
    memory = c["kMemoryBytes"] / MULTIPROCESSORS / c["kAssumedClockRate"]
    exchange = {
        f"cluster_{blocks}": {
            "resident": MULTIPROCESSORS // blocks - 1,
            "exchange_cycles": {
                **{
                    str(n): BARRIER + c["kExchangeLatency"] + blocks * n / c["kExchangeBytes"]
                    for n in (256, 1024, 4096)
                },
                "512": "launch: refused",
            },
        }
        for blocks in (4, 8)
    }
    found: dict[str, Any] = {
        "clock": {"ghz": c["kAssumedClockRate"] / 1e9},
        "block_barrier": {"cycles": BARRIER},
        **exchange,
        "cluster_16": {"resident": "large clusters: refused"},
        "tagged": {"one_way_cycles": c["kPacketLatency"] - BARRIER},
        "flags": {"exchange_cycles": c["kFlagLatency"]},
        "copies": {"bytes_a_cycle": {"1": 30.0, "8": 30.0, "32": 28.0, "64": 18.0, "256": memory}},
        "multiply_adds": {f"bf16, {rows} rows": c["kStreamedMultiplyAdds"] for rows in (8, 16)}
        | {"bf16, 8 rows, shared": 1 / (1 / c["kStreamedMultiplyAdds"] + 0.25 / c["kSharedBytes"])},
    }
    graph = {"dtype": "bf16", "kind": "graph", "kernels": "one_step, stepwise"}
    decoding = [
        {**graph, "H": hidden, "B": 1, "ours_ms": 1e3 * (c["kOneStepSeconds"] + 12 * hidden**2 / c["kWeightBytes"])}
        for hidden in (256, 1024, 4096)
    ]
    products = 64 * 6 * 1024**2 / c["kOneStepMultiplyAdds"]
    decoding.append({**graph, "H": 1024, "B": 64, "ours_ms": 1e3 * (c["kOneStepSeconds"] + products)})
    rows = {
        "constants": [{"key": name, "found": value} for name, value in found.items()],
        "steps": steps(kernels),
        "decoding": decoding,
    }
    return {
        "device": {"gpu": "made up", "commit": "0123456789abcdef", "multiprocessors": MULTIPROCESSORS},
        "rehearsal": False,
        "rows": {stage: [{"key": "", "outcome": PASSED, **row} for row in of] for stage, of in rows.items()},
    }


def test_every_constant_is_found_again(program: Path) -> None:
    kernels = gpu_constants.kernels_of(program)
    found = gpu_constants.Measured(check_of(list(kernels.values())), gpu_constants.present(), kernels)
    values = gpu_constants.values_of(found)
    assert values == pytest.approx(MADE_UP, rel=1e-6)
    assert values.keys() == gpu_constants.SOURCES_OF.keys()


def test_lines_and_choices_change_together(program: Path, tmp_path: Path) -> None:
    """The lines as git takes them; a choice as the model makes it with these."""
    kernels = gpu_constants.kernels_of(program)
    printed = gpu_constants.report(check_of(list(kernels.values())))
    copy = tmp_path / gpu_constants.SOURCE
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / gpu_constants.SOURCE).read_text())
    command = ["git", "apply", "--unidiff-zero"]
    subprocess.run(command, cwd=tmp_path, input=printed, text=True, check=True, capture_output=True)
    expected = {**gpu_constants.present(), **MADE_UP}
    assert gpu_constants.constants_of(copy.read_text()) == pytest.approx(expected, rel=6e-3)
    assert "not measured: none\n" in printed
    assert " choices change, on this GPU, by the model before and after:\n  bf16 forward T=" in printed


def test_what_a_check_has_not_reached_stays_as_it_is(program: Path) -> None:
    kernels = gpu_constants.kernels_of(program)
    results = {**check_of([]), "rows": {}}
    assert gpu_constants.values_of(gpu_constants.Measured(results, gpu_constants.present(), kernels)) == {}


def test_a_rehearsal_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**check_of([]), "rehearsal": True}))
    monkeypatch.setattr(sys, "argv", ["", str(path)])
    with pytest.raises(SystemExit, match="the results of a rehearsal, which measures no GPU"):
        gpu_constants.main()


@pytest.mark.parametrize(("value", "text"), [(300.4, "300"), (1.98e9, "1.98e9"), (1e-5, "1e-5"), (12.04, "12")])
def test_numbers_are_written_as_in_the_source(value: float, text: str) -> None:
    assert gpu_constants.literal(value) == text


# ---- Constants from predictions


def test_the_model_agrees_with_what_the_machine_code_predicts(program: Path) -> None:
    """No step by more than two fifths: what it does not know is which loads of a kernel are hidden."""
    found = predicted_constants.apart(program, gpu_constants.present())
    assert {key for key in found if abs(found[key]) > 0.4} == set(), "run: python -m benchmarks.predicted_constants"
    for family, least in (("cluster", 40), ("group", 9), ("streamed", 16)):
        of_family = [abs(error) for key, error in found.items() if key.name.startswith(family)]
        assert len(of_family) >= least
        assert sum(of_family) / len(of_family) < 0.12


def test_the_parts_of_the_model_that_are_fitted_are_those_of_the_header(program: Path) -> None:
    """What is fitted is the formula of the header, of which Python has the parts."""
    constants, kernels = gpu_constants.present(), gpu_constants.kernels_of(program)
    model = predicted_constants.modelled(program, constants)
    for key, kernel in kernels.items():
        packets = 0.0
        if kernel.packet_bytes:
            packets = constants["kPacketLatency"] + kernel.packet_bytes / 2 / constants["kPacketBytes"]
        cycles = kernel.fixed(constants) + kernel.longest(constants) + packets
        assert model[predicted_constants.Key(*key)] == pytest.approx(cycles, rel=1e-4)


def test_a_fit_to_the_model_finds_the_model(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"kForwardStep": 700.0, "kBackwardPair": 400.0, "kFmaMultiplyAdds": 70.0, "kFlagLatency": 3000.0}
    others = {**gpu_constants.present(), **changed, "kPacketBytes": 15.0}
    model = predicted_constants.modelled(program, others)
    monkeypatch.setattr(predicted_constants, "predicted", lambda: model)
    found = predicted_constants.fitted(gpu_constants.kernels_of(program), program)
    assert found == pytest.approx(others, rel=1e-3)


# ---- Which kernels are needed


def test_kernels_are_taken_away_in_the_order_in_which_they_are_missed() -> None:
    """One that never wins; one that is missed by 5%, and only where another one was not taken away; never stepwise."""
    kernels = [("bf16", "forward", name) for name in ("a", "b", "c", "stepwise")]
    seconds = np.array([[1.0, 1.05, 2.0, 3.0], [2.0, 1.0, 4.0, 1.02], [9.0, np.inf, 9.5, 9.1]])
    calls: list[needed_kernels.Call] = [
        ("GPU", "bf16", "forward", "512", batch, "64", "1") for batch in ("1", "8", "64")
    ]
    found = needed_kernels.Times(calls, kernels, seconds)
    removed = needed_kernels.not_needed(found, within=1.1)
    assert [(key[2], round(loss, 3)) for key, loss, _ in removed] == [("c", 1.0), ("b", 1.02)]
    assert [call[4] for _, _, call in removed if call] == ["8"]
    assert [key[2] for key, _, _ in needed_kernels.not_needed(found, within=1.0)] == ["c"]


def test_what_a_family_is_worth() -> None:
    """On two GPUs: the calls that it serves fastest, and the most that one of these would lose."""
    kernels = [("bf16", way, name) for way in ("forward", "backward") for name in ("group_a", "streamed_b", "stepwise")]
    calls: list[needed_kernels.Call] = [
        (gpu, "bf16", way, "512", "8", hidden, "1")
        for gpu in ("old", "new")
        for way, hidden in (("forward", "64"), ("forward", "128"), ("backward", "64"))
    ]
    never = [np.inf] * 3
    seconds = [[1, 2, 3, *never], [5, 4, 6, *never], [*never, 2, 9, 3]] * 2
    seconds[3] = [2, 1, 9, *never]
    found = needed_kernels.Times(calls, kernels, np.array(seconds, float))
    assert list(needed_kernels.families_table(found))[2:] == [
        "| group | 16-bit | 1 + 1 | 0 + 1 | 2 times, forward at B = 8, H = 64, old |",
        "| streamed | 16-bit | 1 + 0 | 2 + 0 | 2 times, forward at B = 8, H = 64, new |",
    ]


def test_the_model_has_a_time_for_every_kernel(program: Path) -> None:
    """On one GPU: a name and seconds of each kernel that serves, in both passes and all dtypes."""
    found = needed_kernels.times(program, ["H200"])
    assert np.isfinite(found.seconds).any(axis=0).all()
    assert {key[:2] for key in found.kernels} == {
        (dtype, direction) for dtype in ("bf16", "tf32", "fp32") for direction in ("forward", "backward")
    }
    known = set(gpu_constants.kernels_of(program))
    assert known <= {(name, direction == "backward", dtype) for dtype, direction, name in found.kernels}
