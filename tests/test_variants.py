"""What holds of every variant of the recurrence: derivatives, edge cases, the operators' properties; and of modules.

tests/test_accuracy.py has their accuracy; test_regularizers.py, test_layer_norm.py and test_reset_before.py what each
has for itself.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from typing import Any

import pytest
import torch
from accuracy import SOME_OPTIONS
from cases import (
    LAYERS,
    Options,
    Problem,
    Size,
    function_of,
    layer_with,
    make_problem,
    reference_with,
    results_and_gradients,
    seeded,
    solve,
    solve_by_hand,
    variants_of,
)
from compare import assert_near, assert_same_bits
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_ext
from gru_ext import functional
from gru_ext.variant import Variant

pytestmark = pytest.mark.usefixtures("fresh_compiler")
ops = torch.ops.gru_ext
FLOAT64 = torch.float64
SMALL = Size(4, 3, 2, 5)
VARIANTS = {
    "reset before": Variant(reset_after=False),
    "layer norm": Variant(layer_norm=2),
    "joint norm": Variant(layer_norm=1),
}


def problem_of(name: str, size: Size, options: Options, dtype: torch.dtype = FLOAT64) -> Problem:
    """Random arguments, with gains where the variant has them."""
    return make_problem(size, replace(options, gains="norm" in name), dtype)


def with_masks(name: str, problem: Problem) -> dict[str, Variant]:
    """The variant alone, with masks of each kind, and with all of them; or masks alone."""
    variant = VARIANTS.get(name, Variant())
    own: dict[str, Any] = {"reset_after": variant.reset_after, "layer_norm": variant.layer_norm}
    masked = {kind: masks._replace(**own) for kind, masks in variants_of(problem).items()}
    return ({"alone": variant} if name in VARIANTS else {}) | masked


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["masks", *VARIANTS])
def test_the_reference_s_gradients_by_hand_equal_autograd_s(name: str, options: Options) -> None:
    problem = problem_of(name, SMALL, options)
    for variant in with_masks(name, problem).values():
        assert_near(solve_by_hand(problem, variant), solve(reference_with(variant), problem))


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        *(("reset before", options, torch.float32) for options in SOME_OPTIONS),
        *((name, Options(bidirectional=True), FLOAT64) for name in ("layer norm", "joint norm", "masks")),
    ],
    ids=str,
)
def test_opcheck(name: str, options: Options, dtype: torch.dtype) -> None:
    p = problem_of(name, Size(3, 2, 2, 3), options, dtype)
    variant = with_masks(name, p)["alone" if name in VARIANTS else "all"]
    torch.library.opcheck(ops.gru_fwd.default, (*p.layer, True, True, *variant))
    y, _, gates = ops.gru_fwd(*p.layer, True, True, *variant)
    torch.library.opcheck(ops.gru_bwd.default, (p.dy, p.dh_n, *p.layer, y, gates, True, True, True, *variant))


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradcheck_of_the_reset_gate_before_the_product(options: Options) -> None:
    p = make_problem(Size(3, 2, 2, 3), options).trainable()
    function = function_of(layer_with(VARIANTS["reset before"]), p)
    assert gradcheck(function, p.tensors, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(function, p.tensors, check_fwd_over_rev=True, fast_mode=True)
    for variant in with_masks("reset before", p).values():
        function = function_of(layer_with(variant), p)
        assert gradcheck(function, p.tensors)
        assert gradgradcheck(function, p.tensors, fast_mode=True)


# ---- By their arguments, of functions and modules

RATES: dict[str, Any] = {"zoneout": 0.3, "recurrent_dropout": 0.2, "candidate_dropout": 0.25, "weight_dropout": 0.1}
SAVED: dict[str, Any] = {"save": "output"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "reset before": {"reset_after": False},
    "layer norm": {"layer_norm": True},
    "joint norm": {"layer_norm": "joint"},
    "regularizers": RATES,
    "saved output": SAVED,
    "last": {"outputs": "last"},
    "blocks": {"blocks": 2},
}
each_variant = pytest.mark.parametrize("variant", ARGUMENTS)
LENGTHS, RESETS = [3, 6, 1, 4], torch.arange(24).view(6, 4) % 5 == 3


def module_of(variant: str, dtype: torch.dtype = FLOAT64, **arguments: Any) -> gru_ext.GRU:
    """I = 3, H = 6; gains that are not 1."""
    module = gru_ext.GRU(3, 6, **arguments, **ARGUMENTS[variant], dtype=dtype)
    for name, parameter in module.named_parameters():
        if name.startswith("gain"):
            nn.init.normal_(parameter, 1, 0.3)
    return module


def results_of(module: nn.Module, call: Any, *arguments: Any, **keywords: Any) -> list[Tensor]:
    """Results and the gradients of the parameters."""
    return results_and_gradients(partial(seeded, call, **keywords), arguments, module.parameters())


def gradients_of_functional() -> Iterator[Any]:
    """Options of ``functional.gru``, alone and together."""
    names = [[name] for name in RATES] + [list(pair) for pair in combinations(RATES, 2)] + [list(RATES)]
    yield from ({name: RATES[name] for name in chosen} for chosen in names)
    for norm in (True, "joint"):
        yield from ({"layer_norm": norm}, {"layer_norm": norm, **RATES})
    yield SAVED


@pytest.mark.parametrize(
    ("rows", "options"), [*product(("padded", "resets"), gradients_of_functional()), ("packed", SAVED)], ids=str
)
def test_gradcheck(rows: str, options: dict[str, Any]) -> None:
    keywords: dict[str, Any] = {}
    if rows == "resets":
        keywords = {"resets": torch.tensor([[True, False], [False, True], [True, False]]), "lengths": [3, 2]}
    bidirectional = len(options) != 2
    layer = Options(bidirectional, packed=rows == "packed", gains="layer_norm" in options)
    problem = make_problem(Size(3, 2, 2, 2), layer).trainable()

    def call(x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        keywords["batch_sizes"] = problem.batch_sizes
        return seeded(functional.gru, x, hx, weights, bidirectional=bidirectional, training=True, **options, **keywords)  # type: ignore[no-any-return]

    assert gradcheck(call, problem.tensors, check_forward_ad=True, fast_mode=len(options) > 1)
    assert gradgradcheck(call, problem.tensors, fast_mode=options is not SAVED)


@pytest.mark.parametrize("over", ["x", "all"])
@each_variant
def test_vmap_of_grad_is_a_loop(variant: str, over: str) -> None:
    """Over inputs, whose samples become rows, and over weights: an ensemble."""
    module = module_of(variant, bidirectional=True).eval()
    names, weights = zip(*module.named_parameters(), strict=True)

    def call(x: Tensor, *weights: Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x,))

    def loss(*tensors: Tensor) -> Tensor:
        y, h_n = call(*tensors)
        return torch.as_tensor(y.sin().sum() + h_n.cos().sum())

    tensors = [torch.randn(4, 2, 3, dtype=FLOAT64), *(weight.detach() for weight in weights)]
    varies = [over == "all" or i == 0 for i in range(len(tensors))]
    stacked = [torch.stack([t, 0.5 * t, -t]) if v else t for t, v in zip(tensors, varies, strict=True)]
    in_dims = tuple(0 if v else None for v in varies)
    for function in (call, torch.func.grad(loss, tuple(range(len(tensors))))):
        together = torch.vmap(function, in_dims)(*stacked)
        for i in range(3):
            alone = function(*(t[i] if v else t for t, v in zip(stacked, varies, strict=True)))
            assert_near([result[i] for result in together], alone)


@each_variant
def test_torch_func_equals_autograd(variant: str) -> None:
    module = module_of(variant, bidirectional=True).eval().requires_grad_(False)
    x = torch.randn(3, 2, 3, dtype=FLOAT64)

    def loss(x: Tensor) -> Tensor:
        y, h_n = module(x)
        return torch.as_tensor(y.sin().sum() + h_n.square().sum())

    expected = torch.autograd.functional.jacobian(loss, x)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        assert_near(transform(loss)(x), expected, transform.__name__)
    assert_near(torch.func.jvp(loss, (x,), (x,))[1], (expected * x).sum(), "jvp")
    assert_near(torch.func.hessian(loss)(x), torch.autograd.functional.hessian(loss, x), "hessian")


@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize("variant", [variant for variant in ARGUMENTS if variant != "last"])
def test_lengths_packed_sequences_and_single_ones_agree(variant: str, layers: dict[str, Any]) -> None:
    """In training, where they draw the same masks; one by one without. tests/test_outputs.py has the last outputs."""
    module = module_of(variant, **layers)
    x = torch.randn(6, 4, 3, dtype=FLOAT64)
    given = x.transpose(0, 1) if module.batch_first else x
    packed = pack_padded_sequence(given, torch.tensor(LENGTHS), module.batch_first, enforce_sorted=False)
    of_packed, packed_h_n = seeded(module, packed)
    unpacked, _ = pad_packed_sequence(of_packed, module.batch_first)
    assert_same_bits(seeded(module, given, lengths=LENGTHS), (unpacked, packed_h_n))
    y, h_n = module.eval()(given, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = y.select(0 if module.batch_first else 1, row)[:length]
        assert_near((alone, h_n[:, row]), module(x[:length, row]))


@each_variant
def test_resets_cut_the_sequence(variant: str) -> None:
    module = module_of(variant).eval()
    x, resets = torch.randn(7, 2, 3, dtype=FLOAT64), torch.zeros(7, 2, dtype=torch.bool)
    resets[3, 1] = True
    _, h_n = module(x, resets=resets)
    assert_near(h_n[:, 1], module(x[3:, 1])[1])
    assert_near(h_n[:, 0], module(x[:, 0])[1])


@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("variant", [variant for variant in ARGUMENTS if variant not in ("saved output", "last")])
def test_a_cell_stepped_by_hand_is_the_layer(variant: str, bias: bool, shape: tuple[int, ...]) -> None:
    layer = module_of(variant, bias=bias).eval()
    known = inspect.signature(gru_ext.GRUCell).parameters
    of_cell = {name: value for name, value in ARGUMENTS[variant].items() if name in known}
    cell = gru_ext.GRUCell(3, 6, bias=bias, dtype=FLOAT64, **of_cell).eval()
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    x, h, steps = torch.randn(5, *shape, dtype=FLOAT64), None, []
    for row in x:
        h = cell(row, h)
        steps.append(h)
    assert_near(torch.stack(steps), layer(x)[0])
    state = torch.randn(1, *shape[:-1], 6, dtype=FLOAT64)
    assert_same_bits(cell(x[0], state[0]), layer(x[:1], state)[0][0])
    weights: dict[str, Any] = {name: parameter.detach() for name, parameter in cell.named_parameters()}
    assert_same_bits(functional.gru_cell(x[0], None, **weights, **of_cell), steps[0])
    h.sum().backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in cell.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_variant
def test_autocast_computes_in_half_and_differentiates_in_float32(variant: str, dtype: torch.dtype) -> None:
    module, x = module_of(variant, torch.float32, num_layers=2), torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype):
        y, _ = seeded(module, x)
    half = copy.deepcopy(module).to(dtype)
    expected = seeded(half, x.to(dtype))[0].float()
    assert_same_bits(y, expected)
    gradients = torch.autograd.grad(y.sum(), list(module.parameters()))
    of_half = torch.autograd.grad(expected.sum(), list(half.parameters()))
    assert_same_bits(gradients, [gradient.float() for gradient in of_half])


@pytest.mark.parametrize(
    ("variant", "rows", "layers"),
    [*product(ARGUMENTS, ("padded", "resets"), LAYERS[2:]), *product(["reset before"], ["padded"], LAYERS[:2])],
    ids=str,
)
def test_a_compiled_module_is_one_graph(variant: str, rows: str, layers: dict[str, Any]) -> None:
    """In training and in eval mode: results and gradients of eager mode."""
    module = module_of(variant, **layers)
    compiled: Any = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(*((4, 6) if module.batch_first else (6, 4)), 3, dtype=FLOAT64)
    resets = RESETS.t() if module.batch_first else RESETS
    keywords = {} if rows == "padded" else {"resets": resets, "lengths": torch.tensor(LENGTHS)}
    for training in (True, False):
        module.train(training)
        assert_near(results_of(module, compiled, x, **keywords), results_of(module, module, x, **keywords))


@pytest.mark.parametrize("variant", [variant for variant in ARGUMENTS if variant not in ("saved output", "last")])
def test_a_compiled_cell(variant: str) -> None:
    options = {name: value for name, value in ARGUMENTS[variant].items() if variant != "regularizers"}
    cell, x = gru_ext.GRUCell(3, 6, dtype=FLOAT64, **options), torch.randn(4, 3, dtype=FLOAT64)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    assert_near(results_of(cell, compiled, x), results_of(cell, cell, x))


@each_variant
def test_an_exported_module_runs_at_other_sizes(variant: str) -> None:
    module = module_of(variant, num_layers=2, bidirectional=True).eval()
    steps, batch = Dim("steps", min=2, max=64), Dim("batch", min=2, max=64)
    example = (torch.randn(5, 3, 3, dtype=FLOAT64),)
    program = torch.export.export(module, example, dynamic_shapes=({0: steps, 1: batch},)).module()
    for shape in ((5, 3, 3), (9, 2, 3)):
        x = torch.randn(shape, dtype=FLOAT64)
        assert_same_bits(program(x), module(x))
