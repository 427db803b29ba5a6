"""The faults: what to write in place of what, and the test that has to fail. A fault is a slip that compiles.

Those of the CPU's kernels are looked for by the portable ones, which the machine compiles fastest; those of csrc/cuda
in the emulated backend.
"""

from __future__ import annotations

from dataclasses import dataclass

ACCURACY = "tests/test_accuracy.py::test_cpu"
CLUSTER = "tests/test_cuda_persistent_emulated.py"
ONE_STEP = "tests/test_cuda_one_step_emulated.py"
MEMBERS = "tests/test_cuda_members_emulated.py"
STEP = "tests/test_cuda_step_emulated.py"
STEPWISE = "tests/test_accuracy.py::test_emulated_stepwise"
EMULATED_CLUSTER = "tests/test_accuracy.py::test_emulated_cluster"
EMULATED_KERNEL = "tests/test_accuracy.py::test_emulated_kernel"
STREAMED = "tests/test_accuracy.py::test_emulated_streamed"
ADDRESSES = "tests/test_cuda_addresses_emulated.py::test_any_address_and_stride_of_any_tensor"
INT8 = "tests/test_quantize.py::test_every_step_is_as_specified"
THREADS = "tests/test_accuracy.py::test_cpu_with_several_threads"
BLOCKS = "tests/test_blocks.py::test_blocks_are_separate_grus_bit_for_bit"
ROW_GROUPS = "tests/test_cpu_threads.py::test_groups_of_rows_change_no_bit"
ENDING_ROWS = "tests/test_cpu_threads.py::test_groups_of_rows_that_end_early_change_no_bit"
QUOTA = "tests/test_cpu_threads.py::test_the_quota_is_the_least_of_all_control_groups"
SLEEPING = "tests/test_cpu_threads.py::test_threads_that_sleep_are_woken_for_long_calls_or_many"
STEP_BARRIER = "tests/test_thread_orders.py::test_no_order_loses_a_thread_or_a_step"
CREW = "tests/test_thread_orders.py::test_no_order_loses_a_part_of_a_call"
TILES = "tests/test_amx.py::test_operations_and_products"
CROWDING = "tests/test_crowding.py"
MACHINE_CODE = "tests/test_machine_code.py"
OWN_SOURCES = (STEP_BARRIER, CREW, TILES, EMULATED_KERNEL, CROWDING)  # tests that compile what they are about


@dataclass(frozen=True)
class Fault:
    """One slip, and who has to find it."""

    file: str  # from the root of the project
    before: str  # occurs once in the file
    after: str
    test: str  # a pytest node
    cases: str = ""  # those of its cases that find it, as of pytest -k; empty for all


# By file and by test: what is there, what to write in its place and, perhaps, the cases.
_PLANTED: dict[str, dict[str, list[tuple[str, ...]]]] = {
    # ---- Python
    "benchmarks/machine_code/meanings.py": {
        f"{MACHINE_CODE}::test_a_poll_finds_the_step_that_it_waits_for": [
            ("every(state.step + state.launch.polled)", "every(state.step)")
        ],
    },
    "benchmarks/machine_code/simulate.py": {
        f"{MACHINE_CODE}::test_copies_are_waited_for_in_their_order": [
            ("ended = groups[: len(groups) - int(most, 16)]", "ended = groups")
        ],
        f"{MACHINE_CODE}::test_a_wait_is_for_what_tells_its_mbarrier": [
            ("wave = (warp.step - 1, one.mbarrier)", "wave = (warp.step - 1, one.mbarrier ^ 8)")
        ],
    },
    "benchmarks/machine_code/members.py": {
        f"{MACHINE_CODE}::test_members_are_served_as_the_choice_has_it": [("by.rounds * of.steps", "of.steps")],
    },
    "benchmarks/gpu_constants.py": {
        "tests/test_gpu_constants.py::test_the_parts_of_the_model_that_are_fitted_are_those_of_the_header": [
            ('constants[f"k{self.way}Pair"] * self.pairs', 'constants[f"k{self.way}Pair"]')
        ],
    },
    "src/gru_ext/segments.py": {
        "tests/test_lengths_and_resets.py::test_results_and_gradients_are_those_of_each_part_alone": [
            ("for state in (hx, reset_state)]", "for state in (reset_state, hx)]"),
            ("state.index_select(1, rows[i % directions])", "state.index_select(1, rows[0])"),
        ],
        "tests/test_fuzz.py::test_modules": [
            ("if self.complete else packed.new_zeros(shape)", "if True else packed.new_zeros(shape)")
        ],
    },
    "src/gru_ext/regularizers.py": {
        "tests/test_regularizers.py::test_each_layer_of_each_call_draws_its_masks": [
            ("mask(recurrent_dropout, 1 - recurrent_dropout,", "mask(recurrent_dropout, recurrent_dropout,")
        ],
        "tests/test_regularizers.py::test_weight_dropout_is_torch_s_dropout_of_weight_hh_once_a_call": [
            ("if i % per_direction == 1 else w", "if i % per_direction == 0 else w")
        ],
    },
    "src/gru_ext/recurrence.py": {
        "tests/test_options.py::test_wrong_values_are_named": [
            ("not 0 <= float(value) < 1:", "not 0 <= float(value) <= 1:")
        ],
    },
    "src/gru_ext/layout.py": {
        "tests/test_outputs.py::test_the_output_is_the_last_layer_s_last_state": [
            ("h_n[-directions:].unbind(0)", "h_n[:directions].unbind(0)"),
            ("(output if unsorted_indices is None else output.index_select(0, unsorted_indices)), h_n", "output, h_n"),
        ],
        "tests/test_modules.py::test_packed_sequences_equal_nn_gru_s": [
            ("h_n = h_n.index_select(1, unsorted_indices)", "h_n = h_n.index_select(1, sorted_indices)"),
            ("hx = hx.index_select(1, sorted_indices)", "hx = hx.index_select(1, unsorted_indices)"),
        ],
        "tests/test_other_tools.py::test_results_can_be_detached_and_changed": [
            ("    with keeping_version(y):\n        return y.transpose_(0, 1)", "    return y.transpose(0, 1)")
        ],
    },
    "src/gru_ext/variant.py": {
        "tests/test_variants.py::test_opcheck": [("directions, rows, 9 * hidden + 16", "directions, rows, 9 * hidden")],
    },
    "src/gru_ext/training.py": {
        "tests/test_training.py::test_results_and_gradients_are_those_of_the_loop": [
            ("return state.detach()", "return state")
        ],
    },
    "src/gru_ext/double_backward.py": {
        "tests/test_autograd.py::test_vmap_of_grad_gives_per_sample_gradients": [
            ("y, gates = y.contiguous(), gates.contiguous()", "y, gates = y, gates")
        ],
    },
    "src/gru_ext/prepared.py": {
        "tests/test_prepared.py::test_the_ordinary_call_serves_the_rest": [
            ("            or self.training\n", ""),
            ("            or autocast_is_on()\n", ""),
            ("input.requires_grad or (hx is not None and hx.requires_grad)", "input.requires_grad"),
        ],
        "tests/test_prepared.py::test_what_arranges_anew": [("**keywords)\n        self._arrange()", "**keywords)")],
        "tests/test_prepared.py::test_a_stale_weight_is_an_error_until_it_is_arranged": [
            ("except (KeyError, RuntimeError, ValueError):", "except (RuntimeError, ValueError):", "parametrized")
        ],
    },
    "src/gru_ext/autocast.py": {
        "tests/test_modules.py::test_autocast_gives_results_of_the_dtype_that_nn_gives": [
            ("if state == computed else torch.promote_types(state, computed)", "if state == computed else state")
        ],
    },
    "src/gru_ext/overlap.py": {
        "tests/test_overlap.py::test_every_stream_waits_and_is_lent_what_it_uses": [
            ("streams.lend(y, layer + 1 if layer + 1 < num_layers else 0)", "streams.lend(y, layer)"),
            ("        streams.lend(state, 0)\n", ""),
            ("                    streams.wait(layer, layer - 1)\n", "                    pass\n"),
        ],
    },
    "src/gru_ext/convert/directions.py": {
        "tests/test_convert_haste.py::test_weights_give_what_the_equations_give": [
            ("torch.cat([z, r, n])", "torch.cat([r, z, n])")
        ],
    },
    "src/gru_ext/convert/onnx.py": {
        "tests/test_convert_onnx.py::test_an_exported_gru_has_one_node_a_layer_and_comes_back": [
            ("linear_before_reset=int(reset_after)", "linear_before_reset=1")
        ],
        "tests/test_convert_onnx.py::test_weights_of_a_node_come_back_bit_for_bit": [
            ("([swap_r_and_z(bias_ih), swap_r_and_z(bias_hh)])", "([swap_r_and_z(bias_hh), swap_r_and_z(bias_ih)])")
        ],
    },
    "src/gru_ext/int8.py": {
        "tests/test_quantize.py::test_packed_weights_are_where_the_kernels_look": [
            ("= (0, -columns % COLUMNS, 0, -hidden % UNITS)", "= (0, COLUMNS - columns % COLUMNS, 0, -hidden % UNITS)")
        ],
        "tests/test_blocks.py::test_int8_blocks_of_layers_and_cells_are_saved_and_trained_for": [
            ("[:, :, :units, :columns]", "[:, :, -units:, :columns]")
        ],
    },
    "src/gru_ext/convert/blocks.py": {
        "tests/test_blocks.py::test_layer_norm_over_all_units_is_that_of_the_specification": [
            ('is False else "layer"', 'is False else DEFAULTS["norm_over"]')
        ],
    },
    "src/gru_ext/block_layout.py": {
        "tests/test_blocks.py::test_first_and_second_derivatives": [
            ("of_directions.movedim(-2, 0).flatten(-2)", "of_directions.movedim(-3, 0).flatten(-2)", "bidirectional")
        ],
    },
    # ---- The host side of the CPU backend
    "csrc/op/check.cpp": {
        "tests/test_operators.py::test_wrong_arguments_of_a_packed_batch": [
            ("s.packed_sizes[t] <= largest", "s.packed_sizes[t] <= s.N"),
            ("s.packed_sizes[t] >= 1 &&", "s.packed_sizes[t] >= 0 &&"),
        ],
        "tests/test_regularizers.py::test_wrong_masks_of_an_operator": [
            ("rate >= 0 && rate < 1", "rate >= 0 && rate <= 1")
        ],
        ACCURACY: [
            (
                "    s.packed_offsets.push_back(offset);\n    offset += s.packed_sizes[t];",
                "    offset += s.packed_sizes[t];\n    s.packed_offsets.push_back(offset - 1);",
                "packed and T2-B3-I5-H7 and float64",
            )
        ],
        "tests/test_operators.py::test_wrong_arguments": [('    check_like_x("weight_hh", weights[i + 1], x);\n', "")],
        "tests/test_operators.py::test_what_the_forward_left_has_the_strides_that_it_gave": [
            ("TORCH_CHECK(call.y.is_contiguous() && call.gates.is_contiguous(),", "TORCH_CHECK(call.y.is_contiguous(),")
        ],
    },
    "csrc/op/segments.cpp": {
        "tests/test_lengths_and_resets.py::test_results_and_gradients_are_those_of_each_part_alone": [
            ("start[S + rank] = last ? b : B + b", "start[S + rank] = first ? b : B + b"),
            ("? 1 : B, row_stride = batch_first ? T : 1", "? 1 : B, row_stride = batch_first ? B : 1"),
            ("first && !reset.at(0, b) ? b : B + b", "first ? b : B + b"),
            ("t < lengths[b]; ++t", "t <= lengths[b] && t < 5; ++t"),
            ("if (lengths[b] > 0) segments", "if (lengths[b] > 1) segments"),
        ],
        "tests/test_lengths_and_resets.py::test_strided_resets_and_input": [
            ("step_stride_ = on_cpu_.stride(batch_first ? 1 : 0);", "step_stride_ = batch_first ? 1 : B;")
        ],
        "tests/test_lengths_and_resets.py::test_wrong_arguments": [
            ("0 <= data[b] && data[b] <= T", "0 <= data[b] && data[b] <= T + 1")
        ],
    },
    "csrc/cpu/cores.cpp": {
        "tests/test_cpu_threads.py::test_the_time_that_other_programs_leave_is_that_of_the_cores_without_theirs": [
            ("!CPU_ISSET(core, &cores)", "false"),
            ("*busy - seconds_of(CLOCK_PROCESS_CPUTIME_ID)", "*busy"),
            ("listed < CPU_COUNT(&cores)", "false"),
        ],
        QUOTA: [
            ("time > 0 && of > 0", "of > 0"),
            ("group /= name;", "group = root / groups / name;"),
            ('.find(",cpu,")', '.find("cpu")'),
        ],
    },
    "csrc/cpu/threads.cpp": {
        SLEEPING: [
            ("alone > 2 * kMicrosecondsToWake", "alone > 0"),
            ("last_region.load()) <= kSpinsFor", "last_region.load()) > kSpinsFor"),
            ("in_a_row < kMicrosecondsInARow", "true"),
            ("now - before > kSpinsFor", "false"),
            ("  last_region.store(Clock::now().time_since_epoch().count());\n", ""),
        ],
        "tests/test_cpu_threads.py::test_no_thread_is_started_beyond_the_cores": [
            ("at::get_num_threads(), cores(), omp", "at::get_num_threads(), omp")
        ],
    },
    "csrc/cpu/bernoulli.cpp": {
        "tests/test_regularizers.py::test_a_mask_is_made_of_the_generator_s_words": [
            ("(words[w][i] >> 16) < threshold", "(words[w][i] & 0xffff) < threshold"),
            ("const uint64_t block = group * kLanes + i;", "const uint64_t block = group + i;"),
        ],
    },
    "csrc/cpu/forward.cpp": {
        ENDING_ROWS: [("p_.one_chain = splits_packed_rows(s);", "p_.one_chain = false;", "44 and plain and float32")],
        ACCURACY: [
            ("|| !rows_of_x_.uniform(s)", "", "(sliced or inner_transposed) and float32"),
            ("copied_x_ + (place + row) * p_.x_stride", "copied_x_ + row * p_.x_stride", "T2-B3-I5-H7 and float16"),
            ("h_n + (direction_ * s_.B + row) * s_.all_H", "h_n + row * s_.all_H", "T2-B3-I5-H7 and bi and float64"),
            ("h0 = contiguous_or_undefined(hx)", "h0 = hx.value_or(Tensor())", "transposed and float32"),
        ],
        BLOCKS: [
            ("() + direction * s.all_H : nullptr;\n    p_", "() + direction * s.H : nullptr;\n    p_", "bidirectional")
        ],
        ROW_GROUPS: [("p.state += first * p.unit_stride;", "", "plain and float32")],
        "tests/test_cpu_threads.py::test_the_bits_are_those_of_one_thread": [
            ("(share(s_.B, thread, team), share(s_.B, thread + 1, team));", "(0, share(s_.B, 1, team));", "small")
        ],
    },
    "csrc/cpu/arranged.h": {
        ACCURACY: [
            ("if (gate == 2 && reset_after) break;", "if (gate == 2) break;", "reset and T2-B3-I5-H7 and float64"),
            ("gains + 3 * i * stride, stride, 3,", "gains + i * stride, stride, 3,", "layer and norm and T2-B3-I5-H7"),
        ],
        THREADS: [
            ("(count, thread + 1, team),", "(count, thread + 1, team) - (thread + 1 < team),", "2-T30-B30 and float32")
        ],
    },
    "csrc/cpu/backward.cpp": {
        ENDING_ROWS: [("p_.one_chain = splits_packed_rows(s);", "p_.one_chain = false;", "44 and plain and float32")],
        THREADS: [("p_.dbias[block * sums + i]", "p_.dbias[sums + i]")],
        "tests/test_cpu_threads.py::test_directions_side_by_side_need_not_keep_products_both": [
            ("if (p_.products != nullptr) kernel_", "kernel_")
        ],
        "tests/test_backends.py::test_each_gradient_of_several_chunks_is_the_same_alone": [
            ("tensors_.need.dhx || !p.last", "tensors_.need.dhx")
        ],
        BLOCKS: [
            ("direction * s.all_H : nullptr;\n    p_.", "direction * s.H : nullptr;\n    p_.", "bidirectional"),
            ("y.narrow(-1, direction_ * s_.all_H, s_.H)", "y.narrow(-1, direction_ * s_.H, s_.H)", "output"),
        ],
        ROW_GROUPS: [
            ("p.dbias_partial += block * p.sums * p.dh_stride;", "", "plain and float32"),
            ("p_.row_block = row_block_of(s.B);", "p_.row_block = kRowBlock;", "44 and plain and float32"),
            ("p.panels += words_of_panels(chunk);", "", "plain and float32"),
            ("p.products += ranges_of(chunk) * values_of_weights();", "p.products += 0;", "plain and float32"),
        ],
        ACCURACY: [
            ("= contiguous_or_undefined(dh_n)", "= dh_n.value_or(Tensor())", "transposed and float32"),
            ("= need_dx && direction == 1 && tensors.dx", "= need_dx && tensors.dx", "T2-B3-I5-H7 and bi and float64"),
            ("(p_.reset_after ? q : n, dweights[3], 2);", "(n, dweights[3], 2);", "T2-B3-I5-H7 and float64"),
        ],
        "tests/test_cpu_threads.py::test_the_bits_are_those_of_one_thread": [
            ("side_by_side) dx.add_(dx_of_directions[1]", "side_by_side) dx.add_(dx_of_directions[0]", "directions")
        ],
    },
    "csrc/op/recompute.cpp": {
        ACCURACY: [
            ("row + continued, continued,", "row + continued, 0,", "again and packed and T5-B3-I4-H7 and float64"),
            ("->select(0, direction)", "->select(0, 0)", "again and mask and bi and T5-B3-I4-H7"),
            ("to_ + count_ || from != from_ + count_", "to_ + count_", "again and packed and T5-B3-I4-H7 and float64"),
        ],
    },
    "csrc/op/autograd.cpp": {
        "tests/test_autograd.py::test_transforms_that_begin_after_the_forward": [
            ("if (is_transformed({&grad_outputs, &saved})) return gru_bwd_by_reference(call);", "", "jvp")
        ],
        "tests/test_modules.py::test_frozen_parameters_get_no_gradient": [
            ("const size_t first_weight = hx.has_value() ? 2 : 1;", "const size_t first_weight = 2;")
        ],
        ACCURACY: [
            ("rates[1],\n          rates[2],", "rates[2],\n          rates[1],", "mask and T4-B3-I2-H5 and float64")
        ],
        "tests/test_autograd.py::test_every_subset_of_arguments_gets_its_gradients_and_no_others": [
            ("hx.has_value() && ctx->needs_input_grad(1)", "hx.has_value() && ctx->needs_input_grad(0)")
        ],
        "tests/test_other_tools.py::test_saved_tensors_may_come_back_with_other_strides": [
            ("gates = saved[4].contiguous();", "gates = saved[4];")
        ],
    },
    "csrc/op/chunks.h": {
        ACCURACY: [
            ("T == 1 || stride_t == s.B * stride_b;", "T == 1 || stride_t > 0;", "(sliced or transposed) and float32")
        ],
        "tests/test_gru.py::test_rows_that_lie_further_apart_than_32_bits_count": [
            ("s.offset(t) * stride_b : t * stride_t;", "s.offset(t) * stride_b : static_cast<int>(t * stride_t);")
        ],
    },
    "csrc/cpu/step_barrier.h": {
        STEP_BARRIER: [
            ("if (flag.sleepers.load() > 0) wake(flag);", "if (flag.sleepers.load() > 1) wake(flag);", "2-4-3")
        ],
    },
    "csrc/cpu/step_barrier.cpp": {
        STEP_BARRIER: [("other.sleepers.fetch_add(1);", "other.sleepers.fetch_add(0);", "2-4-3")],
    },
    "csrc/cpu/crew.h": {
        CREW: [
            ("other < kTogether ? 1 : kTogether", "kTogether", "3-2-2"),
            ("barrier_.finished(0, ++parts_);\n    part(0, size_);", "barrier_.finished(0, ++parts_);"),
        ],
    },
    "csrc/cpu/crew.cpp": {
        CREW: [
            ("(int other = thread + 1; other < end; ++other)", "(int other = end; other < end; ++other)", "4-2-1"),
            ("std::min(size_, thread + kTogether)", "thread + 1", "4-2-1"),
            ("wait_for(thread, /*other=*/0, parts, kSpins);", "wait_for(thread, /*other=*/0, parts - 1, kSpins);"),
            ("barrier_.finished(thread, parts);", "barrier_.finished(thread, parts + 1);"),
            ("crew.dismiss();", ""),
        ],
    },
    "csrc/op/members.h": {
        "tests/test_ensembles.py::test_members_on_several_threads": [
            ("(layer.x), OfMember{e}, OfMember{e});", "(layer.x), OfMember{0}, OfMember{e});")
        ],
    },
    "csrc/cpu/members.h": {
        "tests/test_ensembles.py::test_members_on_several_threads": [
            ("for (int64_t e = together; e < E; ++e) body(e);", "for (int64_t e = together + 1; e < E; ++e) body(e);")
        ],
        "tests/test_blocks.py::test_threads_are_below_autograd_and_in_inference_mode": [
            ("const BelowAutogradAndAutocast below;", "")
        ],
    },
    "csrc/op/blocks.h": {
        BLOCKS: [
            ("unflatten(0, {3, -1, h}).select(1, g)", "unflatten(0, {-1, 3, h}).select(0, g)"),
            ("return states.slice(-1, g * h);", "return states.slice(-1, 0);"),
        ],
    },
    "csrc/cpu/int8.cpp": {
        "tests/test_blocks.py::test_int8_blocks_are_separate_int8_grus_bit_for_bit": [
            ("weight.narrow(0, block.g * groups, groups)", "weight.narrow(0, 0, groups)")
        ],
        "tests/test_cpu_threads.py::test_groups_of_rows_change_no_bit_of_int8": [
            ("part.h0 += first * s.H;", "part.h0 += 0;")
        ],
        INT8: [("h0.const_data_ptr<float>() + d * s.B * s.H : nullptr", "h0.const_data_ptr<float>() : nullptr")],
    },
    "csrc/cpu/kernels/gradients_body.h": {
        ROW_GROUPS: [
            ("part, item, before + item, items);", "part, item, item, items);", "plain and float32"),
            ("bool add = !chunks->first;", "bool add = false;"),
        ],
        ACCURACY: [
            ("row < count ? row : row - count", "row < count ? column : row - count", "T2-B3-I5-H7 and float32"),
            ("add = !p.first || begin > 0,", "add = !p.first,", "(T40-B17-I24-H130 or T300-B2-I8-H20) and float32"),
            ("add(p.H, 0, 2 * p.H);", "add(0, 0, 2 * p.H);", "T2-B3-I90-H75 and float64"),
            ("place_of(m) + panel * width;", "place_of(row) + panel * width;", "T1-B1-I90-H75 and float64"),
        ],
    },
    "csrc/cpu/kernels/matrix_product_body.h": {
        ACCURACY: [("int64_t rest = count - done,", "int64_t rest = 0 * (count - done),", "T2-B3-I90-H75 and float64")],
    },
    "csrc/cpu/kernels/kernels.h": {
        "tests/test_cpu_threads.py::test_the_bits_are_those_of_one_thread": [
            ("first + place % together, together", "place % together, together", "many units")
        ],
    },
    "csrc/cpu/pass.h": {
        ENDING_ROWS: [
            ("clamp<int64_t>(step.rows - first, 0, last", "min<int64_t>(step.rows, last", "44 and plain and float32")
        ],
        "tests/test_operators.py::test_masks_may_have_any_strides": [
            ("{ return given.contiguous(); }", "{ return given; }")
        ],
        ACCURACY: [
            (
                "part(variant_.candidate_mask, s.N)",
                "part(variant_.candidate_mask, s.B)",
                "mask and T4-B3-I2-H5 and bi and float64",
            )
        ],
    },
    "csrc/cpu/buffers.cpp": {
        "tests/test_memory.py::test_empty_cache_gives_back_what_is_kept": [
            ("return b.size == size; });", "return b.size <= size; });"),
            ("    kept_bytes_ -= size;\n", ""),
        ],
        "tests/test_gru.py::test_a_forked_child_computes_the_same": [("[] { pool.mutex().unlock(); });", "[] {});")],
        "tests/test_memory.py::test_what_is_kept_has_a_limit": [
            ("kMostKept = size_t{512} << 20", "kMostKept = size_t{4096} << 20")
        ],
    },
    "csrc/cpu/call.h": {
        "tests/test_memory.py::test_a_call_without_memory_takes_back_what_is_kept": [
            ("if (!is_out_of_memory(error) || empty_pool() == 0) throw;", "throw;")
        ],
    },
    "csrc/op/forked_child.cpp": {
        "tests/test_gru.py::test_the_first_call_may_be_in_a_forked_child": [
            ("[] { is_forked_child = true; }", "[] {}")
        ],
    },
    "csrc/cpu/prepared.cpp": {
        "tests/test_prepared.py::test_a_stale_weight_is_an_error_until_it_is_arranged": [
            ("data == other.data && version == other.version", "data == other.data")
        ],
        "tests/test_prepared.py::test_the_operators_refuse_what_was_not_prepared": [
            ("data == other.data && version == other.version", "version == other.version"),
            ("header.isa == cpu_isa()", "true"),
        ],
        "tests/test_fuzz.py::test_prepared_modules": [
            ("prepared.numel() == size,", "prepared.numel() <= size,"),
            ("(mark ^ words[i]) * 0x100000001b3ULL", "mark ^ (words[i] & 0xff)"),
            ("% kLine == 0,", "% 1 == 0,"),
        ],
        "tests/test_prepared.py::test_bits_are_those_of_the_module_before": [
            ("arranged.data() + layer * D", "arranged.data() + layer", "float64")
        ],
    },
    # ---- The kernels of the CPU
    "csrc/cell/cell.h": {
        ACCURACY: [
            ("(h - masks.candidate(gates.n)) * gates.z", "(h - gates.n) * gates.z", "mask and T4-B3-I2-H5 and float64")
        ],
    },
    "csrc/cpu/kernels/recurrence_body.h": {
        ACCURACY: [
            ("operand_t* h_next = p.h[(done + 1) % 2]", "operand_t* h_next = p.h[done % 2]", "T2-B3-I5-H7 and float64"),
            ("<acc_t>(dh, past_product, Math::lanes);", "<acc_t>(dh, d, Math::lanes);", "T2-B3-I5-H7 and float64"),
        ],
    },
    "csrc/cpu/kernels/steps_body.h": {
        ACCURACY: [("== nullptr ? h : h *", "== nullptr ? h : h + 0 *", "mask and T4-B3-I2-H5 and float64")],
    },
    "csrc/cpu/kernels/lanes_body.h": {
        "tests/test_isa.py::test_a_state_of_bfloat16_is_rounded_to_the_nearest": [
            ("(bits + 0x7fff + ((bits >> 16) & 1)) >> 16", "bits >> 16", "portable")
        ],
        TILES: [("value -= nearest_bfloat16(value);", "")],
    },
    "csrc/cpu/kernels/vector_math.h": {
        "tests/test_isa.py::test_gates_of_bfloat16_are_as_exact_as_their_results": [
            ("f * 0x1.3a0184p-7f + 0x1.c9fd38p-5f", "0x1.c9fd38p-5f", "portable"),
            (
                "exp2_parts<-1>(at_most(at_least(x, -Format::most_exp), -Format::least_exp)",
                "exp2_parts<-1>(x",
                "portable",
            ),
        ],
        ACCURACY: [("static constexpr float tanh_limit = 9.5f;", "static constexpr float tanh_limit = 4.5f;", "30.0")],
    },
    "csrc/cpu/kernels/reset_before_body.h": {
        ACCURACY: [
            ("recurrent != nullptr) h *=", "recurrent == nullptr) h *=", "mask and reset and T4-B3-I2-H5 and float64")
        ],
    },
    "csrc/cpu/kernels/layer_norm_body.h": {
        ACCURACY: [
            ("norm_of_n == 0 ? mean_rz : lane_sum<acc_t>(of_n) / units", "mean_rz", "layer and norm and T2-B3-I5-H7")
        ],
    },
    "csrc/cpu/kernels/tiles_body.h": {
        TILES: [
            (
                "flushed(std::fma(value, columns[k][i][n], chains[i][n]))",
                "std::fma(value, columns[k][i][n], chains[i][n])",
            ),
            ("static_cast<int8_t>(s.data[a][m][4 * k + i])", "s.data[a][m][4 * k + i]"),
        ],
    },
    "csrc/cpu/kernels/tile_product_body.h": {
        TILES: [
            ("? count : (count + 1) / 2;", "? count : count / 2;"),
            ("current.height >= least && current.height <= count", "current.height >= least"),
            ("has_weights ? kTileHeight : least", "least"),
            ("row * a_stride + done, bytes);", "row * a_stride + done, bytes + 2);"),
            ("add<vectors, again>(b, vector_stride, stride);", "add<vectors, false>(b, vector_stride, stride);"),
            ("+ right_part * kPartWords * kPanelStride", "+ right_part * kPanelStride"),
            ("(int right = 0; left + right < parts; ++right)", "(int right = left; left + right < parts; ++right)"),
            ("a[tile] + left_part * part_stride() + row * a_stride", "a[tile] + row * a_stride"),
            ("multiply_bf16<sum, kWeights<v>, kRows>()", "multiply_bf16<sum, kRows, kWeights<v>>()"),
        ],
    },
    "csrc/cpu/crowding.cpp": {
        f"{CROWDING}::test_one_has_nearly_all_calls_where_it_is_faster": [
            ("one_won_ ? std::min(2 * period_, kLongestPeriod)", "one_won_ ? kFirstPeriod")
        ],
        f"{CROWDING}::test_several_are_not_tried_while_other_programs_hold_the_other_core": [
            ("threads == 2", "false"),
            ("left < kMostOfOne * seconds", "true"),
        ],
        f"{CROWDING}::test_one_is_tried_though_other_programs_hold_the_cores": [
            ("choose(!one_now_, /*tries=*/true);", "if (one_now_) choose(false, true);")
        ],
        f"{CROWDING}::test_several_are_tried_at_last_though_the_other_core_seems_to_be_held": [
            ("stays_ < kMostStays", "true")
        ],
        f"{CROWDING}::test_several_are_tried_where_one_core_tells_little": [
            ("threads == 2", "true"),
            ("one_.seconds < kLeastPart * seconds", "false"),
            ("!CPU_EQUAL(&now->cores, &since_->cores)", "false"),
        ],
        f"{CROWDING}::test_several_are_tried_where_one_has_no_core_of_its_own": [
            ("kLeastOfOne * seconds <= left", "true")
        ],
        f"{CROWDING}::test_many_threads_of_which_one_is_disturbed_are_not_one": [("1 - 1.5 / threads", "0.25")],
        f"{CROWDING}::test_a_trial_of_one_that_takes_long_is_seldom": [("kPeriodOfTrial * rate(one).seconds", "0.0")],
    },
    "csrc/cpu/cache.cpp": {
        "tests/test_cpu_threads.py::test_the_cache_of_a_core_is_what_the_system_says_and_changes_no_bit": [
            ("std::clamp(second_level(), kLeast, kMost)", "kLeast + 0 * second_level()")
        ],
    },
    "csrc/cpu/kernels/row_tiles.h": {
        TILES: [
            ("until = done == all ? last_ :", "until ="),
            ("done / all & -block_)", "done / all)"),
            ("advance(1, 1);\n    place_ = place;", "place_ = place;"),
            ("at.out + (row - at.first)", "at.out"),
            ("odd = !odd;", ""),
        ],
    },
    "csrc/cpu/kernels/pack_body.h": {
        TILES: [
            ("halves[0] | uint32_t{halves[1]} << 16", "halves[1] | uint32_t{halves[0]} << 16"),
            ("low -= low_part;", "low -= high_part;"),
        ],
    },
    "csrc/cpu/kernels/panel_product_body.h": {
        TILES: [
            ("(upper(2 * i) >> 16 | upper(2 * i + 1))", "(upper(2 * i + 1) >> 16 | upper(2 * i))"),
            ("return row(k) + part * (stride / parts);", "return row(k);"),
        ],
        ACCURACY: [("a + first * a_stride + k;", "a + first * a_stride;", "T40-B17-I24-H130 and float32")],
    },
    "csrc/cpu/kernels/parts.h": {
        TILES: [("return (word - within) * kParts<operand_t> + within;", "return word * kParts<operand_t>;")],
    },
    "csrc/cpu/kernels/turned_product_body.h": {
        TILES: [
            ("std::clamp<int64_t>(H - first, 0, kTileHeight)", "kTileHeight"),
            ("(of.gate_step * H + of.group_step * kTileHeight) * K * size", "of.gate_step * H * K * size"),
            ("rows + row / kTileHeight * kTileHeight * stride", "rows"),
        ],
    },
    "csrc/cpu/int8/int8_body.h": {
        INT8: [
            ("for (; w < words; ++w) add_word(0, w);", ""),
            ("if (row < step.prev_rows) return", "if (row <= step.prev_rows) return"),
            ("const float row_scale = p.x_scale[first + m];", "const float row_scale = p.x_scale[first];"),
        ],
    },
    # ---- The host side of the CUDA backend
    "csrc/cuda/arguments.h": {
        ADDRESSES: [
            (
                "reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes != 0",
                "false",
                "one_step and boundary",
            ),
            ("tensor.stride(i) * tensor.element_size() % bytes != 0", "false", "one_step and with_odd_strides"),
        ],
    },
    "csrc/cuda/choice/self_test.cpp": {
        f"{CLUSTER}::test_a_wait_that_takes_too_long_in_the_self_test_rules_the_kernel_out": [
            ("return error.item<int>() == 0 ? fault :", "return true ? fault :"),
            ("{true, true, true}}, s, stream, waited.data_ptr<int>()}", "{true, true, true}}, s, stream}", "True"),
        ],
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value": [
            ("kTolerance = 0.05;", "kTolerance = 0.1;", "forward"),
            ("kTolerance = 0.05;", "kTolerance = 0.03;", "forward"),
            ('{"gates", {std::get<2>(*ours), gates}}', '{"gates", {gates, gates}}', "forward"),
            ("ours.sub(stepwise).abs_().max()", "ours.sub(stepwise).max()", "forward"),
            ('{"dhx", {std::get<1>(*ours), dhx}}', '{"dhx", {dhx, dhx}}', "backward-0"),
        ],
        f"{MEMBERS}::test_the_self_test_has_members": [
            ("kernel.takes_members() ? 2 : 0", "kernel.takes_members() ? 1 : 0")
        ],
    },
    "csrc/cuda/run.cpp": {
        f"{STEP}::test_expanded_gradients": [
            ("  const c10::cuda::CUDAGuard device(call.layer.x.device());\n", ""),
            (
                "const c10::cuda::CUDAGuard device(call.layer.x.device());\n"
                "  call.stream = c10::cuda::getCurrentCUDAStream().stream();",
                "call.stream = c10::cuda::getCurrentCUDAStream().stream();\n"
                "  const c10::cuda::CUDAGuard device(call.layer.x.device());",
            ),
        ],
        f"{CLUSTER}::test_capture_of_a_packed_batch_is_stepwise": [("!s.packed_sizes.empty(),\n", "false,\n")],
        f"{CLUSTER}::test_a_kernel_without_the_memory_for_its_self_test_is_tested_later": [
            ("if (is_out_of_memory(error)) return no_memory(kernel, forced);\n", "")
        ],
    },
    "csrc/cuda/persistent/all_steps.cpp": {
        f"{CLUSTER}::test_a_kernel_can_be_asked_for_by_name": [
            ("return kernel.launch(&p, call.stream);", "return kernel.launch(&p, nullptr);", "C1")
        ],
        ADDRESSES: [("all_paired({call.dy, call.dh_n,", "all_paired({call.dh_n,", "cluster_H64_C4 and boundary")],
        EMULATED_CLUSTER: [
            ("[row] = static_cast<int>(t);", "[row] = static_cast<int>(t - 1);", "packed and T3-B9 and bfloat16"),
            ("dbias.select(-3, d)", "dbias.select(-3, 0)", "bi and T3-B9 and bfloat16"),
        ],
        f"{MEMBERS}::test_members_of_any_strides": [
            ("  if (steps * between_steps != between_members) return std::nullopt;\n", "")
        ],
    },
    "csrc/cuda/persistent/persistent.cpp": {
        f"{CLUSTER}::test_why_stepwise": [
            ("kernel->clusters(query) * blocks > kMost", "kernel->clusters(query) > kMost")
        ],
        f"{CLUSTER}::test_capture_takes_only_kernels_that_were_tested_before": [
            ("query.capturing && (!resident.has_value() || !record.tested)", "query.capturing && !resident.has_value()")
        ],
        f"{CLUSTER}::test_tf32_only_where_the_switch_for_rnns_allows_it": [
            ("(!is_ieee || kernel.entry().ieee) &&", "")
        ],
        f"{CLUSTER}::test_what_serves_within_the_limits_of_a_device": [
            ("} else if (!kernel->has_shared_memory(query.H)) {", "} else if (false) {", "1024")
        ],
        f"{MEMBERS}::test_a_loop_takes_the_time_of_all_members": [
            ("static_cast<double>(query.members / launch.members) * seconds", "seconds")
        ],
        f"{MEMBERS}::test_steps_of_all_members_are_counted_in_32_bits": [
            ("query.members * query.T > kMost / query.B", "query.T > kMost / query.B")
        ],
    },
    "csrc/cuda/stepwise/steps.cpp": {
        STEPWISE: [
            (
                "std::min(p.rows, s.rows(t_prev)) : 0;",
                "p.rows : 0;",
                "packed and T3-B5-I4-H7 and float64 and not reset and not norm",
            ),
            ("rows_of_dy.offset(s, t)", "rows_of_y.offset(s, t)", "transposed and T4-B3-I2-H5 and float64"),
        ],
    },
    "csrc/cuda/choice/autotune.cpp": {
        "tests/test_autotune.py::test_a_damaged_file_is_measured_again": [
            ("return has_stepwise;", "return true;"),
            ("record << '\\n' << kind", "record << kind"),
            ("!(seconds > 0)", "!(seconds >= 0)"),
        ],
        "tests/test_autotune.py::test_a_full_disk_costs_one_record": [
            ("stream.open(file, std::ios::app)", "stream.open(file, std::ios::trunc)")
        ],
        "tests/test_autotune.py::test_a_file_that_is_none_is_not_read_for_ever": [
            ("  if (!is_file_or_absent()) return;\n", "")
        ],
        "tests/test_autotune.py::test_the_file_outlives_the_process": [("  measured.clear();\n", "")],
    },
    "csrc/cuda/one_step/one_step.cpp": {
        f"{ONE_STEP}::test_a_row_for_the_whole_batch": [
            ("launch_gru_one_step_fwd(p, stream)", "launch_gru_one_step_fwd(p, nullptr)")
        ],
        ADDRESSES: [
            ("value_stride == 1 && rows_are_aligned(operand, 16)", "value_stride == 1", "one_step and boundary")
        ],
        f"{ONE_STEP}::test_where_it_cannot_serve_to_ask_for_it_is_an_error": [
            ("query.T != 1 || query.B > kMostRows", "query.T != 1 || query.B > kMostRows + 1")
        ],
        f"{MEMBERS}::test_decoding_of_many_members_is_no_loop": [
            ("return query.members * kOneStepSeconds +", "return kOneStepSeconds +")
        ],
    },
    "csrc/cuda/persistent/windows.cpp": {
        "tests/test_accuracy.py::test_emulated_cluster_in_windows": [
            ("y.select(-3, window.t_begin - 1);", "y.select(-3, window.t_begin);", "bfloat16 and hx and not packed"),
            ("[d].bias.add_(grads[d].bias);", "[d].bias.add_(grads[d].bias, 2);", "bfloat16 and bias and not packed"),
            ("s.offset(window.t_begin - 1),", "s.offset(window.t_begin),", "packed and hx and bfloat16"),
            ("if (need_dweights && i > 0) add_grads", "if (need_dweights && i > 1) add_grads", "bias and bfloat16"),
            ("call.h_n.narrow(", "if (&window == &windows.back()) call.h_n.narrow(", "packed and bfloat16"),
        ],
        "tests/test_accuracy.py::test_emulated_streamed_with_masks": [
            ("(masks.of[0], window.offset, H), masks", "(masks.of[0], 0, H), masks", "bfloat16 and again")
        ],
        f"{MEMBERS}::test_members_without_gates_go_window_after_window": [
            ("s.members > 0 ? tensor.select(0, e) : tensor;", "s.members > 0 ? tensor.select(0, 0) : tensor;")
        ],
    },
    "csrc/cuda/products.cpp": {
        "tests/test_backends.py::test_results_share_no_memory": [("/*copy=*/true", "/*copy=*/false", "stepwise")],
        STEPWISE: [
            ("first ? grads.bias.copy_(sums) : grads.bias.add_", "grads.bias.copy_", "T3-B70-I3-H5 and float64")
        ],
    },
    "csrc/cuda/stepwise/direction.cpp": {
        "tests/test_cuda_addresses_emulated.py::test_any_address_and_stride_of_any_mask": [
            ("all.select(0, d).contiguous()", "all.select(0, d)")
        ],
    },
    "csrc/cuda/persistent/kernel.cpp": {
        f"{CLUSTER}::test_the_self_test_has_two_tiles_and_the_masks_of_the_kernel": [
            ("{entry_.rows + 1, most_tested() - 2,", "{entry_.rows, most_tested() - 2,"),
            ("most_tested() - 2, is_for_masks()", "most_tested() - 2, false"),
        ],
    },
    "csrc/cuda/persistent/device_facts.cpp": {
        f"{CLUSTER}::test_the_limit_of_a_wait_is_the_callers": [("1e9 * seconds_of_wait", "1e6 * seconds_of_wait")],
        f"{CLUSTER}::test_a_wait_that_takes_too_long_is_an_error_at_the_next_call": [("*facts.error.host = 0;\n", "")],
        f"{CLUSTER}::test_a_kernel_is_asked_about_once": [
            ("return facts.resident[&entry] = resident;", "return resident;")
        ],
    },
    "csrc/cuda/choice/records.cpp": {
        f"{CLUSTER}::test_another_device_is_tested_anew": [
            ("return records[{c10::cuda::current_device(), &kernel}];", "return records[{0, &kernel}];")
        ],
    },
    "csrc/cuda/persistent/kernel.h": {
        f"{MEMBERS}::test_the_choice_counts_the_clusters_of_all_members": [
            ("return (clusters(query) + at_a_time - 1) / at_a_time;", "return clusters(query) / at_a_time;"),
            ("return query.members * query.D * tiles(query.B);", "return query.D * tiles(query.B);"),
        ],
    },
    "csrc/cuda/choice/choice.cpp": {
        "tests/test_autotune.py::test_what_is_measured_once": [
            ('if (query.packed) kind << " packed";', ""),
            ('<< " D=" << query.D', ""),
        ],
        "tests/test_autotune.py::test_masked_calls_are_told_apart": [('if (query.masked) kind << " masked";', "")],
        "tests/test_autotune.py::test_the_file_outlives_the_process": [('<< name_of_device() << ", " ', "")],
        "tests/test_autotune.py::test_nothing_is_measured_while_a_graph_is_captured": [
            ("timings.empty() && !query.capturing", "timings.empty()")
        ],
        "tests/test_autotune.py::test_what_cannot_be_told_never_serves": [
            ("|| !std::isfinite(timing.seconds)) break;", ") break;")
        ],
        f"{MEMBERS}::test_autotune_keeps_apart_how_many_members_there_are": [
            ('  if (query.members > 1) kind << " E=" << query.members;\n', "")
        ],
    },
    # ---- The kernels of the CUDA backend
    "csrc/cuda/persistent/cluster/cluster_fwd.cuh": {
        EMULATED_KERNEL: [
            (
                "(self.part % kKeepers ^ i / kPairs) *",
                "self.part % kKeepers *",
                "cluster_bfloat16_H64_C2_rows8 and T100",
            )
        ],
        f"{MEMBERS}::test_members_are_one_launch_with_the_bits_of_their_own": [
            ("(int64_t{3} * work.member + gate) * p.H + unit", "int64_t{gate} * p.H + unit", "cluster and bfloat16")
        ],
    },
    "csrc/cuda/persistent/tiles.cuh": {
        EMULATED_KERNEL: [("(lane % 8 ^ order % 2)", "lane % 8", "cluster_bfloat16_H64_C2_rows8 and T100")],
    },
    "csrc/cuda/persistent/rows.cuh": {
        f"{CLUSTER}::test_gradients_that_lie_further_apart_than_32_bits_count": [
            (
                ": (first + step.t) * tensor.step_stride);",
                ": static_cast<int>((first + step.t) * tensor.step_stride));",
                "cluster and steps",
            )
        ],
        f"{MEMBERS}::test_members_are_one_launch_with_the_bits_of_their_own": [
            (" + work.member * p.weight_stride[work.direction];", ";", "cluster and bfloat16"),
            ("const int first = work.member * tensor.member_steps;", "const int first = 0;", "cluster and bfloat16"),
            ("return anew(member) * p.D + direction;", "return direction;", "group and bfloat16"),
            ("return {layer / p.D, layer % p.D,", "return {layer % p.E, layer / p.E,", "cluster and bfloat16"),
        ],
    },
    "csrc/cuda/one_step/one_step.cuh": {
        f"{ONE_STEP}::test_rows_that_lie_further_apart_than_32_bits_count": [
            ("+ first_row * product.row_stride;", "+ static_cast<int>(first_row * product.row_stride);")
        ],
    },
    "csrc/cuda/persistent/streamed/slabs.cuh": {
        STREAMED: [
            ("- 1) / Traits::kUnits, 0, share.blocks);", "- 1) / Traits::kUnits, 0, 5);", "H330 and bfloat16"),
            ("(layer * share.blocks + block) * Traits::", "(layer * 5 + block) * Traits::", "H330 and bfloat16"),
            ("(group) * 2 + buffer) * share.slabs +", "(group) * 2 + 0 * buffer) * share.slabs +", "H330 and bfloat16"),
            ("<int64_t>(group) * share.blocks + block;", "<int64_t>(group) * 8 + block;", "H330 and bfloat16"),
        ],
    },
    "csrc/cuda/stepwise/step.cuh": {
        STEPWISE: [
            ("row < p.rows; row += place.row_stride", "row < p.rows; row += 1000000", "T3-B70-I3-H5 and float64")
        ],
    },
    "csrc/cuda/persistent/fwd_pair.cuh": {
        EMULATED_CLUSTER: [
            ("return direction == 0 ?", "return direction >= 0 ?", "T3-B9-I5-H34 and bi-hx and bfloat16"),
            ("stored * p.y.row_stride", "loaded * p.y.row_stride", "T4-B17-I6-H64 and packed and bfloat16"),
        ],
    },
    "csrc/cuda/persistent/pairs.cuh": {
        EMULATED_CLUSTER: [
            (
                "with_pairing(p.paired, [&](bool paired) { f(paired, p.H); });",
                "f(true, p.H);",
                "T5-B3-I2-H63 and plain and bfloat16",
            )
        ],
    },
    "csrc/cuda/persistent/streamed/streamed_fwd.cuh": {
        f"{MEMBERS}::test_members_are_one_launch_with_the_bits_of_their_own": [
            ("(int64_t{3} * work.member + gate) * H", "int64_t{gate} * H", "streamed and bfloat16")
        ],
    },
}
FAULTS = [
    Fault(file, before, after, test, *cases)
    for file, by_test in _PLANTED.items()
    for test, slips in by_test.items()
    for before, after, *cases in slips
]
