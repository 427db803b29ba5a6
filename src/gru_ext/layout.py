"""The layouts of a GRU's arguments: what fits them is checked and brought into that of the operators.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gru_ext.torch_internals import is_eager, keeping_version

Outputs = tuple[Tensor, Tensor]
RunLayer = Callable[[int, Tensor, Tensor | None], Outputs]
Wavefront = Callable[[RunLayer, Tensor, Tensor | None], Outputs]


FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def is_dense(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor with strides."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested


def check_tensor(op: str, name: str, value: Any) -> None:
    """Raise TypeError unless it is a dense tensor."""
    if is_dense(value):
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: expected {name} to be a tensor, got {type(value).__name__}")
    layout = "a nested tensor" if value.is_nested else str(value.layout)
    raise TypeError(f"{op}: expected {name} to be a dense tensor, of layout torch.strided, got {layout}")


def check_no_padding(lengths: Any, resets: Any, reset_state: Any) -> None:
    """Raise ValueError if an argument for padded input comes with a ``PackedSequence``."""
    if lengths is not None or resets is not None or reset_state is not None:
        raise ValueError(
            "gru: expected lengths and resets of padded input, got them with a PackedSequence;"
            " torch.nn.utils.rnn.pad_packed_sequence gives padded input and its lengths"
        )


def check_sizes(
    input: Tensor, hx: Tensor | None, size: int, hidden: int, layers: int, batch_first: bool, batch_sizes: Tensor | None
) -> None:
    """Raise for wrong sizes of ``input`` and ``hx``; ``layers`` is L*D.

    The operators check again what they are given (csrc/op/check.cpp), one layer at a time, in their own terms.

    Raises:
        ValueError: the rank of ``input`` is wrong, and it is not packed.
        RuntimeError: anything else is.
    """
    packed = batch_sizes is not None
    sizes = input.shape
    rank = len(sizes)
    batched = packed or rank == 3
    if packed and rank != 2:
        raise RuntimeError(f"gru: expected packed input of shape (N, I), got {tuple(sizes)}")
    if rank not in (2, 3):
        raise ValueError(
            f"gru: expected input of shape {_letters(batch_first)} or, unbatched, (T, I), got {tuple(sizes)}"
        )
    if sizes[-1] != size:
        letters = "(N, I)" if packed else _letters(batch_first) if batched else "(T, I)"
        raise RuntimeError(f"gru: expected input of shape {letters} with I = {size}, got {tuple(sizes)}")
    if sizes[1 if batch_first and rank == 3 else 0] == 0:
        raise RuntimeError(f"gru: expected input with T >= 1 steps, got {tuple(sizes)}")
    if hx is None:
        return
    if not batched:
        shape: tuple[int, ...] = (layers, hidden)
    elif batch_sizes is None:
        shape = (layers, sizes[0 if batch_first else 1], hidden)
    elif torch.compiler.is_compiling():
        # The batch is a value of batch_sizes, unknown while tracing; the operator compares when it runs.
        shape = (layers, hx.shape[1], hidden) if hx.dim() == 3 else (layers, -1, hidden)
    else:
        shape = (layers, int(batch_sizes[0]), hidden)
    if hx.shape != shape:
        raise RuntimeError(
            f"gru: expected hx of shape {'(L*D, B, H)' if batched else '(L*D, H)'} = {shape}, got {tuple(hx.shape)}"
        )


def check_weight_shapes(weights: Sequence[Tensor], directions: int, inputs: int, blocks: int = 1) -> None:
    """Raise RuntimeError unless the shapes of a layer's weights fit each other, as the operators do."""
    columns = weights[1].shape[-1]
    rows = 3 * columns * blocks
    per_direction = len(weights) // directions
    vectors = ("bias_ih", "bias_hh") if per_direction == 4 else ("bias_ih", "bias_hh", "gain_ih", "gain_hh")
    shapes = {
        "weight_ih": ("(3H, I)", (rows, inputs)),
        "weight_hh": ("(3H, H)" if blocks == 1 else f"(3H, H / {blocks})", (rows, columns)),
        **dict.fromkeys(vectors, ("(3H)", (rows,))),
    }
    for i, weight in enumerate(weights):
        name, (letters, shape) = [*shapes.items()][i % per_direction]
        if weight.shape != shape:
            raise RuntimeError(f"gru: expected {name} of shape {letters} = {shape}, got {tuple(weight.shape)}")


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
    wavefront: Wavefront | None = None,
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
        h_n = squeeze_own(h_n, 1)
    if outputs == "last":
        return last_output(h_n, directions), h_n
    if not batched:
        return squeeze_own(x, 1), h_n
    return (transpose_own(x) if transposed else x), h_n


def last_output(h_n: Tensor, directions: int) -> Tensor:
    """The last layer's part of h_n, (L*D, B, H) or (L*D, H), the directions side by side: (B, D*H) or (D*H)."""
    return torch.cat(h_n[-directions:].unbind(0), dim=-1)


# ---- Results in the caller's layout, which are no views: the caller may detach or change them in place


def transpose_own(y: Tensor) -> Tensor:
    """The output of a layer, (T, B, F), to (B, T, F)."""
    if not is_eager():
        return y.transpose(0, 1)
    if not y.requires_grad:
        return y.transpose_(0, 1)
    # Its derivative has saved y. That the layout changes here is no change of the values.
    with keeping_version(y):
        return y.transpose_(0, 1)


def squeeze_own(tensor: Tensor, dim: int) -> Tensor:
    """The output of a layer, or its last state, without a dimension of size 1."""
    if not is_eager():
        return tensor.squeeze(dim)
    if not tensor.requires_grad:
        return tensor.squeeze_(dim)
    with keeping_version(tensor):
        return tensor.squeeze_(dim)


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
    # By name: torch 2.6 cannot compile the unpacking of a PackedSequence.
    sorted_indices, unsorted_indices = input.sorted_indices, input.unsorted_indices
    if hx is not None:
        check_tensor("gru", "hx", hx)
    if hx is not None and sorted_indices is not None:
        shape = (layers, sorted_indices.numel(), hidden)
        if hx.shape != shape:
            raise RuntimeError(f"gru: expected hx of shape (L*D, B, H) = {shape}, got {tuple(hx.shape)}")
        hx = hx.index_select(1, sorted_indices)
    output, h_n = run(input.data, hx, input.batch_sizes)
    if unsorted_indices is not None:
        h_n = h_n.index_select(1, unsorted_indices)
    if outputs == "last":
        return (output if unsorted_indices is None else output.index_select(0, unsorted_indices)), h_n
    return PackedSequence(output, input.batch_sizes, sorted_indices, unsorted_indices), h_n


def check_cell_rank(input: Tensor, hx: Tensor | None) -> None:
    """Raise TypeError unless the arguments of a cell are dense tensors, ValueError for a wrong rank."""
    check_tensor("gru_cell", "input", input)
    if hx is not None:
        check_tensor("gru_cell", "hx", hx)
    if input.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected input of shape (B, I) or (I), got {tuple(input.shape)}")
    if hx is not None and hx.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected hx of shape (B, H) or (H), got {tuple(hx.shape)}")


def check_cell_sizes(input: Tensor, hx: Tensor | None, size: int, hidden: int) -> None:
    """Raise RuntimeError for wrong sizes of the arguments of a cell."""
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
    batched = input.dim() == 2
    x = input.unsqueeze(0) if batched else input.view(1, 1, -1)
    if hx is not None:
        hx = hx.unsqueeze(0) if batched else hx.view(1, 1, -1)
    h_n = run_layer(x, hx)[1]
    if not is_eager():
        return h_n.squeeze(0) if batched else h_n.view(-1)
    return h_n.squeeze_(0) if batched else h_n.squeeze_(0).squeeze_(0)  # the derivative saves y, and not h_n


def _letters(batch_first: bool) -> str:
    return "(B, T, I)" if batch_first else "(T, B, I)"
