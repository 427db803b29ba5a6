"""benchmarks/gpu_check.py and its plots where there is no GPU; on one, they are run by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from process import ROOT, run_python


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_with_one_sentence() -> None:
    result = run_python("-m", "benchmarks.gpu_check", path=[ROOT])
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip() == (
        f"gpu-check: torch {torch.__version__} sees no GPU on this machine; run it on one that has a GPU"
    )


def results() -> dict[str, Any]:
    """What a check on a GPU would leave, with times that nobody measured."""
    from benchmarks.gpu_check import KernelRow, Row

    kernels = [
        KernelRow(kernel, "bf16", backward, rows, float(us), 10.0)
        for backward in (False, True)
        for kernel, rows, us in (
            ("cluster_H512_C8_rows8", 8, 1),
            ("group_H2048_C128_rows8", 8, 3),
            ("streamed_U32_rows16 H2816", 16, 9),
            ("streamed_U32_rows16 H4096", 16, 15),
            ("stepwise H512", 8, 12),
            ("stepwise H4096", 32, 30),
        )
    ]
    speed = [
        Row(H, 32, "bf16", kind, 2.0, 1.0, 2.0, 1.8, 2.1, True, "")
        for H in (512, 4096)
        for kind in ("forward", "train")
    ]
    return {
        "device": {"gpu": "none", "commit": "0123456789abcdef"},
        "kernels": [asdict(row) for row in kernels],
        "speed": [asdict(row) for row in speed],
    }


def test_plots_have_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from benchmarks import gpu_plots

    drawn: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> Path:
        lines = [line for axis in figure.axes for line in axis.lines]
        drawn[path.stem] = [
            sorted(float(y) for line in lines for y in line.get_ydata()),
            sorted(float(bar.get_width()) for axis in figure.axes for bar in axis.patches),
        ]
        return path

    monkeypatch.setattr(gpu_plots, "save", keep)
    gpu_plots.draw(results(), tmp_path)
    assert drawn["gpu_steps"][0] == sorted(2 * [1.0, 3.0, 9.0, 15.0, 12.0, 30.0])
    assert drawn["gpu_speed"][1] == [2.0] * 4


def test_plots_are_written_for_the_stages_that_ran(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = {**results(), "speed": None}
    (tmp_path / "results.json").write_text(json.dumps(found))
    command = ("-m", "benchmarks.gpu_plots", str(tmp_path / "results.json"), "--folder", str(tmp_path / "docs"))
    assert run_python(*command, path=[ROOT]).returncode == 0
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["gpu_steps.png"]


@pytest.mark.parametrize(
    ("kernel", "hidden"), [("cluster_H512_C8_rows8", 512), ("streamed_U32_rows16 H4096", 4096), ("stepwise H512", 512)]
)
def test_the_name_of_a_kernel_says_its_h(kernel: str, hidden: int) -> None:
    from benchmarks.gpu_plots import hidden_of

    assert hidden_of(kernel) == hidden


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[1]", "expected the JSON of `make gpu-check`, got one that names no GPU and commit"),
        ('{"device": {}}', "expected the JSON of `make gpu-check`, got one that names no GPU and commit"),
    ],
)
def test_what_is_not_a_check_is_one_sentence(tmp_path: Path, text: str | None, words: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    result = run_python("-m", "benchmarks.gpu_plots", str(path), path=[ROOT])
    assert result.returncode == 1
    assert result.stderr.startswith(f"gpu-plots: {path}: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
