"""Files that tests build for themselves, under build/: each once, though several processes want it at the same time."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable
from pathlib import Path


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file at ``path``: as it is, or else what ``make`` writes to the path it is given."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as directory:
                made = Path(directory) / path.name
                make(made)
                made.rename(path)
    return path
