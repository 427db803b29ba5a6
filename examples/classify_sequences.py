"""Classify sequences of unequal length with a bidirectional ``gru_ext.GRU`` and packed batches.

The sequences are the handwritten digits of scikit-learn (``load_digits``, 1797 images of 8 x 8 pixels), read column by
column from left to right. Blank columns at the margins are trimmed, so that a narrow 1 is a shorter sequence than a
wide 0. A quarter of the images is kept for the test.

Letters: T steps, B batch, H hidden, N sequences; I = 8, the pixels of a column.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from helpers.arguments import at_least
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_ext

PIXELS = 8
CLASSES = 10
BATCH = 32
TEST_SHARE = 0.25


class Classifier(nn.Module):
    """Two bidirectional GRU layers with dropout between them, and a linear layer on the last state of each direction.

    Args:
        hidden: H.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(PIXELS, hidden, num_layers=2, dropout=0.2, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, CLASSES)

    def forward(self, sequences: PackedSequence) -> Tensor:
        """The logits (B, 10) of a packed batch."""
        _, h_n = self.gru(sequences)  # (L*D, B, H); the last layer's two directions come last
        logits: Tensor = self.linear(torch.cat((h_n[-2], h_n[-1]), dim=1))
        return logits


def load_sequences() -> tuple[list[Tensor], Tensor]:
    """The digits as N sequences (T, I) of columns, T from 2 to 8, and their classes (N)."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float() / 16  # (N, rows, columns)
    sequences = []
    for image in images:
        inked = image.any(dim=0).nonzero()
        sequences.append(image.T[int(inked[0]) : int(inked[-1]) + 1])
    return sequences, torch.from_numpy(digits.target)


def pack(sequences: list[Tensor], which: Tensor) -> PackedSequence:
    """One batch of those sequences whose numbers are in ``which`` (B), in that order."""
    return pack_sequence([sequences[i] for i in which.tolist()], enforce_sorted=False)


def train_epoch(
    model: Classifier, optimizer: torch.optim.Optimizer, sequences: list[Tensor], labels: Tensor, training: Tensor
) -> float:
    """Train once on the sequences numbered in ``training``, in random order, and return the mean loss."""
    model.train()
    total = 0.0
    for which in training[torch.randperm(len(training))].split(BATCH):
        loss = nn.functional.cross_entropy(model(pack(sequences, which)), labels[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(which)
    return total / len(training)


@torch.inference_mode()
def accuracy(model: Classifier, sequences: list[Tensor], labels: Tensor, test: Tensor) -> float:
    """The share of the sequences numbered in ``test`` that the model classifies correctly."""
    model.eval()
    predicted: Tensor = model(pack(sequences, test)).argmax(dim=1)
    return (predicted == labels[test]).double().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the accuracy on the test sequences."""
    parser = argparse.ArgumentParser(
        description="Classify handwritten digits of unequal width with a bidirectional gru_ext.GRU and packed batches."
    )
    parser.add_argument("--epochs", type=at_least(1), default=16, help="times the digits are read (default: 16)")
    parser.add_argument("--hidden", type=at_least(1), default=64, help="units of a layer and direction (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and dropout (default: 0)")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    sequences, labels = load_sequences()
    order = torch.randperm(len(sequences))
    test, training = order.tensor_split([math.ceil(TEST_SHARE * len(order))])
    model = Classifier(options.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    lengths = [len(sequence) for sequence in sequences]
    print(f"{len(training)} sequences to train on and {len(test)} to test, of {min(lengths)} to {max(lengths)} steps")
    for epoch in range(1, options.epochs + 1):
        loss = train_epoch(model, optimizer, sequences, labels, training)
        print(f"epoch {epoch:2}: training loss {loss:.4f}")
    print(f"test accuracy: {accuracy(model, sequences, labels, test):.4f}")


if __name__ == "__main__":
    main()
