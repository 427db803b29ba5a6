"""setup.py says in one sentence what it lacks, before it compiles anything."""

from __future__ import annotations

from pathlib import Path

from process import ROOT, run_python


def run_setup(path: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and last words of ``python setup.py arguments...`` in a directory with nothing but links."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "gru_ext"):
        (path / name).symlink_to(ROOT / name)
    result = run_python("setup.py", *arguments, path=[path], directory=path, environment=environment)
    return result.returncode, result.stderr.strip().splitlines()[-1]


def test_without_torch_it_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    assert run_setup(tmp_path, "--version") == (
        1,
        "gru_ext: no torch to build against is visible here (pip hides it unless told otherwise);"
        " with torch installed, run: pip install --no-build-isolation .",
    )


def test_with_an_old_torch_it_names_the_oldest(tmp_path: Path) -> None:
    (tmp_path / "torch" / "utils").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("__version__ = '2.5.1'\n")
    (tmp_path / "torch" / "utils" / "__init__.py").write_text("cpp_extension = None\n")
    assert run_setup(tmp_path, "--version") == (
        1,
        "gru_ext: torch 2.6 or later is needed, found 2.5.1; run: pip install 'torch>=2.6'",
    )


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    compiler = "/nonexistent/c++ -m64"
    arguments = ("build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp"))
    status, words = run_setup(tmp_path, *arguments, environment={"CXX": compiler})
    assert (status, words) == (
        1,
        f"gru_ext: no C++ compiler '{compiler}' was found; on Debian or Ubuntu, run: apt-get install g++",
    )
    assert not (tmp_path / "temp").exists()
