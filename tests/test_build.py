"""What setup.py says before it compiles anything, what it builds for, and what becomes of a build for another torch."""

from __future__ import annotations

import os
import runpy
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch
from building import compiler, cpp_extension
from process import ROOT, fork_python, output_of, run_python

import gru_ext


def write_files(path: Path, files: dict[str, str]) -> None:
    """Texts by their paths below one."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)


def run_setup(path: Path, environment: dict[str, str], before: str | None = None) -> subprocess.CompletedProcess[str]:
    """``python setup.py build_ext`` in a directory with nothing but links, without a compiler, so that it ends soon.

    After ``before``, in a fork that has the real torch; else in a process that takes what it imports from ``path``.
    """
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "src"):
        (path / name).symlink_to(ROOT / name)
    environment = {"CXX": "/nonexistent/c++ -m64", **environment}
    if before is None:
        return run_python("setup.py", "build_ext", path=[path], directory=path, environment=environment)
    program = f"{before}\nimport os, runpy, sys\nos.chdir({str(path)!r})\nsys.argv[0] = 'setup.py'\n"
    program += "runpy.run_path('setup.py', run_name='__main__')"
    return fork_python("-c", program, "build_ext", path=[path], environment=environment)


def assert_refused(path: Path, environment: dict[str, str], sentence: str, before: str | None = None) -> None:
    """It ends with that sentence, and has built nothing."""
    result = run_setup(path, environment, before)
    assert (result.returncode, result.stderr.strip().splitlines()[-1]) == (1, f"gru_ext: {sentence}")
    assert not (path / "build").exists()


@pytest.mark.parametrize(
    ("files", "before", "environment", "sentence"),
    [
        pytest.param(
            {"torch.py": "raise ImportError('No module named torch')\n"},
            None,
            {},
            "no torch to build against is visible here; with torch installed, repeat the command with"
            " --no-build-isolation, as pip and uv hide it otherwise",
            id="no torch",
        ),
        pytest.param(
            {"torch/__init__.py": "__version__ = '2.5.1'\n", "torch/utils/__init__.py": "cpp_extension = None\n"},
            None,
            {},
            "torch 2.6 or later is needed, found 2.5.1; run: pip install 'torch>=2.6'",
            id="an old torch",
        ),
        pytest.param(
            {}, "", {"GRU_EXT_CUDA": "yes"}, "expected GRU_EXT_CUDA to be 0 or 1, got 'yes'", id="GRU_EXT_CUDA=yes"
        ),
        pytest.param(
            {},
            "import sysconfig\nsysconfig.get_path = lambda _: '/nonexistent'",
            {"PATH": "/nonexistent"},
            "no ninja was found, which runs the compilers; run: pip install 'setuptools>=77' ninja",
            id="no ninja, neither on PATH nor beside the Python that builds",
        ),
        pytest.param(
            {},
            "",
            {},
            "no C++ compiler '/nonexistent/c++ -m64' was found; on Debian or Ubuntu, run: apt-get install g++",
            id="no compiler",
        ),
    ],
)
def test_it_names_what_it_lacks(
    files: dict[str, str], before: str | None, environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    write_files(tmp_path, files)
    assert_refused(tmp_path, environment, sentence, before)


@pytest.mark.parametrize(
    ("setuptools", "words"),
    [
        ("raise ImportError", "no setuptools was found, which builds gru_ext"),
        ("__version__ = '76.1.0'", "setuptools 77 or later is needed, found 76.1.0"),
    ],
)
def test_the_backend_names_the_setuptools_that_it_needs(tmp_path: Path, setuptools: str, words: str) -> None:
    """What pip imports first; so does setup.py."""
    write_files(tmp_path, {"setuptools/__init__.py": setuptools, "setuptools/build_meta.py": ""})
    sentence = f"{words}; run: pip install 'setuptools>=77' ninja"
    assert_refused(tmp_path, {}, sentence)
    result = run_python("-c", "import build_backend", path=[tmp_path], directory=tmp_path)
    assert (result.returncode, result.stderr.strip()) == (1, f"gru_ext: {sentence}")


# ---- GRU_EXT_CUDA

ONLY_CPU_TORCH = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
# A torch that says it has CUDA 13.0 and no GPU, which is all that is asked of it before anything is compiled.
CUDA_TORCH = """
import torch
torch.version.cuda = "13.0"
torch.cuda._is_compiled = lambda: True
torch.cuda.is_available = lambda: False
"""


def toolkit(path: Path, release: str, known: str = "75 80 86 90 100 120") -> dict[str, str]:
    """The environment of a CUDA toolkit with an nvcc that tells its release and GPUs, and no more."""
    architectures = " ".join(f"compute_{number}" for number in known.split())
    nvcc = f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.0\necho {architectures}\n"
    write_files(path / "toolkit", {"bin/nvcc": nvcc, "include/cuda_runtime.h": ""})
    (path / "toolkit" / "bin" / "nvcc").chmod(0o755)
    return {"CUDA_HOME": str(path / "toolkit")}


@pytest.mark.parametrize(
    ("cuda", "release", "sentence"),
    [
        pytest.param("", "13.0", f"torch {torch.__version__} is built without CUDA", marks=ONLY_CPU_TORCH),
        ("13.0", "", "/nonexistent has no nvcc and CUDA headers"),
        ("13.0", "12.9", "nvcc 12.9 cannot build for torch's CUDA 13.0"),
        ("12.1", "12.3", "nvcc 12.4 or later is needed, found 12.3"),
    ],
)
def test_cuda_forced_where_it_cannot_be_built(tmp_path: Path, cuda: str, release: str, sentence: str) -> None:
    before = CUDA_TORCH.replace("13.0", cuda) if cuda else ""
    home = toolkit(tmp_path, release) if release else {"CUDA_HOME": "/nonexistent"}
    sentence = f"GRU_EXT_CUDA=1 asks for the CUDA kernels, but {sentence}"
    assert_refused(tmp_path, {"GRU_EXT_CUDA": "1", **home}, sentence, before)


@pytest.mark.parametrize(
    ("forced", "release", "words"),
    [
        ("0", "13.0", "not built: GRU_EXT_CUDA=0"),
        ("", "12.9", "not built: nvcc 12.9 cannot build for torch's CUDA 13.0"),
        ("", "13.1", "nvcc 13.1 for 8.0;9.0"),
    ],
)
def test_the_choice_is_printed(tmp_path: Path, forced: str, release: str, words: str) -> None:
    environment = {**toolkit(tmp_path, release), "GRU_EXT_CUDA": forced, "TORCH_CUDA_ARCH_LIST": "8.0;9.0"}
    result = run_setup(tmp_path, environment, CUDA_TORCH)
    assert f"gru_ext: CUDA kernels: {words}" in result.stdout.splitlines()
    assert "no C++ compiler '/nonexistent/c++ -m64' was found" in result.stderr


LoadSetup = Callable[..., dict[str, Any]]


@pytest.fixture
def load_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadSetup:
    """What setup.py defines with a CUDA torch that finds such GPUs, and with such a toolkit; it builds nothing."""
    extension = setuptools.Extension

    def load(*gpus: tuple[int, int], known: str = "75 80 86 90 100 120", **environment: str) -> dict[str, Any]:
        found = {**toolkit(tmp_path, "13.0", known), "TORCH_CUDA_ARCH_LIST": "", "MAX_JOBS": "", **environment}
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(setuptools, "setup", lambda **_: None)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index])
        for kind in ("CppExtension", "CUDAExtension"):
            monkeypatch.setattr(
                cpp_extension(), kind, lambda **arguments: extension(libraries=["torch_python"], **arguments)
            )
        return runpy.run_path(str(ROOT / "setup.py"))

    return load


@pytest.mark.parametrize(
    ("here", "asked", "known", "words"),
    [
        ((), "", "75 80 90 100 120", "nvcc 13.0 for 7.5;8.0;9.0;10.0;12.0+PTX"),
        ((), "", "80 86 90", "nvcc 13.0 for 8.0;9.0+PTX"),
        (((9, 0),), "", "75 80 90", "nvcc 13.0 for 9.0"),
        (((12, 0), (8, 6), (12, 0)), "", "80 86 120", "nvcc 13.0 for 8.6;12.0"),
        (((9, 0),), "8.0", "80 90", "nvcc 13.0 for 8.0"),
        (((7, 0), (8, 0)), "", "70 80 90", "nvcc 13.0 for 8.0"),
        (((13, 0),), "", "80 90", "nvcc 13.0 for 8.0;9.0+PTX"),
        (((7, 0),), "", "70 80", "not built: a GPU of compute capability 7.5 or later is needed, found 7.0"),
    ],
)
def test_it_builds_for_the_gpus_here_else_for_all(
    here: tuple[tuple[int, int], ...], asked: str, known: str, words: str, load_setup: LoadSetup
) -> None:
    assert load_setup(*here, known=known, TORCH_CUDA_ARCH_LIST=asked)["CUDA"].words == words


GIGABYTE = 1 << 30
MACHINE = {"/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {64 << 20} kB\n", "/proc/self/cgroup": "0::/a/b\n"}


def limited(folder: str, limit: object, usage: int, files: int = 0) -> dict[str, str]:
    """A control group of version 2."""
    root = f"/sys/fs/cgroup{folder}"
    statistics = f"anon 1\ninactive_file {files}\nactive_file 7\n"
    return {
        f"{root}/memory.max": f"{limit}\n",
        f"{root}/memory.current": f"{usage}\n",
        f"{root}/memory.stat": statistics,
    }


OLD_CONTROL_GROUP = {
    "/proc/self/cgroup": "5:cpu:/\n4:memory:/job\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(10 * GIGABYTE),
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(GIGABYTE),
}


@pytest.mark.parametrize(
    ("files", "asked", "jobs"),
    [
        ({}, "", 16),
        ({}, "3", 3),
        ({}, "many", 16),
        ({"/proc/meminfo": f"MemAvailable: {9 << 20} kB\n"}, "", 2),
        ({"/proc/meminfo": "MemAvailable: 5 kB\n"}, "", 1),
        (limited("/a/b", "max", GIGABYTE), "", 16),
        (limited("/a/b", 20 * GIGABYTE, 10 * GIGABYTE), "", 2),
        (limited("/a/b", 20 * GIGABYTE, 10 * GIGABYTE, files=3 * GIGABYTE), "", 3),
        ({**limited("/a/b", 40 * GIGABYTE, 0), **limited("/a", 12 * GIGABYTE, 0)}, "", 3),
        (OLD_CONTROL_GROUP, "", 2),
    ],
    ids=["cores", "asked", "no number", "machine", "little", "no limit", "limit", "files", "outer", "version 1"],
)
def test_as_many_compilers_as_there_is_memory_for(
    files: dict[str, str], asked: str, jobs: int, load_setup: LoadSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 GB each, of a machine of 64 cores: what is free of it, and of the control groups around the build."""
    setup, fakes = load_setup(MAX_JOBS=asked), {**MACHINE, **files}

    def read_text(path: Path) -> str:
        if str(path) not in fakes:
            raise FileNotFoundError(path)
        return fakes[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert setup["compilers_at_once"]() == jobs


@pytest.mark.parametrize("asked", ["", "1"])
def test_lines_of_kernels_are_kept_on_request(asked: str, load_setup: LoadSetup) -> None:
    """They are most of a kernel's bytes. The rest is compressed."""
    setup = load_setup(GRU_EXT_LINEINFO=asked)
    flags = setup["extension"]("0", setup["CUDA"]).extra_compile_args["nvcc"]
    assert ("-lineinfo" in flags) == bool(asked)
    assert "-Xfatbin=-compress-all" in flags


# ---- A library of another torch


def library_for(path: Path, torch_version: str | None) -> Path:
    """A package whose library does nothing, and says what it was built for."""
    package = path / "gru_ext"
    package.mkdir()
    for source in (ROOT / "src" / "gru_ext").iterdir():
        if source.suffix != ".so":
            (package / source.name).symlink_to(source)
    section = f'__attribute__((section("gru_ext_torch"), used)) char v[] = "{torch_version}";'
    library = package / "libgru_ext.so"
    command = [*compiler(), "-shared", "-x", "c++", "-", "-o", str(library)]
    subprocess.run(command, input=section if torch_version else "", text=True, check=True)
    return library


def test_the_library_says_which_torch_it_was_built_for() -> None:
    assert gru_ext.library.torch_of(gru_ext.library.path) == gru_ext.library.built_for_torch


def test_a_library_of_another_torch_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    library_for(tmp_path, "2.99.0+cu130")
    noted = {
        "METADATA": "Name: gru_ext\nVersion: 0.1.0\n",
        "direct_url.json": '{"url": "https://example.org/gru_ext", "vcs_info": {"vcs": "git"}}',
    }
    write_files(tmp_path / "gru_ext-0.1.0.dist-info", noted)
    result = fork_python("-c", "import gru_ext", path=[tmp_path])
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        f"ImportError: gru_ext was built for torch 2.99.0+cu130, found {torch.__version__}; build it again with:"
        " pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps git+https://example.org/gru_ext"
    )


@pytest.mark.parametrize(
    ("noted", "source"),
    [
        ({}, "SOURCE"),
        ({"url": "file:///a/b", "dir_info": {"editable": True}}, "-e /a/b"),
        ({"url": "file:///a/b", "dir_info": {}}, "/a/b"),
        ({"url": "https://a.org/b.tar.gz", "archive_info": {}}, "https://a.org/b.tar.gz"),
        ({"url": "https://a.org/b", "vcs_info": {"requested_revision": "v1"}}, "git+https://a.org/b@v1"),
        ({"url": "file:///a/b", "vcs_info": {"vcs": "git"}}, "git+file:///a/b"),
    ],
)
def test_the_line_that_rebuilds_names_where_it_was_installed_from(
    noted: dict[str, Any], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gru_ext.library, "installed_from", lambda: noted)
    assert gru_ext.library.build_command() == (
        f"pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps {source}"
    )


def test_a_file_that_does_not_tell_is_not_refused(tmp_path: Path) -> None:
    """A library without the section, half a one, and files that are none: loading them says what is wrong."""
    library = library_for(tmp_path, None)
    whole = library.read_bytes()
    for content in (whole, whole[: len(whole) // 2], b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(58), b"x" * 200):
        library.write_bytes(content)
        assert gru_ext.library.torch_of(library) is None
        gru_ext.library.check_torch(library)


def test_patches_of_one_minor_version_are_one_torch(tmp_path: Path) -> None:
    major, minor = torch.__version__.split(".")[:2]
    gru_ext.library.check_torch(library_for(tmp_path, f"{major}.{minor}.99+cpu"))


def test_a_wheel_is_for_every_python_and_one_platform(load_setup: LoadSetup) -> None:
    library = setuptools.Extension("gru_ext.libgru_ext", [])
    wheel = load_setup()["WheelOfAnyPython"](setuptools.Distribution({"name": "gru_ext", "ext_modules": [library]}))
    wheel.ensure_finalized()
    python, interface, platform = wheel.get_tag()
    assert (python, interface) == ("py3", "none")
    assert platform != "any"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout, whose files would be known")
def test_the_source_distribution_has_every_file(tmp_path: Path) -> None:
    """So that `make test` runs from it."""
    arguments = ("egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    output_of(fork_python("setup.py", "-q", *arguments, path=[ROOT]))
    with tarfile.open(tmp_path / f"gru_ext-{gru_ext.__version__}.tar.gz") as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    missing = {name for name in files if (ROOT / name).exists()} - packed
    assert not missing
