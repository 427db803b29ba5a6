"""Files that tests build: of what they are made, and that a build which was killed is in nobody's way."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from building import compiler, cpp_extension, load_operators, with_included
from process import ROOT


def test_a_source_is_made_of_what_the_compiler_says_that_it_includes() -> None:
    """Of a source with headers beside it, in other directories, and of the system, whose are left out."""
    source = ROOT / "tests" / "emulator" / "runner.cpp"
    directories = [ROOT / "csrc"]
    command = [*compiler(), "-std=c++17", "-MM", f"-I{directories[0]}", str(source)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = {Path(path).resolve() for path in re.split(r"[\s\\]+", printed)[1:] if path}
    assert {path.resolve() for path in with_included(source, directories)} == expected
    assert len(expected) > 1


def test_only_what_is_included_counts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    source, beside, of_other, unused = (tmp_path / name for name in ("a.cpp", "b.h", "other/c.h", "other/unused.h"))
    source.write_text('#include <vector>\n#include "b.h"\n')
    beside.write_text('  # include <c.h>\n#include "a.cpp"\n')
    of_other.write_text('// #include "unused.h"\n')
    unused.touch()
    assert with_included(source, [tmp_path / "other"]) == sorted([source, beside, of_other])


def test_operators_are_built_after_a_build_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has left behind the file by which torch's builds wait for each other."""

    def wait(_: object) -> None:
        raise AssertionError("waits for a build that has ended")

    monkeypatch.setattr(cpp_extension().FileBaton, "wait", wait)
    source = tmp_path / "empty.cpp"
    source.write_text("int empty = 1;\n")
    (tmp_path / "lock").touch()
    load_operators("gru_ext_empty", tmp_path, [source])
    assert (tmp_path / "gru_ext_empty.so").exists()
    assert not (tmp_path / "lock").exists()
