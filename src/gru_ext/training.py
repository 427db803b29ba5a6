"""A help for training on sequences longer than a gradient should reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor

Input = TypeVar("Input")


def truncated(
    module: Callable[[Input, Any], tuple[Any, Any]], stretches: Iterable[Input], state: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Run a recurrent module over a long sequence, stretch by stretch; gradients stay within each stretch.

    This is truncated back-propagation through time (Williams and Peng 1990, with as many steps back as forward): each
    stretch starts in the state that the one before left, detached. The loss of a stretch is computed, back-propagated
    and, if wanted, stepped on before the next one runs.

    Args:
        module: called as ``module(stretch, state)``, it returns its output and its next state: a ``GRU``, or a model
            around one. A state is a tensor, or tuples, lists and dicts of such.
        stretches: its inputs in order: ``x.split(k)`` for x (T, B, I), ``x.split(k, dim=1)`` for (B, T, I), or anything
            that gives one stretch after another, such as a loader.
        state: in which the first stretch starts; None for the module's own choice, which is zero for a ``GRU``. A
            gradient reaches it from the first stretch.

    Yields:
        The output of each stretch, and the state after it, not detached: a loss may use it too. No graph is kept here
        while the next stretch runs.

    Raises:
        TypeError: ``module`` is not callable, ``stretches`` not iterable, or a state holds something else than tensors
            and None.

    Example:
        >>> gru = gru_ext.GRU(3, 4)
        >>> optimizer = torch.optim.Adam(gru.parameters())
        >>> x, y = torch.randn(100, 2, 3), torch.randn(100, 2, 4)
        >>> for (output, _), target in zip(gru_ext.truncated(gru, x.split(35)), y.split(35)):
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.mse_loss(output, target).backward()
        ...     _ = optimizer.step()
    """
    if not callable(module):
        raise TypeError(f"truncated: expected module to be callable, got {type(module).__name__}")
    if not isinstance(stretches, Iterable):
        raise TypeError(f"truncated: expected stretches to be iterable, got {type(stretches).__name__}")
    for stretch in stretches:
        output, state = module(stretch, state)
        yield output, state
        del output
        state = _detached(state)


def _detached(state: Any) -> Any:
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {name: _detached(part) for name, part in state.items()}
    if isinstance(state, list):
        return [_detached(part) for part in state]
    if isinstance(state, tuple):
        parts = [_detached(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    raise TypeError(f"truncated: expected a state of tensors, tuples, lists and dicts, got {type(state).__name__}")
