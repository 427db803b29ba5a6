"""A GRU that runs from the last step to the first, as Keras and ONNX have it and ``torch.nn.GRU`` has not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_ext.layout import check_tensor
from gru_ext.modules import GRU
from gru_ext.recurrence import check_flag
from gru_ext.sharing import check_type


class Reversed(nn.Module):
    """A GRU on its input turned around in time. Called as the GRU is, with a tensor.

    Args:
        gru: a GRU of one direction.
        restore_order: whether the output is turned back, so that its step t belongs to step t of the input, as that of
            an ONNX node with ``direction="reverse"`` does. If not, step 0 of the output is the state after the last
            step of the input, as with Keras's ``go_backwards``.

    Raises:
        TypeError: ``gru`` is no GRU, or ``restore_order`` no bool.
        ValueError: ``gru`` is bidirectional.

    Example:
        >>> gru = gru_ext.GRU(3, 4)
        >>> x = torch.randn(7, 2, 3)
        >>> output, h_n = gru_ext.convert.Reversed(gru, restore_order=True)(x)
        >>> torch.equal(output, gru(x.flip(0))[0].flip(0))
        True
    """

    def __init__(self, gru: GRU, restore_order: bool) -> None:
        super().__init__()
        check_type("Reversed", "gru", gru, GRU, nn.GRU)
        restore_order = check_flag("Reversed", "restore_order", restore_order)
        if gru.bidirectional:
            raise ValueError("Reversed: expected gru of one direction, got a bidirectional one")
        self.gru = gru
        self.restore_order = restore_order

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As ``GRU.forward``, of a tensor.

        Args:
            input: the sequences, (T, B, I), (B, T, I) with ``batch_first`` of the GRU, or (T, I) unbatched.
            hx: initial state, before the last step: (L, B, H), or (L, H) unbatched. Default None: zero.

        Returns:
            The output, laid out as the input was; and h_n, the state after step 0 of the input.

        Raises:
            TypeError: ``input`` is a ``PackedSequence``, or no tensor.

        Example:
            >>> output, h_n = gru_ext.convert.Reversed(gru_ext.GRU(3, 4), restore_order=True)(torch.randn(7, 2, 3))
            >>> torch.equal(output[0], h_n[0])
            True
        """
        given: Any = input
        if isinstance(given, PackedSequence):
            raise TypeError("Reversed: expected input of type Tensor, got PackedSequence")
        check_tensor("Reversed", "input", given)
        steps = 1 if self.gru.batch_first and input.dim() == 3 else 0
        output, h_n = self.gru(input.flip(steps), hx)
        return (output.flip(steps) if self.restore_order else output), h_n

    def extra_repr(self) -> str:
        """The order of its output."""
        return f"restore_order={self.restore_order}"
