"""The faults: what to write in place of what, and the test that has to fail. A fault is a slip that compiles.

Those of the CPU's kernels are looked for by the portable ones, which the machine compiles fastest; those of csrc/cuda
in the emulated backend.
"""

from __future__ import annotations

from dataclasses import dataclass

ACCURACY = "tests/test_accuracy.py::test_cpu"
CLUSTER = "tests/test_cuda_cluster_emulated.py"
ONE_STEP = "tests/test_cuda_one_step_emulated.py"
STEP = "tests/test_cuda_step_emulated.py"
STEPWISE = "tests/test_accuracy.py::test_emulated_stepwise"
STREAMED = "tests/test_accuracy.py::test_emulated_streamed"
ADDRESSES = "tests/test_cuda_addresses_emulated.py::test_any_address_and_stride_of_any_tensor"
INT8 = "tests/test_quantize.py::test_every_step_is_as_specified"
THREADS = "tests/test_accuracy.py::test_cpu_with_several_threads"
ROW_GROUPS = "tests/test_cpu_threads.py::test_groups_of_rows_change_no_bit"
STEP_BARRIER = "tests/test_step_barrier.py::test_no_order_loses_a_thread_or_a_step"  # compiles its own


@dataclass(frozen=True)
class Fault:
    """One slip, and who has to find it."""

    file: str  # from the root of the project
    before: str  # occurs once in the file
    after: str
    test: str  # a pytest node
    cases: str = ""  # those of its cases that find it, as of pytest -k; empty for all


FAULTS = [
    # ---- Python
    Fault(
        "gru_ext/segments.py",
        "for state in (hx, reset_state)]",
        "for state in (reset_state, hx)]",
        "tests/test_lengths_and_resets.py::test_results_and_gradients_are_those_of_each_part_alone",
    ),
    Fault(
        "gru_ext/segments.py",
        "if self.complete else packed.new_zeros(shape)",
        "if True else packed.new_zeros(shape)",
        "tests/test_fuzz.py::test_modules",
    ),
    Fault(
        "gru_ext/segments.py",
        "state.index_select(1, rows[i % directions])",
        "state.index_select(1, rows[0])",
        "tests/test_lengths_and_resets.py::test_results_and_gradients_are_those_of_each_part_alone",
    ),
    Fault(
        "gru_ext/regularizers.py",
        "mask(recurrent_dropout, 1 - recurrent_dropout,",
        "mask(recurrent_dropout, recurrent_dropout,",
        "tests/test_regularizers.py::test_each_layer_of_each_call_draws_its_masks",
    ),
    Fault(
        "gru_ext/recurrence.py",
        "not 0 <= float(value) < 1:",
        "not 0 <= float(value) <= 1:",
        "tests/test_regularizers.py::test_wrong_rates",
    ),
    Fault(
        "gru_ext/regularizers.py",
        "if i % per_direction == 1 else w",
        "if i % per_direction == 0 else w",
        "tests/test_regularizers.py::test_weight_dropout_is_torch_s_dropout_of_weight_hh_once_a_call",
    ),
    Fault(
        "gru_ext/layout.py",
        "h_n[-directions:].unbind(0)",
        "h_n[:directions].unbind(0)",
        "tests/test_outputs.py::test_the_output_is_the_last_layer_s_last_state",
    ),
    Fault(
        "gru_ext/layout.py",
        "h_n = h_n.index_select(1, unsorted_indices)",
        "h_n = h_n.index_select(1, sorted_indices)",
        "tests/test_modules.py::test_packed_sequences_equal_nn_gru_s",
    ),
    Fault(
        "gru_ext/variant.py",
        "directions, rows, 9 * hidden + 16",
        "directions, rows, 9 * hidden",
        "tests/test_layer_norm.py::test_opcheck",
    ),
    Fault(
        "gru_ext/training.py",
        "return state.detach()",
        "return state",
        "tests/test_training.py::test_results_and_gradients_are_those_of_the_loop",
    ),
    Fault(
        "gru_ext/double_backward.py",
        "y, gates = y.contiguous(), gates.contiguous()",
        "y, gates = y, gates",
        "tests/test_autograd.py::test_vmap_of_grad_gives_per_sample_gradients",
    ),
    # ---- The host side of the CPU backend
    Fault(
        "csrc/op/check.cpp",
        "s.packed_sizes[t] <= largest",
        "s.packed_sizes[t] <= s.N",
        "tests/test_operators.py::test_wrong_arguments_of_a_packed_batch",
    ),
    Fault(
        "csrc/op/check.cpp",
        "rate >= 0 && rate < 1",
        "rate >= 0 && rate <= 1",
        "tests/test_regularizers.py::test_wrong_masks_of_an_operator",
    ),
    Fault(
        "csrc/op/segments.cpp",
        "start[S + rank] = last ? b : B + b",
        "start[S + rank] = first ? b : B + b",
        "tests/test_lengths_and_resets.py::test_results_and_gradients_are_those_of_each_part_alone",
    ),
    Fault(
        "csrc/op/segments.cpp",
        "batch_first ? 1 : B, row_stride = batch_first ? T : 1",
        "batch_first ? 1 : B, row_stride = batch_first ? B : 1",
        "tests/test_lengths_and_resets.py::test_results_and_gradients_are_those_of_each_part_alone",
    ),
    Fault(
        "csrc/cpu/bernoulli.cpp",
        "(words[w][i] >> 16) < threshold",
        "(words[w][i] & 0xffff) < threshold",
        "tests/test_regularizers.py::test_a_mask_is_made_of_the_generator_s_words",
    ),
    Fault(
        "csrc/cpu/bernoulli.cpp",
        "const uint64_t block = group * kLanes + i;",
        "const uint64_t block = group + i;",
        "tests/test_regularizers.py::test_a_mask_is_made_of_the_generator_s_words",
    ),
    Fault(
        "csrc/cpu/forward.cpp",
        "|| !rows_of_x_.uniform(s)",
        "",
        ACCURACY,
        "(sliced or inner_transposed) and float32",
    ),
    Fault(
        "csrc/cpu/arranged.h",
        "if (gate == 2 && reset_after) break;",
        "if (gate == 2) break;",
        ACCURACY,
        "reset and T2-B3-I5-H7 and float64",
    ),
    Fault(
        "csrc/cpu/backward.cpp",
        "tensors_.need.dhx || i + 1 < chunks_.size()",
        "tensors_.need.dhx",
        "tests/test_gru.py::test_each_gradient_of_several_chunks_is_the_same_alone",
    ),
    Fault(
        "csrc/op/recompute.cpp",
        "from_h0.add(row + continued, continued,",
        "from_h0.add(row + continued, 0,",
        ACCURACY,
        "again and packed and T5-B3-I4-H7 and float64",
    ),
    Fault(
        "csrc/op/recompute.cpp",
        "variant.recurrent_mask->select(0, direction)",
        "variant.recurrent_mask->select(0, 0)",
        ACCURACY,
        "again and mask and bi and T5-B3-I4-H7",
    ),
    Fault(
        "csrc/op/autograd.cpp",
        "const size_t first_weight = hx.has_value() ? 2 : 1;",
        "const size_t first_weight = 2;",
        "tests/test_modules.py::test_frozen_parameters_get_no_gradient",
    ),
    Fault(
        "csrc/op/chunks.h",
        "return packed || s.T == 1 || stride_t == s.B * stride_b;",
        "return packed || s.T == 1 || stride_t > 0;",
        ACCURACY,
        "(sliced or transposed) and float32",
    ),
    Fault(
        "csrc/cpu/step_barrier.h",
        "if (flag.sleepers.load() > 0) wake(flag);",
        "if (flag.sleepers.load() > 1) wake(flag);",
        STEP_BARRIER,
        "2-4-3",
    ),
    Fault(
        "csrc/cpu/step_barrier.cpp",
        "other.sleepers.fetch_add(1);",
        "other.sleepers.fetch_add(0);",
        STEP_BARRIER,
        "2-4-3",
    ),
    Fault(
        "csrc/op/check.cpp",
        "    s.packed_offsets.push_back(offset);\n    offset += s.packed_sizes[t];",
        "    offset += s.packed_sizes[t];\n    s.packed_offsets.push_back(offset - 1);",
        ACCURACY,
        "packed and T2-B3-I5-H7 and float64",
    ),
    Fault(
        "csrc/op/autograd.cpp",
        "          rates[1],\n          rates[2],",
        "          rates[2],\n          rates[1],",
        ACCURACY,
        "mask and T4-B3-I2-H5 and float64",
    ),
    Fault(
        "csrc/op/autograd.cpp",
        "hx.has_value() && ctx->needs_input_grad(1)",
        "hx.has_value() && ctx->needs_input_grad(0)",
        "tests/test_autograd.py::test_every_subset_of_arguments_gets_its_gradients_and_no_others",
    ),
    Fault(
        "csrc/op/chunks.h",
        "s.offset(t) * stride_b : t * stride_t;",
        "s.offset(t) * stride_b : static_cast<int>(t * stride_t);",
        "tests/test_gru.py::test_rows_that_lie_further_apart_than_32_bits_count",
    ),
    Fault(
        "csrc/op/recompute.cpp",
        "if (to != to_ + count_ || from != from_ + count_) {",
        "if (to != to_ + count_) {",
        ACCURACY,
        "again and packed and T5-B3-I4-H7 and float64",
    ),
    Fault(
        "csrc/op/members.h",
        "layer.x.select(0, e)), hx(of_member(layer.hx, e))",
        "layer.x.select(0, e)), hx(of_member(layer.hx, 0))",
        "tests/test_ensembles.py::test_members_on_several_threads",
        "T6",
    ),
    Fault(
        "csrc/cpu/members.cpp",
        "for (int64_t e = together; e < E; ++e) body(e);",
        "for (int64_t e = together + 1; e < E; ++e) body(e);",
        "tests/test_ensembles.py::test_members_on_several_threads",
        "T6",
    ),
    Fault(
        "csrc/cpu/arranged.h",
        "share(count, thread + 1, team),\n",
        "share(count, thread + 1, team) - (thread + 1 < team),\n",
        THREADS,
        "2-T30-B30 and float32",
    ),
    Fault(
        "csrc/cpu/forward.cpp",
        "p.state += first * p.h_stride;",
        "",
        ROW_GROUPS,
        "plain and float32",
    ),
    Fault(
        "csrc/cpu/backward.cpp",
        "p.dbias_partial += block * p.sums * p.dh_stride;",
        "",
        ROW_GROUPS,
        "plain and float32",
    ),
    Fault(
        "csrc/cpu/int8/int8_gru.cpp",
        "part.h0 += first * s.H;",
        "part.h0 += 0;",
        "tests/test_cpu_threads.py::test_groups_of_rows_change_no_bit_of_int8",
    ),
    Fault(
        "csrc/cpu/forward.cpp",
        "tensors_.h_n + direction_ * s_.B * s_.H, s_.H, s_.B",
        "tensors_.h_n, s_.H, s_.B",
        ACCURACY,
        "T2-B3-I5-H7 and bi and float64",
    ),
    Fault(
        "csrc/cpu/forward.cpp",
        "hx.has_value() ? hx->contiguous() : Tensor()",
        "hx.has_value() ? *hx : Tensor()",
        ACCURACY,
        "transposed and float32",
    ),
    Fault(
        "csrc/cpu/backward.cpp",
        "dh_n.has_value() ? dh_n->contiguous() : Tensor()",
        "dh_n.has_value() ? *dh_n : Tensor()",
        ACCURACY,
        "transposed and float32",
    ),
    Fault(
        "csrc/cpu/backward.cpp",
        "p_.add_to_dx = reverse && tensors_.dx[0].is_same(tensors_.dx[1]);",
        "p_.add_to_dx = tensors_.dx[0].is_same(tensors_.dx[1]);",
        ACCURACY,
        "T2-B3-I5-H7 and bi and float64",
    ),
    Fault(
        "csrc/cpu/backward.cpp",
        "if (need.dx && side_by_side) dx.add_(dx_of_directions[1]);",
        "if (need.dx && side_by_side) dx.add_(dx_of_directions[0]);",
        "tests/test_cpu_threads.py::test_the_bits_are_those_of_one_thread",
        "directions",
    ),
    Fault(
        "csrc/cpu/backward.cpp",
        "copy_gate(p_.reset_after ? q : n, dweights[3], 2);",
        "copy_gate(n, dweights[3], 2);",
        ACCURACY,
        "T2-B3-I5-H7 and float64",
    ),
    Fault(
        "csrc/cpu/pass.h",
        "mask.has_value() ? mask->contiguous() : at::Tensor();",
        "mask.has_value() ? *mask : at::Tensor();",
        "tests/test_operators.py::test_masks_may_have_any_strides",
    ),
    Fault(
        "csrc/cpu/pass.h",
        "part(candidate_, s.N)",
        "part(candidate_, s.B)",
        ACCURACY,
        "mask and T4-B3-I2-H5 and bi and float64",
    ),
    Fault(
        "csrc/cpu/arranged.h",
        "gains + 3 * i * stride, stride, 3, H);",
        "gains + i * stride, stride, 3, H);",
        ACCURACY,
        "layer and norm and T2-B3-I5-H7",
    ),
    Fault(
        "csrc/cpu/buffers.cpp",
        "return b.size == size; });",
        "return b.size <= size; });",
        "tests/test_memory.py::test_empty_cache_gives_back_what_is_kept",
    ),
    # ---- The kernels of the CPU
    Fault(
        "csrc/cell/cell.h",
        "(h - masks.candidate(gates.n)) * gates.z",
        "(h - gates.n) * gates.z",
        ACCURACY,
        "mask and T4-B3-I2-H5 and float64",
    ),
    Fault(
        "csrc/cpu/kernels/recurrence_body.h",
        "operand_t* h_next = p.h[(done + 1) % 2];",
        "operand_t* h_next = p.h[done % 2];",
        ACCURACY,
        "T2-B3-I5-H7 and float64",
    ),
    Fault(
        "csrc/cpu/kernels/recurrence_body.h",
        "store<acc_t>(dh, past_product, Math::lanes);",
        "store<acc_t>(dh, d, Math::lanes);",
        ACCURACY,
        "T2-B3-I5-H7 and float64",
    ),
    Fault(
        "csrc/cpu/kernels/steps_body.h",
        "operand = p.masks.recurrent == nullptr ? h : h * recurrent_factor",
        "operand = p.masks.recurrent == nullptr ? h : h + 0 * recurrent_factor",
        ACCURACY,
        "mask and T4-B3-I2-H5 and float64",
    ),
    Fault(
        "csrc/cpu/kernels/lanes_body.h",
        "(bits + 0x7fff + ((bits >> 16) & 1)) >> 16",
        "bits >> 16",
        "tests/test_gru.py::test_a_state_of_bfloat16_is_rounded_to_the_nearest",
    ),
    Fault(
        "csrc/cpu/kernels/vector_math.h",
        "static constexpr float tanh_limit = 9.5f;",
        "static constexpr float tanh_limit = 4.5f;",
        ACCURACY,
        "30.0",
    ),
    Fault(
        "csrc/cpu/kernels/reset_before_body.h",
        "if (masked && p.masks.recurrent != nullptr) h *=",
        "if (masked && p.masks.recurrent == nullptr) h *=",
        ACCURACY,
        "mask and reset and T4-B3-I2-H5 and float64",
    ),
    Fault(
        "csrc/cpu/kernels/layer_norm_body.h",
        "mean_n = norm_of_n == 0 ? mean_rz : lane_sum<acc_t>(of_n) / units",
        "mean_n = mean_rz",
        ACCURACY,
        "layer and norm and T2-B3-I5-H7",
    ),
    Fault(
        "csrc/cpu/kernels/gradients_body.h",
        "const bool add = !p.first || begin > 0;",
        "const bool add = !p.first;",
        ACCURACY,
        "(T40-B17-I24-H130 or T300-B2-I8-H20) and float32",
    ),
    Fault(
        "csrc/cpu/int8/int8_body.h",
        "for (; w < words; ++w) add_word(0, w);",
        "",
        INT8,
    ),
    Fault(
        "csrc/cpu/int8/int8_body.h",
        "if (row < step.prev_rows) return",
        "if (row <= step.prev_rows) return",
        INT8,
    ),
    Fault(
        "csrc/cpu/int8/int8_body.h",
        "const float row_scale = p.x_scale[first + m];",
        "const float row_scale = p.x_scale[first];",
        INT8,
    ),
    Fault(
        "csrc/cpu/int8/int8_gru.cpp",
        "h0.const_data_ptr<float>() + d * s.B * s.H : nullptr",
        "h0.const_data_ptr<float>() : nullptr",
        INT8,
    ),
    # ---- The host side of the CUDA backend
    Fault(
        "csrc/cuda/arguments.h",
        "reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes != 0",
        "false",
        ADDRESSES,
        "one_step and one_element_on",
    ),
    Fault(
        "csrc/cuda/arguments.h",
        "tensor.stride(i) * tensor.element_size() % bytes != 0",
        "false",
        ADDRESSES,
        "one_step and with_odd_strides",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        "kTolerance = 0.05;",
        "kTolerance = 0.1;",
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
        "forward",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        "kTolerance = 0.05;",
        "kTolerance = 0.03;",
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
        "forward",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        '{"gates", {std::get<2>(*ours), gates}}',
        '{"gates", {gates, gates}}',
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
        "forward",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        "ours.sub(stepwise).abs_().max()",
        "ours.sub(stepwise).max()",
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
        "forward",
    ),
    Fault(
        "csrc/cuda/run.cpp",
        "const Sequence s = check_fwd(layer);\n  const c10::cuda::CUDAGuard device(layer.x.device());",
        "const Sequence s = check_fwd(layer);",
        f"{STEP}::test_expanded_gradients",
    ),
    Fault(
        "csrc/cuda/run.cpp",
        "const c10::cuda::CUDAGuard device(layer.x.device());\n"
        "  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();\n  const RnnPrecisionGuard precision;\n"
        "  return run_by_choice(BwdCall",
        "const Stream stream = c10::cuda::getCurrentCUDAStream().stream();\n"
        "  const c10::cuda::CUDAGuard device(layer.x.device());\n  const RnnPrecisionGuard precision;\n"
        "  return run_by_choice(BwdCall",
        f"{STEP}::test_expanded_gradients",
    ),
    Fault(
        "csrc/cuda/persistent/all_steps.cpp",
        "return kernel.launch(&p, stream);",
        "return kernel.launch(&p, nullptr);",
        f"{CLUSTER}::test_a_kernel_can_be_asked_for_by_name",
        "C1",
    ),
    Fault(
        "csrc/cuda/persistent/persistent.cpp",
        "kernel->tiles(query.B) * blocks > kMost",
        "kernel->tiles(query.B) > kMost",
        f"{CLUSTER}::test_why_stepwise",
    ),
    Fault(
        "csrc/cuda/persistent/persistent.cpp",
        "query.capturing && (!resident.has_value() || !record.tested)",
        "query.capturing && !resident.has_value()",
        f"{CLUSTER}::test_capture_takes_only_kernels_that_were_tested_before",
    ),
    Fault(
        "csrc/cuda/persistent/persistent.cpp",
        "(!is_ieee || kernel.entry().ieee) &&",
        "",
        f"{CLUSTER}::test_tf32_only_where_the_switch_for_rnns_allows_it",
    ),
    Fault(
        "csrc/cuda/stepwise/steps.cpp",
        "std::min(p.rows, s.rows(t_prev)) : 0;",
        "p.rows : 0;",
        STEPWISE,
        "packed and T3-B5-I4-H7 and float64 and not reset and not norm",
    ),
    Fault(
        "csrc/cuda/choice/autotune.cpp",
        "return has_stepwise;",
        "return true;",
        "tests/test_autotune.py::test_a_damaged_file_is_measured_again",
    ),
    Fault(
        "csrc/cuda/persistent/all_steps.cpp",
        "all_paired({dy, dh_n, y, h0, gates, dh0})",
        "all_paired({dh_n, y, h0, gates, dh0})",
        ADDRESSES,
        "cluster_H64_C4 and one_element_on",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        '{"dhx", {std::get<1>(*ours), dhx}}',
        '{"dhx", {dhx, dhx}}',
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
        "backward-0",
    ),
    Fault(
        "csrc/cuda/one_step/one_step.cpp",
        "launch_gru_one_step_fwd(p, stream)",
        "launch_gru_one_step_fwd(p, nullptr)",
        f"{ONE_STEP}::test_a_row_for_the_whole_batch",
    ),
    Fault(
        "csrc/cuda/one_step/one_step.cpp",
        "product.value_stride == 1 && rows_are_aligned(operand, 16);",
        "product.value_stride == 1;",
        ADDRESSES,
        "one_step and one_element_on",
    ),
    Fault(
        "csrc/cuda/one_step/one_step.cpp",
        "query.T != 1 || query.B > kMostRows",
        "query.T != 1 || query.B > kMostRows + 1",
        f"{ONE_STEP}::test_where_it_cannot_serve_to_ask_for_it_is_an_error",
    ),
    Fault(
        "csrc/cuda/persistent/persistent.cpp",
        "} else if (!kernel->has_shared_memory(query.H)) {",
        "} else if (false) {",
        f"{CLUSTER}::test_what_serves_within_the_limits_of_a_device",
        "1024",
    ),
    Fault(
        "csrc/cuda/persistent/all_steps.cpp",
        "length[row] = static_cast<int>(t);",
        "length[row] = static_cast<int>(t - 1);",
        "tests/test_accuracy.py::test_emulated_cluster",
        "packed and T3-B9 and bfloat16",
    ),
    Fault(
        "csrc/cuda/persistent/all_steps.cpp",
        "at::sum_out(grads[d].bias, dbias[d], /*dim=*/0);",
        "at::sum_out(grads[d].bias, dbias[0], /*dim=*/0);",
        "tests/test_accuracy.py::test_emulated_cluster",
        "bi and T3-B9 and bfloat16",
    ),
    Fault(
        "csrc/cuda/persistent/windows.cpp",
        "y.select(0, window.t_begin - 1);",
        "y.select(0, window.t_begin);",
        "tests/test_accuracy.py::test_emulated_cluster_in_windows",
        "bfloat16 and not bi and not packed",
    ),
    Fault(
        "csrc/cuda/persistent/windows.cpp",
        "    sums[d].bias.add_(grads[d].bias);",
        "    sums[d].bias.add_(grads[d].bias, 2);",
        "tests/test_accuracy.py::test_emulated_cluster_in_windows",
        "bfloat16 and not bi and bias and not packed",
    ),
    Fault(
        "csrc/cuda/products.cpp",
        "first ? grads.bias.copy_(sums) : grads.bias.add_(sums);",
        "grads.bias.copy_(sums);",
        STEPWISE,
        "T3-B70-I3-H5 and float64",
    ),
    Fault(
        "csrc/cuda/stepwise/steps.cpp",
        "dy.const_data_ptr<at_t>() + rows_of_dy.offset(s, t)",
        "dy.const_data_ptr<at_t>() + rows_of_y.offset(s, t)",
        STEPWISE,
        "transposed and T4-B3-I2-H5 and float64",
    ),
    Fault(
        "csrc/cuda/stepwise/direction.cpp",
        "mask->select(0, d).contiguous()",
        "mask->select(0, d)",
        "tests/test_cuda_addresses_emulated.py::test_any_address_and_stride_of_any_mask",
    ),
    # ---- The kernels of the CUDA backend
    Fault(
        "csrc/cuda/persistent/rows.cuh",
        "t * tensor.step_stride);",
        "static_cast<int>(t * tensor.step_stride));",
        f"{CLUSTER}::test_gradients_that_lie_further_apart_than_32_bits_count",
        "cluster and steps",
    ),
    Fault(
        "csrc/cuda/one_step/one_step.cuh",
        "+ first_row * product.row_stride;",
        "+ static_cast<int>(first_row * product.row_stride);",
        f"{ONE_STEP}::test_rows_that_lie_further_apart_than_32_bits_count",
    ),
    Fault(
        "csrc/cuda/persistent/streamed/slabs.cuh",
        "end_block_ = clamp((end_unit + Traits::kUnits - 1) / Traits::kUnits, 0, share.blocks);",
        "end_block_ = clamp((end_unit + Traits::kUnits - 1) / Traits::kUnits, 0, 5);",
        STREAMED,
        "H330 and bfloat16",
    ),
    Fault(
        "csrc/cuda/persistent/streamed/slabs.cuh",
        "static_cast<int64_t>(direction * share.blocks + block) * Traits::kWarps + warp",
        "static_cast<int64_t>(direction * 5 + block) * Traits::kWarps + warp",
        STREAMED,
        "H330 and bfloat16",
    ),
    Fault(
        "csrc/cuda/stepwise/step.cuh",
        "place.first_row; row < p.rows; row += place.row_stride",
        "place.first_row; row < p.rows; row += 1000000",
        STEPWISE,
        "T3-B70-I3-H5 and float64",
    ),
]
