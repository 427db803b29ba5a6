"""The GRU as functions, for callers that hold their own weights.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor

from gru_ext.call import call_cell, call_gru
from gru_ext.recurrence import DEFAULTS, are_defaults, as_flag, check_options, documented

__all__ = ["gru", "gru_cell"]


@documented
def gru(  # noqa: D417 (the table has the rest)
    input: Tensor,
    hx: Tensor | None,
    weights: Iterable[Tensor | None],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | int | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
    outputs: Literal["all", "last"] = "all",
    save: Literal["gates", "output"] = "gates",
    overlap_layers: int = 0,
    zoneout: float = 0,
    recurrent_dropout: float = 0,
    candidate_dropout: float = 0,
    weight_dropout: float = 0,
    reset_after: bool = True,
    layer_norm: bool | Literal["joint"] = False,
    blocks: int = 1,
    norm_over: Literal["block", "layer"] = "block",
    fake_int8: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run a GRU of L layers over whole sequences.

    Letters: T time steps, B batch size, I input size, H hidden size, L layers, D directions (1 or 2), N rows of all
    steps of a packed batch. The recurrence is that of ``torch.nn.GRU`` (docs/equations.md). Differentiable in every
    mode: once or more, forward, under ``torch.func`` and ``torch.compile``. Under ``torch.autocast`` it computes in
    autocast's dtype and returns what ``torch.nn.GRU`` does: results in autocast's dtype on CUDA, in that of the initial
    state on a CPU (docs/from_nn_gru.md). float64 is left as it is.

    Args:
        input: the sequences, (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or (N, I) with
            ``batch_sizes``. float32, float64, bfloat16 or float16; T at least 1, B may be 0. The halves compute and
            carry the state in float32.
        hx: initial state, (L*D, B, H), or (L*D, H) unbatched; None for zero.
        weights: for each layer, for each direction: weight_ih (3H, I or, after the first layer, D*H),
            weight_hh (3H, H), with ``blocks`` (3H, H / blocks), and, with biases, bias_ih (3H) and bias_hh (3H), both
            None or left out without. With ``layer_norm``, six: bias_ih and bias_hh, None without biases, then
            gain_ih (3H) and gain_hh (3H). Gate order is r, z, n.
        num_layers: number of layers (L). Default 1.
        bidirectional: whether a second direction runs from the last step to the first (D = 2). Default False.
        batch_first: whether the batch is the first dimension of input and output; no effect unbatched or packed.
            Default False.
        dropout: probability of zeroing an element of the output of each layer but the last, while ``training``.
            Default 0.
        training: whether ``dropout`` and what drops or keeps units below applies. Default False.
        batch_sizes: the rows of each step, where ``input`` is the data of a ``PackedSequence``: (T) int64 on the CPU,
            not increasing. ``hx`` and ``h_n`` are then in the packed (sorted) order. Default None: not packed.
        lengths: number of steps of each sequence of a padded batch (B): integers from 0 to T, in any order, on any
            device; one integer unbatched. Padding is not computed, whatever it holds: its output is zero, and h_n is
            the state after each sequence's own last step, or hx where it has none. On a GPU, lengths there are waited
            for. Default None: T.
        resets: bool, (T, B), or (B, T) with ``batch_first``, (T) unbatched, on any device: where it is set, the state
            is that of ``reset_state`` before the step, as if another sequence began with it; ``hx`` is then of no
            effect where the first step is set. The second direction runs over each part from its end. On a GPU, resets
            there are waited for. Default None: nowhere.
        reset_state: the state after a reset, (L*D, B, H), or (L*D, H) for all sequences alike. Default None: zero.
        {options}

    The masks follow ``torch.manual_seed``, and on a CPU do not depend on the number of threads. Equations:
    docs/variants.md.

    Returns:
        The output, (T, B, D*H) or laid out as the input was, or with ``outputs="last"`` (B, D*H), unbatched (D*H); and
        h_n (L*D, B, H), or (L*D, H) unbatched.

    Raises:
        TypeError: ``input``, ``hx``, ``batch_sizes``, ``resets``, ``reset_state`` or a weight is no dense tensor,
            ``weights`` no sequence, or some biases are None and others not; ``lengths`` are not what a tensor can be
            made of; a flag is no bool, ``num_layers``, ``overlap_layers`` or ``blocks`` no int; ``dropout`` is None or
            complex.
        ValueError: ``input`` that is not packed has a wrong rank, or has not the dtype of the weights, or that is none
            of the four; ``num_layers`` is below 1, ``dropout`` not a number in [0, 1], another probability not one in
            [0, 1), ``outputs``, ``save``, ``layer_norm`` or ``norm_over`` another value; ``lengths`` or ``resets`` come
            with ``batch_sizes``, ``reset_state`` without ``resets``, ``layer_norm`` with ``reset_after=False``, or
            ``fake_int8`` with what int8 kernels do not compute; ``blocks`` is below 1 or does not divide H;
            ``overlap_layers`` is below 0, or above with ``num_layers`` 1, ``bidirectional`` or ``recurrent_dropout``.
        RuntimeError: the number of weights, a size, a shape, a device, one of the lengths or batch sizes, or the dtype
            of a tensor but ``input`` is wrong, packed ``input`` has a wrong rank, or T is 0.
        NotImplementedError: ``lengths`` or ``resets`` differ between the samples of ``torch.vmap``.

    Example:
        >>> weight_ih, weight_hh = torch.randn(3 * 256, 64), torch.randn(3 * 256, 256)
        >>> output, h_n = gru_ext.functional.gru(torch.randn(100, 8, 64), None, [weight_ih, weight_hh])
        >>> output.shape, h_n.shape
        (torch.Size([100, 8, 256]), torch.Size([1, 8, 256]))
    """
    if type(reset_after) is not bool:
        reset_after = as_flag("gru", "reset_after", reset_after)
    options = {
        "outputs": outputs,
        "save": save,
        "overlap_layers": overlap_layers,
        "zoneout": zoneout,
        "recurrent_dropout": recurrent_dropout,
        "candidate_dropout": candidate_dropout,
        "weight_dropout": weight_dropout,
        "reset_after": reset_after,
        "layer_norm": layer_norm,
        "blocks": blocks,
        "norm_over": norm_over,
        "fake_int8": fake_int8,
    }
    options = DEFAULTS if are_defaults(options) else check_options("gru", options)
    return call_gru(
        input,
        hx,
        weights,
        options,
        num_layers,
        bidirectional,
        batch_first,
        dropout,
        training,
        batch_sizes,
        lengths,
        resets,
        reset_state,
    )


@documented
def gru_cell(  # noqa: D417 (the table has the rest)
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    zoneout: float = 0,
    candidate_dropout: float = 0,
    training: bool = False,
    reset_after: bool = True,
    layer_norm: bool | Literal["joint"] = False,
    blocks: int = 1,
    norm_over: Literal["block", "layer"] = "block",
    fake_int8: bool = False,
    gain_ih: Tensor | None = None,
    gain_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU.

    Letters: B batch size, I input size, H hidden size.

    Args:
        input: what comes in, (B, I), or (I) unbatched; dtypes as in ``gru``.
        hx: the state before the step, (B, H), or (H) unbatched; None for zero.
        weight_ih: weights of the input (3H, I), gate order r, z, n.
        weight_hh: weights of the state (3H, H), with ``blocks`` (3H, H / blocks).
        bias_ih: biases of the input's part (3H); None, the default, together with ``bias_hh``.
        bias_hh: biases of the state's part (3H); None, the default, together with ``bias_ih``.
        training: whether ``zoneout`` and ``candidate_dropout`` draw masks. Default False.
        {options}
        gain_ih: gains of the input's part (3H), with ``layer_norm``; else None, the default.
        gain_hh: gains of the state's part (3H), with ``layer_norm``; else None, the default.

    Returns:
        The next state, (B, H) or (H).

    Raises:
        TypeError: ``input``, ``hx``, a weight, a bias or a gain is no dense tensor, or a flag no bool.
        ValueError: the rank of ``input`` or ``hx`` is wrong, or the dtype of the weights none of the four; only one of
            the biases is given; a probability is not a number in [0, 1), or ``layer_norm`` or ``norm_over`` another
            value; gains are given without ``layer_norm`` or not with it, that comes with ``reset_after=False``,
            ``fake_int8`` with what int8 kernels do not compute, or ``blocks`` is below 1 or does not divide H.
        RuntimeError: a size, a shape or a device is wrong, or a dtype not that of the weights.

    Example:
        >>> weight_ih, weight_hh = torch.randn(3 * 256, 64), torch.randn(3 * 256, 256)
        >>> gru_ext.functional.gru_cell(torch.randn(8, 64), None, weight_ih, weight_hh).shape
        torch.Size([8, 256])
    """
    if type(reset_after) is not bool:
        reset_after = as_flag("gru_cell", "reset_after", reset_after)
    options = {
        "zoneout": zoneout,
        "candidate_dropout": candidate_dropout,
        "reset_after": reset_after,
        "layer_norm": layer_norm,
        "blocks": blocks,
        "norm_over": norm_over,
        "fake_int8": fake_int8,
    }
    options = check_options("gru_cell", options)
    weights = [weight_ih, weight_hh, bias_ih, bias_hh]
    if gain_ih is not None or gain_hh is not None:
        weights += [gain_ih, gain_hh]
    return call_cell(input, hx, weights, options, training)
