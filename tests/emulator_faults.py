"""The planted faults that the kernels' source has a place for, and what the emulator says of each."""

from __future__ import annotations

import re

from emulation import SOURCES


def fault_names() -> list[str]:
    """As the source has them."""
    return re.findall(r"^GRU_NAME_FAULT\((\w+)\)", (SOURCES / "faults.h").read_text(), re.MULTILINE)


UNORDERED = "race on byte|read but was never written"
OF_PACKETS = {
    "wrong_tag": f"deadlock|store of a packet where one has not arrived yet|{UNORDERED}",
    "one_packet_buffer": "deadlock|store of a packet where one has not arrived yet",
    "no_barrier_after_packets": UNORDERED,
}
OF_STREAMED = {
    "early_flag": UNORDERED,
    "no_barrier_after_flags": UNORDERED,
    "no_slice_barrier": UNORDERED,
    "no_wait_for_operand": "asynchronous copy that this thread has not waited for",
    "no_block_barrier": UNORDERED,
    "no_barrier_before_flag": UNORDERED,
    "one_operand_buffer": UNORDERED,
    "no_global_fence": "asynchronous copy of what this thread has stored, without a fence between",
    "no_last_copy_wait": "without having waited for its asynchronous copies|copy that this thread has not waited for",
}
# Of each planted fault the report, by the kernel and pass that have it.
FAULTS: dict[tuple[str, str], dict[str, str]] = {
    ("one block", "fwd"): {
        "no_barrier_before_first_step": UNORDERED,
        "no_block_barrier": UNORDERED,
        "no_team_barrier": UNORDERED,
        "one_buffer": UNORDERED,
        "misaligned": "misaligned access of 16 bytes",
        "stores_beyond_h": "out of the bounds of every buffer",
        "store_out_of_shared": "out of the bounds of shared memory",
    },
    ("cluster", "fwd"): {
        "no_cluster_barrier": f"{UNORDERED}|used by one who cannot know that it has been made",
        "no_mbarrier_fence": "without mbarrier_init_fence",
        "wrong_parity": f"{UNORDERED}|one arrival too many at the mbarrier",
        "two_arrivals": "one arrival too many at the mbarrier",
        "too_few_bytes": UNORDERED,
        "too_many_bytes": "deadlock",
        "forgets_a_block": "deadlock",
        "no_team_barrier": UNORDERED,
        "no_warp_barrier": UNORDERED,
        "one_buffer": UNORDERED,
        "a_thread_leaves": "divergence",
        "divergent_shuffle": "divergence",
    },
    ("cluster", "bwd"): {
        "no_block_barrier": UNORDERED,
        "one_dgates_buffer": UNORDERED,
        "one_part_buffer": UNORDERED,
        "no_copy_wait": "asynchronous copy that this thread has not waited for",
    },
    ("group", "fwd"): OF_PACKETS | {"no_team_barrier": UNORDERED},
    ("group", "bwd"): OF_PACKETS | {"no_block_barrier": UNORDERED},
    ("streamed", "fwd"): OF_STREAMED,
    ("streamed", "bwd"): OF_STREAMED,
}
