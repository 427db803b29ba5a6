"""Compiles csrc/op and csrc/cpu with a sanitizer, and fuzzes the CPU backend with what comes of it.

    make sanitize SECONDS=600                   # AddressSanitizer and UndefinedBehaviorSanitizer
    make sanitize SECONDS=600 ARGS=thread       # ThreadSanitizer
    make sanitize SECONDS=60 ARGS="address avx2"    # one instruction set: the others are not compiled

Address: there is no pool of buffers, so that each is freed and has redzones; between the arrays of a buffer there are
gaps that nobody may touch, and what was not written is NaN (csrc/cpu/buffers.h). Thread: threads come from openmp.cpp,
which ThreadSanitizer understands, where libgomp's own synchronisation would be invisible to it. Both take every
instruction set: one that an x86-64 machine lacks is compiled for AVX2, which has its vectors in two parts, with
stand-ins for the instructions that its kernels name (stand_ins.h). They need the sanitizers of g++, which come with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from building import compiler
from process import ROOT, TESTS

from gru_ext import library

# Optimised, the kernels take a sanitizer's compiler many minutes.
FLAGS = ["-O0", "-g1", "-fno-omit-frame-pointer"]
SANITIZERS = {
    # Not vptr: torch's library has no type information for it.
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}
# The pragma of a source for an instruction set, and what this machine has in its place.
TARGET = re.compile(r"#pragma GCC target\(.*\)")
MACHINE = "avx2,fma,f16c"
# Each is only used with those before.
ISAS = ("portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "avx512_amx_portable", "avx512_amx")
RUNTIMES = {"address": ["libasan.so", "libstdc++.so"], "thread": ["libtsan.so", "libstdc++.so"]}


def with_stand_ins(path: Path, text: str) -> str:
    """A source as it is, or for this machine where it is for one that has more."""
    available = library.available_cpu_isas()
    if path.name == "isa.cpp":
        return "#define __builtin_cpu_supports(feature) true\n" + text
    of_isa = re.fullmatch(r"(?:kernels|int8)_(avx.*)", path.stem)
    if of_isa is None or of_isa[1] in available:
        return text
    header = TESTS / "sanitize" / "stand_ins.h"
    changed, count = TARGET.subn(f'#include "{header}"\n#pragma GCC target("{MACHINE}")', text)
    assert count == 1, path
    return changed


def copy_sources(target: Path) -> None:
    """What the library is built from; files that are the same stay as old as they are."""
    files = ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE")
    patterns = ("csrc/**/*.cpp", "csrc/**/*.h", "src/gru_ext/**/*.py", *files)
    names = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    for old in {path.relative_to(target) for path in (target / "csrc").rglob("*.*")} - names:
        (target / old).unlink()
    for name in names:
        text = (ROOT / name).read_text()
        if "avx2" in library.available_cpu_isas():
            text = with_stand_ins(name, text)
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)


def build(sanitizer: str, isa: str) -> Path:
    """A folder to be on sys.path, with the package and its library, compiled again where sources have changed.

    ``isa``: an instruction set, where kernels for it and those that it includes are enough; empty for all.
    """
    directory = ROOT / "build" / "sanitize" / sanitizer
    directory.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, *SANITIZERS[sanitizer]]
    linked = list(SANITIZERS[sanitizer][:1])
    if sanitizer == "thread":
        threads = directory / "openmp.o"
        source = TESTS / "sanitize" / "openmp.cpp"
        subprocess.run([*compiler(), "-std=c++20", "-fPIC", *flags, "-c", source, "-o", threads], check=True)
        linked.insert(0, str(threads))
    environment = {
        **os.environ,
        "GRU_EXT_CUDA": "0",
        "GRU_EXT_CXXFLAGS": " ".join(flags),
        "GRU_EXT_BUILD_ISAS": " ".join(ISAS[: ISAS.index(isa) + 1] if isa else ()),
        "LDFLAGS": " ".join(linked),
    }
    copy_sources(directory)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", str(directory / "objects")]
    subprocess.run(command, cwd=directory, env=environment, check=True)
    return directory / "src"


def environment_of(sanitizer: str, directory: Path) -> dict[str, str]:
    """Of a Python that loads the runtime first, and ends at the first report."""
    names = RUNTIMES[sanitizer]
    found = [subprocess.check_output([*compiler(), f"-print-file-name={name}"], text=True).strip() for name in names]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "PYTHONPATH": os.pathsep.join([str(directory), str(TESTS)]),
        "PYTHONSAFEPATH": "1",  # the folder it starts in does not come first
        # Python and torch keep what they have; torch and libgomp are not compiled for the race detector.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_signal_unsafe=0:halt_on_error=1:exitcode=66",
    }


def main(seconds: str, sanitizer: str = "address", isa: str = "") -> None:
    """Build, then fuzz; ends as the fuzz does."""
    directory = build(sanitizer, isa)
    environment = environment_of(sanitizer, directory)
    loaded = subprocess.check_output(
        [sys.executable, "-c", "import gru_ext; print(gru_ext.library.path)"], env=environment, cwd=TESTS, text=True
    )
    assert Path(loaded.strip()).is_relative_to(directory), f"another library was loaded: {loaded}"
    shares = [("cpu", 0.6), ("int8", 0.2), ("prepared", 0.2)]  # of the time
    statuses = [
        subprocess.call(
            [sys.executable, "-m", "fuzz", str(float(seconds) * part), kind, *filter(None, [isa])],
            env=environment,
            cwd=TESTS,
        )
        for kind, part in shares
    ]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
