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


@dataclass(frozen=True)
class Fault:
    """One slip, and who has to find it."""

    file: str  # from the root of the project
    before: str  # occurs once in the file
    after: str
    test: str  # a pytest node; all its parameters are run


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
    Fault("csrc/cpu/forward.cpp", "|| !rows_of_x_.uniform(s)", "", ACCURACY),
    Fault(
        "csrc/cpu/forward.cpp",
        "if (gate == 2 && p_.reset_after) break;",
        "if (gate == 2) break;",
        ACCURACY,
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
    ),
    Fault(
        "csrc/op/recompute.cpp",
        "result.zoneout = result.candidate_dropout = 0;",
        "result.zoneout = 0;",
        ACCURACY,
    ),
    Fault(
        "csrc/op/autograd.cpp",
        "const size_t first_weight = hx.has_value() ? 2 : 1;",
        "const size_t first_weight = 2;",
        "tests/test_fuzz.py::test_modules",
    ),
    Fault(
        "csrc/op/chunks.h",
        "return packed || s.T == 1 || stride_t == s.B * stride_b;",
        "return packed || s.T == 1 || stride_t > 0;",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/step_barrier.h",
        "if (flag.sleepers.load() > 0) wake(flag);",
        "if (flag.sleepers.load() > 1) wake(flag);",
        "tests/test_step_barrier.py",
    ),
    Fault(
        "csrc/cpu/step_barrier.cpp",
        "seen = other.steps.load(); !reached(other, steps); seen",
        "seen = 0; !reached(other, steps); seen",
        "tests/test_step_barrier.py",
    ),
    # ---- The kernels of the CPU
    Fault(
        "csrc/cell/cell.h",
        "(h - masks.candidate(gates.n)) * gates.z",
        "(h - gates.n) * gates.z",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/kernels/recurrence_body.h",
        "operand_t* h_next = p.h[(done + 1) % 2];",
        "operand_t* h_next = p.h[done % 2];",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/kernels/recurrence_body.h",
        "store<acc_t>(dh, past_product, Math::lanes);",
        "store<acc_t>(dh, d, Math::lanes);",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/kernels/steps_body.h",
        "operand = p.masks.recurrent == nullptr ? h : h * recurrent_factor",
        "operand = p.masks.recurrent == nullptr ? h : h + 0 * recurrent_factor",
        ACCURACY,
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
    ),
    Fault(
        "csrc/cpu/kernels/reset_before_body.h",
        "if (masked && p.masks.recurrent != nullptr) h *=",
        "if (masked && p.masks.recurrent == nullptr) h *=",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/kernels/layer_norm_body.h",
        "mean_n = norm_of_n == 0 ? mean_rz : lane_sum<acc_t>(of_n) / units",
        "mean_n = mean_rz",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/kernels/gradients_body.h",
        "const bool add = !p.first || begin > 0;",
        "const bool add = !p.first;",
        ACCURACY,
    ),
    Fault(
        "csrc/cpu/int8/int8_body.h",
        "for (; w < words; ++w) add_word(0, w);",
        "",
        "tests/test_quantize.py::test_every_step_is_as_specified",
    ),
    Fault(
        "csrc/cpu/int8/int8_body.h",
        "if (row < step.prev_rows) return",
        "if (row <= step.prev_rows) return",
        "tests/test_quantize.py::test_every_step_is_as_specified",
    ),
    # ---- The host side of the CUDA backend
    Fault(
        "csrc/cuda/arguments.h",
        "reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes != 0",
        "false",
        "tests/test_accuracy.py::test_emulated_one_step",
    ),
    Fault(
        "csrc/cuda/arguments.h",
        "tensor.stride(i) * tensor.element_size() % bytes != 0",
        "false",
        "tests/test_accuracy.py::test_emulated_one_step",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        "kTolerance = 0.05;",
        "kTolerance = 0.1;",
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        "kTolerance = 0.05;",
        "kTolerance = 0.03;",
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        '{"gates", {std::get<2>(*ours), gates}}',
        '{"gates", {gates, gates}}',
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
    ),
    Fault(
        "csrc/cuda/choice/self_test.cpp",
        "ours.sub(stepwise).abs_().max()",
        "ours.sub(stepwise).max()",
        f"{CLUSTER}::test_the_self_test_tolerates_a_twentieth_of_the_largest_value",
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
        "tests/test_cuda_addresses_emulated.py::test_any_address_and_stride_of_any_tensor",
    ),
    # ---- The kernels of the CUDA backend
    Fault(
        "csrc/cuda/persistent/rows.cuh",
        "t * tensor.step_stride);",
        "static_cast<int>(t * tensor.step_stride));",
        f"{CLUSTER}::test_gradients_that_lie_further_apart_than_32_bits_count",
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
        "tests/test_accuracy.py::test_emulated_streamed",
    ),
    Fault(
        "csrc/cuda/persistent/streamed/slabs.cuh",
        "static_cast<int64_t>(direction * share.blocks + block) * Traits::kWarps + warp",
        "static_cast<int64_t>(direction * 5 + block) * Traits::kWarps + warp",
        "tests/test_accuracy.py::test_emulated_streamed",
    ),
    Fault(
        "csrc/cuda/stepwise/step.cuh",
        "place.first_row; row < p.rows; row += place.row_stride",
        "place.first_row; row < p.rows; row += 1000000",
        STEPWISE,
    ),
]
