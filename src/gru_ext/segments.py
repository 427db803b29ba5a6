"""Padded sequences of unequal length, and sequences cut by resets of their state, as a packed batch and back.

A segment is the steps of a sequence from its first, or from one with a reset, to the next such or to its end. The
segments are sequences of their own: packed by length, no step is spent on padding, and where resets cut long sequences
there are fewer steps of more rows.

Letters: T steps, B batch, H hidden, L layers, D directions (1 or 2), N rows of all steps, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operator
from gru_ext.layout import Outputs, check_tensor, last_output, squeeze_own
from gru_ext.torch_internals import is_of_vmap, jit_trace, transforms_are_active

_ops = torch.ops.gru_ext


class Segments(NamedTuple):
    """The packed batch that the operator ``segments`` makes of a padded one (csrc/op/segments.cpp)."""

    rows: Tensor  # (N) the place of each packed row among the T * B rows of the padded batch, as that is laid out
    batch_sizes: Tensor  # (longest segment) int64 on the CPU: rows of each step of the packed batch
    starts: Tensor  # (2, S) for each direction, the row of (hx, state after a reset) where a segment starts
    ends: Tensor  # (2, B) for each direction, the row of (states of the segments, hx) where a sequence ends
    complete: bool  # whether every row of the padded batch is a packed one

    def pack(self, padded: Tensor) -> Tensor:
        """(T, B, F), or (B, T, F), to (N, F)."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, packed: Tensor, steps: Sequence[int]) -> Tensor:
        """(N, F) to (T, B, F), or (B, T, F): ``steps`` is its first two sizes. Zero where there is no step."""
        shape = (*steps, packed.shape[1])
        padded = packed.new_empty(shape) if self.complete else packed.new_zeros(shape)
        # Not into a view of (T * B, F): the caller may change the result in place.
        return padded.index_put_((self.rows.div(steps[1], rounding_mode="floor"), self.rows % steps[1]), packed)

    def first_states(self, hx: Tensor | None, reset_state: Tensor | None, directions: int) -> Tensor | None:
        """The state (L*D, S, H) in which each segment starts; None for zero.

        ``hx`` is (L*D, B, H), or None for zero; ``reset_state``, in which those start that a reset cut off, likewise.
        """
        given = hx if hx is not None else reset_state
        if given is None:
            return None
        states = [torch.zeros_like(given) if state is None else state for state in (hx, reset_state)]
        return _select(torch.cat(states, dim=1), self.starts, directions)

    def last_states(self, states: Tensor, hx: Tensor | None, directions: int) -> Tensor:
        """The state (L*D, B, H) after each sequence's last step, given those (L*D, S, H) of the segments."""
        if hx is None:
            hx = states.new_zeros((states.shape[0], self.ends.shape[1], states.shape[2]))
        return _select(torch.cat([states, hx], dim=1), self.ends, directions)


def _select(states: Tensor, rows: Tensor, directions: int) -> Tensor:
    """(L*D, R, H) to (L*D, R', H): the rows (2, R') of each direction."""
    if directions == 1:
        return states.index_select(1, rows[0])
    return torch.cat([state.index_select(1, rows[i % directions]) for i, state in enumerate(states.split(1))])


def run_segments(
    run: Callable[[Tensor, Tensor | None, Tensor, int], Outputs],
    input: Tensor,
    hx: Tensor | None,
    layers: int,
    directions: int,
    hidden: int,
    batch_first: bool,
    lengths: Tensor | Sequence[int] | int | None,
    resets: Tensor | None,
    reset_state: Tensor | None,
    outputs: str,
) -> Outputs:
    """Run all layers on the segments of a padded batch; arguments and results laid out as in ``functional.gru``.

    ``run`` takes the segments (N, I), their initial states (L*D, S, H), batch_sizes and S to the output (N, D*H) and
    the states (L*D, S, H) after their last steps; ``layers`` is L*D.
    """
    if reset_state is not None and resets is None:
        raise ValueError("gru: expected reset_state together with resets, got it without")
    batched = input.dim() == 3
    lengths = None if lengths is None else as_lengths(lengths)
    for name, value in (("resets", resets), ("reset_state", reset_state)):
        if value is not None:
            check_tensor("gru", name, value)
    for name, value in (("lengths", lengths), ("resets", resets)):
        # torch 2.6 cannot compile is_of_vmap: it is asked inside of a transform alone.
        if value is not None and transforms_are_active() and is_of_vmap(value):
            raise NotImplementedError(
                f"gru: expected {name} that the samples of torch.vmap share, got one for each sample:"
                " make the samples rows of one batch"
            )
    _check(input, layers, hidden, batch_first, lengths, resets, reset_state)
    if not batched:
        input, batch_first = input.unsqueeze(1), False
        hx = None if hx is None else hx.unsqueeze(1)
        lengths = None if lengths is None else lengths.unsqueeze(0)
        resets = None if resets is None else resets.unsqueeze(1)
    batch = input.shape[0 if batch_first else 1]
    if reset_state is not None and reset_state.dim() == 2:
        reset_state = reset_state.unsqueeze(1).expand(-1, batch, -1)

    for name, value in (("lengths", lengths), ("resets", resets)):
        if value is not None and value.is_meta and not input.is_meta:
            raise RuntimeError(f"gru: expected {name} with values, for input on {input.device}, got {name} on meta")
    if input.is_meta:  # of which only shapes count, and these are those of whole sequences
        whole = torch.full((batch,), input.shape[1 if batch_first else 0], device="cpu")
        lengths, resets = whole, None
    layout = (input.shape[1 if batch_first else 0], batch, batch_first)
    if jit_trace() is None:
        rows, batch_sizes, starts, ends = _ops.segments(lengths, resets, *layout, input.device)
    else:  # torch.jit.trace records no devices
        rows, batch_sizes, starts, ends = _ops.segments.like(lengths, resets, *layout, input)
    segments = Segments(rows, batch_sizes, starts, ends, complete=lengths is None)
    packed, states = run(
        segments.pack(input), segments.first_states(hx, reset_state, directions), batch_sizes, starts.shape[1]
    )
    h_n = segments.last_states(states, hx, directions)
    if not batched:
        h_n = squeeze_own(h_n, 1)
    if outputs == "last":
        return last_output(h_n, directions), h_n
    output = segments.unpack(packed, input.shape[:2])
    return (output if batched else squeeze_own(output, 1)), h_n


def as_lengths(lengths: Any) -> Tensor:
    """Lengths as a tensor: they are one, or torch can make one of them; TypeError otherwise."""
    if isinstance(lengths, Tensor):
        check_tensor("gru", "lengths", lengths)
        return lengths
    try:
        tensor = torch.as_tensor(lengths, device="cpu")  # whatever the default device is
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"gru: expected lengths to be a tensor, a sequence of integers or an integer, got {lengths!r}"
        ) from None
    return tensor if tensor.numel() else tensor.to(torch.int64)  # of [] torch makes floats


def _check(
    input: Tensor,
    layers: int,
    hidden: int,
    batch_first: bool,
    lengths: Tensor | None,
    resets: Tensor | None,
    reset_state: Tensor | None,
) -> None:
    """Raise RuntimeError for wrong shapes, dtypes and devices. The operator checks the values of ``lengths``."""
    batched = input.dim() == 3
    steps = tuple(input.shape[:2]) if batched else (input.shape[0],)
    batch = (input.shape[0 if batch_first else 1],) if batched else ()
    if lengths is not None:
        integers = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
        if lengths.shape != batch or not integers:
            raise RuntimeError(
                f"gru: expected lengths of shape {'(B)' if batched else '()'} = {batch} of integers,"
                f" got {tuple(lengths.shape)} of {lengths.dtype}"
            )
    if resets is not None and (resets.shape != steps or resets.dtype != torch.bool):
        letters = "(T)" if not batched else "(B, T)" if batch_first else "(T, B)"
        raise RuntimeError(
            f"gru: expected resets of shape {letters} = {steps} of torch.bool,"
            f" got {tuple(resets.shape)} of {resets.dtype}"
        )
    if reset_state is not None:
        shapes = [(layers, hidden), *([(layers, *batch, hidden)] if batched else [])]
        if not any(reset_state.shape == shape for shape in shapes):
            letters = f"(L*D, H) = {shapes[0]}" + (f" or (L*D, B, H) = {shapes[1]}" if batched else "")
            raise RuntimeError(f"gru: expected reset_state of shape {letters}, got {tuple(reset_state.shape)}")
        if reset_state.dtype != input.dtype or reset_state.device != input.device:
            raise RuntimeError(
                f"gru: expected reset_state of the dtype and on the device of input, {input.dtype} on {input.device},"
                f" got {reset_state.dtype} on {reset_state.device}"
            )
