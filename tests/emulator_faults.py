"""The planted faults that the kernels' source has a place for, and what the emulator says of each."""

from __future__ import annotations

UNORDERED = "race on byte|read but was never written"
# Of each planted fault the report, by the kernel that has it.
FWD_FAULTS_ALONE = {
    "no_barrier_before_first_step": UNORDERED,
    "no_block_barrier": UNORDERED,
    "no_group_barrier": UNORDERED,
    "one_buffer": UNORDERED,
    "misaligned": "misaligned access of 16 bytes",
    "stores_beyond_h": "out of the bounds of every buffer",
    "store_out_of_shared": "out of the bounds of shared memory",
}
FWD_FAULTS_CLUSTER = {
    "no_cluster_barrier": f"{UNORDERED}|used by one who cannot know that it has been made",
    "no_mbarrier_fence": "without mbarrier_init_fence",
    "wrong_parity": f"{UNORDERED}|one arrival too many at the mbarrier",
    "two_arrivals": "one arrival too many at the mbarrier",
    "too_few_bytes": UNORDERED,
    "too_many_bytes": "deadlock",
    "forgets_a_block": "deadlock",
    "no_group_barrier": UNORDERED,
    "no_warp_barrier": UNORDERED,
    "one_buffer": UNORDERED,
    "a_thread_leaves": "divergence",
    "divergent_shuffle": "divergence",
}
FWD_FAULTS_GROUP = {
    "wrong_tag": f"deadlock|store of a packet where one has not arrived yet|{UNORDERED}",
    "one_packet_buffer": "deadlock|store of a packet where one has not arrived yet",
    "no_barrier_after_packets": UNORDERED,
    "no_group_barrier": UNORDERED,
}
BWD_FAULTS = {
    "no_block_barrier": UNORDERED,
    "one_dgates_buffer": UNORDERED,
    "one_part_buffer": UNORDERED,
    "no_copy_wait": "asynchronous copy that this thread has not waited for",
}
BWD_FAULTS_GROUP = {
    "wrong_tag": f"deadlock|store of a packet where one has not arrived yet|{UNORDERED}",
    "one_packet_buffer": "deadlock|store of a packet where one has not arrived yet",
    "no_barrier_after_packets": UNORDERED,
    "no_block_barrier": UNORDERED,
}
FAULTS_STREAMED = {
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
