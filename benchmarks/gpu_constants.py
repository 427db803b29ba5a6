"""What a check on a GPU says of the time model: the lines that change, and the choices of kernel that change with them.

    python -m benchmarks.gpu_constants gpu_check.json
    python -m benchmarks.gpu_constants gpu_check.json | git apply --unidiff-zero      (changes the lines)

The constants of the model are those of csrc/cuda/choice/time_model.h. They come from the program gpu_constants.cu, and
from the times of a step and of a call. What no row of the check measures stays as it is, and is listed. The choices are
those of csrc/cuda/choice itself, compiled with a C++ compiler, ``$CXX`` or ``c++``.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu_check.journal import Row
from benchmarks.gpu_check.results import Results, ResultsError, measured, read
from benchmarks.gpu_check.stages import ROOT

SOURCE = Path("csrc/cuda/choice/time_model.h")
PROGRAM = ROOT / "benchmarks" / "kernel_choices.cpp"
BUILD = ROOT / "build" / "kernel_choices"
DECLARATION = re.compile(r"^constexpr double (.*?);", re.MULTILINE)
CONSTANT = re.compile(r"\b(k\w+) = ([^,;]+)")
MOST_CHOICES = 40  # that are printed
MOST_ROUNDS = 20  # of a fit, from each of these rates of products, multiply-adds a cycle
FIRST_RATES = (100.0, 300.0, 500.0, 700.0, 1000.0, 2000.0)
ONE_STEP_TILE = 8  # rows that the one-step kernel reads the weights for at once, kTileRows of one_step.cpp


class Kernel(NamedTuple):
    """What the model knows of a cluster or group kernel."""

    name: str
    backward: bool
    dtype: str
    hidden: int
    blocks: int
    rows: int
    pairs: int
    overflow_bytes: int
    packet_bytes: int

    @property
    def way(self) -> str:
        """The pass, in the names of constants."""
        return "Backward" if self.backward else "Forward"

    @property
    def work(self) -> float:
        """Multiply-adds of a step and block, those in TF32 counted twice."""
        return 3.0 * self.hidden**2 * self.rows / self.blocks * (2 if self.dtype == "tf32" else 1)

    def fixed(self, constants: Mapping[str, float]) -> float:
        """Cycles of a step that go by with no product, and without packets."""
        return constants[f"k{self.way}Step"] + constants[f"k{self.way}Pair"] * self.pairs

    def beside_products(self, constants: Mapping[str, float]) -> float:
        """Cycles of a step that are hidden behind the products, or hide them."""
        passes = math.ceil(self.rows / (8 if self.dtype == "fp32" else 16))
        overflow = self.overflow_bytes * passes / constants["kSharedBytes"]
        if self.blocks == 1 or self.packet_bytes:
            return overflow
        unit = 2 if self.dtype == "bf16" and not self.backward else 4
        received = unit * self.hidden * self.rows / constants["kExchangeBytes"]
        return max(overflow, constants["kExchangeLatency"] + received)

    def longest(self, constants: Mapping[str, float]) -> float:
        """Cycles of the products, or of what hides them."""
        rate = constants["kFmaMultiplyAdds" if self.dtype == "fp32" else f"k{self.way}MultiplyAdds"]
        return max(self.work / rate, self.beside_products(constants))


Steps = Sequence[tuple[Kernel, float]]  # and the cycles of a step


def fitted_steps(steps: Steps, constants: Mapping[str, float]) -> dict[str, float]:
    """The constants of steps on the tensor core, from those of clusters: least squares of relative errors.

    ``constants``: those of shared memory and of the exchange. Nothing of a pass with too few steps.
    """
    found: dict[str, float] = {}
    for way in ("Forward", "Backward"):
        of_pass = [
            (kernel, cycles)
            for kernel, cycles in steps
            if kernel.way == way and not kernel.packet_bytes and kernel.dtype != "fp32"
        ]
        values = _fitted(of_pass, constants)
        if values is not None:
            step, pair, of_product = values
            found |= {f"k{way}Step": step, f"k{way}Pair": pair, f"k{way}MultiplyAdds": 1 / of_product}
    return found


def _fitted(steps: Steps, constants: Mapping[str, float]) -> tuple[float, float, float] | None:
    """Cycles of a step, of a pair and of a multiply-add, with the least squares that any round found.

    A round takes the kernels whose products are the longest by what the one before found; rounds may go in circles.
    """
    best, least = None, math.inf
    for rate in FIRST_RATES:
        of_product = 1 / rate
        for _ in range(MOST_ROUNDS):
            rows, right = [], []
            for kernel, cycles in steps:
                beside = kernel.beside_products(constants)
                work, hidden = (kernel.work, 0.0) if kernel.work * of_product >= beside else (0.0, beside)
                rows.append(np.array([1, kernel.pairs, work]) / cycles)
                right.append(1 - hidden / cycles)
            if not rows or np.linalg.matrix_rank(rows) < 3:
                break
            step, pair, of_product = map(float, np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0])
            error = sum(
                (
                    1
                    - (step + pair * kernel.pairs + max(kernel.work * of_product, kernel.beside_products(constants)))
                    / cycles
                )
                ** 2
                for kernel, cycles in steps
            )
            if error < least:
                best, least = (step, pair, of_product), error
    return best


def fma_rate(steps: Steps, constants: Mapping[str, float]) -> float | None:
    """Multiply-adds a cycle of IEEE kernels of clusters."""
    rates = [
        kernel.work / (cycles - kernel.fixed(constants))
        for kernel, cycles in steps
        if kernel.dtype == "fp32" and not kernel.packet_bytes and cycles > kernel.fixed(constants)
    ]
    return median(rates)


class Choice(NamedTuple):
    """What the model chooses for a call, and the seconds that it expects."""

    kernel: str
    seconds: float


Call = tuple[str, ...]  # dtype, pass, T, B, H


# ---- The source


def constants_of(text: str) -> dict[str, float]:
    """The constants of a source file, by name."""
    found: dict[str, float] = {}
    for declaration in DECLARATION.finditer(text):
        found |= {name: float(value) for name, value in CONSTANT.findall(declaration[1])}
    return found


def with_constants(text: str, values: Mapping[str, float]) -> str:
    """The source with other values."""

    def replaced(constant: re.Match[str]) -> str:
        name, value = constant[1], constant[2]
        return f"{name} = {literal(values[name])}" if name in values else f"{name} = {value}"

    return DECLARATION.sub(lambda found: CONSTANT.sub(replaced, found[0]), text)


def literal(value: float) -> str:
    """Three digits, as the source writes numbers."""
    text = f"{value:.3g}"
    return re.sub(r"e([+-])0*", lambda exponent: "e" + exponent[1].replace("+", ""), text)


def present() -> dict[str, float]:
    """The constants as they are."""
    return constants_of((ROOT / SOURCE).read_text())


def difference(values: Mapping[str, float]) -> str:
    """The lines that change, as ``git apply --unidiff-zero`` takes them."""
    before = (ROOT / SOURCE).read_text()
    after = with_constants(before, values)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{SOURCE}", f"b/{SOURCE}", n=0
    )
    return "".join(lines)


# ---- The measurements


@dataclass
class Measured:
    """The rows of a check, read as the model's constants; each is None where the rows that it needs are not there."""

    results: Results
    before: Mapping[str, float]  # the constants as they are, for those that are not measured
    kernels: Mapping[tuple[str, bool, str], Kernel]  # by name, pass, dtype

    def constant(self, name: str) -> float:
        """Measured, or as it is."""
        value = SOURCES_OF[name].value(self) if name in SOURCES_OF else None
        return self.before[name] if value is None else value

    def found(self, measurement: str) -> dict[str, Any]:
        """What the program printed; nothing where it was not run."""
        return next(
            (row["found"] for row in measured(self.results, "constants") if row["key"] == measurement),
            {},
        )

    def number(self, measurement: str, *names: str) -> float | None:
        """One of its numbers; None where there is none, or a reason in its place."""
        value: Any = self.found(measurement)
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return float(value) if isinstance(value, int | float) else None

    @cached_property
    def clock_rate(self) -> float:
        """Cycles a second."""
        ghz = self.number("clock", "ghz")
        return 1e9 * ghz if ghz else self.before["kAssumedClockRate"]

    @cached_property
    def multiprocessors(self) -> int:
        """Of the GPU."""
        return int(self.results["device"].get("multiprocessors") or self.number("clock", "multiprocessors") or 132)

    def steps(self, family: str, backward: bool | None = None, dtypes: Sequence[str] = ("bf16",)) -> list[Row]:
        """The times of the kernels of a family."""
        return [
            row
            for row in measured(self.results, "steps")
            if row["kernel"].startswith(family)
            and (family == "stepwise" or row["kernel"].endswith("_ieee") == (dtypes == ("fp32",)))
            and row["dtype"] in dtypes
            and backward in (None, row["backward"])
        ]

    def cycles(self, family: str, dtypes: Sequence[str]) -> Steps:
        """Of the steps of the kernels of a family."""
        return [
            (
                self.kernels[row["kernel"], row["backward"], row["dtype"]],
                1e-6 * float(row["us_a_step"]) * self.clock_rate,
            )
            for row in self.steps(family, dtypes=dtypes)
        ]

    @cached_property
    def of_clusters(self) -> dict[str, float]:
        """Constants of steps on the tensor core, with those of shared memory and of the exchange as they are found."""
        names = ("kSharedBytes", "kExchangeLatency", "kExchangeBytes")
        constants = {name: self.constant(name) for name in names}
        return fitted_steps(self.cycles("cluster", ("bf16", "tf32")), constants)

    @cached_property
    def of_steps(self) -> dict[str, float]:
        """All constants of steps without packets."""
        names = ("kSharedBytes", "kExchangeLatency", "kExchangeBytes", "kFmaMultiplyAdds")
        return {**self.before, **{name: self.constant(name) for name in names}, **self.of_clusters}

    def fma_rate(self) -> float | None:
        """Multiply-adds a cycle of the IEEE kernels."""
        return fma_rate(self.cycles("cluster", ("fp32",)), {**self.before, **self.of_clusters})

    def shared_rate(self) -> float | None:
        """Bytes a cycle, from what the same products take longer with their weights in shared memory."""
        registers, shared = (self.number("multiply_adds", f"bf16, 8 rows{kind}") for kind in ("", ", shared"))
        if not registers or not shared or shared >= registers:
            return None
        bytes_a_product = 2 / 8  # of a weight, which 8 rows share
        return bytes_a_product / (1 / shared - 1 / registers)

    def exchange(self) -> tuple[float, float] | None:
        """Latency in cycles and bytes a cycle of an exchange in a cluster, while all clusters exchange."""
        points = []
        for blocks in (4, 8, 12, 16):
            for nbytes, cycles in self.found(f"cluster_{blocks}").get("exchange_cycles", {}).items():
                if isinstance(cycles, int | float):
                    points.append((blocks * float(nbytes), float(cycles)))
        line = fitted(points)
        barrier = self.number("block_barrier", "cycles")
        return None if line is None or barrier is None else (line[0] - barrier, 1 / line[1])

    def packet_rate(self) -> float | None:
        """Bytes a cycle that a group fetches, from its steps."""
        rates, latency = [], self.constant("kPacketLatency")
        for kernel, whole in self.cycles("group", ("bf16", "tf32")):
            cycles = whole - kernel.fixed(self.of_steps) - kernel.longest(self.of_steps) - latency
            rates.append(kernel.packet_bytes / 2 / cycles if cycles > 0 else math.inf)
        rate = median(rates)
        return None if rate is None or math.isinf(rate) else rate

    def packet_latency(self) -> float | None:
        """Cycles: one way, and the barrier after it."""
        one_way, barrier = self.number("tagged", "one_way_cycles"), self.number("block_barrier", "cycles")
        return None if one_way is None or barrier is None else one_way + barrier

    def slab(self) -> float | None:
        """Cycles of a slab, from a streamed kernel of few rows that holds all of R: 8 slabs of a slice at H = 1024."""
        rows = [row for row in self.steps("streamed_U32_rows8", False) if row["H"] == 1024]
        beside = sum(self.of_steps[name] for name in ("kForwardStep", "kForwardPair")) + self.constant("kFlagLatency")
        return median((1e-6 * row["us_a_step"] * self.clock_rate - beside) / 8 for row in rows)

    def copies(self) -> dict[int, float]:
        """Bytes a cycle and multiprocessor, by MB of memory that is read in turn."""
        found = self.found("copies").get("bytes_a_cycle", {})
        return {int(size): float(rate) for size, rate in found.items() if isinstance(rate, int | float)}

    def cached_bytes(self) -> float | None:
        """The most memory of which more than half comes at the rate of the cache."""
        rates = self.copies()
        if len(rates) < 2:
            return None
        half = (rates[min(rates)] + rates[max(rates)]) / 2
        return 1e6 * max(size for size, rate in rates.items() if rate >= half)

    def memory_rate(self) -> float | None:
        """Bytes a second."""
        rates = self.copies()
        return rates[max(rates)] * self.multiprocessors * self.clock_rate if len(rates) > 1 else None

    def load_rate(self) -> float | None:
        """Bytes a second of weights on their way to a streamed kernel, from its launches for two H."""
        launches: dict[str, list[tuple[float, float]]] = {}
        for row in self.steps("streamed", False):
            launches.setdefault(row["kernel"], []).append((3.0 * row["H"] ** 2 * 2, 1e-6 * row["launch_us"]))
        lines = [fitted(points) for points in launches.values()]
        return median(1 / line[1] for line in lines if line is not None)

    def stepwise_step(self) -> float | None:
        """Seconds of a step of a small layer beside its product."""
        rows = [row for row in self.steps("stepwise", False) if row["H"] <= 512]
        rate = self.constant("kWeightBytes")
        return median(1e-6 * row["us_a_step"] - 6 * row["H"] ** 2 / rate for row in rows)

    def product_rate(self, dtype: str) -> float | None:
        """Multiply-adds a second of large products, from stepwise steps that have more to multiply than to read."""
        beside = self.constant("kStepwiseStepSeconds")
        rows = [row for row in self.steps("stepwise", False, (dtype,)) if row["B"] >= 512]
        return median(3.0 * row["B"] * row["H"] ** 2 / (1e-6 * row["us_a_step"] - beside) for row in rows)

    def one_steps(self, of: Callable[[int], bool]) -> list[Row]:
        """Calls of the one-step kernel in a graph, of so many rows."""
        return [
            row
            for row in measured(self.results, "decoding")
            if row["kind"] == "graph" and of(row["B"]) and row["kernels"].startswith("one_step")
        ]

    def one_step(self) -> tuple[float, float] | None:
        """Seconds of a call of the one-step kernel beside its reading, and bytes a second of that; in a graph."""
        line = fitted([(weight_bytes(row), 1e-3 * row["ours_ms"]) for row in self.one_steps(lambda rows: rows == 1)])
        return None if line is None else (line[0], 1 / line[1])

    def one_step_rate(self) -> float | None:
        """Multiply-adds a second of the one-step kernel; None where it spends more on reading."""
        rates = []
        for row in self.one_steps(lambda rows: rows > ONE_STEP_TILE):
            seconds = (1e-3 * row["ours_ms"] - self.constant("kOneStepSeconds")) / (row["B"] // ONE_STEP_TILE)
            if seconds > weight_bytes(row) / self.constant("kWeightBytes"):
                rates.append(6.0 * row["H"] ** 2 * ONE_STEP_TILE / seconds)
        return median(rates)


def weight_bytes(row: Row) -> float:
    """Of W and R of a layer of H inputs."""
    return 6.0 * float(row["H"]) ** 2 * (2 if row["dtype"] == "bf16" else 4)


def median(values: Iterable[float]) -> float | None:
    """None of none."""
    found = list(values)
    return statistics.median(found) if found else None


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Where the line through some points begins, and its slope, which must be positive; None of fewer than two x."""
    if len({x for x, _ in points}) < 2:
        return None
    line = statistics.linear_regression(*zip(*points, strict=True))
    return (line.intercept, line.slope) if line.slope > 0 else None


def _first(pair: tuple[float, float] | None) -> float | None:
    return None if pair is None else pair[0]


def _second(pair: tuple[float, float] | None) -> float | None:
    return None if pair is None else pair[1]


class Source(NamedTuple):
    """Where a constant comes from."""

    words: str
    value: Callable[[Measured], float | None]


def _of_clusters(name: str) -> Source:
    return Source("steps of clusters, fitted", lambda m: m.of_clusters.get(name))


SOURCES_OF: dict[str, Source] = {
    "kAssumedClockRate": Source("clock", lambda m: m.clock_rate if m.number("clock", "ghz") else None),
    "kStreamedMultiplyAdds": Source(
        "multiply_adds, mean of 8 and 16 rows",
        lambda m: mean(m.number("multiply_adds", "bf16, 8 rows"), m.number("multiply_adds", "bf16, 16 rows")),
    ),
    "kSharedBytes": Source("multiply_adds, weights in shared memory", Measured.shared_rate),
    **{
        name: _of_clusters(name)
        for way in ("Forward", "Backward")
        for name in (f"k{way}Step", f"k{way}Pair", f"k{way}MultiplyAdds")
    },
    "kFmaMultiplyAdds": Source("steps of IEEE clusters, without what goes by with no product", Measured.fma_rate),
    "kExchangeLatency": Source(
        "clusters, exchanges of 1 to 64 KB, without the barrier", lambda m: _first(m.exchange())
    ),
    "kExchangeBytes": Source("likewise, by bytes", lambda m: _second(m.exchange())),
    "kPacketLatency": Source("tagged, and a block barrier", Measured.packet_latency),
    "kPacketBytes": Source("steps of groups, without products and latency", Measured.packet_rate),
    "kFlagLatency": Source("flags", lambda m: m.number("flags", "exchange_cycles")),
    "kSlabCycles": Source("steps of a streamed kernel, by slabs", Measured.slab),
    "kCopyBytes": Source("copies of 8 MB", lambda m: m.copies().get(8)),
    "kCachedBytes": Source("copies, the most at half of the cache's rate", Measured.cached_bytes),
    "kMemoryBytes": Source("copies of 256 MB", Measured.memory_rate),
    "kLoadBytes": Source("launches of streamed kernels, by H", Measured.load_rate),
    "kClusterSeconds": Source(
        "launches of clusters", lambda m: median(1e-6 * row["launch_us"] for row in m.steps("cluster", False))
    ),
    "kStepwiseStepSeconds": Source("stepwise steps, without reading R", Measured.stepwise_step),
    "kOneStepSeconds": Source("decoding of one row in a graph, by bytes", lambda m: _first(m.one_step())),
    "kWeightBytes": Source("likewise, by bytes", lambda m: _second(m.one_step())),
    "kOneStepMultiplyAdds": Source("decoding of 64 rows in a graph, by products", Measured.one_step_rate),
    "kProductRate16Bit": Source("stepwise steps of 512 rows", lambda m: m.product_rate("bf16")),
    "kProductRateFloat": Source("likewise, in IEEE float32", lambda m: m.product_rate("fp32")),
}


def mean(*values: float | None) -> float | None:
    """None if one of them is."""
    found = [value for value in values if value is not None]
    return statistics.mean(found) if len(found) == len(values) else None


def values_of(found: Measured) -> dict[str, float]:
    """The constants that the check has measured; one that the model could not use is left out, with a sentence."""
    values = {}
    for name, source in SOURCES_OF.items():
        value = source.value(found)
        if value is None:
            continue
        if not (math.isfinite(value) and value > 0):
            print(f"{name}: {value:.3g} of {source.words} is left out: expected more than 0")
            continue
        values[name] = value
    return values


# ---- The choices


def build() -> Path:
    """Compile kernel_choices.cpp with constants that can be set, unless that was done before; returns the program."""
    from torch.utils.cpp_extension import include_paths, library_paths

    headers = [path for path in (ROOT / "csrc").rglob("*.*") if path.suffix != ".cu"]
    digest = hashlib.sha256()
    for path in (PROGRAM, *sorted(headers)):
        digest.update(path.read_bytes())
    folder = BUILD / digest.hexdigest()[:16]
    program = folder / "kernel_choices"
    if program.exists():
        return program
    BUILD.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=BUILD))  # another process may want it at the same time
    for path in headers:
        copy = made / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    text = (made / SOURCE).read_text()
    (made / SOURCE).write_text(DECLARATION.sub(lambda found: f"static double {found[1]};", text))
    (made / "constants.inc").write_text("".join(f'{{"{name}", &{name}}},\n' for name in present()))
    local = [
        made,
        made / "csrc",
        ROOT / "tests/emulator/backend",
        ROOT / "tests/emulator",
    ]
    libraries = library_paths()
    command = [
        *os.environ.get("CXX", "c++").split(),
        *("-std=c++20", "-O0", "-w", "-no-pie", "-Wl,--unresolved-symbols=ignore-all"),
        *(f'-DGRU_EXT_{name}="any"' for name in ("VERSION", "TORCH_VERSION", "CUDA_BUILD")),
        *(f"-I{path}" for path in (*local, *include_paths())),
        str(PROGRAM),
        *(word for path in libraries for word in (f"-L{path}", f"-Wl,-rpath,{path}")),
        *("-lc10", "-ltorch_cpu", "-o", str(made / program.name)),
    ]
    subprocess.run(command, check=True)
    try:
        made.rename(folder)
    except OSError:  # the other one was faster
        shutil.rmtree(made)
    return program


def kernels_of(program: Path) -> dict[tuple[str, bool, str], Kernel]:
    """What the model knows of each cluster and group kernel."""
    kernels = {}
    for line in lines_of(program, "kernels"):
        name, direction, dtype, *numbers = line
        kernel = Kernel(name, direction == "backward", dtype, *map(int, numbers))
        kernels[name, kernel.backward, dtype] = kernel
    return kernels


def choices_of(program: Path, settings: Mapping[str, float]) -> dict[Call, Choice]:
    """What is chosen for each call of a grid."""
    lines = lines_of(program, "choices", *(f"{name}={value!r}" for name, value in settings.items()))
    return {tuple(call): Choice(kernel, float(seconds)) for *call, kernel, seconds in lines}


def lines_of(program: Path, *arguments: str) -> list[list[str]]:
    """The words of each line that the program prints."""
    output = subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [line.split() for line in output.splitlines()]


def device_of(found: Measured) -> dict[str, float]:
    """The GPU, as the program takes it."""
    resident = {f"resident_{blocks}": found.number(f"cluster_{blocks}", "resident") for blocks in (2, 4, 8, 12, 16)}
    return {
        "multiprocessors": found.multiprocessors,
        "clock_rate": found.clock_rate,
        **{name: count for name, count in resident.items() if count is not None},
    }


def report(results: Results) -> str:
    """All that is printed."""
    program = build()
    before = present()
    found = Measured(results, before, kernels_of(program))
    values = values_of(found)
    unknown = sorted(SOURCES_OF.keys() - before.keys())
    if unknown:
        raise ResultsError(f"the time model has no {', '.join(unknown)} any more: change SOURCES_OF in {__name__}")
    changed = {name: value for name, value in values.items() if literal(value) != literal(before[name])}
    lines = [f"{results['device']['gpu']}, {results['device']['commit'][:12]}", ""]
    lines += [
        f"{name}: {literal(before[name])} -> {literal(changed[name])} ({SOURCES_OF[name].words})" for name in changed
    ]
    lines += ["", f"not measured: {', '.join(sorted(before.keys() - values.keys())) or 'none'}", ""]
    lines += [difference(changed)]
    device = device_of(found)
    old, new = choices_of(program, device), choices_of(program, {**device, **changed})
    moved = [call for call in old if old[call].kernel != new[call].kernel]
    lines += [f"{len(moved)} of {len(old)} choices change, on this GPU, by the model before and after:"]
    for dtype, direction, steps, batch, hidden in moved[:MOST_CHOICES]:
        call = (dtype, direction, steps, batch, hidden)
        lines += [f"  {dtype} {direction} T={steps} B={batch} H={hidden}: {_chosen(old[call])} -> {_chosen(new[call])}"]
    if len(moved) > MOST_CHOICES:
        lines += [f"  ... {len(moved) - MOST_CHOICES} more"]
    return "\n".join(lines)


def _chosen(choice: Choice) -> str:
    return f"{choice.kernel} ({1e3 * choice.seconds:.3g} ms)"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="gpu_check.json of a check")
    arguments = parser.parse_args()
    try:
        results = read(arguments.results)
        if results["rehearsal"]:
            raise ResultsError("these are the results of a rehearsal, which measures no GPU")
        print(report(results))
    except (OSError, ResultsError) as error:
        sys.exit(f"gpu-constants: {arguments.results}: {error}")


if __name__ == "__main__":
    main()
