"""What the tests of the compiled CUDA backend reach: ``python tests/backend_coverage.py`` writes docs/coverage.md anew.

Runs tests/test_compiled_backend.py, and the accuracy of compiled kernels of tests/test_accuracy.py, with host code that
counts for gcov. The page has, by file, the lines of the host side that were executed; by family of kernels, the
instructions of their PTX; and it names what nothing reaches, and why. Needs nvcc, g++ and gcov, and no GPU.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from check_compiled_kernels import family_of
from compiled_kernels import BUILD
from process import ROOT, TESTS

PAGE = ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- written by tests/backend_coverage.py -->\n", "<!-- end -->\n"
PTX = BUILD / "coverage.txt"  # what the interpreters say of the kernels that ran


class Reason(NamedTuple):
    """Why no test reaches some lines."""

    file: str  # the end of its path
    part: str  # of the line's code, or the name of the function that it is in
    why: str


REASONS = [
    Reason("run.cpp", "catch (const c10::OutOfMemoryError&)", "torch does not run out of memory on the CPU"),
    Reason("run.cpp", "TORCH_INTERNAL_ASSERT", "the stepwise kernels, which come last, give results or throw"),
    Reason("choice/family.cpp", "run", "every kernel is run in the pass that it has"),
    Reason("choice/family.h", "test_size", "asked of kernels alone that are tested before they serve"),
    Reason("products.cpp", "asks", "of a torch whose switches have no names; this one has another `asks`"),
    Reason(
        "persistent/persistent.cpp",
        "no kernel of these was compiled for this device",
        "of other GPUs; tests/test_cuda_persistent_emulated.py has them",
    ),
    Reason(
        "streamed_bwd.cuh",
        "operand_word",
        "of the instantiation with 16 units, all of whose weights stay in registers at the H that the tests have",
    ),
]
NO_REASON = "nobody has said why"


class Line(NamedTuple):
    """A line of a file, with code."""

    number: int
    function: str  # that it is in; empty of a lambda
    executed: bool


# ---- Running


def run_tests() -> int:
    """In this process; leaves behind what the interpreters have executed."""
    import pytest
    from compiled_backend import compiled_operators
    from compiled_kernels import SAMPLE_LIBRARY

    tests = [
        "test_compiled_backend.py",
        "test_compiled_kernels.py::test_accuracy_of_stepwise_kernels",
        "test_accuracy.py::test_compiled_backend",
        "test_accuracy.py::test_compiled_kernel",
    ]
    status = pytest.main(["-q", *(str(TESTS / test) for test in tests)])
    kernels = SAMPLE_LIBRARY()
    kernels.gru_ptx_coverage.argtypes, kernels.gru_ptx_coverage.restype = [], ctypes.c_char_p
    PTX.write_text(compiled_operators().coverage() + kernels.gru_ptx_coverage().decode())
    return int(status)


def count() -> None:
    """The tests, in a process whose host code counts."""
    for stale in BUILD.glob("*.gcda"):
        stale.unlink()
    environment = {
        "GRU_COVERAGE": "1",
        "CCACHE_DISABLE": "1",  # a cache of compilers does not keep what gcov needs
        # Objects are made in a folder of BUILD that is gone: their counts go to BUILD.
        "GCOV_PREFIX": str(BUILD),
        "GCOV_PREFIX_STRIP": str(len(BUILD.parts)),
    }
    subprocess.run([sys.executable, __file__, "--run"], env=os.environ | environment, cwd=ROOT, check=True)


# ---- Reading


def name_of(function: str) -> str:
    """Of a function as gcov names it, with all its scopes, arguments and parameters; empty of a lambda."""
    without_parameters = re.sub(r"\(.*|<.*", "", function.replace("(anonymous namespace)", ""))
    name = re.search(r"(\w+)$", without_parameters)
    return name[1] if name and "lambda" not in function else ""


def belongs(path: str, function: str) -> bool:
    """Whether a function is host code of the CUDA backend: of what has both backends its part."""
    if function.endswith("_kernel"):  # what nvcc has in a kernel's place
        return False
    return path.startswith("csrc/cuda/") or path == "csrc/op/members.h"


def with_words(files: Mapping[str, Iterable[Line]]) -> dict[str, list[Line]]:
    """Without the lines that are braces alone, to which compilers put the ends of scopes."""
    found = {}
    for path, lines in sorted(files.items()):
        code = (ROOT / path).read_text().splitlines()
        found[path] = [line for line in sorted(lines) if code[line.number - 1].strip(" {};")]
    return found


def lines_of_host_side() -> dict[str, list[Line]]:
    """By path below the repository. A line of a template is executed if it is in any instantiation."""
    found: dict[str, dict[int, Line]] = defaultdict(dict)
    for data in sorted(BUILD.glob("*.gcda")):
        command = ["gcov", "--json-format", "--demangled-names", "--stdout", data.name]
        printed = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=True).stdout
        for document in printed.splitlines():
            for file in json.loads(document)["files"]:
                path = os.path.normpath(file["file"])
                if "csrc/" not in path or "/instantiations/" in path:
                    continue
                path = path[path.rindex("csrc/") :]
                names = {f["name"]: name_of(f["demangled_name"]) for f in file["functions"]}
                for line in file["lines"]:
                    number, function = line["line_number"], names.get(line.get("function_name", ""), "")
                    if belongs(path, function):
                        before = found[path].get(number, Line(number, function, executed=False))
                        found[path][number] = before._replace(executed=before.executed or line["count"] > 0)
    return with_words({path: lines.values() for path, lines in found.items()})


class Instructions(NamedTuple):
    """Of a family of kernels."""

    kernels: set[str]
    all: int
    executed: int


def instructions_of_kernels() -> tuple[dict[str, Instructions], dict[str, list[Line]]]:
    """By family; and the lines of source that instructions come from, by path below the repository."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}  # by kernel and line; a kernel may be in both libraries
    for entry in PTX.read_text().splitlines():
        of_line, executed, place, kernel = entry.split()
        counts[kernel, place] = max(counts.get((kernel, place), (0, 0)), (int(of_line), int(executed)))
    families: dict[str, Instructions] = {}
    of_lines: Counter[str] = Counter()
    for (kernel, line), (total, reached) in counts.items():
        family = families.get(family_of(kernel), Instructions(set(), 0, 0))
        kernels = family.kernels | {kernel}
        families[family_of(kernel)] = Instructions(kernels, family.all + total, family.executed + reached)
        of_lines[line] += reached
    files: dict[str, list[Line]] = defaultdict(list)
    for line, times in of_lines.items():
        path, _, number = line.rpartition(":")
        if path.startswith("csrc/"):
            files[os.path.normpath(path)].append(Line(int(number), "", times > 0))
    return dict(sorted(families.items())), with_words(files)


# ---- Writing


def table(heads: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *rows]) + "\n"


def reason_of(path: str, function: str, code: str) -> str:
    """Why no test reaches it; empty where nobody has said."""
    reasons = (r.why for r in REASONS if path.endswith(r.file) and (r.part == function or r.part in code))
    return next(reasons, "")


def not_executed(files: dict[str, list[Line]]) -> str:
    """A list: of each run of lines that no test reaches the first, how many lines follow it, and why."""
    text = ""
    for path, lines in files.items():
        code = (ROOT / path).read_text().splitlines()
        for (executed, function), run in groupby(lines, key=lambda line: (line.executed, line.function)):
            if executed:
                continue
            numbers = [line.number for line in run]
            quoted = code[numbers[0] - 1].strip()
            more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
            where = f", in `{function}`" if function else ""
            why = reason_of(path, function, quoted) or NO_REASON
            text += f"- `{path.removeprefix('csrc/')}:{numbers[0]}`: `{quoted}`{more}{where}: {why}\n"
    return text or "- none\n"


def written() -> str:
    """The part of the page that is written."""
    host, (families, kernels) = lines_of_host_side(), instructions_of_kernels()
    rows = [
        [f"`{path}`", f"{sum(line.executed for line in lines)}", f"{len(lines)}"]
        for path, lines in [*host.items(), ("all", [line for lines in host.values() for line in lines])]
    ]
    of_families = [
        [f"`{family}`", f"{len(of.kernels)}", f"{of.all}", f"{100 * of.executed / of.all:.1f}%"]
        for family, of in families.items()
    ]
    heads = ["kernel", "instantiations run", "PTX instructions", "executed"]
    return (
        f"\n## Host side\n\n{table(['file', 'lines executed', 'of'], rows)}Not executed:\n\n{not_executed(host)}"
        f"\n## Kernels\n\n{table(heads, of_families)}"
        f"Lines of which no instruction was executed:\n\n{not_executed(kernels)}\n"
    )


def main() -> None:
    """Run, count, write."""
    if sys.argv[1:] == ["--run"]:
        sys.exit(run_tests())
    count()
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + written() + END + rest.split(END)[1])
    print(f"wrote {PAGE.relative_to(ROOT)}")
    if NO_REASON in PAGE.read_text():
        sys.exit("it has lines that no test reaches, and REASONS does not say why: test them, or say it there")


if __name__ == "__main__":
    main()
