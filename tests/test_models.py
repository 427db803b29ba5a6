"""``replace_gru`` on models that were written for ``nn.GRU``: the same outputs and gradients."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import assert_all_accurate
from process import ROOT
from torch import Tensor, nn

from gru_ext import replace_gru

sys.path.insert(0, str(ROOT / "examples"))
drop_in = importlib.import_module("drop_in")

Inputs = tuple[Tensor, ...]


def denoiser() -> tuple[nn.Module, Inputs]:
    return drop_in.SpeechDenoiser(frequencies=17, hidden=12, wide=9), (torch.rand(2, 20, 17),)


def translator() -> tuple[nn.Module, Inputs]:
    model = drop_in.Translator(words=11, embedding=5, hidden=6)
    return model, (torch.randint(11, (7, 3)), torch.randint(11, (8, 3)))


def policy() -> tuple[nn.Module, Inputs]:
    return drop_in.RecurrentPolicy(observations=4, actions=3, hidden=8), (torch.randn(9, 4, 9), torch.randn(1, 4, 8))


MODELS: list[Callable[[], tuple[nn.Module, Inputs]]] = [denoiser, translator, policy]


def results(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Every output and the gradient of every parameter."""
    outputs: Any = model(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    model.zero_grad()
    sum(output.sin().sum() for output in outputs).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**{f"output {i}": output.detach() for i, output in enumerate(outputs)}, **gradients}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", MODELS)
def test_a_model_gives_the_same(make: Callable[[], tuple[nn.Module, Inputs]], dtype: torch.dtype) -> None:
    model, inputs = make()

    def cast(to: torch.dtype) -> Inputs:
        return tuple(tensor.to(to) if tensor.is_floating_point() else tensor for tensor in inputs)

    model = model.to(dtype)
    exact = results(copy.deepcopy(model).double(), cast(torch.float64))
    expected = results(copy.deepcopy(model), cast(dtype))
    names = [name for name, _ in model.named_parameters()]
    ours = replace_gru(model)
    assert not any(isinstance(module, (nn.GRU, nn.GRUCell)) for module in ours.modules())
    assert [name for name, _ in ours.named_parameters()] == names
    assert_all_accurate(results(ours, cast(dtype)), expected, exact)


def test_a_policy_step_by_step_is_the_whole() -> None:
    model, (inputs, state) = policy()
    replace_gru(model)
    expected, _, last = model(inputs, state)
    logits = []
    for step in inputs.split(1):
        output, _, state = model(step, state)
        logits.append(output)
    torch.testing.assert_close((torch.cat(logits), state), (expected, last))


def test_the_example_compares_and_times_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    drop_in.main(["--model=policy", "--repeats=1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    pattern = (
        r"policy, .* (inference|training) +nn.GRU +[\d.]+ ms  gru_ext +[\d.]+ ms +[\d.]+ times the speed "
        r" differs by \S+"
    )
    assert all(re.fullmatch(pattern, line) for line in lines[1:])


def test_the_example_fails_where_a_model_gives_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module) -> nn.Module:
        replaced = replace_gru(model)
        with torch.no_grad():
            replaced.get_submodule("gru").get_parameter("weight_hh_l0").mul_(1.01)
        return replaced

    monkeypatch.setattr(drop_in.gru_ext, "replace_gru", broken)
    with pytest.raises(AssertionError, match="not close"):
        drop_in.main(["--model=policy", "--repeats=1"])
