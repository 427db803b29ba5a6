"""Train a ``gru_ext.GRU`` for int8 weights, and compare it with one that was rounded after training.

The sequences are the handwritten digits of scikit-learn (``load_digits``, 1797 images of 8 x 8 pixels), read half a row
a step. A quarter of the images is kept for the test. A model is trained in float32. Two copies of it are trained on,
for as long as each other: one in float32, one with ``gru_ext.fake_quantize``. Both are then converted by
``gru_ext.quantize_dynamic``. Besides the accuracy the program prints how far int8 moves the logits of each copy.

Letters: T = 16 time steps, B batch, H hidden, N sequences; I = 4, the pixels of half a row.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence

import torch
from helpers.arguments import at_least
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

import gru_ext

PIXELS = 4
CLASSES = 10
BATCH = 64
TEST_SHARE = 0.25


class Classifier(nn.Module):
    """A GRU layer, and a linear layer on its last state.

    Args:
        hidden: H.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(PIXELS, hidden)
        self.linear = nn.Linear(hidden, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits (B, 10) of pixels (T, B, I)."""
        _, h_n = self.gru(pixels)
        logits: Tensor = self.linear(h_n[0])
        return logits


def train(model: nn.Module, pixels: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """Train on all sequences (T, N, I) of these labels (N), in random order."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(epochs):
        for which in torch.randperm(len(labels)).split(BATCH):
            loss = nn.functional.cross_entropy(model(pixels[:, which]), labels[which])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """The share of the sequences that the model classifies correctly."""
    predicted: Tensor = model.eval()(pixels).argmax(dim=1)
    return (predicted == labels).double().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, convert, and print the accuracies on the test sequences."""
    parser = argparse.ArgumentParser(description="Train a gru_ext.GRU for int8 weights, on handwritten digits.")
    parser.add_argument("--epochs", type=at_least(1), default=20, help="times the digits are read (default: 20)")
    parser.add_argument("--more", type=at_least(1), default=10, help="times for each copy (default: 10)")
    parser.add_argument("--hidden", type=at_least(1), default=16, help="units of the layer (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default: 0)")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    digits = load_digits()
    pixels = torch.from_numpy(digits.data).float().view(len(digits.data), -1, PIXELS).transpose(0, 1) / 16  # (T, N, I)
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels))
    test, training = order.tensor_split([math.ceil(TEST_SHARE * len(order))])
    model = Classifier(options.hidden)
    train(model, pixels[:, training], labels[training], options.epochs, rate=1e-2)

    plain, aware = copy.deepcopy(model), gru_ext.fake_quantize(model)
    for copied in (plain, aware):
        train(copied, pixels[:, training], labels[training], options.more, rate=1e-3)
    given = (pixels[:, test], labels[test])
    print(f"float32:                         {accuracy(plain, *given):.4f}")
    for name, copied in (("int8, rounded after training:   ", plain), ("int8, trained for:              ", aware)):
        as_float = gru_ext.fake_quantize(copied, enabled=False)
        as_int8 = gru_ext.quantize_dynamic(copied)
        with torch.no_grad():
            moved = (as_int8(given[0]) - as_float(given[0])).square().mean().sqrt()
        print(f"{name} {accuracy(as_int8, *given):.4f}; int8 moves a logit by {moved:.4f}")


if __name__ == "__main__":
    main()
