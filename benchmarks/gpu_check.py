"""Everything that only a GPU can show, in one command: versions, tests, compute-sanitizer, times, speed against cuDNN.

Each stage runs in a process of its own with a time limit, so that one that hangs or crashes does not take the others
with it. All goes into one JSON, with the GPU, driver, versions and commit; a table ends the output.

    make gpu-check
    make gpu-check ARGS="--stages tests speed"

docs/gpu-checklist.md lists what each stage proves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gru_ext
from benchmarks.check import Answer, answer, exact_module, judge
from benchmarks.contenders import OURS, GruExt, Problem, Step
from benchmarks.contenders.torch import Torch
from benchmarks.machine import commit
from benchmarks.measure import Spread, alternate, cuda_clock, ratio
from benchmarks.suites import Pass, Size
from benchmarks.switches import allow_tf32
from gru_ext import library
from gru_ext.info import info
from gru_ext.kernel_choice import cuda_kernel_names

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Exit status of compute-sanitizer where it found something; any that Python does not use.
FOUND = 86
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Stage:
    """A part of the check."""

    name: str
    seconds: float  # its limit
    command: Callable[[], list[str] | str]  # what to run, or why it cannot be
    environment: dict[str, str]


@dataclass
class Outcome:
    """What came of a stage."""

    stage: str
    outcome: str  # passed, failed, timed out, not run
    seconds: float
    words: str  # the last line of its output, or why it was not run
    output: str  # all of it, where it did not pass


STEPS = 512
KINDS: tuple[Pass, ...] = ("forward", "train")
# Size and dtype; tf32 is fp32 with TF32 allowed.
SIZES = [
    (Size(STEPS, 16, 64), "bf16"),
    (Size(STEPS, 32, 128), "bf16"),
    (Size(STEPS, 64, 192), "bf16"),
    (Size(STEPS, 64, 256), "bf16"),
    (Size(STEPS, 16, 512), "bf16"),
    (Size(STEPS, 64, 512), "bf16"),
    (Size(STEPS, 256, 512), "bf16"),
    (Size(STEPS, 48, 512), "tf32"),
    (Size(STEPS, 48, 512), "fp32"),
    (Size(STEPS, 16, 512), "fp32"),
    (Size(STEPS, 64, 256), "fp32"),
    (Size(STEPS, 32, 768), "bf16"),
    (Size(STEPS, 32, 1024), "bf16"),
    (Size(STEPS, 128, 1024), "bf16"),
    (Size(STEPS, 32, 2048), "bf16"),
    (Size(STEPS, 64, 2048), "bf16"),
    (Size(STEPS, 32, 2816), "bf16"),
    (Size(STEPS, 64, 4096), "bf16"),
    (Size(STEPS, 32, 1024), "tf32"),
    (Size(STEPS, 16, 256), "fp64"),
]
# One time step, as in decoding, with a state.
DECODING = [
    (Size(1, B, H), dtype)
    for dtype in ("bf16", "fp32")
    for B, H in ((1, 256), (1, 1024), (4, 1024), (8, 2048), (1, 4096))
]
GRAPH_CALLS = 32
BLOCKS = 7
BLOCK_SECONDS = 0.04
# H of which every streamed kernel, whose name does not say one, is timed; those that the device has the blocks for.
STREAMED_SIZES = (1024, 2048, 2816, 4096)


@dataclass
class Row:
    """One line of the speed table; times are medians over the blocks, in milliseconds."""

    H: int
    B: int
    dtype: str
    kind: str  # forward, or train: forward and backward; of one time step: step, or graph: in a CUDA graph
    cudnn_ms: float
    ours_ms: float
    ratio: float  # median over pairs of blocks
    ratio_low: float  # smallest and largest
    ratio_high: float
    exact: bool  # whether its results are within the policy of tests/compare.py
    kernels: str  # ours, forward and backward


@dataclass
class KernelRow:
    """What a step takes by one kernel."""

    kernel: str  # its name, and H where the name does not say it
    dtype: str
    backward: bool
    B: int
    us_a_step: float  # from the difference of two numbers of steps, so without the launch
    launch_us: float  # what remains: the launch, weights on their way to registers, products outside of the kernel


# ---- Stages


def device_facts() -> dict[str, Any]:
    """The GPU and the versions that everything else belongs to."""
    properties = torch.cuda.get_device_properties(0)
    smi = shutil.which("nvidia-smi")
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"] if smi else ["true"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0]
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver or "unknown",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        **info(),
    }


def speed_rows(device: torch.device) -> list[Row]:
    """Ours against nn.GRU, which is cuDNN, with the same weights and inputs, checked first."""
    rows = []
    for size, dtype in SIZES:
        allow_tf32(dtype == "tf32")
        theirs = nn.GRU(size.H, size.H, device=device, dtype=DTYPES[dtype])
        x = torch.randn(size.T, size.B, size.H, device=device, dtype=DTYPES[dtype])
        dy = torch.randn_like(x)
        for kind in KINDS:
            problem = Problem(size, kind, theirs, threads=1)
            ours = GruExt(problem)
            steps = {Torch.name: Torch(problem).step(x, dy), OURS: ours.step(x, dy)}
            exact = judge(OURS, ours.results(steps[OURS]()), answer(problem, x.cpu(), dy.cpu())).right
            times, _ = alternate(steps, cuda_clock(device), BLOCKS, BLOCK_SECONDS)
            rows.append(row_of(size, dtype, kind, times, exact))
    return rows


def decoding_rows(device: torch.device) -> list[Row]:
    """The same for one time step, call by call, and as one of GRAPH_CALLS of a CUDA graph."""
    allow_tf32(False)
    rows = []
    for size, dtype in DECODING:
        theirs = nn.GRU(size.H, size.H, device=device, dtype=DTYPES[dtype]).requires_grad_(False)
        ours = gru_ext.GRU(size.H, size.H, device=device, dtype=DTYPES[dtype]).requires_grad_(False)
        ours.load_state_dict(theirs.state_dict())
        x, hx = (torch.randn(1, size.B, size.H, device=device, dtype=DTYPES[dtype]) for _ in range(2))
        truth = exact_module(theirs)(x.cpu().double(), hx.cpu().double())[0]
        exact = judge(OURS, {"y": ours(x, hx)[0]}, Answer({"y": truth}, {"y": theirs(x, hx)[0]})).right
        steps: dict[str, Step] = {Torch.name: partial(theirs, x, hx), OURS: partial(ours, x, hx)}
        for kind in ("step", "graph"):
            timed = steps if kind == "step" else {name: in_a_graph(step) for name, step in steps.items()}
            times, _ = alternate(timed, cuda_clock(device), BLOCKS, BLOCK_SECONDS)
            rows.append(row_of(size, dtype, kind, times, exact, GRAPH_CALLS if kind == "graph" else 1))
    return rows


def row_of(size: Size, dtype: str, kind: str, times: dict[str, list[float]], exact: bool, calls: int = 1) -> Row:
    """What was timed, in seconds for so many calls."""
    ratios = ratio(times[Torch.name], times[OURS])
    return Row(
        H=size.H,
        B=size.B,
        dtype=dtype,
        kind=kind,
        cudnn_ms=1e3 * Spread.of(times[Torch.name]).median / calls,
        ours_ms=1e3 * Spread.of(times[OURS]).median / calls,
        ratio=ratios.median,
        ratio_low=ratios.low,
        ratio_high=ratios.high,
        exact=exact,
        kernels=names_of_kernels(size, DTYPES[dtype]),
    )


def in_a_graph(step: Step) -> Step:
    """GRAPH_CALLS calls, captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_CALLS):
            step()
    return graph.replay


def names_of_kernels(size: Size, dtype: torch.dtype) -> str:
    """What serves a size."""
    found = gru_ext.kernels(size.T, size.B, size.H, dtype=dtype, device="cuda")
    return f"{found.forward.name}, {found.backward.name}"


def kernel_rows(device: torch.device) -> list[KernelRow]:
    """Every cluster kernel, and the stepwise ones, by themselves: one tile of rows, I = 8."""
    allow_tf32(True)
    rows = []
    for dtype_name in ("bf16", "tf32"):
        dtype = DTYPES[dtype_name]
        for backward in (False, True):
            shapes = {"stepwise H512": (512, 8)}
            for name in cuda_kernel_names(dtype, backward):
                first, *_, tile = (int(digits) for digits in re.findall(r"\d+", name))
                if name.startswith("streamed"):
                    shapes |= {f"{name} H{hidden}": (hidden, tile) for hidden in STREAMED_SIZES}
                else:
                    shapes[name] = (first, tile)
            shapes |= {f"stepwise H{hidden}": (hidden, 32) for hidden in STREAMED_SIZES}
            for label, (hidden, batch) in shapes.items():
                name = label.split()[0]
                with gru_ext.use_cuda_kernels(*(("auto", name) if backward else (name, "auto"))):
                    try:
                        times = [one_call_us(device, dtype, steps, batch, hidden, backward) for steps in (128, 512)]
                    except RuntimeError as error:
                        print(f"{label}: {error}", file=sys.stderr)
                        continue
                step = (times[1] - times[0]) / (512 - 128)
                rows.append(KernelRow(label, dtype_name, backward, batch, step, times[0] - 128 * step))
    return rows


def one_call_us(device: torch.device, dtype: torch.dtype, steps: int, batch: int, hidden: int, backward: bool) -> float:
    """Microseconds of one operator call, gates saved."""
    ops = torch.ops.gru_ext
    x = torch.randn(steps, batch, 8, device=device, dtype=dtype)
    weights = [torch.randn(3 * hidden, n, device=device, dtype=dtype) / hidden**0.5 for n in (8, hidden)]
    y, _, gates = ops.gru_fwd(x, None, weights, None, False, True)
    calls = {
        False: lambda: ops.gru_fwd(x, None, weights, None, False, True),
        True: lambda: ops.gru_bwd(y, None, x, None, weights, None, False, y, gates, False, False, False),
    }
    times, _ = alternate({"": calls[backward]}, cuda_clock(device), BLOCKS, BLOCK_SECONDS)
    return 1e6 * Spread.of(times[""]).median


def constants() -> str:
    """Build benchmarks/gpu_constants.cu for this GPU, and run it."""
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.cuda.get_device_capability() < (9, 0):
        return "{}"  # no clusters
    program = ROOT / "build" / "gpu_constants"
    program.parent.mkdir(exist_ok=True)
    nvcc = str(Path(CUDA_HOME or "/usr/local/cuda") / "bin" / "nvcc")
    source = ROOT / "benchmarks" / "gpu_constants.cu"
    subprocess.run([nvcc, "-std=c++17", "-O3", "-arch=native", str(source), "-o", str(program)], check=True)
    return subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout


def run_small_shapes(device: str) -> None:
    """Forward and backward of every dtype and kernel family: what compute-sanitizer watches."""
    for kernels in ("stepwise", "auto"):
        with gru_ext.use_cuda_kernels(kernels):
            run_every_dtype(device)


def run_every_dtype(device: str) -> None:
    """A padded and a packed batch, and one time step."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        module = gru_ext.GRU(5, 33, bidirectional=True, device=device, dtype=dtype)
        padded = torch.randn(4, 9, 5, device=device, dtype=dtype)
        lengths = [4, 4, 3, 3, 3, 2, 1, 1, 1]
        packed = nn.utils.rnn.pack_padded_sequence(padded, lengths)
        for x in (padded, packed, padded[:1]):
            y, h_n = module(x)
            data = y.data if x is packed else y
            torch.autograd.grad(data.sum() + h_n.sum(), list(module.parameters()))


def own(part: str) -> list[str]:
    """The command of a stage that this file does itself."""
    return [sys.executable, "-m", "benchmarks.gpu_check", "--part", part]


def sanitizer(tool: str) -> list[str] | str:
    """compute-sanitizer over small shapes, or why not."""
    beside_nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "compute-sanitizer"
    program = shutil.which("compute-sanitizer") or (str(beside_nvcc) if beside_nvcc.exists() else None)
    if program is None:
        return "no compute-sanitizer on PATH or in CUDA_HOME/bin"
    return [program, "--tool", tool, "--error-exitcode", str(FOUND), *own("small-shapes")]


def tests() -> list[str]:
    """Pytest over what is marked cuda."""
    return [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", str(ROOT / "tests")]


STAGES = [
    Stage("device", 30, lambda: own("device"), {}),
    Stage("tests", 180, tests, {}),
    # Without torch's cache of memory, what is out of bounds of a tensor is out of bounds of an allocation.
    Stage("memcheck", 60, lambda: sanitizer("memcheck"), {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
    Stage("racecheck", 60, lambda: sanitizer("racecheck"), {}),
    Stage("constants", 60, lambda: own("constants"), {}),
    Stage("kernels", 150, lambda: own("kernels"), {}),
    Stage("speed", 150, lambda: own("speed"), {}),
]


def run(stage: Stage) -> Outcome:
    """Run a stage to its end or its limit."""
    command = stage.command()
    if isinstance(command, str):
        return Outcome(stage.name, "not run", 0.0, command, "")
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **stage.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=stage.seconds)
        outcome = "passed" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # compute-sanitizer has a child
        output, _ = process.communicate()
        outcome = "timed out"
    last = output.strip().splitlines()[-1] if output.strip() else ""
    return Outcome(stage.name, outcome, round(time.monotonic() - start, 1), last, output)


# ---- The command

# Stages whose last line is what they measured.
JSON_STAGES = ("device", "constants", "kernels", "speed")


def show(outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]], kernels: Sequence[dict[str, Any]]) -> None:
    """Print the tables that end the output."""
    if kernels:
        print(f"\n{'kernel':24} {'dtype':5} {'':8} {'B':>4} {'us a step':>10} {'launch us':>10}")
        for row in kernels:
            direction = "backward" if row["backward"] else "forward"
            print(
                f"{row['kernel']:24} {row['dtype']:5} {direction:8} {row['B']:4} {row['us_a_step']:10.3f}"
                f" {row['launch_us']:10.1f}"
            )
    if rows:
        print(f"\n{'H':>5} {'B':>4} {'dtype':5} {'':7} {'cuDNN ms':>9} {'ours ms':>9} {'times faster':>13}")
        for row in rows:
            times = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
            marks = "" if row["exact"] else "  beyond the tolerance"
            print(
                f"{row['H']:5} {row['B']:4} {row['dtype']:5} {row['kind']:7} {row['cudnn_ms']:9.4f}"
                f" {row['ours_ms']:9.4f} {times:>20}  {row['kernels']}{marks}"
            )
    print()
    for outcome in outcomes:
        words = outcome.words if outcome.stage not in JSON_STAGES or outcome.outcome != "passed" else ""
        print(f"{outcome.stage:10} {outcome.outcome:9} {outcome.seconds:6.1f} s  {words}")


def run_part(part: str) -> None:
    """What a stage's process does."""
    if part == "device":
        print(json.dumps(device_facts()))
    elif part == "constants":
        print(constants())
    elif part == "kernels":
        print(json.dumps([asdict(row) for row in kernel_rows(torch.device("cuda", 0))]))
    elif part == "speed":
        device = torch.device("cuda", 0)
        print(json.dumps([asdict(row) for row in [*speed_rows(device), *decoding_rows(device)]]))
    else:
        run_small_shapes("cuda")
        torch.cuda.synchronize()
        print("small shapes ran")


def main() -> None:
    """Run the chosen stages, write the JSON, print the tables; the exit status tells whether all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", choices=names, default=names, help="which (default: all)")
    parser.add_argument("--json", type=Path, help="where to write (default: benchmarks/results/gpu_NAME.json)")
    parser.add_argument("--part", choices=[*JSON_STAGES, "small-shapes"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"gpu-check: torch {torch.__version__} sees no GPU on this machine; run it on one that has a GPU")
    if not library.has_cuda_kernels:
        sys.exit(f"gpu-check: this build of gru_ext has no CUDA kernels ({library.cuda_build})")
    if arguments.part:
        run_part(arguments.part)
        return

    outcomes = []
    for stage in STAGES:
        # The JSON is worth nothing without the device that it belongs to.
        if stage.name in arguments.stages or stage.name == "device":
            print(f"{stage.name}, at most {stage.seconds:.0f} s ...", flush=True)
            outcome = run(stage)
            outcomes.append(outcome)
            if outcome.outcome in ("failed", "timed out"):
                print(outcome.output)
    said = {outcome.stage: outcome.words for outcome in outcomes if outcome.outcome == "passed"}
    device = json.loads(said.get("device", "{}"))
    measured = {stage: json.loads(said.get(stage, "null")) for stage in JSON_STAGES[1:]}
    stages = [
        {key: value for key, value in asdict(outcome).items() if key != "output" or outcome.outcome != "passed"}
        for outcome in outcomes
    ]
    slug = re.sub(r"\W+", "_", device.get("gpu", "unknown").lower()).strip("_")
    path = arguments.json or RESULTS / f"gpu_{slug}.json"
    path.write_text(json.dumps({"device": device, "stages": stages, **measured}, indent=1) + "\n")
    show(outcomes, measured["speed"] or [], measured["kernels"] or [])
    print(f"\nwrote {path}")
    if any(outcome.outcome in ("failed", "timed out") for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
