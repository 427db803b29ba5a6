"""The recurrent model of a world-model agent, with block-diagonal recurrent weights, beside two dense ones.

An agent that plans in its imagination has a model of the world: of what it saw and did so far, a state from which it
predicts what comes next. DreamerV3 (Hafner et al. 2023, https://arxiv.org/abs/2301.04104) makes this state of 8 blocks
of units, each with recurrent weights of its own, so that it can have many units at the price of few.

The world: a ball on a square table, pushed by the actions, which loses speed and bounces off the edges. The middle
third of the table is under a roof: there nobody sees the ball. The model is given what is seen (a position, or zeros,
and whether it is seen) and the action, and predicts the next position, seen or not. Under the roof it must carry
position and velocity on by itself. The error of guessing that the ball stays where it was last seen is printed too.

Three models of the same layers are trained on the same sequences: `--blocks` blocks; dense with as many parameters, so
fewer units; dense with as many units.

What is DreamerV3's: the block-diagonal recurrence, RMSNorm and SiLU around it, weights drawn by how many units each row
multiplies, z that begins near "keep". What is not: each recurrence is gru_ext's, whose reset gate multiplies R_n h
alone, and not W_n x with it, and whose products are not normalised. The state does not pass a dense layer before every
step, which mixes the blocks there: here it does so between two layers, so that each layer runs over a whole sequence in
one call. Observations are vectors, not images; the prediction is one position, no distribution.

Letters: T time steps, B batch, H hidden.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import torch
from helpers.arguments import at_least
from torch import Tensor, nn

import gru_ext

OBSERVED = 3  # x, y, and whether they are seen
ACTIONS = 2
WARM_UP = 8  # steps in which the model may find out where the ball goes: they are not counted
ROOF = 1 / 3  # half of its width; the table is [-1, 1] x [-1, 1]


def play(batch: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What happens when the agent pushes at random: observations and actions (T, B, 5), next positions (T, B, 2)."""
    position = torch.rand(batch, 2, generator=generator) * 2 - 1
    velocity = torch.randn(batch, 2, generator=generator) * 0.08
    push = torch.zeros(batch, 2)
    given, positions = [], []
    for _ in range(steps):
        push = 0.8 * push + 0.012 * torch.randn(batch, 2, generator=generator)
        seen = (position[:, :1].abs() > ROOF).float()
        given.append(torch.cat([position * seen, seen, push * 40], dim=1))
        velocity = 0.98 * velocity + push
        position = position + velocity
        beyond = position.abs() > 1
        velocity = torch.where(beyond, -velocity, velocity)
        position = torch.where(beyond, position.sign() * 2 - position, position).clamp(-1, 1)
        positions.append(position)
    return torch.stack(given), torch.stack(positions)


def where_last_seen(given: Tensor) -> Tensor:
    """For each step the latest position that was seen, (T, B, 2): zero before the first."""
    guess, last = [], torch.zeros_like(given[0, :, :2])
    for observed in given:
        last = torch.where(observed[:, 2:3] > 0, observed[:, :2], last)
        guess.append(last)
    return torch.stack(guess)


class WorldModel(nn.Module):
    """Two recurrent layers with RMSNorm and SiLU around them, and a linear layer that predicts the next position.

    Args:
        hidden: H of each recurrent layer.
        blocks: blocks of its recurrent weights.
        width: units between the layers.
    """

    def __init__(self, hidden: int, blocks: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(OBSERVED + ACTIONS, width), nn.RMSNorm(width), nn.SiLU())
        self.first = gru_ext.GRU(width, hidden, blocks=blocks)
        self.between = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, width), nn.RMSNorm(width), nn.SiLU())
        self.second = gru_ext.GRU(width, hidden, blocks=blocks)
        self.head = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, width), nn.SiLU(), nn.Linear(width, 2))
        with torch.no_grad():
            for gru in (self.first, self.second):
                for name in ("weight_ih_l0", "weight_hh_l0"):
                    weight = gru.get_parameter(name)
                    bound = weight.shape[1] ** -0.5
                    weight.uniform_(-bound, bound)
                gru.get_parameter("bias_ih_l0")[hidden : 2 * hidden] += 1  # of z, the part of the state that stays

    def forward(self, given: Tensor) -> Tensor:
        """The positions (T, B, 2) after each step of observations and actions (T, B, 5)."""
        h, _ = self.first(self.encoder(given))
        h, _ = self.second(self.between(h))
        position: Tensor = self.head(h)
        return position


def parameters_of(model: nn.Module) -> int:
    """How many numbers a model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def dense_with(parameters: int, width: int) -> int:
    """H of the dense model whose number of parameters is nearest."""

    def distance(hidden: int) -> int:
        with torch.device("meta"):
            return abs(parameters_of(WorldModel(hidden, 1, width)) - parameters)

    low, high = 1, math.isqrt(parameters) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if distance(middle) <= distance(middle + 1) else (middle, high)
    return min((low, high), key=distance)


def root_mean_square(predicted: Tensor, positions: Tensor, counted: Tensor) -> float:
    """The distance (a side of the table is 2) of the counted steps (T, B), without those of the warm-up."""
    squares = (predicted - positions).square().sum(-1)[WARM_UP:]
    return squares[counted[WARM_UP:]].mean().sqrt().item()


def train(model: WorldModel, options: argparse.Namespace) -> float:
    """Train a model on sequences that are the same for every model. Returns the median milliseconds of a step."""
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    seconds = []
    for step in range(options.steps):
        given, positions = play(options.batch, options.length, generator)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * (1 - step / options.steps)
        start = time.perf_counter()
        loss = (model(given) - positions).square()[WARM_UP:].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return 1000 * sorted(seconds)[len(seconds) // 2]


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Train the three models, and print sizes, times and errors."""
    parser = argparse.ArgumentParser(description="World models with block-diagonal and dense recurrent weights.")
    parser.add_argument("--hidden", type=at_least(1), default=1024, help="units of the blocks' layers (default: 1024)")
    parser.add_argument("--blocks", type=at_least(1), default=8, help="blocks, which divide them (default: 8)")
    parser.add_argument("--width", type=at_least(1), default=64, help="units between the layers (default: 64)")
    parser.add_argument("--steps", type=at_least(1), default=300, help="training steps of each model (default: 300)")
    parser.add_argument("--batch", type=at_least(1), default=16, help="sequences of a step (default: 16)")
    parser.add_argument("--length", type=at_least(WARM_UP + 1), default=64, help="steps of a sequence (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at the beginning (default: 0.001)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and worlds (default: 0)")
    options = parser.parse_args(arguments)
    if options.hidden % options.blocks != 0:
        parser.error(f"expected --blocks that divide --hidden = {options.hidden}, got {options.blocks}")

    given, positions = play(256, options.length, torch.Generator().manual_seed(options.seed + 1))
    hidden = given[..., 2] == 0
    guess = where_last_seen(given)
    print(f"where it was last seen: {root_mean_square(guess, positions, hidden):.4f} under the roof,", end=" ")
    print(f"{root_mean_square(guess, positions, ~hidden):.4f} beside it")
    sizes = [(options.hidden, options.blocks), (0, 1), (options.hidden, 1)]
    sizes[1] = (dense_with(parameters_of(WorldModel(*sizes[0], options.width)), options.width), 1)
    for units, blocks in sizes:
        torch.manual_seed(options.seed)
        model = WorldModel(units, blocks, options.width)
        with torch.enable_grad():
            milliseconds = train(model, options)
        predicted = model.eval()(given)
        print(
            f"{units} units, {blocks} block{'s' * (blocks > 1)}, {parameters_of(model)} parameters:"
            f" {milliseconds:.1f} ms a training step;"
            f" error {root_mean_square(predicted, positions, hidden):.4f} under the roof,"
            f" {root_mean_square(predicted, positions, ~hidden):.4f} beside it"
        )


if __name__ == "__main__":
    main()
