"""torch.compile and torch.export: one graph, forward and backward, sizes that vary, and the results of eager mode."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from cases import LAYERS, Options, Problem, Size, make_problem, ours, results_and_gradients
from compare import assert_near
from kept_program import PROGRAM, TORCH_OF_PROGRAM, EveryKind, inputs
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.nn.utils.rnn import pack_sequence
from torch_version import TORCH

import gru_ext
from gru_ext import functional

pytestmark = pytest.mark.usefixtures("fresh_compiler")
FLOAT64 = torch.float64


def compiled(function: Any, backend: Any = "aot_eager", **options: Any) -> Any:
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def assert_alike(
    call: Any, eager: Any, inputs: Sequence[Any], leaves: Sequence[Tensor], tolerance: float = 1e-10
) -> None:
    """The same results, with the same strides, and gradients."""
    found, expected = (results_and_gradients(c, inputs, leaves) for c in (call, eager))
    assert_near(found, expected, tolerance=tolerance)
    assert [result.stride() for result in found[:2]] == [result.stride() for result in expected[:2]]


def assert_compiles(module: nn.Module, *inputs: Any, tolerance: float = 1e-10, backend: str = "aot_eager") -> None:
    """A compiled module gives the results and gradients of the module."""
    leaves = [i for i in inputs if isinstance(i, Tensor) and i.requires_grad] + list(module.parameters())
    assert_alike(compiled(module, backend), module, inputs, leaves, tolerance)


def randn(*shape: int, dtype: torch.dtype = FLOAT64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


# ---- torch.compile


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_a_compiled_module_gives_the_results_and_gradients_of_eager_mode(arguments: dict[str, Any], hx: bool) -> None:
    module = gru_ext.GRU(3, 4, **arguments, dtype=FLOAT64)
    state = [randn(len(module.all_weights), 2, 4)] if hx else []
    assert_compiles(module, randn(2, 5, 3) if arguments.get("batch_first") else randn(5, 2, 3), *state)


def test_a_compiled_module_takes_unbatched_input() -> None:
    assert_compiles(gru_ext.GRU(3, 4, dtype=FLOAT64), randn(5, 3), randn(1, 4))


@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_a_compiled_cell(shape: tuple[int, ...]) -> None:
    assert_compiles(gru_ext.GRUCell(3, 4, dtype=FLOAT64), randn(*shape), randn(*shape[:-1], 4))
    assert_compiles(gru_ext.GRUCell(3, 4, bias=False, dtype=FLOAT64), randn(*shape))


def test_a_compiled_loop_over_a_cell() -> None:
    cell = gru_ext.GRUCell(3, 4, dtype=FLOAT64)

    def loop(x: Tensor) -> Tensor:
        h: Tensor | None = None
        for step in x:
            h = cell(step, h)
        assert h is not None
        return h

    x = randn(4, 2, 3)
    assert_alike(compiled(loop), loop, [x], [x, *cell.parameters()])


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, hx=False)], ids=str)
def test_the_function_compiles(options: Options) -> None:
    problem = make_problem(Size(4, 3, 2, 5), options).trainable()

    def call(p: Problem) -> tuple[Tensor, Tensor]:
        return functional.gru(p.x * 2, p.hx, p.weights, bidirectional=p.bidirectional)

    assert_alike(compiled(call), call, [problem], problem.tensors)


@pytest.mark.parametrize("hx", [False, True])
def test_a_packed_batch_compiles(hx: bool) -> None:
    problem = make_problem(Size(4, 3, 2, 5), Options(packed=True, hx=hx)).trainable()
    assert_alike(compiled(ours), ours, problem.layer, problem.tensors)


@pytest.mark.parametrize("unsorted", [False, True])
def test_a_packed_sequence_compiles(unsorted: bool) -> None:
    module = gru_ext.GRU(3, 4, 2, bidirectional=True, dtype=FLOAT64)
    sequences = [randn(length, 3).detach() for length in ((2, 5, 3) if unsorted else (5, 3, 2))]
    packed, hx = pack_sequence(sequences, enforce_sorted=not unsorted), randn(4, 3, 4)
    assert_near(compiled(module)(packed, hx), module(packed, hx))


def test_dropout_and_modes_compile() -> None:
    module = gru_ext.GRU(3, 4, 2, dropout=0.5, dtype=FLOAT64)
    x = randn(5, 2, 3).detach()
    call = compiled(module)
    assert not torch.equal(call(x)[0], call(x)[0])
    module.eval()
    assert_near(call(x)[0], module(x)[0], "y")


def test_no_grad_compiles() -> None:
    module = gru_ext.GRU(3, 4, dtype=FLOAT64)
    x = randn(5, 2, 3).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y, _ = compiled(module)(x)
            assert not y.requires_grad
            assert_near(y, module(x)[0], "y")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_compiles(dtype: torch.dtype) -> None:
    module = gru_ext.GRU(3, 4, 2)
    x = randn(5, 2, 3, dtype=torch.float32)
    leaves = [x, *module.parameters()]

    def call(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=dtype):
            y, h_n = module(x)
        return y, h_n

    assert_alike(compiled(call), call, [x], leaves, torch.finfo(dtype).eps)
    assert {result.dtype for result in results_and_gradients(call, [x], leaves)} == {torch.float32}
    with torch.autocast("cpu", dtype=dtype):
        assert_near(compiled(module)(x)[0], call(x)[0], "y", torch.finfo(dtype).eps)


def test_sizes_that_vary_compile_twice_at_most() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    module = gru_ext.GRU(3, 4, bidirectional=True, dtype=FLOAT64)
    call = compiled(module, counter)
    for steps, batch in ((5, 2), (7, 3), (4, 6), (11, 5), (3, 9)):
        x = randn(steps, batch, 3)
        assert_alike(call, module, [x], [x, *module.parameters()])
    assert counter.frame_count <= 2


def test_marked_sizes_compile_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    module = gru_ext.GRU(3, 4, dtype=FLOAT64)
    call = compiled(module, counter, dynamic=True)
    for steps, batch in ((5, 2), (7, 3), (4, 6)):
        x = randn(steps, batch, 3).detach()
        torch._dynamo.mark_dynamic(x, (0, 1))
        assert_near(call(x)[0], module(x)[0], "y")
    assert counter.frame_count == 1


def test_a_graph_has_our_operators_and_nothing_of_the_recurrence() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled(gru_ext.GRU(3, 4, 2), backend)(torch.randn(5, 2, 3))
    (graph,) = graphs
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("gru_ext.gru" in call for call in calls) == 2
    assert not any("sigmoid" in call or "tanh" in call for call in calls)


def test_errors_are_raised_under_compile() -> None:
    module = gru_ext.GRU(3, 4)
    with pytest.raises(Exception, match=r"gru: expected input of shape \(T, B, I\) with I = 3"):
        compiled(module)(torch.randn(5, 2, 7))
    y, _ = compiled(module)(torch.randn(5, 2, 3))
    assert y.shape == (5, 2, 4)


# Dynamo makes an instance of every autograd.Function it traces.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor() -> None:
    assert_compiles(gru_ext.GRU(3, 4, 2, dtype=FLOAT64), randn(5, 2, 3), randn(2, 2, 4), backend="inductor")


# ---- torch.export


class Tagger(nn.Module):
    """A model with a GRU in the middle."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 3, dtype=FLOAT64)
        self.gru = gru_ext.GRU(3, 4, **arguments, dtype=FLOAT64)
        self.head = nn.Linear(8 if self.gru.bidirectional else 4, 5, dtype=FLOAT64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores (T, B, 5), or (B, T, 5), of tokens (T, B) or (B, T)."""
        scores: Tensor = self.head(self.gru(self.embedding(tokens))[0])
        return scores


def exported(model: nn.Module, strict: bool = False) -> torch.export.ExportedProgram:
    """Both dimensions of the tokens dynamic."""
    tokens = torch.randint(11, (6, 4))
    shapes = {"tokens": {0: Dim("first", min=1), 1: Dim("second", min=1)}}
    return torch.export.export(model, (tokens,), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_an_exported_model_runs_at_other_sizes(arguments: dict[str, Any], strict: bool) -> None:
    model = Tagger(**arguments).eval()
    program = exported(model, strict)
    for shape in ((6, 4), (2, 9), (17, 3)):
        tokens = torch.randint(11, shape)
        assert_near(program.module()(tokens), model(tokens), "scores")


# torch.export meets a deprecation of torch's own pytree.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
def test_an_exported_model_decomposes() -> None:
    model = Tagger(num_layers=2, bidirectional=True).eval()
    program = exported(model).run_decompositions()
    tokens = torch.randint(11, (9, 5))
    assert_near(program.module()(tokens), model(tokens), "scores")
    calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("gru_ext.gru" in call for call in calls)


def test_an_exported_model_saves_and_loads() -> None:
    model, file = Tagger().eval(), io.BytesIO()
    torch.export.save(exported(model), file)
    file.seek(0)
    tokens = torch.randint(11, (9, 5))
    assert_near(torch.export.load(file).module()(tokens), model(tokens), "scores")


@pytest.mark.skipif(TORCH < TORCH_OF_PROGRAM, reason="a later torch has saved the program")
def test_a_kept_program_loads_and_runs() -> None:
    """With the results of a model of its weights; so the operators' names and schemas stay."""
    program, model = torch.export.load(PROGRAM).module(), EveryKind().eval()
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    assert own.keys() == kept.keys()
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(kept[name])
        for steps, batch in ((6, 3), (9, 5)):
            given = inputs(steps, batch)
            assert_near(program(*given), model(*given), "state")


def test_an_exported_model_trains() -> None:
    model = Tagger()
    tokens = torch.randint(11, (6, 4))
    program = torch.export.export(model, (tokens,), strict=False).module()
    program(tokens).sin().sum().backward()
    model(tokens).sin().sum().backward()
    expected = dict(model.named_parameters())
    for name, parameter in program.named_parameters():
        assert_near(parameter.grad, expected[name].grad, name)
