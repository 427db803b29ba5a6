"""Several processes: training with torch.distributed is that of one process, and what happens when one is lost."""

from __future__ import annotations

import importlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed_checks
import pytest
import torch
import torch.distributed as dist
from compare import assert_near, assert_same_bits
from process import ROOT, TESTS, fork_python, output_of, run_python
from torch.utils.checkpoint import checkpoint

import gru_ext

pytest.importorskip("tqdm", reason="the examples extra is not installed")
pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")

EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))
train_text = importlib.import_module("train_text")
Processes = importlib.import_module("helpers.many_processes").Processes
TRAIN_TEXT = EXAMPLES / "train_text.py"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TEXT = "The gates decide what the state keeps, and what it forgets.\n" * 40
OPTIONS = ["--quiet", "--hidden=16", "--embedding=8", "--batch=4", "--steps-per-sequence=16", "--compare-steps=0"]
STEPS = 20


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``torchrun`` with two processes on this machine; output captured, any exit status."""
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return fork_python(*program, *arguments, path=[ROOT, TESTS, EXAMPLES], environment=ONE_THREAD)


# ---- DistributedDataParallel and FSDP2


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Of each process, the traceback of each check it came to: one launch for all."""
    file = tmp_path_factory.mktemp("outcomes") / "rank"
    output_of(torchrun(TESTS / "distributed_checks.py", file))
    return [json.loads(Path(f"{file}.{rank}").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", distributed_checks.CHECKS)
def test_two_processes_train_as_one(name: str, outcomes: list[dict[str, str]]) -> None:
    for rank, found in enumerate(outcomes):
        assert found.get(name, "did not come to this check") == "", f"process {rank}: {found.get(name)}"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recomputed_activations_give_the_same_bits(reentrant: bool, bidirectional: bool) -> None:
    gru = gru_ext.GRU(3, 5, num_layers=2, bidirectional=bidirectional, dropout=0.5)
    x = torch.randn(6, 2, 3, requires_grad=True)

    def gradients(call: Callable[[torch.Tensor], Any]) -> list[torch.Tensor]:
        torch.manual_seed(1)  # of the dropout
        gru.zero_grad()
        x.grad = None
        y, h_n = call(x)
        (y.sin().sum() + h_n.sum()).backward()
        found = [x.grad, *(parameter.grad for parameter in gru.parameters())]
        return [gradient.clone() for gradient in found if gradient is not None]

    recomputed = gradients(lambda x: checkpoint(gru, x, use_reentrant=reentrant))
    assert_same_bits(recomputed, gradients(gru))


# ---- examples/train_text.py under torchrun


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def options(text: Path, out: Path, steps: int = STEPS) -> list[str]:
    """Of the program: a small model."""
    return [*OPTIONS, f"--text={text}", f"--out={out}", f"--max-steps={steps}"]


AND_THREADS = """
import json, os, pathlib, sys, train_text
code = train_text.main(sys.argv[2:])
names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
pathlib.Path(f"{sys.argv[1]}.{os.environ['RANK']}").write_text(json.dumps(names))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def two(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What two processes print, and where they save, and which threads they have at the end."""
    out = tmp_path_factory.mktemp("two")
    program = out / "program.py"
    program.write_text(AND_THREADS)
    return output_of(torchrun(program, out / "threads", *options(text, out))), out


def saved(out: Path) -> dict[str, Any]:
    contents: dict[str, Any] = torch.load(out / "checkpoint.pt")
    return contents


def left_by(run: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint has of a run: losses, validation, parameters, optimizer and carried state."""
    numbers = {name: torch.tensor(run[name]) for name in ("losses", "validation")}
    return {**numbers, "model": run["model"], "optimizer": run["optimizer"]["state"], "state": run["state"]}


def assert_same_run(ours: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """To a tolerance; 0 for the same bits."""
    assert ours["step"] == expected["step"] == STEPS
    assert [step for step, _ in ours["validation"]] == [step for step, _ in expected["validation"]]
    if tolerance:
        assert_near(left_by(ours), left_by(expected), "run", tolerance)
    else:
        assert_same_bits(left_by(ours), left_by(expected), "run")


@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
def test_no_thread_of_gloo_is_left_when_the_example_ends(two: tuple[str, Path]) -> None:
    left = [json.loads(Path(f"{two[1]}/threads.{rank}").read_text()) for rank in range(2)]
    assert all(names for names in left)
    assert not any("gloo" in name for names in left for name in names), left


def test_two_processes_train_the_text_as_one(two: tuple[str, Path], text: Path, tmp_path: Path) -> None:
    printed, out = two
    assert train_text.main(options(text, tmp_path)) == 0
    assert_same_run(saved(out), saved(tmp_path), 1e-4)
    # The first process alone reports.
    assert printed.count("bits per character before training") == 1
    assert printed.count(f"written: {out / 'checkpoint.pt'}") == 1


def test_one_process_goes_on_from_the_checkpoint_of_two(two: tuple[str, Path], text: Path, tmp_path: Path) -> None:
    assert train_text.main(options(text, tmp_path / "more", STEPS + 5)) == 0
    resumed = tmp_path / "resumed"
    assert train_text.main([f"--resume={two[1] / 'checkpoint.pt'}", *options(text, resumed, STEPS + 5)]) == 0
    ours, expected = saved(resumed), saved(tmp_path / "more")
    assert_near(torch.tensor(ours["losses"]), torch.tensor(expected["losses"]), "losses", 1e-4)
    assert len(ours["losses"]) == STEPS + 5


FAULTY = """
import os, signal, sys, time
import train_text

original, steps = train_text.Trainer.step, 0

def step(trainer, batch):
    global steps
    steps += 1
    if steps == 8 and os.environ["RANK"] == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        {fault}
    return original(trainer, batch)

train_text.Trainer.step = step
sys.exit(train_text.main())
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
STUCK = "time.sleep(1000)"


def faulty(fault: str, path: Path) -> Path:
    """The program, but its second process has a fault in step 8 of its first life."""
    script = path / "faulty.py"
    script.write_text(FAULTY.format(fault=fault))
    return script


def test_a_run_that_torchrun_restarts_after_a_process_was_killed_is_the_uninterrupted_one(
    two: tuple[str, Path], text: Path, tmp_path: Path
) -> None:
    result = torchrun("--max-restarts=1", faulty(KILLED, tmp_path), "--checkpoint-every=5", *options(text, tmp_path))
    output_of(result)
    # torchrun names the process that it finds dead first: the killed one, or the one that lost it.
    assert re.search(r"failed \(exitcode: (-9|1)\)", result.stderr), result.stderr
    assert_same_run(saved(tmp_path), saved(two[1]), 0)


def test_a_run_resumed_by_hand_after_a_process_was_stuck_is_the_uninterrupted_one(
    two: tuple[str, Path], text: Path, tmp_path: Path
) -> None:
    result = torchrun(faulty(STUCK, tmp_path), "--checkpoint-every=5", *options(text, tmp_path), "--timeout=5")
    assert result.returncode == 1
    assert "process 0 of 2 stops: another one died or did not answer for 5 s (" in result.stderr
    checkpoint = tmp_path / "checkpoint.pt"
    assert f"go on with: --resume {checkpoint}\n" in result.stderr
    assert saved(tmp_path)["step"] == 5
    output_of(torchrun(TRAIN_TEXT, f"--resume={checkpoint}"))
    assert_same_run(saved(tmp_path), saved(two[1]), 0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_a_killed_process_ends_the_other_with_a_sentence(text: Path, tmp_path: Path) -> None:
    """Started by hand: under torchrun, it is torchrun that names the process and ends the others."""
    script, port = faulty(KILLED, tmp_path), free_port()

    def start(rank: int) -> subprocess.CompletedProcess[str]:
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
        given = options(text, tmp_path)
        return run_python(script, *given, path=[ROOT, EXAMPLES], environment=ONE_THREAD | environment)

    with ThreadPoolExecutor() as pool:
        survivor, killed = pool.map(start, range(2))
    assert killed.returncode == -signal.SIGKILL
    assert survivor.returncode == 1
    assert "process 0 of 2 stops: another one died or did not answer for 300 s (" in survivor.stderr


def test_a_refusal_leaves_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only process of a launcher's: what is refused after it joined can be called again, as in a notebook."""
    for name, value in {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        with pytest.raises(SystemExit) as refusal:
            train_text.main([*OPTIONS, f"--text={tmp_path / 'missing'}", f"--out={tmp_path / 'out'}"])
        assert refusal.value.code == 2
        assert not dist.is_initialized()


def test_a_batch_that_cannot_be_shared_is_refused(text: Path, tmp_path: Path) -> None:
    settings, _ = train_text.parse_arguments([*OPTIONS, f"--text={text}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(train_text.UsageError, match=r"^--batch 4 cannot be shared by 3 processes: give a multiple$"):
        train_text.run(settings, None, Processes(rank=0, count=3))
    assert not (tmp_path / "out").exists()
