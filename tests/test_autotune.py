"""``gru_ext.autotune``: measured choices, on the emulated CUDA backend, whose times the tests say.

Candidates are measured in the order of the time model, the stepwise kernels last.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Options, Size, make_problem
from emulated_backend import SMALL, check_emulated, choice, emulate, emulated_operators
from process import fork_python, output_of

import gru_ext
from gru_ext import library

pytestmark = pytest.mark.usefixtures("emulated")
PLAIN = Options()
CLUSTERS = ["cluster_H64_C1_rows8", "cluster_H64_C4_rows16", "group_H128_C4_rows16"]  # as the time model has them


def call(size: Size = SMALL, options: Options = PLAIN, save_gates: bool = True) -> Any:
    """A forward call in bfloat16."""
    p = make_problem(size, options, torch.bfloat16)
    return emulated_operators().gru_fwd(*p.layer, save_gates)


def start(seconds: list[float], path: Path | str = "", **device: Any) -> Any:
    """A new device, whose kernels count as tested unless it is given, and an empty memory.

    Measurements find ``seconds``.
    """
    ops = emulate(**(device or {"tested": True}))
    ops.emulate_shared_memory(False)  # the streamed kernel is no candidate
    ops.autotune(True, str(path))
    ops.emulate_seconds(seconds)
    return ops


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """The file of a process that has measured: the second candidate is the fastest."""
    path = tmp_path / "autotune.tsv"
    start([2e-3, 1e-3, 3e-3, 4e-3], path)
    call()
    return path


@pytest.mark.parametrize("device", [{}, {"multiprocessors": 40}], ids=["tested", "new"])
def test_the_fastest_measured_serves(device: dict[str, Any]) -> None:
    ops = start([3e-3, 1e-3, 4e-3, 2e-3], **device)
    assert choice()[0] == CLUSTERS[0]
    assert choice()[1].endswith("; its first call measures the candidates")
    call()
    assert ops.measurements() == 4
    name, reason = choice()
    assert name == CLUSTERS[1]
    times = f"measured {CLUSTERS[1]} 1 ms, stepwise 2 ms, {CLUSTERS[0]} 3 ms, {CLUSTERS[2]} 4 ms"
    assert reason == f"{times}; 1 clusters, 10 at a time"
    launches = ops.persistent_launches()
    call()
    assert ops.measurements() == 4
    assert ops.persistent_launches() == launches + 1


def test_every_family_is_measured() -> None:
    ops = start([3e-3, 4e-3, 5e-3, 6e-3, 2e-3])
    ops.emulate_shared_memory(True)
    call()
    assert ops.measurements() == 5
    for name in (*CLUSTERS, "streamed_U32_rows16", "stepwise"):
        assert name in choice()[1]


def test_masked_calls_are_told_apart() -> None:
    ops = start([1e-3, 2e-3])
    ops.emulate_shared_memory(True)
    ops.gru_fwd(*make_problem(SMALL, PLAIN, torch.bfloat16).layer, True, zoneout=0.1)
    assert ops.measurements() == 2
    assert choice()[1].endswith("; its first call measures the candidates")


def test_stepwise_may_be_the_fastest() -> None:
    ops = start([2e-3, 3e-3, 4e-3, 1e-3])
    call()
    assert choice()[0] == "stepwise"
    assert "measured stepwise 1 ms" in choice()[1]
    launches = ops.persistent_launches()
    call()
    assert ops.persistent_launches() == launches


@pytest.mark.parametrize(("seconds", "serves"), [(1e-3, True), (7e-3, False)])
def test_the_one_step_kernel_is_measured_too(seconds: float, serves: bool) -> None:
    """The time model, which would have it serve unmeasured, likes it best: it is measured first."""
    ops = start([seconds, 5e-3, 3e-3, 4e-3, 6e-3])
    one_step = SMALL._replace(steps=1)
    assert choice(size=one_step)[0] == "one_step"
    assert choice(size=one_step)[1].endswith("; its first call measures the candidates")
    call(one_step)
    assert ops.measurements() == 5
    name, reason = choice(size=one_step)
    assert name == ("one_step" if serves else CLUSTERS[1])
    assert f"one_step {1e3 * seconds:.3g} ms" in reason
    launches = ops.persistent_launches()
    call(one_step)
    assert ops.measurements() == 5
    assert ops.persistent_launches() == launches + (not serves)


def test_one_step_of_a_dtype_without_cluster_kernels_is_measured() -> None:
    ops = start([2e-3, 1e-3])
    ops.gru_fwd(*make_problem(SMALL._replace(steps=1)).layer, True)
    assert ops.measurements() == 2
    assert choice(torch.float64, SMALL._replace(steps=1)) == ("stepwise", "measured stepwise 1 ms, one_step 2 ms")


def test_results_while_measuring_are_right() -> None:
    """Forward and backward are measured apart."""
    ops = start([2, 1, 3, 4, 3, 2, 1, 4])
    check_emulated(make_problem(SMALL, Options(bidirectional=True, packed=True), torch.bfloat16))
    assert ops.measurements() == 8


def test_calls_that_save_no_gates_are_told_apart() -> None:
    start([3e-3, 1e-3, 4e-3, 2e-3])
    call(save_gates=False)
    assert choice(saves_gates=False)[0] == CLUSTERS[1]
    assert choice()[1].endswith("; its first call measures the candidates")


def test_by_the_clock() -> None:
    """Without times that a test says: some kernel is the fastest."""
    ops = start([])
    check_emulated(make_problem(SMALL, PLAIN, torch.bfloat16))
    assert ops.measurements() == 8
    assert "measured" in choice()[1]


FIRST, OF_MANY_ROWS = Size(5, 3, 4, 16), Size(2, 9, 3, 16)


@pytest.mark.parametrize(
    ("first", "size", "options", "save_gates", "measures"),
    [
        (FIRST, FIRST, PLAIN, True, False),
        (FIRST, Size(8, 3, 9, 16), PLAIN, True, False),
        (FIRST, Size(9, 3, 4, 16), PLAIN, True, True),
        (FIRST, Size(5, 4, 4, 16), PLAIN, True, True),
        (FIRST, Size(5, 3, 4, 17), PLAIN, True, True),
        (FIRST, FIRST, Options(bidirectional=True), True, True),
        (FIRST, FIRST, Options(packed=True), True, True),
        (FIRST, FIRST, PLAIN, False, True),
        (OF_MANY_ROWS, Size(2, 16, 3, 16), PLAIN, True, False),
        (OF_MANY_ROWS, Size(2, 17, 3, 16), PLAIN, True, True),
    ],
    ids=str,
)
def test_what_is_measured_once(first: Size, size: Size, options: Options, save_gates: bool, measures: bool) -> None:
    """Calls of one kind: T up to a power of two, rows beyond 8 to a multiple of it, any I."""
    ops = start([])
    call(first)
    before = ops.measurements()
    call(size, options, save_gates)
    assert (ops.measurements() > before) == measures


def test_the_file_outlives_the_process(measured: Path, tmp_path: Path) -> None:
    (record,) = measured.read_text().split("\n")[1:-1]
    assert record.split("\t")[0] == (
        "gru_ext 0 for torch any by emulator, emulated, forward BFloat16 T<=4 B<=3 H=34 D=1"
    )
    ops = start([], measured)
    assert choice()[0] == CLUSTERS[1]
    call()
    assert ops.measurements() == 0
    ops = start([], tmp_path / "another")
    call()
    assert ops.measurements() == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record[: len(record) // 3],
        lambda record: record[:-12],
        lambda record: record.replace("e-", "x-").replace("0.", "-1."),
        lambda record: re.sub(r"(?<=\w)=0\.\S+", "=0", record),
        lambda record: record.replace("\t", " "),
        lambda record: record.replace("stepwise", "steps"),
        lambda record: b"\xff\x00\n=\t=\n\t\n" + bytes(range(256)),
    ],
    ids=["a third", "no end", "no numbers", "no time", "no tab", "no stepwise", "bytes"],
)
def test_a_damaged_file_is_measured_again(damage: Any, measured: Path) -> None:
    """And what is then added to it can be read."""
    damaged = damage(measured.read_text())
    measured.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    ops = start([1e-3, 2e-3, 3e-3, 4e-3], measured)
    call()
    assert ops.measurements() == 4
    ops = start([], measured)
    call()
    assert ops.measurements() == 0
    assert choice()[0] == CLUSTERS[0]


@pytest.mark.parametrize("name", ["one_step", "cluster_H64_C9_rows9"], ids=["of one step", "that does not exist"])
def test_a_kernel_of_the_file_that_cannot_serve_is_passed_over(name: str, measured: Path) -> None:
    measured.write_text(measured.read_text().replace(CLUSTERS[1], name))
    start([], measured)
    assert choice()[0] == CLUSTERS[0]
    assert call()[0].shape == (4, 3, 34)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_is_none_is_not_read_for_ever(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither read nor written to; what is measured stays in memory."""
    path = tmp_path / "pipe" if kind == "pipe" else Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(path)
    ops = start([2e-3, 1e-3, 3e-3, 4e-3], path)
    call()
    assert ops.measurements() == 4
    assert choice()[0] == CLUSTERS[1]
    assert capfd.readouterr().err.count("cannot be written to") == 1


@pytest.mark.parametrize("room", [0, 30])
def test_a_full_disk_costs_one_record(room: int, measured: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The one that had no room is kept in memory; those before it, and the next, are in the file."""
    path, limit, other = measured, 1 << 20, Size(2, 3, 4, 8)
    earlier = path.read_bytes()
    path.write_bytes(earlier.ljust(limit - room - 1, b"#") + b"\n")
    ops = start([], path)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        call(other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    call(other)
    assert ops.measurements() == 4
    assert capfd.readouterr().err.count("cannot be written to") == 1
    assert path.read_bytes().startswith(earlier)
    assert path.stat().st_size == limit
    for expected in (4, 0):  # of `other`, whose record is half of one, and then a whole one
        ops = start([], path)
        call()
        call(other)
        assert ops.measurements() == expected


def test_a_file_that_cannot_be_written_is_one_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ops = start([], tmp_path)  # a directory
    call()
    call(Size(2, 3, 4, 8))
    assert capfd.readouterr().err.count("cannot be written to") == 1
    assert ops.measurements() == 8
    call()
    assert ops.measurements() == 8


def test_nothing_is_measured_while_a_graph_is_captured() -> None:
    """What was measured before serves."""
    ops = start([2e-3, 1e-3, 3e-3, 4e-3], capturing=True)
    call()
    assert ops.measurements() == 0
    ops.emulate_capture(False)
    call()
    assert ops.measurements() == 4
    ops.emulate_capture(True)
    launches = ops.persistent_launches()
    call()
    assert ops.measurements() == 4
    assert ops.persistent_launches() == launches + 1
    call(Size(2, 3, 4, 8))  # of another kind, for which the same kernels may serve
    assert ops.measurements() == 4


@pytest.mark.parametrize("luck", [{"spoiled": 1}, {"refusals": 1}], ids=str)
def test_a_kernel_that_fails_while_measured_is_ruled_out(
    luck: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    start([1e-3, 2e-3, 3e-3, 4e-3], **luck)
    call()
    assert capfd.readouterr().err.count("Warning: gru:") == 1
    assert choice()[0] == CLUSTERS[1]


def test_what_cannot_be_told_never_serves() -> None:
    """On a device whose clock fails; where it always does, the time model chooses."""
    nan = float("nan")
    ops = start([nan, 2e-3, nan, nan])
    call()
    assert choice()[0] == CLUSTERS[1]
    launches = ops.persistent_launches()
    ops.emulate_no_memory(1, False)  # for that kernel: the stepwise ones take its place
    call()
    assert ops.persistent_launches() == launches
    size = Size(1, 1000, 2, 60)
    ops = start([nan, nan], multiprocessors=1)
    by_model = choice(size=size)
    assert by_model[0] == "stepwise"
    call(size)
    assert ops.measurements() == 2
    assert choice(size=size)[0] == "stepwise"


def test_asking_for_a_kernel_measures_nothing() -> None:
    ops = start([])
    ops.use_cuda_kernels("cluster", "cluster")
    call()
    ops.use_cuda_kernels("stepwise", "stepwise")
    call()
    assert ops.measurements() == 0


def test_off_again() -> None:
    ops = start([2e-3, 1e-3, 3e-3, 4e-3])
    call()
    assert choice()[0] == CLUSTERS[1]
    ops.autotune(False, "")
    assert choice()[0] == CLUSTERS[0]
    call(Size(2, 3, 4, 8))
    assert ops.measurements() == 4


def test_the_one_step_kernel_takes_the_place_of_one_that_does_not_exist(tmp_path: Path) -> None:
    path, size = tmp_path / "autotune.tsv", Size(1, 3, 2, 34)
    start([2e-3, 1e-3, 3e-3, 4e-3, 5e-3], path)
    call(size)
    assert choice(size=size)[0] == CLUSTERS[0]
    path.write_text(path.read_text().replace(CLUSTERS[0], "cluster_H64_C9_rows9"))
    start([], path)
    assert choice(size=size)[0] == "one_step"


# ---- The function


@pytest.mark.parametrize(
    ("variables", "cache", "path"),
    [
        ({"HOME": "{tmp}"}, None, "{tmp}/.cache/gru_ext/autotune.tsv"),
        ({"HOME": "/nowhere", "XDG_CACHE_HOME": "{tmp}/xdg"}, None, "{tmp}/xdg/gru_ext/autotune.tsv"),
        ({"GRU_EXT_AUTOTUNE_CACHE": "{tmp}/named/file"}, None, "{tmp}/named/file"),
        ({"GRU_EXT_AUTOTUNE_CACHE": ""}, None, ""),
        ({"HOME": "{tmp}"}, "~/given/file", "{tmp}/given/file"),
        ({"GRU_EXT_AUTOTUNE_CACHE": "{tmp}/named/file"}, "", ""),
    ],
    ids=["home", "XDG", "named", "named none", "given", "none"],
)
def test_where_the_file_is(
    variables: dict[str, str], cache: str | None, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is made."""
    for name in ("XDG_CACHE_HOME", "GRU_EXT_AUTOTUNE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    asked: list[tuple[bool, str]] = []
    monkeypatch.setattr(library, "has_cuda_kernels", True)
    monkeypatch.setattr(torch.ops.gru_ext, "autotune", lambda *arguments: asked.append(arguments), raising=False)
    gru_ext.autotune(cache=cache)
    assert asked == [(True, path.format(tmp=tmp_path))]
    assert not path or Path(asked[0][1]).parent.is_dir()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="autotune: expected enable to be a bool, got 'off'"):
        gru_ext.autotune("off")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="autotune: expected cache to be a path, got 3"):
        gru_ext.autotune(cache=3)  # type: ignore[arg-type]


@pytest.mark.skipif(library.has_cuda_kernels, reason="this build has CUDA kernels; tests/test_cuda.py")
def test_a_build_without_cuda_has_nothing_to_measure(tmp_path: Path) -> None:
    gru_ext.autotune(True, tmp_path / "folder" / "file")
    assert list(tmp_path.iterdir()) == []
    result = fork_python("-c", "import gru_ext; print(gru_ext.__version__)", environment={"GRU_EXT_AUTOTUNE": "1"})
    assert output_of(result).strip() == gru_ext.__version__
