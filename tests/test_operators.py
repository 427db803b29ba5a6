"""The operators of torch.ops.gru_ext: opcheck, tracing, and the errors of direct calls (csrc/op/check.cpp)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, FLOATING, WEIGHT_KINDS, Options, Problem, Size, make_problem, solve_by, variants_of
from compare import assert_same_bits
from layouts import inner_transposed
from refusals import Refusals, each_refusal, refused
from torch import Tensor

from gru_ext import library

ops = torch.ops.gru_ext
FLOAT32 = torch.float32
SIZE = Size(4, 3, 2, 5)
SOME_OPTIONS = [
    Options(),
    Options(bias=False, hx=False),
    Options(packed=True),
    Options(packed=True, hx=False),
    Options(bidirectional=True),
    Options(bidirectional=True, packed=True, bias=False),
]


LAYER = ("x", "hx", "weights", "batch_sizes", "bidirectional")


def arguments_of_gru(p: Problem) -> dict[str, Any]:
    return dict(zip(LAYER, p.layer, strict=True))


def arguments_of_gru_bwd(p: Problem, need: tuple[bool, bool, bool] = (True, True, True)) -> dict[str, Any]:
    y, _, gates = ops.gru_fwd(**arguments_of_gru(p), save_gates=True)
    return {
        "dy": p.dy,
        "dh_n": p.dh_n,
        **arguments_of_gru(p),
        "y": y.detach(),
        "gates": gates.detach(),
        **dict(zip(("need_dx", "need_dhx", "need_dweights"), need, strict=True)),
    }


def opcheck(operator: Any, arguments: Mapping[str, Any], traced: bool = True) -> None:
    """``torch.library.opcheck``: schema, autograd registration, fake kernel and, if ``traced``, AOTAutograd."""
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(operator, (), dict(arguments), test_utils=[*tests, *["test_aot_dispatch_dynamic"] * traced])


@pytest.mark.parametrize("save_gates", [False, True])
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_opcheck_of_gru_fwd(options: Options, save_gates: bool) -> None:
    arguments = arguments_of_gru(make_problem(SIZE, options))
    opcheck(ops.gru_fwd.default, {**arguments, "save_gates": save_gates})


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_opcheck_of_gru(options: Options, requires_grad: bool) -> None:
    problem = make_problem(SIZE, options)
    opcheck(ops.gru.default, arguments_of_gru(problem.trainable() if requires_grad else problem))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_opcheck_of_gru_bwd(options: Options, requires_grad: bool) -> None:
    problem = make_problem(SIZE, options)
    # The second derivative of a packed batch reads batch_sizes, whose values a trace has not.
    traced = not (requires_grad and options.packed)
    opcheck(ops.gru_bwd.default, arguments_of_gru_bwd(problem.trainable() if requires_grad else problem), traced)


@pytest.mark.parametrize(
    ("absent", "need"), [("dy", (True, False, False)), ("dh_n", (False, True, False)), ("hx", (False, False, True))]
)
def test_opcheck_of_gru_bwd_with_parts_absent(absent: str, need: tuple[bool, bool, bool]) -> None:
    arguments = arguments_of_gru_bwd(make_problem(SIZE).trainable(), need)
    opcheck(ops.gru_bwd.default, {**arguments, absent: None})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("operator", ["gru", "gru_bwd"])
def test_opcheck_in_other_dtypes(operator: str, dtype: torch.dtype) -> None:
    problem = make_problem(Size(2, 1, 2, 3), Options(), dtype).trainable()
    arguments = arguments_of_gru(problem) if operator == "gru" else arguments_of_gru_bwd(problem)
    opcheck(getattr(ops, operator).default, arguments)


def shapes_of(results: Any) -> list[Any]:
    """Shape, dtype and strides of every tensor of nested results."""
    if isinstance(results, Tensor):
        return [results.shape, results.dtype, results.stride()]
    return [shapes_of(result) for result in results]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
# Without hx, B of a packed batch is known only from the values of batch_sizes.
@pytest.mark.parametrize("options", [o for o in ALL_OPTIONS if o.hx or not o.packed], ids=str)
def test_the_meta_device_gives_the_shapes_and_dtypes_of_the_cpu(options: Options, dtype: torch.dtype) -> None:
    problem = make_problem(SIZE, options, dtype)
    here, there = (
        shapes_of([ops.gru(*p.layer), ops.gru_fwd(*p.layer, True), ops.gru_bwd(**arguments_of_gru_bwd(p))])
        for p in (problem, problem.map(lambda tensor: tensor.to("meta")))
    )
    assert there == here


# ---- Errors


def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def sizes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def weights_with(index: int, tensor: Tensor, bidirectional: bool = False) -> list[Tensor]:
    """Weights for I = 2, H = 5, one of them another."""
    weights = make_problem(SIZE, Options(bidirectional=bidirectional)).weights
    weights[index] = tensor
    return weights


OTHER_DTYPE = "of the dtype of x, Double, got Float"
# With x of (T, B, I) = (4, 3, 2) and H = 5.
PADDED: Refusals = {
    ValueError: {
        "expected x of shape (T, B, I), got 2 dimensions": {"x": zeros(4, 2)},
        "expected x of shape (T, B, I), got 4 dimensions": {"x": zeros(1, 4, 3, 2)},
        **{
            f"expected x of dtype float32, float64, bfloat16 or float16, got {name}": {"x": zeros(4, 3, 2, dtype=dtype)}
            for name, dtype in (("Long", torch.int64), ("ComplexFloat", torch.complex64))
        },
        **{
            f"expected {name} {OTHER_DTYPE}": {"weights": weights_with(i, zeros(*shape, dtype=FLOAT32))}
            for i, (name, shape) in enumerate(zip(WEIGHT_KINDS, ((15, 2), (15, 5), (15,), (15,)), strict=True))
        },
        f"expected hx {OTHER_DTYPE}": {"hx": zeros(1, 3, 5, dtype=FLOAT32)},
    },
    RuntimeError: {
        "expected x with T >= 1 steps, got T = 0": {"x": zeros(0, 3, 2)},
        "expected weight_ih of shape (3H, I) = (15, 7), got (15, 2)": {"x": zeros(4, 3, 7)},
        **{
            f"expected 2 weights, or 4 with biases, for D = 1, got {count}": {"weights": [zeros(15, 2)] * count}
            for count in (0, 3, 8)
        },
        "expected weight_ih of shape (3H, I) = (15, 2), got (15)": {"bidirectional": True},
        "expected weight_hh of shape (3H, H), got 1 dimensions": {"weights": weights_with(1, zeros(5))},
        "expected weight_hh of shape (3H, H) with H >= 1, got H = 0": {"weights": weights_with(1, zeros(0, 0))},
        "expected weight_hh of shape (3H, H) = (15, 5), got (14, 5)": {"weights": weights_with(1, zeros(14, 5))},
        "expected weight_ih of shape (3H, I) = (15, 2), got (15, 2, 1)": {"weights": weights_with(0, zeros(15, 2, 1))},
        "expected bias_ih of shape (3H) = (15), got (5)": {"weights": weights_with(2, zeros(5))},
        "expected bias_hh of shape (3H) = (15), got ()": {"weights": weights_with(3, zeros())},
        "expected hx of shape (D, B, H) = (1, 3, 5), got (1, 2, 5)": {"hx": zeros(1, 2, 5)},
        "expected hx of shape (D, B, H) = (1, 3, 5), got (3, 5)": {"hx": zeros(3, 5)},
    },
}
# With x of (N, I) = (9, 2), batch_sizes of (3, 3, 2, 1).
RIGHT = sizes(3, 3, 2, 1)
BATCH_SIZES = {
    "between 1 and the size before it, got 3 after 2 at step 3": sizes(3, 2, 2, 3),
    "between 1 and the size before it, got 0 after 1 at step 4": sizes(3, 3, 2, 1, 0),
    "between 1 and the size before it, got -2 after 5 at step 1": sizes(5, -2, 6),
    "with the sum N = 9, the rows of x, got 8": sizes(3, 3, 2),
    "with the sum N = 9, the rows of x, got 10": sizes(3, 3, 2, 1, 1),
    "with the sum N = 9, the rows of x, got 0": sizes(),
    "of shape (T), int64, on the CPU, got 1 dimensions, Int, on cpu": RIGHT.int(),
    "of shape (T), int64, on the CPU, got 2 dimensions, Long, on cpu": RIGHT[None],
}
PACKED: Refusals = {
    ValueError: {"expected x of shape (N, I) with batch_sizes, got 3 dimensions": {"x": zeros(4, 3, 2)}},
    RuntimeError: {
        **{f"expected batch_sizes {text}": {"batch_sizes": given} for text, given in BATCH_SIZES.items()},
        "expected hx of shape (D, B, H) = (1, 0, 5), got (1, 3, 5)": {"batch_sizes": sizes(), "x": zeros(0, 2)},
        "expected hx of shape (D, B, H) = (1, 3, 5), got (1, 4, 5)": {"hx": zeros(1, 4, 5)},
    },
}


def check_fault(call: Callable[..., Any], arguments: Mapping[str, Any], error: type[Exception], text: str) -> None:
    """The call raises just this."""
    with refused(error, f"gru: {text}"):
        call(**arguments)


def check_every_operator(problem: Problem, changes: dict[str, Any], error: type[Exception], text: str) -> None:
    check_fault(ops.gru, {**arguments_of_gru(problem), **changes}, error, text)
    check_fault(ops.gru_fwd, {**arguments_of_gru(problem), "save_gates": True, **changes}, error, text)
    check_fault(ops.gru_bwd, {**arguments_of_gru_bwd(problem), **changes}, error, text)


@each_refusal(PADDED)
def test_wrong_arguments(given: dict[str, Any], error: type[Exception], text: str) -> None:
    check_every_operator(make_problem(SIZE), given, error, text)


@each_refusal(PACKED)
def test_wrong_arguments_of_a_packed_batch(given: dict[str, Any], error: type[Exception], text: str) -> None:
    problem = make_problem(SIZE, Options(packed=True))
    assert_same_bits(problem.batch_sizes, RIGHT)
    check_every_operator(problem, given, error, text)


@pytest.mark.parametrize("name", ["hx", "weights"])
def test_a_tensor_on_meta_beside_others_is_refused(name: str) -> None:
    """Torch calls the fake of the operator then, which would return memory that no one wrote to."""
    arguments = arguments_of_gru(make_problem(SIZE))
    moved = torch.utils._pytree.tree_map(lambda tensor: tensor.to("meta"), arguments[name])
    text = "expected all tensors on the device of x, cpu, got meta"
    check_fault(ops.gru, {**arguments, name: moved}, RuntimeError, text)


OF_BACKWARD: Refusals = {
    RuntimeError: {
        "expected dy of shape (T, B, D*H) = (4, 3, 5), got (4, 3, 6)": {"dy": zeros(4, 3, 6)},
        "expected dh_n of shape (D, B, H) = (1, 3, 5), got (3, 5)": {"dh_n": zeros(3, 5)},
        "expected y of shape (T, B, D*H) = (4, 3, 5), got (4, 3, 10)": {"y": zeros(4, 3, 10)},
        "expected gates of shape (D, N, 4, H) = (1, 12, 4, 5), got (1)": {"gates": zeros(1)},
    },
    ValueError: {
        f"expected {name} {OTHER_DTYPE}": {name: zeros(*shape, dtype=FLOAT32)}
        for name, shape in (("dy", (4, 3, 5)), ("dh_n", (1, 3, 5)), ("gates", (1, 12, 4, 5)))
    },
}
OF_PACKED_BACKWARD: Refusals = {
    RuntimeError: {
        "expected dy of shape (N, D*H) = (9, 5), got (9, 6)": {"dy": zeros(9, 6)},
        "expected dy of shape (N, D*H) = (9, 5), got (4, 3, 5)": {"dy": zeros(4, 3, 5)},
        "expected dh_n of shape (D, B, H) = (1, 3, 5), got (1, 9, 5)": {"dh_n": zeros(1, 9, 5)},
        "expected y of shape (N, D*H) = (9, 5), got (8, 5)": {"y": zeros(8, 5)},
        "expected gates of shape (D, N, 4, H) = (1, 9, 4, 5), got (1, 9, 3, 5)": {"gates": zeros(1, 9, 3, 5)},
    }
}


@each_refusal(OF_BACKWARD)
def test_wrong_arguments_of_gru_bwd(given: dict[str, Any], error: type[Exception], text: str) -> None:
    check_fault(ops.gru_bwd, {**arguments_of_gru_bwd(make_problem(SIZE)), **given}, error, text)


@each_refusal(OF_PACKED_BACKWARD)
def test_wrong_arguments_of_gru_bwd_of_a_packed_batch(given: dict[str, Any], error: type[Exception], text: str) -> None:
    problem = make_problem(SIZE, Options(packed=True))
    check_fault(ops.gru_bwd, {**arguments_of_gru_bwd(problem), **given}, error, text)


@pytest.mark.parametrize(("name", "shape"), [("y", (4, 5, 3)), ("gates", (1, 12, 5, 4))])
def test_what_the_forward_left_has_the_strides_that_it_gave(name: str, shape: tuple[int, ...]) -> None:
    given = {**arguments_of_gru_bwd(make_problem(SIZE)), name: zeros(*shape).transpose(-1, -2)}
    check_fault(ops.gru_bwd, given, RuntimeError, "expected y and gates as gru_fwd returned them")


def test_wrong_weights_of_the_second_direction_are_found() -> None:
    arguments = arguments_of_gru(make_problem(SIZE, Options(bidirectional=True)))
    wrong = weights_with(5, zeros(15, 6), bidirectional=True)
    text = "expected weight_hh of shape (3H, H) = (15, 5), got (15, 6)"
    check_fault(ops.gru, {**arguments, "weights": wrong}, RuntimeError, text)


def test_masks_may_have_any_strides() -> None:
    problem = make_problem(SIZE, Options(bidirectional=True))
    variant = variants_of(problem)["all"]
    expected = solve_by(ops, problem, variant)
    names = ("zoneout_mask", "recurrent_mask", "candidate_mask")
    strided: dict[str, Any] = {name: inner_transposed(getattr(variant, name)) for name in names}
    assert_same_bits(solve_by(ops, problem, variant._replace(**strided)), expected)


def test_the_operators_take_gradients_that_are_not_contiguous() -> None:
    problem = make_problem(SIZE, Options(bidirectional=True))
    arguments = arguments_of_gru_bwd(problem)
    expected = ops.gru_bwd(**arguments)
    for name in ("dy", "dh_n"):
        tensor = arguments[name].transpose(0, 2).contiguous().transpose(0, 2)
        assert not tensor.is_contiguous()
        assert_same_bits(ops.gru_bwd(**{**arguments, name: tensor}), expected)


@pytest.mark.skipif(library.has_cuda_kernels, reason="this build has CUDA kernels")
@pytest.mark.parametrize("name", ["gru_fwd", "gru_bwd"])
def test_cuda_tensors_are_refused_with_one_sentence(name: str) -> None:
    """No CUDA device is needed: the operator is called at the key that CUDA tensors would reach."""
    p = make_problem(SIZE)
    arguments = (*p.layer, True) if name == "gru_fwd" else arguments_of_gru_bwd(p).values()
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    words = r"got CUDA tensors: this build of gru_ext has no CUDA kernels \(not built: "
    with pytest.raises(NotImplementedError, match=words):
        getattr(ops, name).default.redispatch(keys, *arguments)
