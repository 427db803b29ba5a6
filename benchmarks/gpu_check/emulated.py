"""The emulated device of a rehearsal: importing this builds it, unless the tests have; about a minute."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.gpu_check.stages import ROOT

sys.path.append(str(ROOT / "tests"))

from emulated_backend import emulated_operators

MULTIPROCESSORS = 132

_operators = emulated_operators()


def operators() -> Any:
    """Those of a device of which nothing is known yet."""
    _operators.emulate(MULTIPROCESSORS, 0, 0, False)
    return _operators
