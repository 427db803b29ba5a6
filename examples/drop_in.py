"""Swap the GRUs of three models for ours, show that they give the same, and time both alternately.

The models are rebuilt from their papers in plain PyTorch, with ``nn.GRU`` and ``nn.GRUCell``; nothing in them knows of
gru_ext. ``gru_ext.replace_gru`` is the one line that a user of such a model writes.

Letters: T steps, B batch, F frequencies, S words of the source, V words known.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import gru_ext


class SpeechDenoiser(nn.Module):
    """NSNet2, the baseline of the DNS challenge: Braun and Tashev 2020, https://arxiv.org/abs/2008.06412."""

    def __init__(self, frequencies: int = 161, hidden: int = 400, wide: int = 600) -> None:
        super().__init__()
        self.before = nn.Linear(frequencies, hidden)
        self.gru = nn.GRU(hidden, hidden, num_layers=2, batch_first=True)
        self.after = nn.Sequential(
            nn.Linear(hidden, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, frequencies)
        )

    def forward(self, power: Tensor) -> Tensor:
        """The gain (B, T, F) of each frequency, given the power spectrum (B, T, F) of noisy speech."""
        features, _ = self.gru(self.before(power.clamp(min=1e-12).log10()))
        gain: Tensor = self.after(features).sigmoid()
        return gain


class Translator(nn.Module):
    """Sequence to sequence with attention: Bahdanau, Cho and Bengio 2014, https://arxiv.org/abs/1409.0473.

    Smaller than theirs, and the decoder reads the words of the target, as in training.
    """

    def __init__(self, words: int = 1000, embedding: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(words, embedding), nn.Embedding(words, embedding)
        self.encoder = nn.GRU(embedding, hidden, bidirectional=True)
        self.first_state = nn.Linear(hidden, hidden)
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(2 * hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.decoder = nn.GRUCell(embedding + 2 * hidden, hidden)
        self.words = nn.Linear(3 * hidden, words)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (T, B, V) of the next words, given sentences (S, B) and the words before (T, B)."""
        states, last = self.encoder(self.source(source))  # (S, B, 2H), (2, B, H)
        keys = self.key(states)
        state = self.first_state(last[1]).tanh()
        outputs = []
        for word in self.target(target):
            weights = self.score((keys + self.query(state)).tanh()).softmax(0)  # (S, B, 1)
            context = (weights * states).sum(0)
            state = self.decoder(torch.cat([word, context], 1), state)
            outputs.append(torch.cat([state, context], 1))
        logits: Tensor = self.words(torch.stack(outputs))
        return logits


class RecurrentPolicy(nn.Module):
    """The policy of RL^2: Duan et al. 2016, https://arxiv.org/abs/1611.02779.

    With each observation it reads the action, reward and end of episode before; its state lasts across episodes.
    """

    def __init__(self, observations: int = 32, actions: int = 6, hidden: int = 256) -> None:
        super().__init__()
        self.gru = nn.GRU(observations + actions + 2, hidden)
        self.logits, self.value = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (T, B, actions), values (T, B, 1) and the next state, given (T, B, observations + actions + 2)."""
        features, state = self.gru(inputs, state)
        assert state is not None
        return self.logits(features), self.value(features), state


class Case(NamedTuple):
    """A model with inputs for it."""

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]


def cases() -> list[Case]:
    """The models at the sizes of their use."""
    return [
        Case("speech denoiser, 5 s of one signal", SpeechDenoiser(), (torch.rand(1, 500, 161),)),
        Case("speech denoiser, 8 signals", SpeechDenoiser(), (torch.rand(8, 500, 161),)),
        Case("translator, 32 sentences", Translator(), (torch.randint(1000, (30, 32)), torch.randint(1000, (30, 32)))),
        Case("policy, one step of 64 environments", RecurrentPolicy(), (torch.randn(1, 64, 40),)),
        Case("policy, 128 steps of 64 environments", RecurrentPolicy(), (torch.randn(128, 64, 40),)),
    ]


def first_output(outputs: Any) -> Tensor:
    """The output of a model that a loss would take: its one, or the first of several."""
    output: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return output


def passes(case: Case, model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """What is timed: the model in inference, and in training up to the gradients of all its parameters."""

    def forward() -> Tensor:
        with torch.inference_mode():
            return first_output(model(*case.inputs))

    def train() -> Tensor:
        model.zero_grad()
        loss = first_output(model(*case.inputs)).square().mean()
        loss.backward()
        return loss.detach()

    return {"inference": forward, "training": train}


def median_times(functions: Sequence[Callable[[], Tensor]], repeats: int) -> list[float]:
    """The median time of each in seconds, run in turn so that whatever disturbs the machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def compare(case: Case, repeats: int) -> None:
    """Swap, compare and time one model, and print what was found."""
    ours = gru_ext.replace_gru(copy.deepcopy(case.model))
    pairs = {kind: (function, passes(case, ours)[kind]) for kind, function in passes(case, case.model).items()}
    for kind, (theirs, mine) in pairs.items():
        expected, got = theirs(), mine()
        torch.testing.assert_close(got, expected)
        before, after = median_times((theirs, mine), repeats)
        difference = (got - expected).abs().max().item()
        print(
            f"{case.name:38} {kind:9}  nn.GRU {1e3 * before:8.2f} ms  gru_ext {1e3 * after:8.2f} ms "
            f" {before / after:5.2f} times the speed  differs by {difference:.0e}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare every model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="timed runs of each, default 20")
    parser.add_argument("--model", choices=("denoiser", "translator", "policy"), help="one of them only")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, float32, medians of {options.repeats} alternate runs")
    for case in cases():
        if options.model is None or options.model in case.name:
            compare(case, options.repeats)


if __name__ == "__main__":
    main()
