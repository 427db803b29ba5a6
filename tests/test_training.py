"""``gru_ext.truncated`` against the loop that people write."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from compare import assert_same_bits
from process import ROOT, fork_python, output_of
from torch import Tensor, nn

import gru_ext

STEPS, BATCH, INPUT, HIDDEN = 11, 2, 3, 4
FLOAT64 = torch.float64


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [gru_ext.GRU, nn.GRU])
@pytest.mark.parametrize("steps", [1, 4, STEPS, STEPS + 5])
@pytest.mark.parametrize("batch_first", [False, True])
def test_results_and_gradients_are_those_of_the_loop(make: Any, steps: int, batch_first: bool) -> None:
    module = make(INPUT, HIDDEN, 2, batch_first=batch_first, dtype=FLOAT64)
    dim = 1 if batch_first else 0
    x = torch.randn(*((BATCH, STEPS) if batch_first else (STEPS, BATCH)), INPUT, dtype=FLOAT64)
    hx = torch.randn(2, BATCH, HIDDEN, dtype=FLOAT64, requires_grad=True)

    outputs, state = [], hx
    for stretch in x.split(steps, dim):
        output, state = module(stretch, state)
        (output.sin().sum() + state.cos().sum()).backward()
        outputs.append(output.detach())
        state = state.detach()
    expected, expected_hx = gradients(module), hx.grad
    module.zero_grad()
    hx.grad = None

    for i, (output, h_n) in enumerate(gru_ext.truncated(module, x.split(steps, dim), hx)):
        (output.sin().sum() + h_n.cos().sum()).backward()
        assert_same_bits(output, outputs[i], f"output {i}")
    assert i + 1 == len(outputs)
    assert_same_bits(h_n, state, "h_n")
    assert_same_bits(gradients(module), expected)
    assert_same_bits(hx.grad, expected_hx, "dhx")


def test_it_trains_as_the_loop_does() -> None:
    """The parameters change between the stretches: each runs when it is asked for."""
    x = torch.randn(STEPS, BATCH, INPUT, dtype=FLOAT64)
    results = []
    for by_hand in (True, False):
        torch.manual_seed(0)
        module = gru_ext.GRU(INPUT, HIDDEN, dtype=FLOAT64)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

        def step(output: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            output.square().sum().backward()
            optimizer.step()

        if by_hand:
            state = None
            for stretch in x.split(3):
                output, state = module(stretch, state)
                step(output)
                state = state.detach()
        else:
            for output, _ in gru_ext.truncated(module, x.split(3)):
                step(output)
        results.append(dict(module.named_parameters()))
    assert_same_bits(results[1], results[0])


class State(NamedTuple):
    """What a model with more than one recurrent part carries."""

    first: Tensor
    rest: dict[str, Any]


def test_states_of_many_parts() -> None:
    seen: list[State | None] = []

    def module(stretch: Tensor, state: State | None) -> tuple[Tensor, State]:
        seen.append(state)
        return stretch, State(stretch * 2, {"list": [stretch, None], "tuple": (stretch,)})

    x = torch.ones(2, requires_grad=True)
    list(gru_ext.truncated(module, [x, x, x]))
    assert seen[0] is None
    for state in seen[1:]:
        assert type(state) is State
        assert type(state.rest["tuple"]) is tuple
        assert state.rest["list"][1] is None
        tensors = (state.first, state.rest["list"][0], state.rest["tuple"][0])
        assert not any(tensor.requires_grad for tensor in tensors)
        assert_same_bits(state.first, torch.full((2,), 2.0))


def test_a_state_of_something_else_is_refused() -> None:
    def module(stretch: Tensor, state: Any) -> tuple[Tensor, Any]:
        return stretch, {"steps": 3}

    with pytest.raises(TypeError, match="expected a state of tensors, tuples, lists and dicts, got int"):
        list(gru_ext.truncated(module, [torch.ones(1)] * 2))


def test_stretches_may_be_a_stream_and_no_graph_is_kept() -> None:
    module = gru_ext.GRU(INPUT, HIDDEN)
    alive: list[weakref.ref[Tensor]] = []

    def stream() -> Iterator[Tensor]:
        for _ in range(3):
            gc.collect()
            assert all(reference() is None for reference in alive)
            yield torch.randn(2, BATCH, INPUT)

    for output, h_n in gru_ext.truncated(module, stream()):
        output.sum().backward()
        alive += [weakref.ref(output), weakref.ref(h_n)]
        del output, h_n
    assert len(alive) == 6


def right_bits(*options: str) -> float:
    """In per cent, of the last stretches of examples/truncated.py."""
    program = fork_python("-W", "error", ROOT / "examples" / "truncated.py", *options)
    found = re.search(r"of the last: ([\d.]+)%$", output_of(program))
    assert found is not None
    return float(found[1])


def test_the_example_learns_what_a_stretch_can_teach() -> None:
    assert right_bits("--delay=2", "--steps=6", "--stretches=200") > 95
    assert right_bits("--delay=4", "--steps=2", "--stretches=200") < 70  # no gradient reaches back so far
