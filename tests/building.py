"""Files that tests build for themselves, under build/: each once, though several processes want it at the same time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

BUILD = Path(__file__).parent.parent / "build" / "of_tests"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process after the other; the lock at ``path`` ends with the process that has it, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file at ``path``: as it is, or else what ``make`` writes to the path it is given."""
    if path.exists():
        return path
    with locked(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as directory:
                made = Path(directory) / path.name
                make(made)
                made.rename(path)
    return path


def make_all(makers: Iterable[Callable[[], Path]]) -> list[Path]:
    """The files that all of these make, as many at a time as there are cores, or as ``$MAX_JOBS`` says."""
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(lambda make: make(), makers))


def with_included(source: Path, directories: Sequence[Path] = ()) -> list[Path]:
    """A source and the files that it includes, and they: those beside who includes them, or in ``directories``."""
    found, ahead = set[Path](), [source]
    while ahead:
        path = ahead.pop()
        if path in found:
            continue
        found.add(path)
        for name in INCLUDE.findall(path.read_text()):
            places = (Path(os.path.normpath(place / name)) for place in (path.parent, *directories))
            ahead += [place for place in places if place.is_file()][:1]
    return sorted(found)


def digest_of(*parts: str | bytes) -> str:
    """Of the parts and where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(encoded)} ".encode() + encoded)
    return digest.hexdigest()[:16]


def compiler() -> list[str]:
    """``$CXX``, or ``c++``."""
    return os.environ.get("CXX", "c++").split()


def compiled(
    *sources: Path, flags: Sequence[str], directories: Sequence[Path] = (), of_others: Sequence[str | Path] = ()
) -> Path:
    """What the compiler makes of sources, once for what they and the files that they include say.

    They are looked for in ``directories``; those in directories ``of_others`` stay as they are.
    """
    command = [*compiler(), *flags, *(f"-isystem{path}" for path in of_others)]
    parts = sorted({path for source in sources for path in with_included(source, directories)})
    digest = digest_of(*command, *(path.read_bytes() for path in parts))

    def make(path: Path) -> None:
        subprocess.run([*command, *(f"-I{place}" for place in directories), *sources, "-o", path], check=True)

    return make_once(BUILD / f"{sources[0].stem}-{digest}", make)


def shared_library(place: Path, objects: Sequence[Path], flags: Sequence[str], libraries: Sequence[str] = ()) -> Path:
    """What the linker makes of objects, once for what they and the flags are; its name begins as that of ``place``."""
    # Objects that were compiled elsewhere keep their names.
    parts = (f"{path} {path.stat().st_mtime_ns}" for path in objects)

    def make(path: Path) -> None:
        subprocess.run([*compiler(), "-shared", *flags, *objects, *libraries, "-o", path], check=True)

    return make_once(place.with_name(f"{place.name}-{digest_of(*flags, *parts)}.so"), make)


def united(path: Path, sources: Sequence[Path], root: Path) -> Path:
    """One source at ``path`` for all of these, named from ``root``: torch's headers are read once. As setup.py does."""
    text = "".join(f'#include "{source.relative_to(root)}"\n' for source in sources)
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def cpp_extension() -> ModuleType:
    """``torch.utils.cpp_extension``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from torch.utils import cpp_extension
    return cpp_extension


def load_operators(name: str, directory: Path, sources: Sequence[Path], **options: list[str]) -> None:
    """Load operators of sources, built in ``directory`` by ``torch.utils.cpp_extension.load`` with its ``options``.

    Its own lock is a file that a build which was killed leaves behind, and for which the next would wait for ever.
    """
    with locked(directory / "alone.lock"):
        (directory / "lock").unlink(missing_ok=True)
        cpp_extension().load(
            name, [*map(str, sources)], build_directory=str(directory), is_python_module=False, **options
        )
