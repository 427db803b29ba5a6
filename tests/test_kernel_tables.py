"""The tables of docs/kernels.md and docs/cuda.md say what the source and the committed resources say."""

from __future__ import annotations

import kernel_tables
from kernel_tables import Device, Instantiation, largest_hidden


def test_the_pages_have_the_tables_of_the_source() -> None:
    for page, text in kernel_tables.pages().items():
        assert page.read_text() == text, "run: python tests/kernel_tables.py"


def test_what_serves_on_a_device() -> None:
    """As the host side has it: tests/test_cuda_persistent_emulated.py tells the emulated device the same limits."""

    def kernel(family: str, hidden: int, blocks: int, shared: int) -> Instantiation:
        return Instantiation("fwd", family, "float", hidden, blocks, 8, 8, 8, shared << 10, 0, 1.0)

    kernels = [
        kernel("cluster", 64, 1, 20),
        kernel("cluster", 128, 8, 90),
        kernel("cluster", 512, 16, 90),
        kernel("group", 512, 32, 100),
        kernel("group", 256, 32, 99),
        kernel("group", 1024, 64, 10),
    ]

    def largest(device: Device) -> list[int]:
        return list(largest_hidden(device, kernels, ["fwd float 700"])["fwd", "float"].values())

    assert largest(Device("", 75, 40, 64, 0)) == [0, 0, 0]
    assert largest(Device("", 86, 40, 99, 0)) == [64, 256, 700]
    assert largest(Device("", 120, 63, 99, 8)) == [128, 256, 700]
    assert largest(Device("", 90, 64, 227, 16)) == [512, 1024, 700]
