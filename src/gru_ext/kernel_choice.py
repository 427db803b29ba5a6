"""Which kernels run: ``kernels`` tells for a shape, and why; ``use_cuda_kernels`` decides, ``autotune`` measures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from gru_ext import library
from gru_ext.layout import FLOATING
from gru_ext.recurrence import check_flag, check_save, check_size


@dataclass(frozen=True)
class Kernel:
    """A kernel, and why it is the one.

    Attributes:
        name: a name that ``use_cuda_kernels`` takes, or that of the CPU's kernels.
        reason: a sentence.

    Example:
        >>> gru_ext.kernels(100, 32, 256, device="cpu").forward.reason
        'the fastest instruction set that this machine and this build know'
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Kernels:
    """The kernels of a layer.

    Attributes:
        forward: a ``Kernel``.
        backward: a ``Kernel``.

    Example:
        >>> kernels = gru_ext.kernels(100, 32, 256, device="cpu")
        >>> kernels.forward.name == kernels.backward.name == f"cpu_{gru_ext.library.cpu_isa()}"
        True
    """

    forward: Kernel
    backward: Kernel


def kernels(
    steps: int,
    batch: int,
    hidden_size: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    bidirectional: bool = False,
    packed: bool = False,
    save: Literal["gates", "output"] = "gates",
    masked: bool = False,
    members: int = 1,
) -> Kernels:
    """Name the kernels that a layer would run by, with the switches of torch as they are now.

    On CUDA these are ``stepwise``, a product and a kernel in each step; ``cluster_H.._C.._rows..``, which keep the
    recurrent weights in the registers of clusters of C thread blocks, for H up to the one named, each cluster for a
    tile of so many rows; ``group_...``, likewise with any C blocks of the grid; ``streamed_U.._rows..``, with as many
    blocks of U units as H needs, and weights that do not fit read again every step; ``.._ieee`` is float32 without
    TF32, ``.._masked`` for ``masked`` (docs/kernels.md); or ``one_step``, forward, one launch for T = 1 and few rows
    (docs/cuda.md). On a CPU there is one family, compiled for several instruction sets.

    Args:
        steps: number of time steps (T).
        batch: batch size (B); of a packed batch, the number of its sequences.
        hidden_size: number of hidden units (H).
        dtype: of the layer: float32, float64, bfloat16 or float16. Default: torch's default dtype.
        device: where it runs. Default: torch's default device.
        bidirectional: whether the layer has two directions. Default False.
        packed: whether the input is a ``PackedSequence``. Default False.
        save: "gates", of the forward of training and its backward, the default; or "output", of inference, and of
            training with ``save="output"``. ``autotune`` measures them apart.
        masked: whether the layer has zoneout, ``recurrent_dropout`` or ``candidate_dropout``. Default False.
        members: how many such layers run as one call: those of a ``torch.func.vmap`` over weights, or ``blocks`` of so
            many units each (docs/ensembles.md). Default 1.

    ``layer_norm`` and ``reset_after=False`` are computed by the stepwise kernels.

    Returns:
        The kernels of both passes, each with its reason.

    Raises:
        TypeError: a size is no int, or a flag no bool.
        ValueError: a size is below 1, ``dtype`` none that a GRU can have, or ``save`` neither of the two.
        RuntimeError: ``device`` is no CPU and no CUDA device, or there are no kernels for it in this build; or what
            ``use_cuda_kernels`` asks for cannot serve such a layer.

    Example:
        >>> gru_ext.kernels(100, 32, 256, device="cpu").forward.name.startswith("cpu_")
        True
    """
    steps = check_size("kernels", "steps", steps)
    batch = check_size("kernels", "batch", batch)
    hidden_size = check_size("kernels", "hidden_size", hidden_size)
    members = check_size("kernels", "members", members)
    for name, flag in (("bidirectional", bidirectional), ("packed", packed), ("masked", masked)):
        check_flag("kernels", name, flag)
    check_save("kernels", "save", save)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATING:
        raise ValueError(f"kernels: expected dtype float32, float64, bfloat16 or float16, got {dtype}")
    device = torch.get_default_device() if device is None else torch.device(device)
    if device.type == "cpu":
        kernel = Kernel(f"cpu_{library.cpu_isa()}", "the fastest instruction set that this machine and this build know")
        return Kernels(kernel, kernel)
    if device.type != "cuda":
        raise RuntimeError(f"kernels: expected a device of type cpu or cuda, got {device.type}")
    if not library.has_cuda_kernels:
        raise RuntimeError(f"kernels: this build of gru_ext has no CUDA kernels ({library.cuda_build})")
    layer = (dtype, steps, batch, hidden_size, bidirectional, packed, save == "gates")
    with torch.cuda.device(device):
        forward, backward = (
            Kernel(*torch.ops.gru_ext.cuda_kernel(*layer, is_backward, masked, members))
            for is_backward in (False, True)
        )
    return Kernels(forward, backward)


def cuda_kernel_names(dtype: torch.dtype, backward: bool = False) -> list[str]:
    """Name the cluster, group and streamed kernels of a dtype that this build has; none without CUDA."""
    names: list[str] = torch.ops.gru_ext.cuda_kernel_names(dtype, backward) if library.has_cuda_kernels else []
    return names


def of_both_passes(forward: str, backward: str | None) -> tuple[str, str]:
    """What each pass is asked to use."""
    if backward is None:
        backward = "auto" if forward == "one_step" else forward
    return forward, backward


@contextmanager
def use_cuda_kernels(forward: str = "auto", backward: str | None = None) -> Iterator[None]:
    """Within the context, in every thread, have the CUDA operators use certain kernels.

    For measurements, and to find out whether a kernel is at fault. The environment variable ``GRU_EXT_CUDA_KERNELS``
    does the same for a whole process.

    Args:
        forward: ``"auto"``, the default: what ``kernels`` tells; ``"stepwise"``; ``"cluster"``, ``"group"`` or
            ``"streamed"``: the fastest of these kernels, wherever one can serve; ``"one_step"``; or the name of one.
        backward: likewise; None, the default, for the same as ``forward``, or ``"auto"`` where that is ``"one_step"``,
            which has no backward. A name may exist forward only.

    Raises:
        ValueError: no kernel has such a name.
        RuntimeError: this build has no CUDA kernels. Operators raise it where what is asked for cannot serve.

    Yields:
        None.

    Example:
        >>> if gru_ext.library.has_cuda_kernels and torch.cuda.is_available():
        ...     gru = gru_ext.GRU(64, 256, device="cuda")
        ...     with gru_ext.use_cuda_kernels("stepwise"):
        ...         output, h_n = gru(torch.randn(100, 8, 64, device="cuda"))
    """
    if not library.has_cuda_kernels:
        raise RuntimeError(f"use_cuda_kernels: this build of gru_ext has no CUDA kernels ({library.cuda_build})")
    before = torch.ops.gru_ext.use_cuda_kernels(*of_both_passes(forward, backward))
    try:
        yield
    finally:
        torch.ops.gru_ext.use_cuda_kernels(*before)


def _default_cache() -> str:
    named = os.environ.get("GRU_EXT_AUTOTUNE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{home}/gru_ext/autotune.tsv" if named is None else named


def autotune(enable: bool = True, cache: str | os.PathLike[str] | None = None) -> None:
    """From now on, in every thread, have the CUDA operators use the kernels that were measured to be the fastest.

    Without it a model of the hardware chooses (docs/kernels.md). With it, the first call of a kind is done a few times
    by the two kernels of each family that the model likes best and by the stepwise ones, on its own arguments, and the
    fastest serves all calls of that kind. It takes 6 calls a kernel, and waits for the device. A kind of calls is a
    GPU, a dtype with the switches of TF32, H, the number of directions, whether packed, whether with zoneout or
    dropouts, forward or backward, whether gates are saved, T up to a power of two, and B (beyond 8, up to a multiple
    of 8).

    Nothing is measured while a CUDA graph is captured: call once before. Kernels round differently; what is measured
    may differ from run to run, and so may the last bits of results, except where the file already knows. Layers with
    ``layer_norm`` or ``reset_after=False``, which only the stepwise kernels compute, and builds without CUDA kernels
    have nothing to choose: there it does nothing. The environment variable ``GRU_EXT_AUTOTUNE=1`` enables it for a
    whole process.

    Args:
        enable: default True. False: the model chooses again.
        cache: file that keeps what was measured; processes may share it. What cannot be read of it is measured again;
            where it cannot be written to, a warning says so. An empty string: none. Default: the environment variable
            ``GRU_EXT_AUTOTUNE_CACHE``, else ``gru_ext/autotune.tsv`` in ``XDG_CACHE_HOME``, else in ``~/.cache``.

    Raises:
        TypeError: ``enable`` is no bool, or ``cache`` no path.

    Example:
        >>> gru_ext.autotune(cache="")  # measure anew in this process, and keep nothing
        >>> gru_ext.autotune(False)
    """
    if not isinstance(enable, bool):
        raise TypeError(f"autotune: expected enable to be a bool, got {enable!r}")
    if not (cache is None or isinstance(cache, (str, os.PathLike))):
        raise TypeError(f"autotune: expected cache to be a path, got {cache!r}")
    if not library.has_cuda_kernels:
        return
    path = _default_cache() if cache is None else os.fspath(cache)
    with suppress(OSError, RuntimeError):  # no home; the operator warns of a file that cannot be written to
        path = path and str(Path(path).expanduser())
        if enable and path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.ops.gru_ext.autotune(enable, path)


def set_cuda_wait_limit(seconds: float) -> float:
    """Set how long a block of a cluster kernel waits for others before it gives up, and return what it was before.

    For the first run on a device of a new kind, where a wait that never ends is to end soon. The environment variable
    ``GRU_EXT_CUDA_WAIT_LIMIT`` does the same for a whole process.

    Args:
        seconds: from 0.001 to 3600; at first 4.

    Raises:
        ValueError: ``seconds`` is out of this range.
        RuntimeError: this build has no CUDA kernels.
    """
    if not library.has_cuda_kernels:
        raise RuntimeError(f"set_cuda_wait_limit: this build of gru_ext has no CUDA kernels ({library.cuda_build})")
    before: float = torch.ops.gru_ext.set_cuda_wait_limit(seconds)
    return before


_wait_limit = os.environ.get("GRU_EXT_CUDA_WAIT_LIMIT")
if _wait_limit and library.has_cuda_kernels:
    try:
        set_cuda_wait_limit(float(_wait_limit))
    except ValueError:
        raise ValueError(f"GRU_EXT_CUDA_WAIT_LIMIT: expected seconds from 0.001 to 3600, got {_wait_limit!r}") from None
_asked = os.environ.get("GRU_EXT_CUDA_KERNELS")
if _asked and library.has_cuda_kernels:
    torch.ops.gru_ext.use_cuda_kernels(*of_both_passes(_asked, None))
if os.environ.get("GRU_EXT_AUTOTUNE", "0") not in ("", "0"):
    autotune()
