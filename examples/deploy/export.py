"""Export a model with a GRU for use without its Python code: ``torch.export`` and an AOTInductor package.

Writes model.pt2, a graph that ``torch.export.load`` reads where gru_ext is imported, and package.pt2, compiled, which
run.cpp runs without Python. Both take batches of any size and length. Needs a C++ compiler.

Letters: T steps, B batch, I input, H hidden.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

import gru_ext

INPUT, HIDDEN, CLASSES = 8, 32, 4
SIZES = ((5, 3), (40, 1))  # T, B of what is run


class Classifier(nn.Module):
    """Two layers of a GRU, both directions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(INPUT, HIDDEN, num_layers=2, bidirectional=True)
        self.linear = nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, CLASSES) of sequences x (T, B, I) of ``lengths`` (B) steps."""
        _, h_n = self.gru(x, lengths=lengths)
        scores: Tensor = self.linear(torch.cat([h_n[-2], h_n[-1]], dim=-1))
        return scores


def make_input(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """The same x (T, B, I) and lengths (B) that run.cpp makes."""
    count = steps * batch * INPUT
    x = torch.arange(count, dtype=torch.float32).div(count).view(steps, batch, INPUT)
    return x, steps - torch.arange(batch)


def main() -> None:
    """Export, and print what the model gives: run.cpp prints the same."""
    parser = argparse.ArgumentParser(description="Export a model with a GRU.")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out/deploy"), help="default: %(default)s")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    model = Classifier().eval()
    steps, batch = Dim("steps", min=1), Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(
            model, make_input(5, 3), dynamic_shapes={"x": {0: steps, 1: batch}, "lengths": {0: batch}}
        )
        torch.export.save(program, out / "model.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=str(out / "package.pt2"))
        for size in SIZES:
            print(*size, *(f"{score:.5f}" for score in model(*make_input(*size))[-1]))


if __name__ == "__main__":
    main()
