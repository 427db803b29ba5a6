"""PyTorch's own cases for nn.GRU and nn.GRUCell, run against ours.

The cases are the entries of PyTorch's module database (torch.testing._internal.common_modules); what is checked is what
PyTorch's test/test_modules.py checks of every module. Then every combination of options, as in its tests of nn.RNNBase.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from cases import pair_of_grus, results_and_gradients, tensors_in
from compare import assert_near, assert_same_bits
from layouts import every_other, transposed
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import gru_ext

OURS: dict[type, Any] = {nn.GRU: gru_ext.GRU, nn.GRUCell: gru_ext.GRUCell}
INFOS: list[Any] = [info for info in module_db if info.module_cls in OURS]
# Of the largest magnitude. In float32 ours and torch's both err by some 1e-5 for these inputs, which reach 9 and
# saturate the gates; how large our error may be is the subject of test_gru.py.
TOLERANCES = {torch.float32: 5e-5, torch.float64: 1e-10}


class Sample(NamedTuple):
    """One entry of the database, as modules and inputs."""

    module: nn.Module
    peer: nn.Module
    inputs: tuple[Any, ...]
    reference: Callable[..., Any] | None


def samples_of(info: Any, dtype: torch.dtype, training: bool) -> list[Sample]:
    """Every entry for a module, ours with the state of torch.nn's; packed ones too."""
    more = {"with_packed_sequence": True} if info.module_cls is nn.GRU else {}
    entries = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training, **more)
    samples = []
    for entry in entries:
        made = entry.constructor_input
        peer = info.module_cls(*made.args, **made.kwargs, dtype=dtype).train(training)
        module = OURS[info.module_cls](*made.args, **made.kwargs, dtype=dtype).train(training)
        module.load_state_dict(peer.state_dict())
        assert not entry.forward_input.kwargs
        samples.append(Sample(module, peer, entry.forward_input.args, entry.reference_fn))
    return samples


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with every floating tensor through a function."""
    if isinstance(value, PackedSequence):
        return value._replace(data=function(value.data))
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(map_tensors(part, function) for part in value) if isinstance(value, (tuple, list)) else value


def as_leaves(inputs: Any) -> Any:
    return map_tensors(inputs, lambda tensor: tensor.detach().clone().requires_grad_())


def results_of(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The results, then the gradients of inputs and parameters."""
    leaves = as_leaves(inputs)
    return results_and_gradients(module, leaves, [*tensors_in(leaves), *module.parameters()])


each_info = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.module_cls.__name__)
each_dtype = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
each_mode = pytest.mark.parametrize("training", [False, True])


def test_the_database_has_both_modules() -> None:
    assert {info.module_cls for info in INFOS} == OURS.keys()
    assert {dtype for info in INFOS for dtype in info.dtypes} == TOLERANCES.keys()


@each_info
@each_dtype
@each_mode
def test_forward_and_gradients(info: Any, dtype: torch.dtype, training: bool) -> None:
    for module, peer, inputs, _ in samples_of(info, dtype, training):
        assert_near(results_of(module, inputs), results_of(peer, inputs), tolerance=TOLERANCES[dtype])


@each_info
@each_dtype
@each_mode
def test_forward_equals_the_database_s_reference(info: Any, dtype: torch.dtype, training: bool) -> None:
    for module, _, inputs, reference in samples_of(info, dtype, training):
        if reference is not None and not isinstance(inputs[0], PackedSequence):
            expected = tensors_in(reference(module, *inputs))
            assert_near(tensors_in(module(*inputs)), expected, tolerance=TOLERANCES[dtype])


@each_info
def test_dtype_and_device_of_the_factory_arguments(info: Any) -> None:
    entry = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=False, training=False)[0]
    for dtype in (torch.float32, torch.float64):
        for device in ("cpu", "meta"):
            made = entry.constructor_input
            module = OURS[info.module_cls](*made.args, **made.kwargs, device=device, dtype=dtype)
            assert {(p.device.type, p.dtype) for p in module.parameters()} == {(device, dtype)}


@each_info
@each_mode
def test_printing_copying_and_pickling(info: Any, training: bool) -> None:
    for module, peer, inputs, _ in samples_of(info, torch.float32, training):
        assert str(module) == repr(module) == repr(peer)
        expected = tensors_in(module(*inputs))
        for copied in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
            assert [name for name, _ in copied.named_parameters()] == [name for name, _ in peer.named_parameters()]
            assert_same_bits(tensors_in(copied(*inputs)), expected)


@each_info
@each_mode
def test_inputs_are_left_alone(info: Any, training: bool) -> None:
    for module, _, inputs, _ in samples_of(info, torch.float64, training):
        before = [(tensor._version, tensor.detach().clone()) for tensor in tensors_in(inputs)]
        results = tensors_in(module(*inputs))
        assert not {id(result) for result in results} & {id(tensor) for tensor in tensors_in(inputs)}
        for result in results:
            result.sum().backward(retain_graph=True)
        for tensor, (version, values) in zip(tensors_in(inputs), before, strict=True):
            assert tensor._version == version
            assert_same_bits(tensor, values)


@each_info
@each_dtype
@each_mode
def test_non_contiguous_inputs_and_gradients(info: Any, dtype: torch.dtype, training: bool) -> None:
    for module, _, inputs, _ in samples_of(info, dtype, training):
        plain, apart = as_leaves(inputs), as_leaves(inputs)
        results = tensors_in(module(*plain))
        results_apart = tensors_in(module(*map_tensors(apart, every_other)))
        cotangents = [torch.randn_like(result) for result in results]
        expected = torch.autograd.grad(results, [*tensors_in(plain), *module.parameters()], cotangents)
        gradients = torch.autograd.grad(
            results_apart, [*tensors_in(apart), *module.parameters()], [every_other(c) for c in cotangents]
        )
        assert_near((*results_apart, *gradients), (*results, *expected), tolerance=TOLERANCES[dtype])


@each_info
def test_gradcheck_and_gradgradcheck(info: Any) -> None:
    for module, _, inputs, _ in samples_of(info, torch.float64, training=True):
        if not module.bias or getattr(module, "batch_first", False):
            continue  # to be quick: these are other layouts, and test_autograd.py has them
        leaves = as_leaves(inputs)
        names = [name for name, _ in module.named_parameters()]
        count = len(tensors_in(leaves))

        def call(
            *tensors: Tensor, m: nn.Module = module, given: Any = leaves, n: int = count, keys: Sequence[str] = names
        ) -> tuple[Tensor, ...]:
            of_inputs = iter(tensors[:n])
            parameters = dict(zip(keys, tensors[n:], strict=True))
            arguments = map_tensors(given, lambda _: next(of_inputs))
            return tuple(tensors_in(torch.func.functional_call(m, parameters, arguments)))

        everything = (*tensors_in(leaves), *(p.detach().clone().requires_grad_() for p in module.parameters()))
        assert gradcheck(call, everything, check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(call, everything, fast_mode=True)


@each_info
def test_modules_move_between_dtypes_and_devices(info: Any) -> None:
    for module, _, inputs, _ in samples_of(info, torch.float32, training=False):
        doubled = tensors_in(copy.deepcopy(module).double()(*map_tensors(inputs, lambda tensor: tensor.double())))
        assert {tensor.dtype for tensor in doubled} == {torch.float64}
        results = [result.double() for result in tensors_in(module(*inputs))]
        assert_near(results, doubled, tolerance=TOLERANCES[torch.float32])
        module.to("meta")
        assert all(p.is_meta for p in module.parameters())
        module.to_empty(device="cpu")
        assert {p.device.type for p in module.parameters()} == {"cpu"}


@each_info
def test_modules_on_meta_give_the_shapes_of_the_cpu(info: Any) -> None:
    for module, peer, inputs, _ in samples_of(info, torch.float32, training=False):
        if isinstance(inputs[0], PackedSequence):
            continue  # whose sizes are values, which meta has not
        expected = tensors_in(peer(*inputs))
        results = tensors_in(module.to("meta")(*map_tensors(inputs, lambda tensor: tensor.detach().to("meta"))))
        assert [(r.shape, r.dtype, r.device.type) for r in results] == [(e.shape, e.dtype, "meta") for e in expected]


@each_info
def test_forward_hooks_see_inputs_and_results(info: Any) -> None:
    for module, _, inputs, _ in samples_of(info, torch.float32, training=False):
        seen: list[Any] = []
        module.register_forward_hook(lambda _, i, o, seen=seen: seen.append((i, o)))
        results = module(*inputs)
        ((inputs_seen, results_seen),) = seen
        assert all(a is b for a, b in zip(inputs_seen, inputs, strict=True))
        assert results_seen is results


def error_entries() -> list[tuple[Any, Any]]:
    return [
        (info, entry)
        for info in INFOS
        for dtype in info.dtypes
        for entry in info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False)
    ]


@pytest.mark.parametrize(("info", "entry"), error_entries())
def test_errors_of_the_database_have_the_same_type(info: Any, entry: Any) -> None:
    made, given = entry.module_error_input.constructor_input, entry.module_error_input.forward_input
    if entry.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(entry.error_type) as caught:
            OURS[info.module_cls](*made.args, **made.kwargs)
    elif any(isinstance(argument, str) for argument in made.args):
        # An entry meant for nn.RNNCell, whose third argument is the nonlinearity; here it is `bias`, which we check.
        with pytest.raises(TypeError, match="expected bias of type bool, got str"):
            OURS[info.module_cls](*made.args, **made.kwargs)
        return
    else:
        module = OURS[info.module_cls](*made.args, **made.kwargs)
        with pytest.raises(entry.error_type) as caught:
            module(*given.args, **given.kwargs)
    assert type(caught.value) is entry.error_type


# ---- Every combination


COMBINATIONS = [
    dict(zip(("bias", "bidirectional", "batch_first", "contiguous", "packed", "hx"), values, strict=True))
    for values in itertools.product((False, True), repeat=6)
]
T, B, I, H = 5, 4, 3, 6  # noqa: E741
LENGTHS = torch.tensor([3, 5, 5, 1])


@each_dtype
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(name for name in c if c[name]) or "none")
def test_every_combination_of_options(combination: dict[str, bool], num_layers: int, dtype: torch.dtype) -> None:
    options = {name: combination[name] for name in ("bias", "bidirectional", "batch_first")}
    module, peer = pair_of_grus(I, H, num_layers, **options, dtype=dtype)
    x = torch.randn((B, T, I) if combination["batch_first"] else (T, B, I), dtype=dtype)
    state = torch.randn(num_layers * (2 if combination["bidirectional"] else 1), B, H, dtype=dtype)
    if not combination["contiguous"]:
        x, state = (every_other(transposed(tensor)) for tensor in (x, state))

    def run(model: nn.Module) -> list[Tensor]:
        x_leaf, state_leaf = x.detach().requires_grad_(), state.detach().requires_grad_()
        inputs: Any = x_leaf
        if combination["packed"]:
            inputs = pack_padded_sequence(x_leaf, LENGTHS, combination["batch_first"], enforce_sorted=False)
        given = [state_leaf] if combination["hx"] else []
        return results_and_gradients(model, (inputs, *given), [x_leaf, *given, *model.parameters()])

    results, expected = run(module), run(peer)
    assert [result.stride() for result in results[:2]] == [result.stride() for result in expected[:2]]
    assert_near(results, expected, tolerance=2e-6 if dtype == torch.float32 else 1e-10)
