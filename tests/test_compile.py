"""torch.compile and torch.export: one graph, forward and backward, sizes that vary, and the results of eager mode."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import Options, Problem, Size, make_problem, ours
from compare import assert_near
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.nn.utils.rnn import pack_sequence

import gru_ext
from gru_ext import functional

FLOAT64 = torch.float64
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """No test sees the compiled code of another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Any, backend: Any = "aot_eager", **options: Any) -> Any:
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def results_and_gradients(call: Callable[..., Any], *leaves: Tensor) -> list[Tensor]:
    """Results, then the gradients of the leaves."""
    results = call()
    results = [results] if isinstance(results, Tensor) else list(results)
    total = torch.stack([result.float().sin().sum() for result in results]).sum()
    return [result.detach() for result in results] + list(torch.autograd.grad(total, leaves))


def assert_all_near(results: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for i, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        assert_near(result, wanted, f"result or gradient {i}", tolerance)
        assert i > 1 or result.stride() == wanted.stride()


def assert_compiles(module: nn.Module, *inputs: Any, tolerance: float = 1e-10, backend: str = "aot_eager") -> None:
    """A compiled module gives the results and gradients of the module."""
    leaves = [i for i in inputs if isinstance(i, Tensor) and i.requires_grad] + list(module.parameters())
    expected = results_and_gradients(lambda: module(*inputs), *leaves)
    call = compiled(module, backend)
    assert_all_near(results_and_gradients(lambda: call(*inputs), *leaves), expected, tolerance)


def randn(*shape: int, dtype: torch.dtype = FLOAT64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


# ---- torch.compile


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
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
    leaves = [x, *cell.parameters()]
    call = compiled(loop)
    assert_all_near(results_and_gradients(lambda: call(x), *leaves), results_and_gradients(lambda: loop(x), *leaves))


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, hx=False)], ids=str)
def test_the_function_compiles(options: Options) -> None:
    problem = make_problem(Size(4, 3, 2, 5), options).map(lambda tensor: tensor.requires_grad_())
    leaves = [problem.x, *([] if problem.hx is None else [problem.hx]), *problem.weights]

    def call(p: Problem) -> tuple[Tensor, Tensor]:
        return functional.gru(p.x * 2, p.hx, p.weights, bidirectional=p.bidirectional)

    fast = compiled(call)
    assert_all_near(
        results_and_gradients(lambda: fast(problem), *leaves), results_and_gradients(lambda: call(problem), *leaves)
    )


@pytest.mark.parametrize("hx", [False, True])
def test_a_packed_batch_compiles(hx: bool) -> None:
    problem = make_problem(Size(4, 3, 2, 5), Options(packed=True, hx=hx)).map(lambda tensor: tensor.requires_grad_())
    leaves = [problem.x, *([] if problem.hx is None else [problem.hx]), *problem.weights]

    def call() -> tuple[Tensor, Tensor]:
        return ours(problem.x, problem.hx, problem.weights, problem.batch_sizes, False)

    assert_all_near(results_and_gradients(compiled(call), *leaves), results_and_gradients(call, *leaves))


@pytest.mark.parametrize("unsorted", [False, True])
def test_a_packed_sequence_compiles(unsorted: bool) -> None:
    module = gru_ext.GRU(3, 4, 2, bidirectional=True, dtype=FLOAT64)
    sequences = [randn(length, 3).detach() for length in ((2, 5, 3) if unsorted else (5, 3, 2))]
    packed, hx = pack_sequence(sequences, enforce_sorted=not unsorted), randn(4, 3, 4)
    output, h_n = compiled(module)(packed, hx)
    expected, state = module(packed, hx)
    assert_near(output.data.detach(), expected.data.detach(), "output")
    assert_near(h_n.detach(), state.detach(), "h_n")


def test_dropout_and_modes_compile() -> None:
    module = gru_ext.GRU(3, 4, 2, dropout=0.5, dtype=FLOAT64)
    x = randn(5, 2, 3).detach()
    call = compiled(module)
    assert not torch.equal(call(x)[0], call(x)[0])
    module.eval()
    assert_near(call(x)[0].detach(), module(x)[0].detach(), "y")


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

    fast = compiled(call)
    results = results_and_gradients(lambda: fast(x), *leaves)
    assert [result.dtype for result in results] == [torch.float32] * (2 + len(leaves))
    assert_all_near(results, results_and_gradients(lambda: call(x), *leaves), torch.finfo(dtype).eps)
    with torch.autocast("cpu", dtype=dtype):
        assert_near(compiled(module)(x)[0].detach(), results[0], "y", torch.finfo(dtype).eps)


def test_sizes_that_vary_compile_twice_at_most() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    module = gru_ext.GRU(3, 4, bidirectional=True, dtype=FLOAT64)
    call = compiled(module, counter)
    for steps, batch in ((5, 2), (7, 3), (4, 6), (11, 5), (3, 9)):
        x = randn(steps, batch, 3)
        leaves = [x, *module.parameters()]
        assert_all_near(
            results_and_gradients(lambda x=x: call(x), *leaves), results_and_gradients(lambda x=x: module(x), *leaves)
        )
    assert counter.frame_count <= 2


def test_marked_sizes_compile_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    module = gru_ext.GRU(3, 4, dtype=FLOAT64)
    call = compiled(module, counter, dynamic=True)
    for steps, batch in ((5, 2), (7, 3), (4, 6)):
        x = randn(steps, batch, 3).detach()
        torch._dynamo.mark_dynamic(x, (0, 1))
        assert_near(call(x)[0].detach(), module(x)[0].detach(), "y")
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
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
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
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_an_exported_model_runs_at_other_sizes(arguments: dict[str, Any], strict: bool) -> None:
    model = Tagger(**arguments).eval()
    program = exported(model, strict)
    for shape in ((6, 4), (2, 9), (17, 3)):
        tokens = torch.randint(11, shape)
        assert_near(program.module()(tokens).detach(), model(tokens).detach(), "scores")


# torch.export meets a deprecation of torch's own pytree.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
def test_an_exported_model_decomposes() -> None:
    model = Tagger(num_layers=2, bidirectional=True).eval()
    program = exported(model).run_decompositions()
    tokens = torch.randint(11, (9, 5))
    assert_near(program.module()(tokens).detach(), model(tokens).detach(), "scores")
    calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("gru_ext.gru" in call for call in calls)


def test_an_exported_model_saves_and_loads() -> None:
    model, file = Tagger().eval(), io.BytesIO()
    torch.export.save(exported(model), file)
    file.seek(0)
    tokens = torch.randint(11, (9, 5))
    assert_near(torch.export.load(file).module()(tokens).detach(), model(tokens).detach(), "scores")


def test_an_exported_model_trains() -> None:
    model = Tagger()
    tokens = torch.randint(11, (6, 4))
    program = torch.export.export(model, (tokens,), strict=False).module()
    program(tokens).sin().sum().backward()
    model(tokens).sin().sum().backward()
    expected = dict(model.named_parameters())
    for name, parameter in program.named_parameters():
        assert parameter.grad is not None
        gradient = expected[name].grad
        assert gradient is not None
        assert_near(parameter.grad, gradient, name)
