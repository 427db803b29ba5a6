// The faults that can be planted in the kernels, by GRU_FAULT. Included where GRU_NAME_FAULT(name) is defined.
GRU_NAME_FAULT(none)

// Barriers
GRU_NAME_FAULT(no_cluster_barrier)
GRU_NAME_FAULT(no_barrier_before_first_step)
GRU_NAME_FAULT(no_block_barrier)
GRU_NAME_FAULT(no_team_barrier)
GRU_NAME_FAULT(no_warp_barrier)
GRU_NAME_FAULT(a_thread_leaves)
GRU_NAME_FAULT(divergent_shuffle)

// mbarriers and asynchronous stores and copies
GRU_NAME_FAULT(no_mbarrier_fence)
GRU_NAME_FAULT(wrong_parity)
GRU_NAME_FAULT(two_arrivals)
GRU_NAME_FAULT(too_few_bytes)
GRU_NAME_FAULT(too_many_bytes)
GRU_NAME_FAULT(forgets_a_block)
GRU_NAME_FAULT(no_copy_wait)
GRU_NAME_FAULT(no_last_copy_wait)
GRU_NAME_FAULT(no_global_fence)

// Packets
GRU_NAME_FAULT(wrong_tag)
GRU_NAME_FAULT(one_packet_buffer)
GRU_NAME_FAULT(no_barrier_after_packets)

// Flags
GRU_NAME_FAULT(early_flag)
GRU_NAME_FAULT(no_barrier_after_flags)
GRU_NAME_FAULT(no_barrier_before_flag)
GRU_NAME_FAULT(no_wait_for_operand)
GRU_NAME_FAULT(no_slice_barrier)
GRU_NAME_FAULT(one_operand_buffer)

// Memory
GRU_NAME_FAULT(one_buffer)
GRU_NAME_FAULT(one_dgates_buffer)
GRU_NAME_FAULT(one_part_buffer)
GRU_NAME_FAULT(misaligned)
GRU_NAME_FAULT(store_out_of_shared)
GRU_NAME_FAULT(stores_beyond_h)
