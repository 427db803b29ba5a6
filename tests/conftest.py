"""What every test shares."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gru_ext import library

with warnings.catch_warnings():
    # Forward-mode differentiation loads this on first use; it meets the deprecation of torch's own torch.jit.script.
    warnings.filterwarnings("ignore", "`torch.jit.script` is")  # of a category that depends on torch
    import torch._decomp.decompositions_for_jvp

# No launcher of several processes started the tests, whatever started them set.
for _name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(_name, None)

# The problems are tiny, and the machine may be shared: the tests of several threads ask for them.
torch.set_num_threads(1)

# Those tests have their threads, whatever else the machine does, and however few cores it has.
os.environ.setdefault("GRU_EXT_CPU_WAIT", "0.1")
os.environ.setdefault("GRU_EXT_CPU_CORES", "64")

# Keras takes TensorFlow unless it is told otherwise.
os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("jax") is None else "jax")

# What is drawn while tests are collected is the same in every process, so that they can be shared out.
torch.manual_seed(0)


def switches() -> dict[str, Any]:
    """What a test may set for the whole process; the names of torch's switches of TF32 depend on its release."""
    backends: Any = torch.backends
    owners = {
        "backends": backends,
        "backends.cuda.matmul": backends.cuda.matmul,
        "backends.cudnn": backends.cudnn,
        "backends.cudnn.conv": getattr(backends.cudnn, "conv", None),
        "backends.cudnn.rnn": getattr(backends.cudnn, "rnn", None),
    }
    values = {
        "get_num_threads()": torch.get_num_threads(),
        "get_default_dtype()": torch.get_default_dtype(),
        "is_grad_enabled()": torch.is_grad_enabled(),
        "are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "is_autocast_cache_enabled()": torch.is_autocast_cache_enabled(),
    }
    if hasattr(backends.cudnn, "rnn"):
        return values | {f"{name}.fp32_precision": owner.fp32_precision for name, owner in owners.items()}
    return values | {
        f"{name}.allow_tf32": owners[name].allow_tf32 for name in ("backends.cuda.matmul", "backends.cudnn")
    }


@pytest.fixture(autouse=True)
def _torch_stays_as_it_was() -> Iterator[None]:
    """A test leaves torch as it found it, so that those after it in the same process mean what they say."""
    before = switches()
    # torch.library.opcheck loads a module that forbids the rest of the process to set them.
    backends: Any = torch.backends
    with backends.__allow_nonbracketed_mutation():
        yield
    after = switches()
    changed = [
        f"torch.{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]
    ]
    assert not changed, f"the test changes {'; '.join(changed)}"


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    # Without a GPU torch.manual_seed keeps the traceback of each of its calls, in case that one appears.
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No test sees the compiled code of another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def emulated() -> Iterator[None]:
    """The emulated CUDA backend is asked for nothing by whatever comes after the test."""
    from emulated_backend import emulate  # which is compiled on first use

    yield
    ops = emulate(multiprocessors=0)
    ops.autotune(False, "")
    ops.use_cuda_kernels("auto", "auto")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked cuda where they cannot run."""
    if not library.has_cuda_kernels:
        reason = f"CUDA kernels {library.cuda_build}"
    elif not torch.cuda.is_available():
        reason = "no CUDA device"
    else:
        return
    for item in items:
        if item.get_closest_marker("cuda") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
