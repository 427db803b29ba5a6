"""The layouts of a GRU's arguments: what fits them is checked and brought into that of the operators.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Outputs = tuple[Tensor, Tensor]
RunLayer = Callable[[int, Tensor, Tensor | None], Outputs]


def check_rank(input: Tensor, batch_first: bool, batch_sizes: Tensor | None) -> None:
    """Raise the error that an input of a wrong rank deserves."""
    if batch_sizes is not None:
        if input.dim() != 2:
            raise RuntimeError(f"gru: expected packed input of shape (N, I), got {tuple(input.shape)}")
    elif input.dim() not in (2, 3):
        raise ValueError(
            f"gru: expected input of shape {_letters(batch_first)} or, unbatched, (T, I), got {tuple(input.shape)}"
        )


def check_sizes(
    input: Tensor,
    hx: Tensor | None,
    size: int,
    hidden: int,
    layers: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> None:
    """Raise the error that wrong sizes of ``input`` and ``hx`` deserve; ``layers`` is L*D.

    The operators check again what they are given (csrc/check.cpp), one layer at a time, in their own terms.
    """
    packed = batch_sizes is not None
    batched = packed or input.dim() == 3
    if input.shape[-1] != size:
        letters = "(N, I)" if packed else _letters(batch_first) if batched else "(T, I)"
        raise RuntimeError(f"gru: expected input of shape {letters} with I = {size}, got {tuple(input.shape)}")
    steps = input.shape[1 if batch_first and batched and not packed else 0]
    if steps == 0:
        raise RuntimeError(f"gru: expected input with T >= 1 steps, got {tuple(input.shape)}")
    if hx is None:
        return
    if not batched:
        shape: tuple[int, ...] = (layers, hidden)
    elif batch_sizes is None:
        shape = (layers, input.shape[0 if batch_first else 1], hidden)
    elif torch.compiler.is_compiling():
        # The batch is a value of batch_sizes, unknown while tracing; the operator compares when it runs.
        shape = (layers, hx.shape[1], hidden) if hx.dim() == 3 else (layers, -1, hidden)
    else:
        shape = (layers, int(batch_sizes[0]), hidden)
    if hx.shape != shape:
        raise RuntimeError(
            f"gru: expected hx of shape {'(L*D, B, H)' if batched else '(L*D, H)'} = {shape}, got {tuple(hx.shape)}"
        )


def run_layers(
    run_layer: RunLayer,
    input: Tensor,
    hx: Tensor | None,
    num_layers: int,
    directions: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
    between: Callable[[Tensor], Tensor] | None = None,
    outputs: str = "all",
    wavefront: Callable[[RunLayer, Tensor, Tensor | None], Outputs] | None = None,
) -> Outputs:
    """Run the layers one after another; arguments and results laid out as in ``functional.gru``.

    ``run_layer`` takes the layer's number, its input (T, B, I) or (N, I) and its initial state (D, B, H) to its output,
    which with ``outputs="last"`` is not used of the last layer, and h_n. ``between`` is applied to the output of each
    layer but the last. ``wavefront`` runs the layers in its own way: all of them, with such an input and such states.
    """
    batched = batch_sizes is not None or input.dim() == 3
    transposed = batch_first and batched and batch_sizes is None
    x = input if batched else input.unsqueeze(1)
    if transposed:
        x = x.transpose(0, 1)
    if hx is not None and not batched:
        hx = hx.unsqueeze(1)

    if num_layers == 1:
        x, h_n = run_layer(0, x, hx)
    elif wavefront is not None:
        x, h_n = wavefront(run_layer, x, hx)
    else:
        states = []
        for layer in range(num_layers):
            if layer > 0 and between is not None:
                x = between(x)
            state = None if hx is None else hx[layer * directions : (layer + 1) * directions]
            x, last = run_layer(layer, x, state)
            states.append(last)
        h_n = torch.cat(states)

    if not batched:
        h_n = h_n.squeeze(1)
    if outputs == "last":
        return last_output(h_n, directions), h_n
    if not batched:
        return x.squeeze(1), h_n
    return (x.transpose(0, 1) if transposed else x), h_n


def last_output(h_n: Tensor, directions: int) -> Tensor:
    """The last layer's part of h_n, (L*D, B, H) or (L*D, H), the directions side by side: (B, D*H) or (D*H)."""
    return h_n[-1] if directions == 1 else h_n[-directions:].movedim(0, -2).flatten(-2)


def run_packed(
    run: Callable[[Tensor, Tensor | None, Tensor], Outputs],
    input: PackedSequence,
    hx: Tensor | None,
    layers: int,
    hidden: int,
    outputs: str = "all",
) -> tuple[PackedSequence | Tensor, Tensor]:
    """Run a module on a ``PackedSequence``, sorted or not; ``layers`` is L*D.

    ``run`` takes the data (N, I), hx in the sorted order and batch_sizes to the output (N, D*H), or (B, D*H) with
    ``outputs="last"``, and h_n. The result is in the order of the sequences before they were sorted.
    """
    data, batch_sizes, sorted_indices, unsorted_indices = input
    if hx is not None and sorted_indices is not None:
        shape = (layers, sorted_indices.numel(), hidden)
        if hx.shape != shape:
            raise RuntimeError(f"gru: expected hx of shape (L*D, B, H) = {shape}, got {tuple(hx.shape)}")
        hx = hx.index_select(1, sorted_indices)
    output, h_n = run(data, hx, batch_sizes)
    if unsorted_indices is not None:
        h_n = h_n.index_select(1, unsorted_indices)
    if outputs == "last":
        return (output if unsorted_indices is None else output.index_select(0, unsorted_indices)), h_n
    return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), h_n


def check_cell_rank(input: Tensor, hx: Tensor | None) -> None:
    """Raise the error that arguments of a wrong rank of a cell deserve."""
    if input.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected input of shape (B, I) or (I), got {tuple(input.shape)}")
    if hx is not None and hx.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected hx of shape (B, H) or (H), got {tuple(hx.shape)}")


def check_cell_sizes(input: Tensor, hx: Tensor | None, size: int, hidden: int) -> None:
    """Raise the error that wrong sizes of the arguments of a cell deserve."""
    batched = input.dim() == 2
    if input.shape[-1] != size:
        letters = "(B, I)" if batched else "(I)"
        raise RuntimeError(f"gru_cell: expected input of shape {letters} with I = {size}, got {tuple(input.shape)}")
    if hx is not None:
        shape = (*input.shape[:-1], hidden)
        if hx.shape != shape:
            raise RuntimeError(
                f"gru_cell: expected hx of shape {'(B, H)' if batched else '(H)'} = {shape}, got {tuple(hx.shape)}"
            )


def run_cell(run_layer: Callable[[Tensor, Tensor | None], Outputs], input: Tensor, hx: Tensor | None) -> Tensor:
    """One step of one row or of a batch of rows: (T, B, I) = (1, B, I), and h_n is (1, B, H)."""
    if input.dim() == 2:
        return run_layer(input.unsqueeze(0), None if hx is None else hx.unsqueeze(0))[1].squeeze(0)
    return run_layer(input.view(1, 1, -1), None if hx is None else hx.view(1, 1, -1))[1].view(-1)


def _letters(batch_first: bool) -> str:
    return "(B, T, I)" if batch_first else "(T, B, I)"
