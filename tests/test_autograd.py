"""Derivatives of functional.gru: of any order, backward and forward, under autograd and under torch.func."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
from accuracy import SOME_OPTIONS
from cases import (
    ALL_OPTIONS,
    Layer,
    Options,
    Problem,
    Size,
    exact,
    framework,
    function_of,
    make_problem,
    ours,
    pair_of_grus,
    solve,
)
from compare import assert_near, assert_same_bits
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import gru_ext

SIZE = Size(3, 2, 2, 3)
ARGUMENTS = ("input", "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh")


def loss_of(layer: Layer, problem: Problem) -> Callable[..., Tensor]:
    """A scalar of both results, whose derivatives of every order differ from zero."""
    function = function_of(layer, problem)

    def loss(*tensors: Tensor) -> Tensor:
        y, h_n = function(*tensors)
        return y.sin().sum() + (h_n * h_n).sum()

    return loss


# ---- Numerical derivatives


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gradcheck_backward_and_forward(options: Options) -> None:
    problem = make_problem(SIZE, options)
    assert gradcheck(function_of(ours, problem), problem.trainable().tensors, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradcheck_of_every_element(options: Options) -> None:
    problem = make_problem(Size(3, 2, 2, 2), options)
    assert gradcheck(function_of(ours, problem), problem.trainable().tensors, check_forward_ad=True)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradgradcheck_of_every_element(options: Options) -> None:
    problem = make_problem(Size(2, 2, 2, 2), options)
    assert gradgradcheck(function_of(ours, problem), problem.trainable().tensors)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gradgradcheck_forward_over_reverse(options: Options) -> None:
    problem = make_problem(SIZE, options)
    assert gradgradcheck(
        function_of(ours, problem), problem.trainable().tensors, check_fwd_over_rev=True, fast_mode=True
    )


# ---- Plain autograd


@pytest.mark.parametrize("count", range(len(ARGUMENTS) + 1))
def test_every_subset_of_arguments_gets_its_gradients_and_no_others(count: int) -> None:
    problem = make_problem(SIZE)
    expected = solve(framework, problem)
    for subset in itertools.combinations(ARGUMENTS, count):
        tensors = dict(zip(ARGUMENTS, (t.detach().clone() for t in problem.tensors), strict=True))
        for name in subset:
            tensors[name].requires_grad_()
        y, h_n = function_of(ours, problem)(*tensors.values())
        assert y.requires_grad == h_n.requires_grad == bool(subset)
        if subset:
            torch.autograd.backward([y, h_n], [problem.dy, problem.dh_n])
        results = ["dx", "dhx", *(f"d{name}" for name in problem.names)]
        for (name, tensor), result in zip(tensors.items(), results, strict=True):
            if name in subset:
                assert_near(tensor.grad, expected[result], f"{result} of {subset}")
            else:
                assert tensor.grad is None, f"{name} of {subset}"


def test_a_retained_graph_gives_the_same_gradients_again() -> None:
    problem = make_problem(SIZE).trainable()
    leaves = problem.tensors
    loss = loss_of(ours, problem)(*leaves)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert_same_bits(torch.autograd.grad(loss, leaves), first)


def test_a_second_backward_through_a_freed_graph_raises() -> None:
    problem = make_problem(SIZE).trainable()
    loss = loss_of(ours, problem)(*problem.tensors)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_gradients_accumulate_over_calls_that_share_weights() -> None:
    problem = make_problem(SIZE).trainable()
    gradients = []
    for layer in (ours, framework):
        for leaf in problem.tensors:
            leaf.grad = None
        for x in (problem.x, problem.x * 2):
            layer(x, problem.hx, problem.weights, None, False)[0].sum().backward()
        gradients.append([leaf.grad for leaf in problem.tensors])
    assert_near(gradients[0], gradients[1])


def test_the_state_carries_gradients_from_one_call_to_the_next() -> None:
    problem = make_problem(Size(6, 2, 3, 4))

    def in_two(x: Tensor, hx: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
        first, state = ours(x[:4], hx, *others)
        second, state = ours(x[4:], state, *others)
        return torch.cat([first, second]), state

    assert_near(solve(in_two, problem), solve(ours, problem))


def test_gradients_in_eval_mode() -> None:
    module, peer = pair_of_grus(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for model in (module, peer):
        model.eval()(x)[0].sum().backward()
    assert_near([p.grad for p in module.parameters()], [p.grad for p in peer.parameters()])


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_a_gradient_penalty_trains_as_with_nn_gru(options: Options) -> None:
    problem = make_problem(Size(4, 3, 2, 3), options)

    def step(layer: Layer) -> list[Tensor]:
        """One step of gradient descent on a loss and the norm of its gradient by the input."""
        leaves = problem.trainable().tensors
        loss = loss_of(layer, problem)(*leaves)
        (dx,) = torch.autograd.grad(loss, leaves[:1], create_graph=True)
        (loss + dx.pow(2).sum()).backward()
        return [leaf - leaf.grad for leaf in leaves if leaf.grad is not None]

    assert_near(step(ours), step(framework))


def test_the_third_derivative_under_plain_autograd() -> None:
    problem = make_problem(SIZE)

    def third(layer: Layer) -> tuple[Tensor, ...]:
        leaves = problem.trainable().tensors
        value = loss_of(layer, problem)(*leaves)
        for _ in range(2):
            value = sum((g.pow(2).sum() for g in torch.autograd.grad(value, leaves, create_graph=True)), value)
        return torch.autograd.grad(value, leaves)

    assert_near(third(ours), third(framework))


@pytest.mark.parametrize("index", range(len(ARGUMENTS)))
def test_changing_an_argument_in_place_before_the_backward_raises(index: int) -> None:
    problem = make_problem(SIZE)
    leaves = [leaf.clone() for leaf in problem.trainable().tensors]
    loss = loss_of(ours, problem)(*leaves)
    with torch.no_grad():
        leaves[index].add_(1.0)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        loss.backward()


def test_changing_the_output_in_place_before_the_backward_raises() -> None:
    problem = make_problem(SIZE)
    y, _ = function_of(ours, problem)(*problem.trainable().tensors)
    with torch.no_grad():
        y.add_(1.0)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        y.sum().backward()


def test_inference_tensors_cannot_be_saved_for_the_backward() -> None:
    problem = make_problem(SIZE)
    with torch.inference_mode():
        x = problem.x.clone()
        y, _ = ours(x, None, problem.trainable().weights, None, False)
    assert not y.requires_grad
    for layer in (ours, framework):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            layer(x, None, problem.trainable().weights, None, False)
    assert_near(ours(x, None, problem.weights, None, False)[0], y, "y")


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_checkpoint_gives_the_same_gradients(options: Options) -> None:
    problem = make_problem(SIZE, options)

    def checkpointed(*layer: Any) -> tuple[Tensor, Tensor]:
        results: tuple[Tensor, Tensor] = checkpoint(ours, *layer, use_reentrant=False)
        return results

    assert_same_bits(solve(checkpointed, problem), solve(ours, problem))


def test_saved_tensors_may_be_packed_and_unpacked() -> None:
    problem = make_problem(SIZE, Options(bidirectional=True, packed=True))
    expected = solve(ours, problem)
    unpacked: list[Tensor] = []

    def unpack(data: Any) -> Tensor:
        unpacked.append(torch.from_numpy(data))
        return unpacked[-1]

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach().numpy().copy(), unpack):
        results = solve(ours, problem)
    with torch.autograd.graph.save_on_cpu():
        offloaded = solve(ours, problem)
    assert unpacked
    assert_same_bits(results, expected)
    assert_same_bits(offloaded, expected)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradients_of_a_batch_of_cotangents(options: Options) -> None:
    problem = make_problem(SIZE, options)

    def gradients(layer: Layer) -> tuple[Tensor, ...]:
        leaves = problem.trainable().tensors
        y, h_n = function_of(layer, problem)(*leaves)
        cotangents = [torch.stack([result.cos(), result.sin()]).detach() for result in (y, h_n)]
        return torch.autograd.grad([y, h_n], leaves, cotangents, is_grads_batched=True)

    assert_near(gradients(ours), gradients(framework))


GRADIENTS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Any]] = {
    "jvp": lambda gradient, dy, v: torch.func.jvp(gradient, (dy,), (v,))[1],
    "vmap": lambda gradient, dy, v: torch.vmap(gradient)(torch.stack([dy, v])),
    "vmap of jvp": lambda gradient, dy, v: torch.vmap(lambda d: torch.func.jvp(gradient, (d,), (v,))[1])(
        torch.stack([dy, v])
    ),
}


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("transform", GRADIENTS)
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_transforms_that_begin_after_the_forward(transform: str, options: Options, blocks: int) -> None:
    """The gradient is linear in dy, so that what each gives is a gradient too."""
    problem = make_problem(Size(3, 2, 2, 4), options)
    module = gru_ext.GRU(2, 4, bidirectional=options.bidirectional, blocks=blocks, dtype=torch.float64)
    x = problem.x.clone().requires_grad_()
    given = torch.nn.utils.rnn.PackedSequence(x, problem.batch_sizes) if problem.batch_sizes is not None else x
    output = module(given)[0]
    y = output.data if problem.batch_sizes is not None else output

    def gradient(dy: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    dy, v = torch.randn_like(y), torch.randn_like(y)
    expected = {"jvp": [v], "vmap": [dy, v], "vmap of jvp": [v, v]}[transform]
    found = GRADIENTS[transform](gradient, dy, v)
    assert_near([found] if transform == "jvp" else [*found], [gradient(one) for one in expected])


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_dual_numbers_that_come_after_the_forward(blocks: int, create_graph: bool) -> None:
    """By the difference of two gradients: these are linear in the factor of y."""
    module = gru_ext.GRU(3, 4, blocks=blocks, dtype=torch.float64)
    y, weight = module(torch.randn(5, 2, 3, dtype=torch.float64))[0], dict(module.named_parameters())["weight_hh_l0"]

    def gradient(factor: Tensor) -> Tensor:
        return torch.autograd.grad((y * factor).sum(), weight, retain_graph=True, create_graph=create_graph)[0]

    factor, v = torch.randn_like(y), torch.randn_like(y)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(gradient(forward_ad.make_dual(factor, v))).tangent
    assert_near(tangent, gradient(factor + v) - gradient(factor))


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_backward_without_tangents_is_the_operator_s_while_forward_mode_is_on(blocks: int) -> None:
    """Which it may be in another thread."""
    module, x = gru_ext.GRU(8, 16, blocks=blocks), torch.randn(5, 2, 8)
    y = module(x)[0].sum()
    expected = torch.autograd.grad(y, list(module.parameters()), retain_graph=True)
    with forward_ad.dual_level():
        assert_same_bits(torch.autograd.grad(y, list(module.parameters())), expected)


def test_forward_mode_of_a_vjp_of_torch_func() -> None:
    module, x = gru_ext.GRU(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    y, pull, *_ = torch.func.vjp(lambda x: module(x)[0], x)
    v = torch.randn_like(y)
    assert_near(torch.func.jvp(lambda dy: pull(dy)[0], (torch.ones_like(y),), (v,))[1], pull(v)[0])


def test_backward_in_another_thread() -> None:
    problem = make_problem(SIZE)
    leaves = problem.trainable().tensors
    loss = loss_of(ours, problem)(*leaves)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    expected = torch.autograd.grad(loss_of(framework, problem)(*leaves), leaves)
    assert_near([leaf.grad for leaf in leaves], expected)


# ---- Forward-mode differentiation


def assert_tangents_near(problem: Problem, arguments: Collection[int]) -> None:
    """Of results for tangents of some of the arguments: those of the reference."""
    tangents = {i: torch.randn_like(problem.tensors[i]) for i in arguments}

    def tangents_of(layer: Layer) -> list[Tensor | None]:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(t, tangents[i]) if i in tangents else t for i, t in enumerate(problem.tensors)
            ]
            return [forward_ad.unpack_dual(result).tangent for result in function_of(layer, problem)(*duals)]

    assert_near(tangents_of(ours), tangents_of(exact))


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_dual_numbers_carry_tangents(options: Options) -> None:
    problem = make_problem(SIZE, options)
    assert_tangents_near(problem, range(len(problem.tensors)))


@pytest.mark.parametrize("index", range(len(ARGUMENTS)))
def test_a_tangent_of_one_argument_only(index: int) -> None:
    assert_tangents_near(make_problem(SIZE), [index])


# ---- torch.func


def third_derivative(layer: Layer, problem: Problem) -> Any:
    def along(scale: Tensor) -> Tensor:
        return loss_of(layer, problem)(*(tensor * scale for tensor in problem.tensors))

    third = torch.func.grad(torch.func.grad(torch.func.grad(along)))
    return third(torch.ones((), dtype=torch.float64))


def vjp(layer: Layer, problem: Problem) -> Any:
    results, pull, *_ = torch.func.vjp(function_of(layer, problem), *problem.tensors)
    return results, pull((problem.dy, problem.dh_n))


def jvp(layer: Layer, problem: Problem) -> Any:
    return torch.func.jvp(function_of(layer, problem), problem.tensors, tuple(t.cos() for t in problem.tensors))


def of_function(transform: Any) -> Any:
    """By every argument of a layer as a function."""
    return lambda layer, p: transform(function_of(layer, p), argnums=tuple(range(len(p.tensors))))(*p.tensors)


def of_loss(transform: Callable[[Any], Any]) -> Any:
    return lambda layer, p: transform(loss_of(layer, p))(*p.tensors)


TRANSFORMS: dict[str, Callable[[Layer, Problem], Any]] = {
    "grad": lambda layer, p: torch.func.grad(loss_of(layer, p), tuple(range(len(p.tensors))))(*p.tensors),
    "vjp": vjp,
    "jvp": jvp,
    "jacrev": of_function(torch.func.jacrev),
    "jacfwd": of_function(torch.func.jacfwd),
    "hessian": of_loss(lambda loss: torch.func.hessian(loss, argnums=(0, 1, 2))),
    "jacrev of jacrev": of_loss(lambda loss: torch.func.jacrev(torch.func.jacrev(loss, argnums=(0, 1)))),
    "jacfwd of jacfwd": of_loss(lambda loss: torch.func.jacfwd(torch.func.jacfwd(loss, argnums=1))),
    "third derivative": third_derivative,
}


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_torch_func_equals_that_of_the_reference(transform: str, options: Options) -> None:
    problem = make_problem(Size(2, 2, 2, 2), options)
    assert_near(TRANSFORMS[transform](ours, problem), TRANSFORMS[transform](exact, problem))


V = 4


def stacked(*in_dims: int | None) -> tuple[Tensor, ...]:
    """The tensors of a problem with a dimension of V samples at ``in_dims``."""
    return tuple(
        tensor if dim is None else torch.stack([tensor * (1 + i / V) for i in range(V)], dim=dim)
        for tensor, dim in zip(make_problem(SIZE).tensors, in_dims, strict=True)
    )


def assert_vmap_is_a_loop(
    function: Callable[..., tuple[Tensor, ...]], in_dims: Sequence[int | None], out_dims: Any, tensors: Sequence[Tensor]
) -> None:
    """``torch.vmap`` equals a Python loop over the samples."""
    results = torch.vmap(function, tuple(in_dims), out_dims)(*tensors)
    loop = [
        function(*(t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=True))) for i in range(V)
    ]
    dims = out_dims if isinstance(out_dims, tuple) else (out_dims,) * len(results)
    assert_near(results, [torch.stack(s, dim) for s, dim in zip(zip(*loop, strict=True), dims, strict=True)])


N = None
VMAPS: list[tuple[tuple[int | None, ...], Any]] = [
    ((0, N, N, N, N, N), 0),
    ((1, N, N, N, N, N), 2),
    ((2, 1, N, N, N, N), (1, 0)),
    ((3, 3, N, N, N, N), (3, 2)),
    ((N, 0, N, N, N, N), 0),
    ((N, N, 0, 0, 0, 0), 0),
    ((0, 0, 1, 2, 1, 0), (2, 1)),
    ((N, N, N, 0, N, N), 1),
    ((0, N, N, N, N, 1), 0),
]


@pytest.mark.parametrize(("in_dims", "out_dims"), VMAPS, ids=str)
def test_vmap_is_a_loop(in_dims: tuple[int | None, ...], out_dims: Any) -> None:
    problem = make_problem(SIZE)
    assert_vmap_is_a_loop(function_of(ours, problem), in_dims, out_dims, stacked(*in_dims))


@pytest.mark.parametrize(("in_dims", "out_dims"), VMAPS, ids=str)
def test_vmap_of_grad_gives_per_sample_gradients(in_dims: tuple[int | None, ...], out_dims: Any) -> None:
    problem = make_problem(SIZE)
    gradients = torch.func.grad(loss_of(ours, problem), argnums=tuple(range(6)))
    assert_vmap_is_a_loop(gradients, in_dims, 0, stacked(*in_dims))


def test_grad_of_vmap() -> None:
    problem = make_problem(SIZE)
    in_dims = (0, 1, N, N, N, N)

    def total(layer: Layer) -> Callable[..., Tensor]:
        def function(*tensors: Tensor) -> Tensor:
            y, h_n = torch.vmap(function_of(layer, problem), in_dims)(*tensors)
            return (y.sin() * y).sum() + h_n.sum()

        return function

    tensors = stacked(*in_dims)
    arguments = tuple(range(6))
    assert_near(torch.func.grad(total(ours), arguments)(*tensors), torch.func.grad(total(exact), arguments)(*tensors))


def test_backward_through_vmap() -> None:
    problem = make_problem(SIZE)
    in_dims = (0, N, N, 0, N, N)
    given = stacked(*in_dims)

    def gradients(layer: Layer) -> tuple[Tensor, ...]:
        tensors = [tensor.clone().requires_grad_() for tensor in given]
        y, h_n = torch.vmap(function_of(layer, problem), in_dims)(*tensors)
        return torch.autograd.grad(y.sin().sum() + h_n.sum(), tensors)

    assert_near(gradients(ours), gradients(exact))


def test_vmap_nests() -> None:
    problem = make_problem(SIZE)
    x = torch.randn(3, V, *problem.x.shape, dtype=torch.float64)
    weight_hh = torch.randn(3, *problem.weights[1].shape, dtype=torch.float64)

    def y_of(x: Tensor, weight_hh: Tensor) -> Tensor:
        weights = [problem.weights[0], weight_hh, *problem.weights[2:]]
        return ours(x, problem.hx, weights, None, False)[0]

    result = torch.vmap(torch.vmap(y_of, (0, None)))(x, weight_hh)
    for i, j in itertools.product(range(3), range(V)):
        assert_near(result[i, j], y_of(x[i, j], weight_hh[i]), "y")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_vmap_over_a_packed_batch(bidirectional: bool) -> None:
    problem = make_problem(Size(4, 3, 2, 3), Options(bidirectional=bidirectional, packed=True, hx=False))
    x = torch.randn(V, *problem.x.shape, dtype=torch.float64)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return ours(x, None, problem.weights, problem.batch_sizes, bidirectional)

    assert_vmap_is_a_loop(function, (0,), 0, (x,))


def test_vmap_with_random_dropout_between_layers() -> None:
    module = gru_ext.GRU(2, 3, num_layers=2, dropout=0.5)
    x = torch.randn(V, 4, 1, 2)
    y, _ = torch.vmap(module, randomness="different")(x[:1].expand(V, 4, 1, 2))
    assert not torch.equal(y[0], y[1])
    y, _ = torch.vmap(module, randomness="same")(x[:1].expand(V, 4, 1, 2))
    assert torch.equal(y[0], y[1])


def test_per_sample_gradients_of_a_module_equal_those_one_by_one() -> None:
    module = gru_ext.GRU(2, 3, batch_first=True, dtype=torch.float64)
    x = torch.randn(V, 5, 2, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(module, parameters, (sample[None],))
        return torch.as_tensor(y).sin().sum()

    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(V):
        module.zero_grad()
        module(x[i : i + 1])[0].sin().sum().backward()
        expected = {name: parameter.grad for name, parameter in module.named_parameters()}
        assert_near({name: gradient[i] for name, gradient in per_sample.items()}, expected)


def test_torch_func_leaves_the_arguments_gradients_alone() -> None:
    problem = make_problem(SIZE).trainable()
    torch.func.grad(loss_of(ours, problem))(*problem.tensors)
    assert all(leaf.grad is None for leaf in problem.tensors)


@pytest.mark.parametrize("result", [0, 1])
def test_the_second_derivative_of_one_result_only(result: int) -> None:
    problem = make_problem(SIZE)

    def second(layer: Layer) -> tuple[Tensor, ...]:
        leaves = problem.trainable().tensors
        total = function_of(layer, problem)(*leaves)[result].sum()
        first = torch.autograd.grad(total, leaves, create_graph=True)
        return torch.autograd.grad([g.pow(2).sum() for g in first], leaves)

    assert_near(second(ours), second(framework))
