"""Train a policy with a memory by reinforcement learning: `resets` cut a stretch of steps where episodes begin.

The task: the first step of an episode shows a cue, left or right; after a corridor of random length comes a junction,
where the policy must turn to the side of the cue. Environments run side by side, their episodes end at different steps,
and the next one begins in the next step. Acting is one step at a time; learning is one call for the whole stretch, in
which `resets` says where each environment's state starts anew, so that nothing of an episode reaches the next.

The gradient is REINFORCE's (Williams 1992): of the log-probability of the turn, times its reward, +1 or -1.

Letters: T steps of a stretch, B environments, H hidden.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import gru_ext


class Corridors:
    """B environments. An observation is (cue, junction): the cue is -1 or 1 in an episode's first step, else 0."""

    def __init__(self, batch: int, longest: int) -> None:
        self.longest = longest
        self.side = torch.zeros(batch, dtype=torch.int64)
        self.left = torch.zeros(batch, dtype=torch.int64)  # steps to the junction; 0: this is the junction
        self.first = torch.ones(batch, dtype=torch.bool)  # whether an episode begins

    def observe(self) -> tuple[Tensor, Tensor]:
        """The observations (B, 2), and which of them begin an episode (B)."""
        self.side = torch.where(self.first, torch.randint(2, self.side.shape), self.side)
        self.left = torch.where(self.first, torch.randint(1, self.longest + 1, self.left.shape), self.left)
        cue = torch.where(self.first, 2.0 * self.side - 1, 0.0)
        return torch.stack([cue, (self.left == 0).float()], dim=-1), self.first

    def act(self, turn: Tensor) -> Tensor:
        """The rewards (B) of turns (B) to side 0 or 1: zero where this is no junction."""
        self.first = self.left == 0
        self.left = self.left - 1
        return torch.where(self.first, torch.where(turn == self.side, 1.0, -1.0), 0.0)


class Policy(nn.Module):
    """A GRU, and the logits of the two turns."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.gru = gru_ext.GRU(2, hidden)
        self.logits = nn.Linear(hidden, 2)

    def forward(self, observations: Tensor, state: Tensor | None, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (T, B, 2) and the next state (1, B, H), given observations (T, B, 2) and resets (T, B)."""
        output, state = self.gru(observations, state, resets=resets)
        return self.logits(output), state


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print how often the turn is right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=80, metavar="N", help="of the policy, default 80")
    parser.add_argument("--steps", type=int, default=32, metavar="T", help="between updates, default 32")
    parser.add_argument("--environments", type=int, default=64, metavar="B", help="side by side, default 64")
    parser.add_argument("--longest", type=int, default=8, metavar="N", help="steps to the junction, default 8")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # steps of this size are not worth waking another
    policy, corridors = Policy(), Corridors(options.environments, options.longest)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    state: Tensor | None = None
    right: list[float] = []
    for _ in range(options.updates):
        before, stretch = state, []
        with torch.no_grad():
            for _ in range(options.steps):
                observation, first = corridors.observe()
                logits, state = policy(observation[None], state, first[None])
                turn = Categorical(logits=logits[0]).sample()
                stretch.append((observation, first, turn, corridors.act(turn)))
        observations, firsts, turns, rewards = (torch.stack(part) for part in zip(*stretch, strict=True))
        logits, _ = policy(observations, before, firsts)
        ends = rewards != 0
        loss = -(Categorical(logits=logits).log_prob(turns) * rewards).sum() / ends.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append((rewards[ends] > 0).float().mean().item())
    tenth = max(1, len(right) // 10)
    first_part, last_part = (sum(part) / tenth for part in (right[:tenth], right[-tenth:]))
    print(f"right turns, of the first tenth of the updates: {first_part:.1%}; of the last: {last_part:.1%}")


if __name__ == "__main__":
    main()
