"""A first model with ``gru_ext.GRU``: train it, save it, and load its weights into ``torch.nn.GRU``.

It reads B sequences of T numbers, and gives the sums of those that are marked.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import gru_ext


class Adder(nn.Module):
    """A GRU, and a linear layer on its last state."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(input_size=2, hidden_size=hidden, batch_first=True)  # as torch.nn.GRU
        self.linear = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Sums (B), given x (B, T, 2)."""
        sums: Tensor = self.linear(self.gru(x)[1])  # of the last state (1, B, H)
        return sums[0, :, 0]


def make_batch(batch: int = 64, steps: int = 10) -> tuple[Tensor, Tensor]:
    """Numbers beside their marks, (B, T, 2), and the sums of the marked numbers, (B)."""
    x = torch.stack([torch.rand(batch, steps), torch.randint(2, (batch, steps)).float()], dim=-1)
    return x, x.prod(-1).sum(1)


def main(arguments: list[str] | None = None) -> None:
    """Train, save, load, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=400, metavar="N", help="of the weights, default 400")
    parser.add_argument("--out", default="adder.pt", metavar="FILE", help="default adder.pt")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = Adder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for update in range(options.updates):
        x, sums = make_batch()
        loss = nn.functional.mse_loss(model(x), sums)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 100 == 99:
            print(f"update {update + 1}: mean square error {loss.item():.4f}")
    torch.save(model.state_dict(), options.out)
    theirs = gru_ext.to_torch(Adder())  # the same model with torch.nn.GRU
    theirs.load_state_dict(torch.load(options.out))
    print(f"with torch.nn.GRU the sums differ by {(model(x) - theirs(x)).abs().max().item():.0e} at most")


if __name__ == "__main__":
    main()
