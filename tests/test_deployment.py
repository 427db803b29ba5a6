"""Exported models run in fresh processes: a graph and a package in Python, the package in C++ without Python.

And what docs/deployment.md says that can be exported gives what the module gives.
"""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import FLOATING, seeded
from compare import assert_same_bits
from process import ROOT, fork_python, output_of
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_ext
from gru_ext.recurrence import OPTIONS, check_rate

DEPLOY = ROOT / "examples" / "deploy"
# Either from the system or from the test extra.
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where examples/deploy/export.py wrote, and the scores that it printed."""
    out = tmp_path_factory.mktemp("deployed")
    return out, output_of(fork_python(DEPLOY / "export.py", f"--out={out}", timeout=300))


def assert_same_scores(printed: str, expected: str) -> None:
    """The same sizes, and scores that differ by at most one in their last digit."""
    ours, theirs = ([line.split() for line in text.splitlines()] for text in (printed, expected))
    assert [line[:2] for line in ours] == [line[:2] for line in theirs] == [["5", "3"], ["40", "1"]]
    for line, other in zip(ours, theirs, strict=True):
        assert [float(score) for score in line[2:]] == pytest.approx([float(score) for score in other[2:]], abs=1.1e-5)
        assert len(line) == 6


RUN = """
import sys
import warnings
from pathlib import Path

import torch
{imports}
warnings.simplefilter("ignore")  # of torch's own deprecations
out = Path(sys.argv[1])
loaders = (
    lambda: torch.export.load(out / "model.pt2").module(),
    lambda: torch._inductor.aoti_load_package(str(out / "package.pt2")),
)
for load in loaders:
    try:
        model = load()
        for steps, batch in ((5, 3), (40, 1)):
            count = steps * batch * 8
            x = torch.arange(count, dtype=torch.float32).div(count).view(steps, batch, 8)
            scores = model(x, steps - torch.arange(batch))
            print(steps, batch, *(f"{{score:.5f}}" for score in scores[-1]))
    except RuntimeError as error:
        print(error)
"""


def run_in_python(out: Path, imports: str) -> subprocess.CompletedProcess[str]:
    """Run the graph, then the package, in a process of torch and ``imports``, and none of the model's code."""
    return fork_python("-c", RUN.format(imports=imports), out)


def test_a_fresh_process_runs_what_was_exported(deployed: tuple[Path, str]) -> None:
    out, expected = deployed
    printed = output_of(run_in_python(out, "import gru_ext")).splitlines(keepends=True)
    assert_same_scores("".join(printed[:2]), expected)
    assert_same_scores("".join(printed[2:]), expected)


def test_without_the_library_torch_names_an_operator_of_ours(deployed: tuple[Path, str]) -> None:
    result = run_in_python(deployed[0], "")
    assert "failed to resolve torch.ops.gru_ext." in result.stderr
    assert "Could not find schema for gru_ext::" in output_of(result)


def cmake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert CMAKE is not None, "cmake was not found; install the test extra, or apt-get install cmake"
    return subprocess.run([CMAKE, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def configure(build: Path, library: str) -> subprocess.CompletedProcess[str]:
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    return cmake("-S", DEPLOY, "-B", build, prefix, f"-DGRU_EXT_LIBRARY={library}")


@pytest.mark.skipif(
    torch.version.cuda is not None and not shutil.which("nvcc"), reason="torch's CMake files want its CUDA toolkit"
)
def test_a_program_in_cpp_runs_the_package_without_python(deployed: tuple[Path, str], tmp_path: Path) -> None:
    out, expected = deployed
    output_of(configure(tmp_path, str(gru_ext.library.path)))
    output_of(cmake("--build", tmp_path))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "run"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert_same_scores(output_of(run(out / "package.pt2")), expected)
    needed = subprocess.run(["readelf", "-d", tmp_path / "run"], capture_output=True, text=True, check=True).stdout
    assert "[libgru_ext.so]" in needed
    assert "[libpython" not in needed
    assert "[libtorch_python" not in needed
    for arguments, status, words in (((), 2, "usage: run PACKAGE\n"), ((tmp_path / "none",), 1, "run: ")):
        result = run(*arguments)
        assert result.returncode == status
        assert result.stderr.startswith(words)
        assert len(result.stderr.splitlines()) == 1


def test_the_build_says_which_library_it_lacks(tmp_path: Path) -> None:
    result = configure(tmp_path, "/nonexistent/libgru_ext.so")
    assert result.returncode != 0
    sentence = "GRU_EXT_LIBRARY: expected the path of libgru_ext.so, got '/nonexistent/libgru_ext.so'"
    assert sentence in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "module",
    [
        gru_ext.GRU(3, 4),
        gru_ext.GRUCell(3, 4),
        gru_ext.quantize_dynamic(gru_ext.GRU(3, 4)),
        gru_ext.quantize_dynamic(gru_ext.GRUCell(3, 4)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_scripting_is_refused_with_what_to_use_instead(module: nn.Module) -> None:
    name = type(module).__name__
    with pytest.raises(NotImplementedError, match=f"^{name}: torch.jit.script cannot compile it; use torch.export"):
        torch.jit.script(nn.Sequential(module))


# ---- What can be exported

# A value of each argument that is not its default.
OF_GRU: dict[str, Any] = {
    "num_layers": 2,
    "bias": False,
    "batch_first": True,
    "dropout": 0.5,
    "bidirectional": True,
    "outputs": "last",
    "save": "output",
    "overlap_layers": 2,
    **{name: 0.2 for name, option in OPTIONS.items() if option.check is check_rate},
    "reset_after": False,
    "layer_norm": True,
    "blocks": 2,
    "norm_over": "layer",
    "fake_int8": True,
}
# Without which an argument says nothing.
BESIDE: dict[str, dict[str, Any]] = {
    "dropout": {"num_layers": 2},
    "overlap_layers": {"num_layers": 2},
    "norm_over": {"layer_norm": True, "blocks": 2},
}
OF_CELL = {name: OF_GRU[name] for name in inspect.signature(gru_ext.GRUCell).parameters if name in OF_GRU}


def assert_exports(module: nn.Module, *inputs: Any, **keywords: Any) -> None:
    """The exported program gives the bits that the module gives."""
    program = torch.export.export(module, inputs, keywords, strict=False)
    assert_same_bits(seeded(program.module(), *inputs, **keywords), seeded(module, *inputs, **keywords))


@pytest.mark.parametrize(("module", "name"), [*product([gru_ext.GRU], OF_GRU), *product([gru_ext.GRUCell], OF_CELL)])
def test_each_argument_exports(module: type[nn.Module], name: str) -> None:
    inputs = [torch.randn(5, 2, 3)] if module is gru_ext.GRU else [torch.randn(2, 3), torch.randn(2, 4)]
    assert_exports(module(3, 4, **{name: OF_GRU[name], **BESIDE.get(name, {})}).eval(), *inputs)


def test_no_argument_was_left_out() -> None:
    for module, arguments in ((gru_ext.GRU, OF_GRU), (gru_ext.GRUCell, OF_CELL)):
        exist = set(inspect.signature(module).parameters) - {"input_size", "hidden_size", "device", "dtype"}
        assert exist == set(arguments)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_each_dtype_exports(dtype: torch.dtype) -> None:
    x, state = torch.randn(5, 2, 3, dtype=dtype), torch.randn(1, 2, 4, dtype=dtype)
    assert_exports(gru_ext.GRU(3, 4, dtype=dtype), x, state)
    assert_exports(gru_ext.GRUCell(3, 4, dtype=dtype), x[0], state[0])


def test_lengths_resets_and_packed_sequences_export() -> None:
    module = gru_ext.GRU(3, 4)
    x, state = torch.randn(5, 2, 3), torch.randn(1, 4)
    assert_exports(module, x, lengths=torch.tensor([2, 5]))
    assert_exports(module, x, resets=torch.rand(5, 2) < 0.4, reset_state=state)
    assert_exports(module, pack_sequence([x[:, 0], x[:3, 1]]))


class Packing(nn.Module):
    """Packs inside of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(3, 4)

    def forward(self, data: Tensor, batch_sizes: Tensor) -> Tensor:  # noqa: D102
        output: PackedSequence = self.gru(PackedSequence(data, batch_sizes))[0]
        return output.data


def test_other_models_export() -> None:
    x = torch.randn(5, 2, 3)
    assert_exports(Packing(), torch.randn(5, 3), torch.tensor([2, 2, 1]))
    assert_exports(gru_ext.quantize_dynamic(gru_ext.GRU(3, 4)), x)
    normalized = gru_ext.GRU(3, 4)
    nn.utils.parametrizations.weight_norm(normalized, "weight_hh_l0")
    assert_exports(normalized, x)
    assert_exports(gru_ext.GRU(3, 4, 2, dropout=0.5).train(), x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("blocks", [1, 2])
def test_torch_jit_trace_checks_what_trains(blocks: int) -> None:
    """It traces again without gradients, and compares."""
    module, x = gru_ext.GRU(3, 4, blocks=blocks), torch.randn(5, 2, 3)
    assert_same_bits(torch.jit.trace(module, (x,))(x)[0].detach(), module(x)[0].detach())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torch_jit_trace() -> None:
    module, x = gru_ext.GRU(3, 4, 2, bidirectional=True), torch.randn(5, 2, 3)
    assert_same_bits(torch.jit.trace(module, (x,))(x)[0].detach(), module(x)[0].detach())
