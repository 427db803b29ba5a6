"""Exported models run in fresh processes: a graph and a package in Python, the package in C++ without Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process import ROOT, output_of, run_python
from torch import nn

import gru_ext

DEPLOY = ROOT / "examples" / "deploy"
# Either from the system or from the test extra.
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where examples/deploy/export.py wrote, and the scores that it printed."""
    out = tmp_path_factory.mktemp("deployed")
    return out, output_of(run_python(DEPLOY / "export.py", f"--out={out}", environment=ONE_THREAD, timeout=300))


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
    return run_python("-c", RUN.format(imports=imports), out, environment=ONE_THREAD)


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
    return subprocess.run(
        [CMAKE, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, env=os.environ
    )


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
# torch deprecates torch.jit.script itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_scripting_is_refused_with_what_to_use_instead(module: nn.Module) -> None:
    name = type(module).__name__
    with pytest.raises(NotImplementedError, match=f"^{name}: torch.jit.script cannot compile it; use torch.export"):
        torch.jit.script(nn.Sequential(module))
