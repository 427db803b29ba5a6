// In place of csrc's: launches as the test has it, in the emulator, which is told the extent of every argument.
#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <type_traits>
#include <utility>

#include "cuda/persistent/held_entry.h"
#include "cuda/persistent/tiles.cuh"
#include "cuda/persistent/turns.h"
#include "device.h"

namespace gru_ext {

// All that a kernel may touch under this name: rows of `columns` values for every step of every sequence.
template <typename Parameters, typename T>
void name_steps(const char* name, const Parameters& p, const StepRows<T>& rows, int64_t columns, bool writable) {
  if (rows.data == nullptr) return;
  const int64_t first_of_last_member = int64_t{p.E - 1} * rows.member_steps;
  const int64_t last = p.offsets != nullptr
                           ? (first_of_last_member + p.N - 1) * rows.row_stride
                           : (first_of_last_member + p.T - 1) * rows.step_stride + (p.B - 1) * rows.row_stride;
  emulator::name_buffer(name, rows.data, static_cast<size_t>(last + columns) * sizeof(T), writable);
}
template <typename T>
void name_values(const char* name, const T* p, int64_t count, bool writable) {
  if (p != nullptr) emulator::name_buffer(name, p, static_cast<size_t>(count) * sizeof(T), writable);
}

template <typename Parameters>
void name_common(const Parameters& p) {
  for (int d = 0; d < p.D; ++d) {
    name_values("zoneout mask", p.masks[d].zoneout, p.N * p.H, false);
    name_values("candidate mask", p.masks[d].candidate, p.N * p.H, false);
    name_values("recurrent mask", p.masks[d].recurrent, int64_t{p.B} * p.H, false);
    name_values("weight_hh", p.weight_hh[d], (p.E - 1) * p.weight_stride[d] + int64_t{3} * p.H * p.H, false);
  }
  name_values("lengths", p.lengths, p.B, false);
  name_values("offsets", p.offsets, p.T, false);
  name_values("error", p.error, 1, true);
  name_values("h0", p.h0, int64_t{p.E} * p.D * p.B * p.H, false);
}

// All arguments but those by which groups exchange, of a kernel whose tiles have so many rows.
template <typename T>
void name_arguments(const PersistentFwdParams<T>& p, int /*rows*/) {
  name_common(p);
  for (int d = 0; d < p.D; ++d) {
    name_steps("a_x", p, p.a_x[d], 3 * p.H, false);
    name_values("bias_hh", p.bias_hh[d], int64_t{3} * p.E * p.H, false);
  }
  name_steps("y", p, p.y, p.D * p.H, true);
  name_values("h_n", p.h_n, int64_t{p.E} * p.D * p.B * p.H, true);
  name_values("gates", p.gates, p.E * p.D * p.N * 4 * p.H, true);
}
template <typename T>
void name_arguments(const PersistentBwdParams<T>& p, int rows) {
  name_common(p);
  const int64_t state = int64_t{p.E} * p.D * p.B * p.H;
  name_steps("dy", p, p.dy, p.D * p.H, false);
  name_values("dh_n", p.dh_n, state, false);
  name_steps("y", p, p.y, p.D * p.H, false);
  name_values("gates", p.gates, p.E * p.D * p.N * 4 * p.H, false);
  for (int d = 0; d < p.D; ++d) {
    name_steps("dgates", p, p.dgates[d], 4 * p.H, true);
    name_steps("h_prev", p, p.h_prev[d], p.H, true);
  }
  name_values("dh0", p.dh0, state, true);
  name_values("dbias", p.dbias, int64_t{clusters_of(p, rows)} * 4 * p.H, true);
}

template <typename T>
void spoil(T* value) {
  *value = device::from_acc<T>(device::to_acc(*value) + static_cast<float>(emulator::device.spoil));
}
template <typename T>
void spoil_result(const PersistentFwdParams<T>& p) {
  T* const results[] = {p.h_n, p.y.data, p.gates};
  spoil(results[emulator::device.spoiled_result]);
}
template <typename T>
void spoil_result(const PersistentBwdParams<T>& p) {
  if (emulator::device.spoiled_result == 2) return spoil(p.dbias);
  spoil(emulator::device.spoiled_result == 1 ? p.dgates[0].data : p.dh0);
}

// As the test has it: refused; or run, and a result then spoiled. What breaks a rule of the machine fails the call.
template <typename Parameters>
const char* run(const emulator::Shape& shape, void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  emulator::check_stream(stream);
  emulator::EmulatedDevice& device = emulator::device;
  if (device.no_memory > 0) {
    --device.no_memory;
    emulator::forget_buffers();
    TORCH_CHECK_WITH(OutOfMemoryError, !device.throws_no_memory, "no memory by the test");
    return kOutOfMemory;
  }
  if (device.refusals > 0) {
    --device.refusals;
    emulator::forget_buffers();
    return "refused by the test";
  }
  ++device.launches;
  if (device.late_error != nullptr) *std::exchange(device.late_error, nullptr) = 1;
  device.error = p.error;
  device.rows = p.B;
  device.members = p.E;
  device.masked = p.masks[0].zoneout != nullptr;
  device.wait_seconds = 1e-9 * p.wait_limit * device::kWaitTick;
  std::string failure;
  try {
    emulator::launch(shape, [&] { kernel(p); });
  } catch (const emulator::Failure& f) {
    failure = f.text;
  }
  emulator::forget_buffers();
  TORCH_CHECK(failure.empty(), failure);
  if (device.spoiled > 0) {
    --device.spoiled;
    spoil_result(p);
  }
  return nullptr;
}

// ---- What the families' launch.cuh call

template <typename Traits, typename Parameters>
const char* launch_clusters(void (*kernel)(Parameters), const Parameters& p, int clusters, Stream stream) {
  constexpr bool kIsGroup = Traits::kExchange == device::Exchange::packets;
  name_arguments(p, Traits::kRows);
  if constexpr (kIsGroup) name_values("packets", p.packets, clusters_of(p, Traits::kRows) * Traits::kPackets, true);
  constexpr bool kIsForward = std::is_same_v<Parameters, PersistentFwdParams<typename Traits::T>>;
  const std::string name =
      std::string("gru_") + (kIsGroup ? "group" : "cluster") + (kIsForward ? "_fwd_kernel" : "_bwd_kernel");
  return run({name.c_str(), clusters * Traits::kC, kIsGroup ? 1 : Traits::kC, Traits::kThreads, Traits::kSharedBytes},
             kernel, p, stream);
}

template <typename Traits>
int resident_clusters(const void* /*kernel*/) {
  constexpr int kLeast = Traits::kExchange == device::Exchange::cluster ? 90 : 80;
  ++emulator::device.residency_queries;
  if (emulator::device.architecture < kLeast) return kNotCompiled;
  if (emulator::device.shared_bytes < Traits::kSharedBytes) return 0;
  return emulator::device.multiprocessors / Traits::kC;
}
template <typename Traits>
int resident_of_both(const void* with_gates, const void* /*without*/) {
  return resident_clusters<Traits>(with_gates);
}

}  // namespace gru_ext
