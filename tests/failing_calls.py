"""Makes the n-th call of a function of the C library fail, in a process that preloads failing_calls.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from building import compiled
from process import TESTS

KINDS = {"memory": 1, "write": 2, "rename": 3, "open": 4, "fsync": 5, "allocation": 6}
# What a call for a file fails with.
REASONS = {
    "open": "Permission denied",
    "write": "No space left on device",
    "fsync": "Input/output error",
    "rename": "Input/output error",
}


def preloaded() -> dict[str, str]:
    """The environment of a process that preloads it, compiled unless that was done before."""
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared", "-Wl,--no-as-needed", "-ldl"]
    return {"LD_PRELOAD": str(compiled(TESTS / "failing_calls.cpp", flags=flags))}


def until_none_fails(kind: str, call: Callable[[], object], after: Callable[[BaseException | None], object]) -> int:
    """``call`` again and again, of which the first, the second, ... call of this kind fails, until it has fewer.

    ``after`` gets what was raised, or None where the failure was survived. Returns how many calls of the kind there
    are: all of them have failed once.
    """
    library = ctypes.CDLL(None)
    library.calls_seen.restype = ctypes.c_long
    n = 0
    while True:
        n += 1
        raised: BaseException | None = None
        library.fail_nth(KINDS[kind], ctypes.c_long(n))
        try:
            call()
        except BaseException as error:
            raised = error
        seen = library.calls_seen()
        library.fail_nth(0, ctypes.c_long(0))
        if seen < n:
            return n - 1
        after(raised)
