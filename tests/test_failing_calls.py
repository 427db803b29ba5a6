"""Memory or a file that is not there: an error, nothing lost, and the next call is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from failing_calls import preloaded
from process import ROOT, TESTS, fork_python, output_of

# Of so many units that packed weights and their gradients come from the pool of buffers.
MEMORY = """
import sys

import torch
from cases import Options, Size, make_problem
from compare import assert_same_bits
from failing_calls import until_none_fails

import gru_ext
from gru_ext.regularizers import bernoulli

torch.set_num_threads(1)
problem = make_problem(Size(4, 4, 8, 304), Options(hx=False), torch.float32)
plain = gru_ext.GRU(8, 304)
quantized = gru_ext.quantize_dynamic(torch.nn.GRU(8, 304))
x, lengths = torch.randn(4, 4, 8), torch.arange(4)
stacked = torch.randn(2, 912, 304)


# By the operators: an autograd node of torch's allocates while it is deleted, which ends the process there.
def forward_and_backward():
    arguments = (problem.x, problem.hx, problem.weights, None, False)
    y, h_n, gates = torch.ops.gru_ext.gru_fwd(*arguments, True)
    dx, dhx, dweights = torch.ops.gru_ext.gru_bwd(problem.dy, problem.dh_n, *arguments, y, gates, True, True, True)
    return {"y": y, "h_n": h_n, "dx": dx, "dhx": dhx, "dweight_hh": dweights[1]}


def members():
    weights = [w.detach() for w in plain.parameters()]
    call = lambda r: gru_ext.functional.gru(x, None, [weights[0], r, *weights[2:]])[0]
    return {"y": torch.vmap(call)(stacked)}


def masks():
    torch.manual_seed(1)
    return {"mask": bernoulli(0.5, (300, 500), torch.device("cpu"))}


CALLS = {
    "forward and backward": forward_and_backward,
    "lengths": lambda: dict(zip(("y", "h_n"), plain(x, lengths=lengths))),
    "int8": lambda: dict(zip(("y", "h_n"), quantized(x))),
    "members": members,
    "masks": masks,
}
torch.set_grad_enabled(False)
call = CALLS[sys.argv[1]]
expected = call()


def after(error):
    assert error is None or isinstance(error, (RuntimeError, MemoryError)), repr(error)
    assert_same_bits(call(), expected)


print(until_none_fails("memory", call, after))
"""


@pytest.mark.parametrize("call", ["forward and backward", "lengths", "int8", "members", "masks"])
def test_every_allocation_may_fail(call: str) -> None:
    """The process lives, the error is one of torch's, and the next call has the bits of one before."""
    assert int(output_of(fork_python("-c", MEMORY, call, environment=preloaded()))) >= 1


# What programs write, in a folder of its own each.
FILES = """
import contextlib
import io
import sys
from pathlib import Path

from failing_calls import REASONS, until_none_fails

import gru_ext
import train_text
from benchmarks import __main__ as command, files, plots, publish

RESULTS = Path("benchmarks/results")


def checkpoint(folder):
    settings, _ = train_text.parse_arguments(["--hidden=5", "--embedding=3", f"--out={folder}"])
    trainer = train_text.Trainer(gru_ext.GRU, 7, settings)
    return lambda: train_text.save_checkpoint(trainer, train_text.Progress(), "abcdefg", "text", settings)


def plot(folder):
    settings, _ = train_text.parse_arguments([f"--out={folder}"])
    progress = train_text.Progress(step=2, losses=[2.0, 1.0], validation=[(0, 3.0), (2, 1.5)], saved=2)
    return lambda: ends_well(lambda: not train_text.report(progress, None, settings))


def results_and_report(folder):
    given = ["--load", str(RESULTS / "cpu_zen4_2cores_memory.json")]
    written = ["--json", str(folder / "run.json"), "--report", str(folder / "report.md")]
    plots.draw = lambda *_: []  # takes long, and without a plot that could not be written the report is another
    return lambda: ends_well(lambda: command.main([*given, *written]))


def published_page(folder):
    publish.DOCS, publish.RESULTS = folder, RESULTS
    marks = {}
    for measurement in publish.MEASUREMENTS:
        for table, (page, _) in measurement.tables.items():
            marks[page] = marks.get(page, "") + f"<!-- {table} -->\\n{publish.END}\\n"
    for page, text in marks.items():
        files.write(folder / page, text)
    return lambda: ends_well(lambda: publish.main(["--machine", "cpu_zen4_2cores", "--tables", "--only", "int8"]))


def ends_well(main):
    # Raises what the program said on standard error.
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main()
    assert bool(code) == bool(said.getvalue()), (code, said.getvalue())
    if code:
        raise OSError(said.getvalue())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


for program in (checkpoint, plot, results_and_report, published_page):
    folder = Path(sys.argv[1]) / program.__name__
    folder.mkdir()
    call = program(folder)
    call()
    whole = contents(folder)
    assert whole
    for kind, reason in REASONS.items():

        def after(error):
            assert isinstance(error, OSError), repr(error)
            (sentence,) = str(error.strerror or error).splitlines()
            assert sentence.endswith(reason), sentence
            assert contents(folder) == whole

        print(program.__name__, kind, until_none_fails(kind, call, after))
"""


def test_every_call_for_a_file_may_fail(tmp_path: Path) -> None:
    """The program says so in a sentence, what stood there before is whole, and nothing half written stays."""
    pytest.importorskip("matplotlib")
    result = fork_python("-c", FILES, tmp_path, environment=preloaded(), path=(ROOT, TESTS, ROOT / "examples"))
    failed = {line.rpartition(" ")[0]: int(line.split()[-1]) for line in output_of(result).splitlines()}
    assert len(failed) == 16
    assert all(failed.values()), failed
