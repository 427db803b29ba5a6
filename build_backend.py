"""setuptools as the build backend, after one sentence where it is missing or too old.

Under --no-build-isolation pip checks no versions, and a backend that cannot be imported ends in a traceback.
"""

from __future__ import annotations

import sys
from typing import NoReturn

OLDEST_SETUPTOOLS = 77  # reads the licence as pyproject.toml has it
INSTALL = f"run: pip install 'setuptools>={OLDEST_SETUPTOOLS}' ninja"


def give_up(sentence: str) -> NoReturn:
    """End the build with one sentence."""
    sys.exit(f"\ngru_ext: {sentence}\n")


try:
    import setuptools
    from setuptools.build_meta import *  # noqa: F403
except ImportError:
    give_up(f"no setuptools was found, which builds gru_ext; {INSTALL}")

if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    give_up(f"setuptools {OLDEST_SETUPTOOLS} or later is needed, found {setuptools.__version__}; {INSTALL}")
