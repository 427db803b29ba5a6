"""Layers with weights of their own under ``torch.func.vmap``: one call for all of them, with the results of a loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, FLOATING, Options, Size, make_problem, ours, solve, solve_by
from compare import assert_near, assert_same_bits
from member_cases import MEMBERS, of_member, problems_of, solve_members_by, stacked
from process import thread_count
from recorded import Calls
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import gru_ext
from gru_ext.variant import Variant

FLOAT64 = torch.float64
SIZE = Size(4, 3, 2, 5)


def members(x: Tensor, hx: Tensor | None, weights: Any, batch_sizes: Tensor | None, bidirectional: bool) -> Any:
    """``ours`` under vmap over x, hx and the weights."""

    def one(x: Tensor, hx: Tensor | None, weights: Any) -> tuple[Tensor, Tensor]:
        return ours(x, hx, weights, batch_sizes, bidirectional)

    return vmap(one, in_dims=(0, None if hx is None else 0, 0))(x, hx, list(weights))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_each_member_has_the_bits_of_its_own_call(options: Options, dtype: torch.dtype) -> None:
    problems = problems_of(SIZE, options, dtype)
    results = solve(members, stacked(problems))
    for e, problem in enumerate(problems):
        assert_same_bits(of_member(e, results), solve(ours, problem), f"member {e}")


# Large enough for several threads; more members than threads, as many, and fewer.
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 4, 5])
@pytest.mark.parametrize("size", [Size(6, 9, 30, 40), Size(40, 8, 70, 90)], ids=str)
def test_members_on_several_threads(count: int, size: Size, threads: int) -> None:
    problems = problems_of(size, Options(bidirectional=True), members=count)
    with thread_count(threads):
        results = solve(members, stacked(problems))
        for e, problem in enumerate(problems):
            assert_near(of_member(e, results), solve(ours, problem), f"member {e}")


def ensemble(**arguments: Any) -> tuple[list[nn.Module], dict[str, Tensor], Callable[..., Any]]:
    """Models, their stacked parameters, and a function of one model's parameters and input."""
    models: list[nn.Module] = [gru_ext.GRU(2, 5, **arguments, dtype=FLOAT64) for _ in range(MEMBERS)]
    parameters, buffers = stack_module_state(models)
    assert not buffers
    base = copy.deepcopy(models[0]).to("meta")
    return models, parameters, lambda parameters, x: functional_call(base, parameters, (x,))


@pytest.mark.parametrize("shared", [True, False], ids=["shared input", "own inputs"])
@pytest.mark.parametrize(
    "arguments", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str
)
def test_stacked_modules_run_as_one_call_a_layer(arguments: dict[str, Any], shared: bool) -> None:
    models, parameters, call = ensemble(**arguments)
    x = torch.randn(*([] if shared else [MEMBERS]), 4, 3, 2, dtype=FLOAT64)
    with Calls() as calls:
        y, h_n = vmap(call, in_dims=(0, None if shared else 0))(parameters, x)
        found = torch.autograd.grad(y.sin().sum() + h_n.sum(), list(parameters.values()))
    layers = arguments.get("num_layers", 1)
    assert calls.names == ["gru_fwd_members"] * layers + ["gru_bwd_members"] * layers
    for e, model in enumerate(models):
        expected = model(x if shared else x[e])
        assert_near((y[e], h_n[e]), expected)
        gradients = torch.autograd.grad(expected[0].sin().sum() + expected[1].sum(), list(model.parameters()))
        assert_near([gradient[e] for gradient in found], gradients)


def test_the_gradient_of_a_shared_input_is_summed_over_the_members() -> None:
    models, parameters, call = ensemble()
    x, x_loop = (torch.ones(4, 3, 2, dtype=FLOAT64, requires_grad=True) for _ in range(2))
    vmap(call, in_dims=(0, None))(parameters, x)[0].sin().sum().backward()
    for model in models:
        model(x_loop)[0].sin().sum().backward()
    assert_near(x.grad, x_loop.grad, "dx")


def test_cells_run_as_one_call() -> None:
    cells = [gru_ext.GRUCell(2, 5, dtype=FLOAT64) for _ in range(MEMBERS)]
    parameters, _ = stack_module_state(cells)
    x, h = torch.randn(3, 2, dtype=FLOAT64), torch.randn(MEMBERS, 3, 5, dtype=FLOAT64)
    with Calls() as calls:
        states = vmap(lambda p, h: functional_call(cells[0], p, (x, h)))(parameters, h)
    assert calls.names == ["gru_fwd_members"]
    for e, cell in enumerate(cells):
        assert_near(states[e], cell(x, h[e]), "state")


def test_gradients_of_each_sample_are_one_backward_call() -> None:
    problem = make_problem(Size(4, 6, 2, 5), Options(hx=False))

    def loss(weights: list[Tensor], x: Tensor) -> Tensor:
        return ours(x.unsqueeze(1), None, weights, None, False)[0].sin().sum()

    with Calls() as calls:
        gradients = vmap(grad(loss), in_dims=(None, 1))(problem.weights, problem.x)
    assert calls.names == ["gru_fwd", "gru_bwd_members"]
    for b in range(6):
        expected = grad(loss)(problem.weights, problem.x[:, b])
        assert_near([gradient[b] for gradient in gradients], expected, f"sample {b}")


def test_gradients_of_each_sample_of_each_member_are_one_call() -> None:
    _, parameters, call = ensemble()
    x = torch.randn(4, 6, 2, dtype=FLOAT64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = call(parameters, x.unsqueeze(1))[0].sin().sum()
        return result

    detached = {name: parameter.detach() for name, parameter in parameters.items()}
    with Calls() as calls:
        gradients = vmap(vmap(grad(loss), in_dims=(None, 1)), in_dims=(0, None))(detached, x)
    assert [name for name in calls.names if "bwd" in name] == ["gru_bwd_members"]
    for e in range(MEMBERS):
        for b in (0, 5):
            expected = grad(loss)(of_member(e, detached), x[:, b])
            assert_near(of_member(b, of_member(e, gradients)), expected, f"sample {b} of member {e}")


@pytest.mark.parametrize("packed", [False, True])
def test_derivatives_of_higher_order(packed: bool) -> None:
    problems = problems_of(Size(2, 2, 2, 2), Options(packed=packed))
    whole = stacked(problems)

    def loss(weights: list[Tensor], x: Tensor, hx: Tensor) -> Tensor:
        y, h_n = ours(x, hx, weights, whole.batch_sizes, False)
        return y.sin().sum() + h_n.cos().sum()

    assert whole.hx is not None
    hessians = vmap(jacrev(jacrev(loss)))(whole.weights, whole.x, whole.hx)
    for e, p in enumerate(problems):
        assert p.hx is not None
        blocks = [[block[e] for block in row] for row in hessians]
        assert_near(blocks, jacrev(jacrev(loss))(p.weights, p.x, p.hx), f"member {e}")


def test_gradcheck_of_the_gradients_of_members() -> None:
    whole = stacked(problems_of(Size(2, 2, 1, 2), Options(), members=2)).map(lambda t: t.requires_grad_())

    def call(x: Tensor, hx: Tensor, *weights: Tensor) -> Any:
        return members(x, hx, weights, None, False)

    assert whole.hx is not None
    inputs = (whole.x, whole.hx, *whole.weights)
    torch.autograd.gradcheck(call, inputs)
    torch.autograd.gradgradcheck(call, inputs)


def test_an_empty_batch_and_one_member() -> None:
    for size, count in ((Size(4, 0, 2, 5), 2), (SIZE, 1)):
        problems = problems_of(size, Options(), members=count)
        results = solve(members, stacked(problems))
        assert_same_bits(of_member(-1, results), solve(ours, problems[-1]))


def test_masks_of_each_member() -> None:
    problems = problems_of(SIZE, Options())
    whole = stacked(problems)
    keep = torch.rand(MEMBERS, 1, SIZE.steps * SIZE.batch, SIZE.hidden) > 0.5
    results = solve_members_by(torch.ops.gru_ext, whole, Variant(zoneout_mask=keep, zoneout=0.5))
    for e, problem in enumerate(problems):
        expected = solve_by(torch.ops.gru_ext, problem, Variant(zoneout_mask=keep[e], zoneout=0.5))
        assert_same_bits(of_member(e, results), expected, f"member {e}")


def test_wrong_arguments_are_named() -> None:
    whole = stacked(problems_of(SIZE, Options()))
    fewer = [whole.weights[0], whole.weights[1][:2], *whole.weights[2:]]
    narrow = torch.zeros(MEMBERS, 1, 3, 4, dtype=FLOAT64)
    operator = torch.ops.gru_ext.gru_fwd_members
    with pytest.raises(RuntimeError, match=r"gru: expected tensors of E = 3 members, got one of shape \[2, 15, 5\]"):
        operator(whole.x, whole.hx, fewer, None, False)
    with pytest.raises(RuntimeError, match=r"gru: expected x of shape \(E, T, B, I\) or \(E, N, I\) with E >= 1"):
        operator(whole.x[:0], None, whole.weights, None, False)
    with pytest.raises(RuntimeError, match=r"gru: expected hx of shape \(D, B, H\) = \(1, 3, 5\), got \(1, 3, 4\)"):
        operator(whole.x, narrow, whole.weights, None, False)
