"""The operators of torch.ops.gru_ext: opcheck, tracing, and the errors of direct calls (csrc/op/check.cpp)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, FLOATING, Options, Problem, Size, make_problem, solve_by, variants_of
from compare import assert_same_bits
from layouts import inner_transposed
from torch import Tensor

from gru_ext import library

ops = torch.ops.gru_ext
SIZE = Size(4, 3, 2, 5)
SOME_OPTIONS = [
    Options(),
    Options(bias=False, hx=False),
    Options(packed=True),
    Options(packed=True, hx=False),
    Options(bidirectional=True),
    Options(bidirectional=True, packed=True, bias=False),
]


def arguments_of_gru(p: Problem) -> dict[str, Any]:
    return {
        "x": p.x,
        "hx": p.hx,
        "weights": p.weights,
        "batch_sizes": p.batch_sizes,
        "bidirectional": p.bidirectional,
    }


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


def trainable(problem: Problem) -> Problem:
    return problem.map(lambda tensor: tensor.detach().requires_grad_())


@pytest.mark.parametrize("save_gates", [False, True])
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_opcheck_of_gru_fwd(options: Options, save_gates: bool) -> None:
    arguments = arguments_of_gru(make_problem(SIZE, options))
    opcheck(ops.gru_fwd.default, {**arguments, "save_gates": save_gates})


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_opcheck_of_gru(options: Options, requires_grad: bool) -> None:
    problem = make_problem(SIZE, options)
    opcheck(ops.gru.default, arguments_of_gru(trainable(problem) if requires_grad else problem))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_opcheck_of_gru_bwd(options: Options, requires_grad: bool) -> None:
    problem = make_problem(SIZE, options)
    # The second derivative of a packed batch reads batch_sizes, whose values a trace has not.
    traced = not (requires_grad and options.packed)
    opcheck(ops.gru_bwd.default, arguments_of_gru_bwd(trainable(problem) if requires_grad else problem), traced)


@pytest.mark.parametrize(
    ("absent", "need"), [("dy", (True, False, False)), ("dh_n", (False, True, False)), ("hx", (False, False, True))]
)
def test_opcheck_of_gru_bwd_with_parts_absent(absent: str, need: tuple[bool, bool, bool]) -> None:
    arguments = arguments_of_gru_bwd(trainable(make_problem(SIZE)), need)
    opcheck(ops.gru_bwd.default, {**arguments, absent: None})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("operator", ["gru", "gru_bwd"])
def test_opcheck_in_other_dtypes(operator: str, dtype: torch.dtype) -> None:
    problem = trainable(make_problem(Size(2, 1, 2, 3), Options(), dtype))
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
    on_meta = problem.map(lambda tensor: tensor.to("meta"))
    there, here = arguments_of_gru(on_meta), arguments_of_gru(problem)
    assert shapes_of(ops.gru(**there)) == shapes_of(ops.gru(**here))
    assert shapes_of(ops.gru_fwd(**there, save_gates=True)) == shapes_of(ops.gru_fwd(**here, save_gates=True))
    assert shapes_of(ops.gru_bwd(**arguments_of_gru_bwd(on_meta))) == shapes_of(
        ops.gru_bwd(**arguments_of_gru_bwd(problem))
    )


@pytest.mark.parametrize("need", [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)])
def test_gru_bwd_returns_empty_what_is_not_needed(need: tuple[bool, bool, bool]) -> None:
    problem = make_problem(SIZE)
    dx, dhx, dweights = ops.gru_bwd(**arguments_of_gru_bwd(problem, need))
    assert dx.shape == (problem.x.shape if need[0] else (0,))
    assert dhx.shape == ((1, 3, 5) if need[1] else (0,))
    assert [d.shape for d in dweights] == ([w.shape for w in problem.weights] if need[2] else [])


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


Fault = tuple[dict[str, Any], type[Exception], str]

# With x of (T, B, I) = (4, 3, 2) and H = 5.
PADDED_FAULTS: list[Fault] = [
    ({"x": zeros(4, 2)}, ValueError, "expected x of shape (T, B, I), got 2 dimensions"),
    ({"x": zeros(1, 4, 3, 2)}, ValueError, "expected x of shape (T, B, I), got 4 dimensions"),
    (
        {"x": zeros(4, 3, 2, dtype=torch.int64)},
        ValueError,
        "expected x of dtype float32, float64, bfloat16 or float16, got Long",
    ),
    (
        {"x": zeros(4, 3, 2, dtype=torch.complex64)},
        ValueError,
        "expected x of dtype float32, float64, bfloat16 or float16, got ComplexFloat",
    ),
    ({"x": zeros(0, 3, 2)}, RuntimeError, "expected x with T >= 1 steps, got T = 0"),
    ({"x": zeros(4, 3, 7)}, RuntimeError, "expected weight_ih of shape (3H, I) = (15, 7), got (15, 2)"),
    ({"weights": []}, RuntimeError, "expected 2 weights, or 4 with biases, for D = 1, got 0"),
    ({"weights": [zeros(15, 2)] * 3}, RuntimeError, "expected 2 weights, or 4 with biases, for D = 1, got 3"),
    ({"weights": [zeros(15, 2)] * 8}, RuntimeError, "expected 2 weights, or 4 with biases, for D = 1, got 8"),
    ({"bidirectional": True}, RuntimeError, "expected weight_ih of shape (3H, I) = (15, 2), got (15)"),
    ({"weights": weights_with(1, zeros(5))}, RuntimeError, "expected weight_hh of shape (3H, H), got 1 dimensions"),
    (
        {"weights": weights_with(1, zeros(0, 0))},
        RuntimeError,
        "expected weight_hh of shape (3H, H) with H >= 1, got H = 0",
    ),
    (
        {"weights": weights_with(1, zeros(14, 5))},
        RuntimeError,
        "expected weight_hh of shape (3H, H) = (15, 5), got (14, 5)",
    ),
    (
        {"weights": weights_with(0, zeros(15, 2, 1))},
        RuntimeError,
        "expected weight_ih of shape (3H, I) = (15, 2), got (15, 2, 1)",
    ),
    ({"weights": weights_with(2, zeros(5))}, RuntimeError, "expected bias_ih of shape (3H) = (15), got (5)"),
    ({"weights": weights_with(3, zeros())}, RuntimeError, "expected bias_hh of shape (3H) = (15), got ()"),
    *(
        (
            {"weights": weights_with(i, zeros(*shape, dtype=torch.float32))},
            ValueError,
            f"expected {name} of the dtype of x, Double, got Float",
        )
        for i, (name, shape) in enumerate(
            {"weight_ih": (15, 2), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,)}.items()
        )
    ),
    ({"hx": zeros(1, 2, 5)}, RuntimeError, "expected hx of shape (D, B, H) = (1, 3, 5), got (1, 2, 5)"),
    ({"hx": zeros(3, 5)}, RuntimeError, "expected hx of shape (D, B, H) = (1, 3, 5), got (3, 5)"),
    (
        {"hx": zeros(1, 3, 5, dtype=torch.float32)},
        ValueError,
        "expected hx of the dtype of x, Double, got Float",
    ),
]
# With x of (N, I) = (9, 2), batch_sizes of (3, 3, 2, 1).
PACKED_FAULTS: list[Fault] = [
    ({"x": zeros(4, 3, 2)}, ValueError, "expected x of shape (N, I) with batch_sizes, got 3 dimensions"),
    (
        {"batch_sizes": sizes(3, 2, 2, 3)},
        RuntimeError,
        "expected batch_sizes between 1 and the size before it, got 3 after 2 at step 3",
    ),
    (
        {"batch_sizes": sizes(3, 3, 2, 1, 0)},
        RuntimeError,
        "expected batch_sizes between 1 and the size before it, got 0 after 1 at step 4",
    ),
    (
        {"batch_sizes": sizes(5, -2, 6)},
        RuntimeError,
        "expected batch_sizes between 1 and the size before it, got -2 after 5 at step 1",
    ),
    ({"batch_sizes": sizes(3, 3, 2)}, RuntimeError, "expected batch_sizes with the sum N = 9, the rows of x, got 8"),
    (
        {"batch_sizes": sizes(3, 3, 2, 1, 1)},
        RuntimeError,
        "expected batch_sizes with the sum N = 9, the rows of x, got 10",
    ),
    (
        {"batch_sizes": sizes()},
        RuntimeError,
        "expected batch_sizes with the sum N = 9, the rows of x, got 0",
    ),
    (
        {"batch_sizes": sizes(), "x": zeros(0, 2)},
        RuntimeError,
        "expected hx of shape (D, B, H) = (1, 0, 5), got (1, 3, 5)",
    ),
    (
        {"batch_sizes": sizes(3, 3, 2, 1).int()},
        RuntimeError,
        "expected batch_sizes of shape (T), int64, on the CPU, got 1 dimensions, Int, on cpu",
    ),
    (
        {"batch_sizes": sizes(3, 3, 2, 1)[None]},
        RuntimeError,
        "expected batch_sizes of shape (T), int64, on the CPU, got 2 dimensions, Long, on cpu",
    ),
    ({"hx": zeros(1, 4, 5)}, RuntimeError, "expected hx of shape (D, B, H) = (1, 3, 5), got (1, 4, 5)"),
]


def ids_of(value: object) -> str | None:
    return value if isinstance(value, str) else ""


def check_fault(call: Callable[..., Any], arguments: Mapping[str, Any], error: type[Exception], text: str) -> None:
    """The call raises just this."""
    with pytest.raises(error) as caught:
        call(**arguments)
    assert (type(caught.value), str(caught.value)) == (error, f"gru: {text}")


@pytest.mark.parametrize(("changes", "error", "text"), PADDED_FAULTS, ids=ids_of)
def test_wrong_arguments(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    problem = make_problem(SIZE)
    check_fault(ops.gru, {**arguments_of_gru(problem), **changes}, error, text)
    check_fault(ops.gru_fwd, {**arguments_of_gru(problem), "save_gates": True, **changes}, error, text)
    check_fault(ops.gru_bwd, {**arguments_of_gru_bwd(problem), **changes}, error, text)


@pytest.mark.parametrize("name", ["hx", "weights"])
def test_a_tensor_on_meta_beside_others_is_refused(name: str) -> None:
    """Torch calls the fake of the operator then, which would return memory that no one wrote to."""
    arguments = arguments_of_gru(make_problem(SIZE))
    moved = torch.utils._pytree.tree_map(lambda tensor: tensor.to("meta"), arguments[name])
    text = "expected all tensors on the device of x, cpu, got meta"
    check_fault(ops.gru, {**arguments, name: moved}, RuntimeError, text)


@pytest.mark.parametrize(("changes", "error", "text"), PACKED_FAULTS, ids=ids_of)
def test_wrong_arguments_of_a_packed_batch(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    problem = make_problem(SIZE, Options(packed=True))
    assert problem.batch_sizes is not None
    assert problem.batch_sizes.tolist() == [3, 3, 2, 1]
    check_fault(ops.gru, {**arguments_of_gru(problem), **changes}, error, text)
    check_fault(ops.gru_fwd, {**arguments_of_gru(problem), "save_gates": True, **changes}, error, text)
    check_fault(ops.gru_bwd, {**arguments_of_gru_bwd(problem), **changes}, error, text)


FLOAT32 = torch.float32


@pytest.mark.parametrize(
    ("packed", "changes", "error", "text"),
    [
        (False, {"dy": zeros(4, 3, 6)}, RuntimeError, "expected dy of shape (T, B, D*H) = (4, 3, 5), got (4, 3, 6)"),
        (True, {"dy": zeros(9, 6)}, RuntimeError, "expected dy of shape (N, D*H) = (9, 5), got (9, 6)"),
        (True, {"dy": zeros(4, 3, 5)}, RuntimeError, "expected dy of shape (N, D*H) = (9, 5), got (4, 3, 5)"),
        (False, {"dy": zeros(4, 3, 5, dtype=FLOAT32)}, ValueError, "expected dy of the dtype of x, Double, got Float"),
        (False, {"dh_n": zeros(3, 5)}, RuntimeError, "expected dh_n of shape (D, B, H) = (1, 3, 5), got (3, 5)"),
        (True, {"dh_n": zeros(1, 9, 5)}, RuntimeError, "expected dh_n of shape (D, B, H) = (1, 3, 5), got (1, 9, 5)"),
        (
            False,
            {"dh_n": zeros(1, 3, 5, dtype=FLOAT32)},
            ValueError,
            "expected dh_n of the dtype of x, Double, got Float",
        ),
        (False, {"y": zeros(4, 3, 10)}, RuntimeError, "expected y of shape (T, B, D*H) = (4, 3, 5), got (4, 3, 10)"),
        (True, {"y": zeros(8, 5)}, RuntimeError, "expected y of shape (N, D*H) = (9, 5), got (8, 5)"),
        (False, {"gates": zeros(1)}, RuntimeError, "expected gates of shape (D, N, 4, H) = (1, 12, 4, 5), got (1)"),
        (
            True,
            {"gates": zeros(1, 9, 3, 5)},
            RuntimeError,
            "expected gates of shape (D, N, 4, H) = (1, 9, 4, 5), got (1, 9, 3, 5)",
        ),
        (
            False,
            {"gates": zeros(1, 12, 4, 5, dtype=FLOAT32)},
            ValueError,
            "expected gates of the dtype of x, Double, got Float",
        ),
        (
            False,
            {"y": zeros(4, 5, 3).transpose(1, 2)},
            RuntimeError,
            "expected y and gates as gru_fwd returned them",
        ),
        (
            False,
            {"gates": zeros(1, 12, 5, 4).transpose(2, 3)},
            RuntimeError,
            "expected y and gates as gru_fwd returned them",
        ),
    ],
    ids=ids_of,
)
def test_wrong_arguments_of_gru_bwd(packed: bool, changes: dict[str, Any], error: type[Exception], text: str) -> None:
    problem = make_problem(SIZE, Options(packed=packed))
    check_fault(ops.gru_bwd, {**arguments_of_gru_bwd(problem), **changes}, error, text)


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
    for name, tensor in solve_by(ops, problem, variant._replace(**strided)).items():
        assert_same_bits(tensor, expected[name], name)


def test_the_operators_take_gradients_that_are_not_contiguous() -> None:
    problem = make_problem(SIZE, Options(bidirectional=True))
    arguments = arguments_of_gru_bwd(problem)
    expected = ops.gru_bwd(**arguments)
    for name in ("dy", "dh_n"):
        tensor = arguments[name].transpose(0, 2).contiguous().transpose(0, 2)
        assert not tensor.is_contiguous()
        dx, dhx, dweights = ops.gru_bwd(**{**arguments, name: tensor})
        for result, wanted in zip((dx, dhx, *dweights), (*expected[:2], *expected[2]), strict=True):
            assert torch.equal(result, wanted)


@pytest.mark.skipif(library.has_cuda_kernels, reason="this build has CUDA kernels")
@pytest.mark.parametrize("name", ["gru_fwd", "gru_bwd"])
def test_cuda_tensors_are_refused_with_one_sentence(name: str) -> None:
    """No CUDA device is needed: the operator is called at the key that CUDA tensors would reach."""
    x, weights = torch.zeros(2, 1, 3), [torch.zeros(12, 3), torch.zeros(12, 4)]
    y, _, gates = torch.ops.gru_ext.gru_fwd(x, None, weights, None, False, True)
    arguments: dict[str, tuple[Any, ...]] = {
        "gru_fwd": (x, None, weights, None, False, True),
        "gru_bwd": (y, None, x, None, weights, None, False, y, gates, True, True, True),
    }
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(
        NotImplementedError, match=r"got CUDA tensors: this build of gru_ext has no CUDA kernels \(not built: "
    ):
        getattr(torch.ops.gru_ext, name).default.redispatch(keys, *arguments[name])
