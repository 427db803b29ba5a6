"""Derivatives of functional.gru: of any order, backward and forward, under autograd and under torch.func."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, Layer, Options, Problem, Size, exact, framework, make_problem, ours, solve
from compare import assert_all_near, assert_near, assert_same_bits
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import gru_ext

SIZE = Size(3, 2, 2, 3)
SOME_OPTIONS = [
    Options(),
    Options(bias=False, hx=False),
    Options(packed=True),
    Options(bidirectional=True),
    Options(bidirectional=True, packed=True, hx=False),
]
ARGUMENTS = ("input", "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh")


def tensors_of(problem: Problem) -> tuple[Tensor, ...]:
    """x, hx where given, and the weights."""
    return (problem.x, *([] if problem.hx is None else [problem.hx]), *problem.weights)


def function_of(layer: Layer, problem: Problem) -> Callable[..., tuple[Tensor, Tensor]]:
    """The layer as a function of the tensors of ``tensors_of``."""

    def function(x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        hx, weights = (None, others) if problem.hx is None else (others[0], others[1:])
        return layer(x, hx, weights, problem.batch_sizes, problem.bidirectional)

    return function


def loss_of(layer: Layer, problem: Problem) -> Callable[..., Tensor]:
    """A scalar of both results, whose derivatives of every order differ from zero."""
    function = function_of(layer, problem)

    def loss(*tensors: Tensor) -> Tensor:
        y, h_n = function(*tensors)
        return y.sin().sum() + (h_n * h_n).sum()

    return loss


def trainable(problem: Problem) -> Problem:
    return problem.map(lambda tensor: tensor.detach().clone().requires_grad_())


def assert_tree_near(result: Any, expected: Any, name: str = "result") -> None:
    """``assert_near`` for every tensor of two nested tuples, lists or dictionaries."""
    if isinstance(expected, Tensor):
        assert_near(result, expected, name)
        return
    assert type(result) is type(expected)
    assert len(result) == len(expected)
    keys = expected.keys() if isinstance(expected, dict) else range(len(expected))
    for key in keys:
        assert_tree_near(result[key], expected[key], f"{name}[{key}]")


# ---- Numerical derivatives


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gradcheck_backward_and_forward(options: Options) -> None:
    problem = make_problem(SIZE, options)
    assert gradcheck(function_of(ours, problem), tensors_of(trainable(problem)), check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradcheck_of_every_element(options: Options) -> None:
    problem = make_problem(Size(3, 2, 2, 2), options)
    assert gradcheck(function_of(ours, problem), tensors_of(trainable(problem)), check_forward_ad=True)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradgradcheck_of_every_element(options: Options) -> None:
    problem = make_problem(Size(2, 2, 2, 2), options)
    assert gradgradcheck(function_of(ours, problem), tensors_of(trainable(problem)))


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gradgradcheck_forward_over_reverse(options: Options) -> None:
    problem = make_problem(SIZE, options)
    assert gradgradcheck(
        function_of(ours, problem), tensors_of(trainable(problem)), check_fwd_over_rev=True, fast_mode=True
    )


# ---- Plain autograd


@pytest.mark.parametrize("count", range(len(ARGUMENTS) + 1))
def test_every_subset_of_arguments_gets_its_gradients_and_no_others(count: int) -> None:
    problem = make_problem(SIZE)
    expected = solve(framework, problem)
    for subset in itertools.combinations(ARGUMENTS, count):
        tensors = dict(zip(ARGUMENTS, (t.detach().clone() for t in tensors_of(problem)), strict=True))
        for name in subset:
            tensors[name].requires_grad_()
        y, h_n = function_of(ours, problem)(*tensors.values())
        assert y.requires_grad == h_n.requires_grad == bool(subset)
        if subset:
            torch.autograd.backward([y, h_n], [problem.dy, problem.dh_n])
        results = ["dx", "dhx", *(f"d{name}" for name in problem.names)]
        for (name, tensor), result in zip(tensors.items(), results, strict=True):
            if name in subset:
                assert tensor.grad is not None, f"{name} of {subset}"
                assert_near(tensor.grad, expected[result], f"{result} of {subset}")
            else:
                assert tensor.grad is None, f"{name} of {subset}"


def test_a_retained_graph_gives_the_same_gradients_again() -> None:
    problem = trainable(make_problem(SIZE))
    leaves = tensors_of(problem)
    loss = loss_of(ours, problem)(*leaves)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for before, after in zip(first, torch.autograd.grad(loss, leaves), strict=True):
        assert_same_bits(after, before)


def test_a_second_backward_through_a_freed_graph_raises() -> None:
    problem = trainable(make_problem(SIZE))
    loss = loss_of(ours, problem)(*tensors_of(problem))
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_gradients_accumulate_over_calls_that_share_weights() -> None:
    problem = trainable(make_problem(SIZE))
    gradients = []
    for layer in (ours, framework):
        for leaf in tensors_of(problem):
            leaf.grad = None
        for x in (problem.x, problem.x * 2):
            layer(x, problem.hx, problem.weights, None, False)[0].sum().backward()
        gradients.append([leaf.grad for leaf in tensors_of(problem)])
    assert_tree_near(gradients[0], gradients[1])


def test_the_state_carries_gradients_from_one_call_to_the_next() -> None:
    problem = make_problem(Size(6, 2, 3, 4))

    def in_two(
        x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
    ) -> tuple[Tensor, Tensor]:
        first, state = ours(x[:4], hx, weights, batch_sizes, bidirectional)
        second, state = ours(x[4:], state, weights, batch_sizes, bidirectional)
        return torch.cat([first, second]), state

    assert_all_near(solve(in_two, problem), solve(ours, problem))


def test_gradients_in_eval_mode() -> None:
    module, peer = gru_ext.GRU(3, 4, dtype=torch.float64).eval(), nn.GRU(3, 4, dtype=torch.float64).eval()
    peer.load_state_dict(module.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for model in (module, peer):
        model(x)[0].sum().backward()
    assert_tree_near([p.grad for p in module.parameters()], [p.grad for p in peer.parameters()])


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_a_gradient_penalty_trains_as_with_nn_gru(options: Options) -> None:
    problem = make_problem(Size(4, 3, 2, 3), options)

    def step(layer: Layer) -> list[Tensor]:
        """One step of gradient descent on a loss and the norm of its gradient by the input."""
        leaves = tensors_of(trainable(problem))
        loss = loss_of(layer, problem)(*leaves)
        (dx,) = torch.autograd.grad(loss, leaves[:1], create_graph=True)
        (loss + dx.pow(2).sum()).backward()
        return [leaf - leaf.grad for leaf in leaves if leaf.grad is not None]

    assert_tree_near(step(ours), step(framework))


def test_the_third_derivative_under_plain_autograd() -> None:
    problem = make_problem(SIZE)

    def third(layer: Layer) -> tuple[Tensor, ...]:
        leaves = tensors_of(trainable(problem))
        value = loss_of(layer, problem)(*leaves)
        for _ in range(2):
            value = sum((g.pow(2).sum() for g in torch.autograd.grad(value, leaves, create_graph=True)), value)
        return torch.autograd.grad(value, leaves)

    assert_tree_near(third(ours), third(framework))


@pytest.mark.parametrize("index", range(len(ARGUMENTS)))
def test_changing_an_argument_in_place_before_the_backward_raises(index: int) -> None:
    problem = make_problem(SIZE)
    leaves = [leaf.clone() for leaf in tensors_of(trainable(problem))]
    loss = loss_of(ours, problem)(*leaves)
    with torch.no_grad():
        leaves[index].add_(1.0)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        loss.backward()


def test_changing_the_output_in_place_before_the_backward_raises() -> None:
    problem = make_problem(SIZE)
    y, _ = function_of(ours, problem)(*tensors_of(trainable(problem)))
    with torch.no_grad():
        y.add_(1.0)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        y.sum().backward()


def test_inference_tensors_cannot_be_saved_for_the_backward() -> None:
    problem = make_problem(SIZE)
    with torch.inference_mode():
        x = problem.x.clone()
        y, _ = ours(x, None, trainable(problem).weights, None, False)
    assert not y.requires_grad
    for layer in (ours, framework):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            layer(x, None, trainable(problem).weights, None, False)
    assert_near(ours(x, None, problem.weights, None, False)[0], y, "y")


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_checkpoint_gives_the_same_gradients(options: Options) -> None:
    problem = make_problem(SIZE, options)

    def checkpointed(
        x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
    ) -> tuple[Tensor, Tensor]:
        results: tuple[Tensor, Tensor] = checkpoint(
            ours, x, hx, weights, batch_sizes, bidirectional, use_reentrant=False
        )
        return results

    expected = solve(ours, problem)
    for name, tensor in solve(checkpointed, problem).items():
        assert_same_bits(tensor, expected[name], name)


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
    for name, tensor in expected.items():
        assert_same_bits(results[name], tensor, name)
        assert_same_bits(offloaded[name], tensor, name)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradients_of_a_batch_of_cotangents(options: Options) -> None:
    problem = make_problem(SIZE, options)

    def gradients(layer: Layer) -> tuple[Tensor, ...]:
        leaves = tensors_of(trainable(problem))
        y, h_n = function_of(layer, problem)(*leaves)
        cotangents = [torch.stack([result.cos(), result.sin()]).detach() for result in (y, h_n)]
        return torch.autograd.grad([y, h_n], leaves, cotangents, is_grads_batched=True)

    assert_tree_near(gradients(ours), gradients(framework))


def test_backward_in_another_thread() -> None:
    problem = make_problem(SIZE)
    leaves = tensors_of(trainable(problem))
    loss = loss_of(ours, problem)(*leaves)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    expected = torch.autograd.grad(loss_of(framework, problem)(*leaves), leaves)
    assert_tree_near([leaf.grad for leaf in leaves], list(expected))


# ---- Forward-mode differentiation


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_dual_numbers_carry_tangents(options: Options) -> None:
    problem = make_problem(SIZE, options)
    tensors = tensors_of(problem)
    tangents = [torch.randn_like(tensor) for tensor in tensors]

    def tangents_of(layer: Layer) -> list[Tensor | None]:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, dt) for t, dt in zip(tensors, tangents, strict=True)]
            return [forward_ad.unpack_dual(result).tangent for result in function_of(layer, problem)(*duals)]

    assert_tree_near(tangents_of(ours), tangents_of(exact))


@pytest.mark.parametrize("index", range(len(ARGUMENTS)))
def test_a_tangent_of_one_argument_only(index: int) -> None:
    problem = make_problem(SIZE)
    tensors = tensors_of(problem)
    tangent = torch.randn_like(tensors[index])

    def tangents_of(layer: Layer) -> list[Tensor | None]:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, tangent) if i == index else t for i, t in enumerate(tensors)]
            return [forward_ad.unpack_dual(result).tangent for result in function_of(layer, problem)(*duals)]

    assert_tree_near(tangents_of(ours), tangents_of(exact))


# ---- torch.func


def all_arguments(problem: Problem) -> tuple[int, ...]:
    return tuple(range(len(tensors_of(problem))))


def grad_transform(layer: Layer, problem: Problem) -> Any:
    return torch.func.grad(loss_of(layer, problem), argnums=all_arguments(problem))(*tensors_of(problem))


def vjp_transform(layer: Layer, problem: Problem) -> Any:
    results, vjp, *_ = torch.func.vjp(function_of(layer, problem), *tensors_of(problem))
    return results, vjp((problem.dy, problem.dh_n))


def jvp_transform(layer: Layer, problem: Problem) -> Any:
    tensors = tensors_of(problem)
    return torch.func.jvp(function_of(layer, problem), tensors, tuple(tensor.cos() for tensor in tensors))


def jacrev_transform(layer: Layer, problem: Problem) -> Any:
    return torch.func.jacrev(function_of(layer, problem), argnums=all_arguments(problem))(*tensors_of(problem))


def jacfwd_transform(layer: Layer, problem: Problem) -> Any:
    return torch.func.jacfwd(function_of(layer, problem), argnums=all_arguments(problem))(*tensors_of(problem))


def hessian_transform(layer: Layer, problem: Problem) -> Any:
    return torch.func.hessian(loss_of(layer, problem), argnums=(0, 1, 2))(*tensors_of(problem))


def jacrev_of_jacrev_transform(layer: Layer, problem: Problem) -> Any:
    return torch.func.jacrev(torch.func.jacrev(loss_of(layer, problem), argnums=(0, 1)))(*tensors_of(problem))


def jacfwd_of_jacfwd_transform(layer: Layer, problem: Problem) -> Any:
    return torch.func.jacfwd(torch.func.jacfwd(loss_of(layer, problem), argnums=1))(*tensors_of(problem))


def third_derivative_transform(layer: Layer, problem: Problem) -> Any:
    def along(scale: Tensor) -> Tensor:
        return loss_of(layer, problem)(*(tensor * scale for tensor in tensors_of(problem)))

    third = torch.func.grad(torch.func.grad(torch.func.grad(along)))
    return third(torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
@pytest.mark.parametrize(
    "transform",
    [
        grad_transform,
        vjp_transform,
        jvp_transform,
        jacrev_transform,
        jacfwd_transform,
        hessian_transform,
        jacrev_of_jacrev_transform,
        jacfwd_of_jacfwd_transform,
        third_derivative_transform,
    ],
)
def test_torch_func_equals_that_of_the_reference(transform: Callable[[Layer, Problem], Any], options: Options) -> None:
    problem = make_problem(Size(2, 2, 2, 2), options)
    assert_tree_near(transform(ours, problem), transform(exact, problem))


V = 4


def stacked(*in_dims: int | None) -> tuple[Tensor, ...]:
    """The tensors of ``tensors_of`` with a dimension of V samples at ``in_dims``."""
    return tuple(
        tensor if dim is None else torch.stack([tensor * (1 + i / V) for i in range(V)], dim=dim)
        for tensor, dim in zip(tensors_of(make_problem(SIZE)), in_dims, strict=True)
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
    for result, samples, dim in zip(results, zip(*loop, strict=True), dims, strict=True):
        assert_near(result, torch.stack(samples, dim=dim), "result")


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
    assert_tree_near(
        torch.func.grad(total(ours), arguments)(*tensors), torch.func.grad(total(exact), arguments)(*tensors)
    )


def test_backward_through_vmap() -> None:
    problem = make_problem(SIZE)
    in_dims = (0, N, N, 0, N, N)
    given = stacked(*in_dims)

    def gradients(layer: Layer) -> tuple[Tensor, ...]:
        tensors = [tensor.clone().requires_grad_() for tensor in given]
        y, h_n = torch.vmap(function_of(layer, problem), in_dims)(*tensors)
        return torch.autograd.grad(y.sin().sum() + h_n.sum(), tensors)

    assert_tree_near(gradients(ours), gradients(exact))


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


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_ensemble_of_stacked_modules(bidirectional: bool) -> None:
    modules = [gru_ext.GRU(2, 3, 2, bidirectional=bidirectional, dtype=torch.float64) for _ in range(V)]
    parameters, buffers = torch.func.stack_module_state(modules)
    skeleton = gru_ext.GRU(2, 3, 2, bidirectional=bidirectional, device="meta", dtype=torch.float64)
    x = torch.randn(5, 2, 2, dtype=torch.float64)

    def call(parameters: Any, buffers: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        results: tuple[Tensor, Tensor] = torch.func.functional_call(skeleton, (parameters, buffers), (x,))
        return results

    y, h_n = torch.vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)
    for i, module in enumerate(modules):
        y_one, h_n_one = module(x)
        assert_near(y[i], y_one.detach(), "y")
        assert_near(h_n[i], h_n_one.detach(), "h_n")


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
        assert_tree_near({name: gradient[i] for name, gradient in per_sample.items()}, expected)


def test_torch_func_leaves_the_arguments_gradients_alone() -> None:
    problem = trainable(make_problem(SIZE))
    torch.func.grad(loss_of(ours, problem))(*tensors_of(problem))
    assert all(leaf.grad is None for leaf in tensors_of(problem))


@pytest.mark.parametrize("result", [0, 1])
def test_the_second_derivative_of_one_result_only(result: int) -> None:
    problem = make_problem(SIZE)

    def second(layer: Layer) -> tuple[Tensor, ...]:
        leaves = tensors_of(trainable(problem))
        total = function_of(layer, problem)(*leaves)[result].sum()
        first = torch.autograd.grad(total, leaves, create_graph=True)
        return torch.autograd.grad([g.pow(2).sum() for g in first], leaves)

    assert_tree_near(second(ours), second(framework))
