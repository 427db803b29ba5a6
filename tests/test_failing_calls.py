"""Memory that is not there and files that cannot be written: an error, nothing lost, and the next call is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from failing_calls import build
from process import ROOT, TESTS, output_of, run_python


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return build(tmp_path_factory.mktemp("failing_calls"))


# Of so many units that packed weights come from the pool of buffers. Without a graph: torch allocates where it frees one,
# which ends the process. The operators alone, forward and backward, are in test_memory.py.
MEMORY = """
import sys

import torch
from compare import assert_same_bits
from failing_calls import until_none_fails

import gru_ext

torch.set_num_threads(1)
torch.set_grad_enabled(False)
plain = gru_ext.GRU(8, 304)
quantized = gru_ext.quantize_dynamic(torch.nn.GRU(8, 304))
x, lengths = torch.randn(4, 4, 8), torch.arange(4)
CALLS = {
    "lengths": lambda: dict(zip(("y", "h_n"), plain(x, lengths=lengths))),
    "int8": lambda: dict(zip(("y", "h_n"), quantized(x))),
}
call = CALLS[sys.argv[1]]
expected = call()


def after(error):
    assert error is None or isinstance(error, (RuntimeError, MemoryError)), repr(error)
    for name, result in call().items():
        assert_same_bits(result, expected[name], name)


print(until_none_fails("memory", call, after))
"""


@pytest.mark.parametrize("call", ["lengths", "int8"])
def test_every_allocation_may_fail(call: str, preloaded: dict[str, str]) -> None:
    """The process lives, the error is one of torch's, and the next call has the bits of one before."""
    assert int(output_of(run_python("-c", MEMORY, call, environment=preloaded))) >= 1


CHECKPOINT = """
import contextlib, io, sys
from pathlib import Path

sys.path.insert(0, "examples")
import train_text
from failing_calls import until_none_fails

kind, folder = sys.argv[1], Path(sys.argv[2])
text = folder / "text.txt"
text.write_text("The gates decide what the state keeps, and what it forgets. " * 40)
small = ["--quiet", "--hidden=8", "--embedding=4", "--batch=4", "--steps-per-sequence=16", "--compare-steps=0"]
run = [*small, f"--text={text}", f"--out={folder}", "--steps=2", "--checkpoint-every=1"]
said = io.StringIO()


def train():
    said.seek(0), said.truncate()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        return train_text.main(run)


train()  # leaves a checkpoint


def after(error):
    assert error is None or isinstance(error, SystemExit), repr(error)
    assert "Traceback" not in said.getvalue()
    train_text.load_checkpoint(str(folder / "checkpoint.pt"))


print(until_none_fails(kind, train, after))
"""


@pytest.mark.parametrize("kind", ["open", "write", "rename"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    kind: str, preloaded: dict[str, str], tmp_path: Path
) -> None:
    """And is one sentence: each of the calls that write one fails once."""
    pytest.importorskip("tqdm", reason="the examples extra is not installed")
    assert int(output_of(run_python("-c", CHECKPOINT, kind, tmp_path, environment=preloaded, path=(ROOT, TESTS)))) >= 1
