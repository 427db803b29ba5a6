"""The emulated device of a rehearsal, and a simulated cuDNN. Importing this builds the emulator, if no test has."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.contenders.cudnn import Cudnn
from benchmarks.gpu_check.stages import ROOT

sys.path.append(str(ROOT / "tests"))

from emulated_backend import emulated_operators
from simulated_cudnn import library

MULTIPROCESSORS = 132

Cudnn.load = staticmethod(library)
_operators = emulated_operators()


def operators() -> Any:
    """Those of a device of which nothing is known yet."""
    _operators.emulate(MULTIPROCESSORS, 0, 0, False)
    return _operators
