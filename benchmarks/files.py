"""Files that the benchmarks write: whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class WriteError(OSError):
    """A file that could not be written; the message is a sentence with its name. What stood there before is whole."""


def write(path: Path, content: str | bytes) -> None:
    """Write a file, and the folders that it needs.

    Raises:
        WriteError: the disk is full, or the file or a folder cannot be made.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))  # a link stays one
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():  # as /dev/stdout
            target.write_bytes(data)
            return
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
