"""Train a GRU on one endless sequence by truncated back-propagation: the state is carried, gradients are not.

The task is to repeat the bit that was read a few steps ago. The stretches are as long as a gradient has to reach, and
the state passes from each to the next, so that the first outputs of a stretch can be right too.

Letters: T steps of a stretch, B sequences side by side, H hidden.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

import gru_ext


class Repeater(nn.Module):
    """A GRU and the logit of the bit to repeat."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(1, hidden)
        self.logit = nn.Linear(hidden, 1)

    def forward(self, bits: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (T, B, 1) and the next state (1, B, H), given bits (T, B, 1) and the state before."""
        output, state = self.gru(bits, state)
        return self.logit(output), state


def stretches(steps: int, batch: int, delay: int) -> Iterator[Tensor]:
    """Random bits for ever, (T, B, 2): each with the one that came ``delay`` steps before it."""
    past = torch.zeros(delay, batch)
    while True:
        bits = torch.randint(2, (steps, batch)).float()
        known = torch.cat([past, bits])
        past = known[-delay:]
        yield torch.stack([bits, known[:steps]], dim=-1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print how often the repeated bit is right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stretches", type=int, default=400, metavar="N", help="how many to train on, default 400")
    parser.add_argument("--steps", type=int, default=10, metavar="T", help="of a stretch, default 10")
    parser.add_argument("--delay", type=int, default=4, metavar="N", help="steps to remember, default 4")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = Repeater()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = list(islice(stretches(options.steps, 16, options.delay), options.stretches))
    inputs, targets = ([stretch[..., i : i + 1] for stretch in data] for i in (0, 1))

    right = []
    for (logits, _), target in zip(gru_ext.truncated(model, inputs), targets, strict=True):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
        optimizer.step()
        right.append(((logits > 0) == (target > 0.5)).float().mean().item())
    tenth = max(1, len(right) // 10)
    first, last = (sum(part) / tenth for part in (right[:tenth], right[-tenth:]))
    print(f"right bits, of the first tenth of the stretches: {first:.1%}; of the last: {last:.1%}")


if __name__ == "__main__":
    main()
