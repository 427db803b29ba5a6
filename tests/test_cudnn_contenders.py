"""cuDNN's algorithms as contenders: against a simulated cuDNN; and cuDNN's header and library, if installed."""

from __future__ import annotations

import re
from ctypes import c_float, c_int, c_size_t, c_uint, c_ulong, c_ulonglong, c_void_p
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from contender_cases import BOTH_DIRECTIONS, ONE_LAYER, judged, make_inputs, make_problem
from on_cuda import float32_precision
from process import ROOT
from simulated_cudnn import library, library_beside

from benchmarks.contenders import CUDNN, Problem
from benchmarks.contenders.cudnn import Cudnn, CudnnDynamic, CudnnStandard, CudnnStatic
from benchmarks.contenders.cudnn_library import (
    PARAMETERS,
    SONAME,
    Algorithm,
    Constant,
    Library,
    NotSupportedError,
    functions,
)
from benchmarks.suites import Pass, Size


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cudnn, "load", staticmethod(library))


@pytest.mark.parametrize("kind", ["forward", "train"])
@pytest.mark.parametrize(
    ("contender", "size", "dtype"),
    [
        *((contender, ONE_LAYER, torch.float32) for contender in CUDNN),
        *((CudnnStandard, ONE_LAYER, dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)),
        (CudnnStandard, BOTH_DIRECTIONS, torch.float32),
    ],
)
def test_results_are_those_of_the_weights(contender: type[Cudnn], size: Size, dtype: torch.dtype, kind: Pass) -> None:
    """And a step can be timed again and again."""
    *_, verdict = judged(contender, size, kind, dtype)
    assert verdict.right, verdict


@pytest.mark.parametrize("size", [ONE_LAYER, BOTH_DIRECTIONS], ids=str)
def test_weights_come_back_as_they_went(size: Size) -> None:
    problem = make_problem(size)
    back = CudnnStandard(problem).weights()
    assert list(back) == list(problem.weights)
    assert all(torch.equal(back[name], weight) for name, weight in problem.weights.items())


def test_what_cudnn_does_not_have_is_an_error_of_its_own() -> None:
    with pytest.raises(NotSupportedError, match=r"cudnnSetRNNDescriptor_v8: CUDNN_STATUS_NOT_SUPPORTED simulated$"):
        CudnnStatic(make_problem(ONE_LAYER, "forward", torch.float64))


@pytest.mark.parametrize(
    ("contender", "device", "kind", "dtype", "reason"),
    [
        (CudnnStandard, "cpu", "train", torch.float32, "runs on CUDA only"),
        (CudnnStandard, "cuda:1", "train", torch.float32, "runs on the current CUDA device only"),
        (CudnnStandard, "cuda:0", "backward", torch.float32, "its backward overwrites what its forward keeps"),
        (CudnnDynamic, "cuda:0", "train", torch.bfloat16, "has no bfloat16"),
        (CudnnStatic, "cuda:0", "train", torch.float64, "has no float64"),
        (CudnnDynamic, "cuda:0", "train", torch.float64, None),
    ],
)
def test_what_has_no_answer_is_said(
    contender: type[Cudnn],
    device: str,
    kind: Pass,
    dtype: torch.dtype,
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(Problem, "device", torch.device(device))
    assert contender.refuses(make_problem(ONE_LAYER, kind, dtype)) == reason


@pytest.mark.parametrize(("allowed", "products"), [(True, Constant.DEFAULT_MATH), (False, Constant.FMA_MATH)])
def test_tf32_is_allowed_where_torch_allows_it(allowed: bool, products: Constant) -> None:
    with (
        float32_precision(*["tf32" if allowed else "ieee"] * 2),
        patch.object(Library, "call", autospec=True, side_effect=Library.call) as call,
    ):
        CudnnStandard(make_problem(ONE_LAYER))
    (given,) = (of.args[2:] for of in call.call_args_list if of.args[1] == "cudnnSetRNNDescriptor_v8")
    assert given[8] is products


# ---- cuDNN itself


@pytest.fixture(scope="module")
def installed() -> Path:
    """Where pip put a cuDNN: that of the CUDA torch of ``make cuda-check``."""
    folder = next(ROOT.glob(".venv-cuda/lib/python*/site-packages/nvidia/cudnn"), None)
    if folder is None:
        pytest.skip("no cuDNN in .venv-cuda: its header and library come with the CUDA torch of make cuda-check")
    return folder


def kind_of(declaration: str) -> type:
    """How C passes a parameter: as an address, four bytes or eight, or a float."""
    if re.search(r"[*\[]|Descriptor_t|Handle_t|Stream_t", declaration):
        return c_void_p
    return next(
        (c for name, c in (("size_t", c_ulong), ("long", c_ulong), ("float", c_float)) if name in declaration), c_int
    )


def test_parameters_are_those_of_the_header(installed: Path) -> None:
    """Of every function that is called."""
    text = "".join(path.read_text() for path in sorted((installed / "include").glob("cudnn_*.h")))
    passed = {c_uint: c_int, c_ulonglong: c_ulong, c_size_t: c_ulong, c_int: c_int, c_float: c_float}
    for name, parameters in PARAMETERS.items():
        prototype = re.search(rf"^{name}\(([^;]*)\);", text, re.MULTILINE)
        assert prototype, name
        declared = re.sub(r"/\*.*?\*/", "", prototype[1]).split(",")
        assert [passed.get(of, c_void_p) for of in parameters] == [kind_of(of) for of in declared], name


def test_constants_are_those_of_the_header(installed: Path) -> None:
    text = "".join(path.read_text() for path in (installed / "include").glob("cudnn_*.h"))
    named: dict[str, int] = {f"CUDNN_RNN_ALGO_{name}": value for name, value in Algorithm.__members__.items()}
    named |= {f"CUDNN_{name}": value for name, value in Constant.__members__.items()}
    flag = named.pop("CUDNN_RNN_PADDED_IO_ENABLED")
    assert {name: set(re.findall(rf"\b{name} *= (\d+)", text)) for name in named} == {
        name: {str(int(value))} for name, value in named.items()
    }
    assert f"#define CUDNN_RNN_PADDED_IO_ENABLED ({flag:d}U << 0)" in text


@pytest.mark.parametrize(
    ("contender", "dtype"),
    [(contender, dtype) for contender in CUDNN for dtype in contender.dtypes],
)
def test_cudnn_accepts_every_descriptor(
    contender: type[Cudnn], dtype: torch.dtype, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that need no GPU are cuDNN's own, the others simulated. Which kernels would run is not shown."""
    real = functions(str(installed / "lib" / SONAME))
    accepted: list[str] = []
    monkeypatch.setattr(Cudnn, "load", staticmethod(lambda: library_beside(real, accepted)))
    contender(make_problem(ONE_LAYER, "train", dtype)).step(*make_inputs(ONE_LAYER, dtype))()
    sets = ["cudnnSetRNNDescriptor_v8", "cudnnSetRNNDataDescriptor", "cudnnSetRNNDataDescriptor"]
    assert [name for name in accepted if "Set" in name] == [*sets, "cudnnSetTensorNdDescriptor"]
