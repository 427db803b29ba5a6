"""The latencies and rates of a Hopper multiprocessor that the model of a step takes, each with its source.

Cycles of the multiprocessor's clock. Where no source is named it is an assumption, as is that a figure of one
instruction holds for another of its kind. None was measured by this project.

Sources:

- guide: NVIDIA, CUDA C++ Programming Guide, arithmetic instructions, throughput of native instructions, compute
  capability 9.0: results of a multiprocessor a cycle, of which it has four parts.
- Luo: W. Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking, 2024
  (arXiv 2402.13499), and Dissecting the NVIDIA Hopper Architecture through Microbenchmarking and Multiple Level
  Analysis, 2025 (arXiv 2501.12084), of an H800.
"""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """A number, and where it comes from."""

    value: float
    source: str


ASSUMED = "assumed"

# From the issue of an instruction to when its result may be used.
LATENCIES = {
    "LDS": Figure(30, "Luo: 29 of a load from shared memory, and one on the way"),
    "LDSM": Figure(33, f"{ASSUMED}: near LDS; x4 takes three cycles more, as it is four accesses"),
    "SHFL": Figure(24, ASSUMED),
    "MUFU": Figure(22, ASSUMED),
    "S2R": Figure(22, ASSUMED),
    "S2UR": Figure(22, f"{ASSUMED}, as S2R"),
    "LDC": Figure(28, f"{ASSUMED}: of the nearest cache for constants"),
    "R2UR": Figure(12, ASSUMED),
    "F2F": Figure(20, ASSUMED),
    "F2I": Figure(20, ASSUMED),
    "I2F": Figure(20, ASSUMED),
    "SYNCS": Figure(20, f"{ASSUMED}: of an mbarrier in the own shared memory"),
    "BAR": Figure(22, f"{ASSUMED}: of a block barrier, from the last arrival"),
    "B2R": Figure(12, ASSUMED),
    "VOTE": Figure(12, ASSUMED),
}
INDEXED_CONSTANT = Figure(12, f"{ASSUMED}: beyond LDC where a register is part of the address")
JUMP = Figure(8, f"{ASSUMED}: beyond its stall, of a branch that is taken")
MEETING = Figure(6, f"{ASSUMED}: of a BSYNC")
# When the operands of a store have been read, so that their registers may be written.
STORE_READ = Figure(20, ASSUMED)
LOAD_READ = Figure(12, f"{ASSUMED}: of the address of a load")

FROM_L2 = Figure(270, "Luo: 264 of a load from the L2 cache")
FROM_MEMORY = Figure(650, f"Luo: 479 on an idle GPU; {ASSUMED} beside the loads of all others")

# A part of a multiprocessor starts one every so many cycles.
HMMA = Figure(6, "Luo: mma.sync reaches 63% of 512 multiply-adds a cycle: 2048 of m16n8k16 in 6.4")
HMMA_TF32 = Figure(6, f"{ASSUMED}: half the multiply-adds, of half as many (m16n8k8)")
MUFU = Figure(8, "guide: 16 results of a multiprocessor a cycle")
INTEGER = Figure(2, "guide: 64 results of a multiprocessor a cycle: additions, comparisons, logic, shifts, products")
# A multiprocessor starts one every so many cycles.
SHARED_ACCESS = Figure(1, "guide: 32 banks of 4 bytes a cycle")
SHUFFLE = Figure(1, "guide: 32 results a cycle")
GLOBAL_LINE = Figure(1, f"{ASSUMED}: of 128 bytes that an access touches")

# Exchanges between blocks of a cluster.
CLUSTER_BYTES = Figure(16, f"{ASSUMED}, a cycle that a block receives; Luo: 3.3 TB/s of all blocks, which is 14")
CLUSTER_LATENCY = Figure(200, "Luo: 180 of a load from another block; the mbarrier's count and its wait, 20, assumed")

# Exchanges through the L2 cache, of kernels without clusters.
L2_STORE = Figure(270, f"{ASSUMED}: from a store to when another multiprocessor can load it: as long as a load takes")
L2_BYTES = Figure(24, f"{ASSUMED}, a cycle that a multiprocessor loads or stores so, or copies, while all others do")
FENCE = Figure(540, f"{ASSUMED}: until all stores before a MEMBAR can be loaded, and the multiprocessor knows it")

CLOCK_HZ = {"H100": 1.755e9, "H200": 1.98e9}
