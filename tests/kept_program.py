"""An exported program that is kept, and the model that it is of: such programs go on to load and to run.

``python tests/kept_program.py`` wrote it, with version 0.1.0. It is not written anew where operators change: users have
others like it.
"""

from __future__ import annotations

from process import TESTS
from torch import Tensor, export, nn, zeros

import gru_ext

PROGRAM = TESTS / "kept_program.pt2"
TORCH_OF_PROGRAM = (2, 13)  # an older one cannot be expected to read it


class EveryKind(nn.Module):
    """A layer by each operator that inference has, and of each variant."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = gru_ext.GRU(3, 4, num_layers=2, bidirectional=True)
        self.varied = gru_ext.GRU(8, 4, zoneout=0.1, reset_after=False)
        self.normalized = gru_ext.GRU(4, 4, layer_norm=True)
        self.blocks = gru_ext.GRU(4, 4, blocks=2)
        self.int8 = gru_ext.QuantizedGRU.from_float(gru_ext.GRU(4, 4))
        self.cell = gru_ext.GRUCell(4, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The last state (B, 4), of x (T, B, 3)."""
        y = self.plain(x, lengths=lengths)[0]
        for layer in (self.varied, self.normalized, self.blocks, self.int8):
            y = layer(y)[0]
        state: Tensor = self.cell(y[-1])
        return state


def inputs(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """x, and lengths of which no two are the same in a row."""
    x = zeros(steps, batch, 3)
    return x.uniform_(-1, 1), x.new_tensor([1 + row * 5 % steps for row in range(batch)]).long()


if __name__ == "__main__":
    sizes = {0: export.Dim("T", min=2), 1: export.Dim("B", min=2)}
    program = export.export(EveryKind().eval(), inputs(6, 3), dynamic_shapes=(sizes, {0: sizes[1]}))
    for node in program.graph.nodes:  # which would hold the lines of code that each came from
        node.meta = {name: value for name, value in node.meta.items() if name not in ("stack_trace", "nn_module_stack")}
    export.save(program, PROGRAM)
