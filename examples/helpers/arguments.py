"""Types of command-line options, for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch


def at_least(minimum: int) -> Callable[[str], int]:
    """A whole number that is not below ``minimum``."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}, got {text}")
        return number

    return convert


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def usable_device(text: str) -> str:
    """A device that this PyTorch can use."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch that was built without CUDA
        raise argparse.ArgumentTypeError(f"this PyTorch cannot use the device {text}") from error
    return text
