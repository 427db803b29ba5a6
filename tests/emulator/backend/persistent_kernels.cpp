// The persistent kernels as the host side knows them: a few small instantiations, launched in the emulator.
#include <c10/util/Exception.h>

#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/cluster/entries.h"
#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "cuda/persistent/streamed/entries.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"
#include "device.h"
#include "held_shape.h"

namespace gru_ext {
namespace {

using device::bfloat16;
using device::float16;

template <typename Traits>
int resident() {
  constexpr int kLeast = Traits::kExchange == device::Exchange::cluster ? 90 : 80;
  ++emulator::device.residency_queries;
  if (emulator::device.architecture < kLeast) return kNotCompiled;
  if (emulator::device.shared_bytes < Traits::kSharedBytes) return 0;
  return emulator::device.multiprocessors / Traits::kC;
}

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
  }
  name_values("lengths", p.lengths, p.B, false);
  name_values("offsets", p.offsets, p.T, false);
  name_values("error", p.error, 1, true);
  for (int d = 0; d < p.D; ++d) {
    name_values("weight_hh", p.weight_hh[d], (p.E - 1) * p.weight_stride[d] + int64_t{3} * p.H * p.H, false);
  }
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
template <typename Parameters, typename Kernel>
const char* run(const emulator::Shape& shape, const Parameters& p, Stream stream, const Kernel& kernel) {
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
  device.rows = p.B;
  device.members = p.E;
  device.masked = p.masks[0].zoneout != nullptr;
  device.wait_seconds = 1e-9 * p.wait_limit * device::kWaitTick;
  std::string failure;
  try {
    emulator::launch(shape, kernel);
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

template <typename Parameters>
void name_fwd(const Parameters& p) {
  name_common(p);
  for (int d = 0; d < p.D; ++d) {
    name_steps("a_x", p, p.a_x[d], 3 * p.H, false);
    name_values("bias_hh", p.bias_hh[d], int64_t{3} * p.E * p.H, false);
  }
  const int64_t state = int64_t{p.E} * p.D * p.B * p.H;
  name_values("h0", p.h0, state, false);
  name_steps("y", p, p.y, p.D * p.H, true);
  name_values("h_n", p.h_n, state, true);
  name_values("gates", p.gates, p.E * p.D * p.N * 4 * p.H, true);
}

template <typename Traits>
const char* run_fwd(const PersistentFwdParams<typename Traits::T>& p, Stream stream) {
  name_fwd(p);
  const auto kernel =
      p.gates ? device::gru_cluster_fwd_kernel<Traits, true> : device::gru_cluster_fwd_kernel<Traits, false>;
  return run(emulator::shape_of<Traits>("gru_cluster_fwd_kernel", p.B, p.E * p.D), p, stream, [&] { kernel(p); });
}

// name_buffers(p) names all but the packets.
template <typename Traits, typename Parameters, typename NameBuffers, typename Kernel>
const char* run_groups(const char* name, const Parameters& p, Stream stream, const NameBuffers& name_buffers,
                       const Kernel& kernel) {
  const int groups = p.E * p.D * ((p.B + Traits::kRows - 1) / Traits::kRows);
  auto part = p;
  for (part.first_group = 0; part.first_group < groups; part.first_group += p.groups_at_a_time) {
    name_buffers(p);
    name_values("packets", p.packets, groups * Traits::kPackets, true);
    const int count = std::min(p.groups_at_a_time, groups - part.first_group);
    const char* const error =
        run({name, count * Traits::kC, 1, Traits::kThreads, Traits::kSharedBytes}, part, stream, [&] { kernel(part); });
    if (error != nullptr) return error;
  }
  return nullptr;
}

template <typename Traits>
const char* run_group_fwd(const PersistentFwdParams<typename Traits::T>& p, Stream stream) {
  using Parameters = PersistentFwdParams<typename Traits::T>;
  return run_groups<Traits>(
      "gru_group_fwd_kernel", p, stream, name_fwd<Parameters>,
      p.gates ? device::gru_group_fwd_kernel<Traits, true> : device::gru_group_fwd_kernel<Traits, false>);
}

template <typename Traits, typename Parameters>
void name_bwd(const Parameters& p) {
  name_common(p);
  const int64_t state = int64_t{p.E} * p.D * p.B * p.H;
  name_steps("dy", p, p.dy, p.D * p.H, false);
  name_values("dh_n", p.dh_n, state, false);
  name_steps("y", p, p.y, p.D * p.H, false);
  name_values("h0", p.h0, state, false);
  name_values("gates", p.gates, p.E * p.D * p.N * 4 * p.H, false);
  for (int d = 0; d < p.D; ++d) {
    name_steps("dgates", p, p.dgates[d], 4 * p.H, true);
    name_steps("h_prev", p, p.h_prev[d], p.H, true);
  }
  name_values("dh0", p.dh0, state, true);
  const int tiles = (p.B + Traits::kRows - 1) / Traits::kRows;
  name_values("dbias", p.dbias, int64_t{p.E} * p.D * tiles * 4 * p.H, true);
}

template <typename Traits>
const char* run_bwd(const PersistentBwdParams<typename Traits::T>& p, Stream stream) {
  name_bwd<Traits>(p);
  return run(emulator::shape_of<Traits>("gru_cluster_bwd_kernel", p.B, p.E * p.D), p, stream,
             [&] { device::gru_cluster_bwd_kernel<Traits>(p); });
}

template <typename Traits>
const char* run_group_bwd(const PersistentBwdParams<typename Traits::T>& p, Stream stream) {
  using Parameters = PersistentBwdParams<typename Traits::T>;
  return run_groups<Traits>("gru_group_bwd_kernel", p, stream, name_bwd<Traits, Parameters>,
                            device::gru_group_bwd_kernel<Traits>);
}

// So little shared memory that of all but the smallest H some weights are streamed.
template <typename Traits>
StreamedShape shape_of_group(int H) {
  const int bytes = Traits::kWeightOffset + (Traits::kWeightStages + 1) * Traits::kSlabBytes;
  const bool has_enough = emulator::device.has_shared_memory && emulator::device.shared_bytes >= bytes;
  return device::streamed_shape<Traits>(H, has_enough ? bytes : 0);
}

template <typename Traits, typename Parameters, typename NameBuffers, typename Kernel>
const char* run_streamed(const char* name, const Parameters& p, Stream stream, const NameBuffers& name_buffers,
                         const Kernel& kernel) {
  const StreamedShape shape = shape_of_group<Traits>(p.H);
  const int groups = p.E * p.D * ((p.B + Traits::kRows - 1) / Traits::kRows);
  const int at_a_time = p.groups_at_a_time;
  auto part = p;
  for (part.first_group = 0; part.first_group < groups; part.first_group += at_a_time) {
    name_buffers(p);
    emulator::name_buffer("flags", p.streamed.flags, static_cast<size_t>(groups) * shape.blocks * 4, true);
    emulator::name_buffer("operand", p.streamed.operand, at_a_time * shape.operand_bytes, true);
    if (shape.weight_bytes > 0) {
      emulator::name_buffer("weights", p.streamed.weights, p.E * p.D * shape.weight_bytes, true);
    }
    const int blocks = std::min(at_a_time, groups - part.first_group) * shape.blocks;
    const char* const error =
        run({name, blocks, shape.blocks, Traits::kThreads, static_cast<size_t>(shape.shared_bytes)}, part, stream,
            [&] { kernel(part); });
    if (error != nullptr) return error;
  }
  return nullptr;
}

template <typename Traits, bool kMasks>
const char* run_streamed_fwd(const PersistentFwdParams<typename Traits::T>& p, Stream stream) {
  using Parameters = PersistentFwdParams<typename Traits::T>;
  return run_streamed<Traits>("gru_streamed_fwd_kernel", p, stream, name_fwd<Parameters>,
                              device::gru_streamed_fwd_kernel<Traits, kMasks>);
}

template <typename Traits, bool kMasks>
const char* run_streamed_bwd(const PersistentBwdParams<typename Traits::T>& p, Stream stream) {
  using Parameters = PersistentBwdParams<typename Traits::T>;
  return run_streamed<Traits>("gru_streamed_bwd_kernel", p, stream, name_bwd<Traits, Parameters>,
                              device::gru_streamed_bwd_kernel<Traits, kMasks>);
}

template <typename Traits, bool kMasks>
StreamedEntry streamed_entry() {
  return {{/*ieee=*/false, Traits::kRows,
           [] {
             ++emulator::device.residency_queries;
             return emulator::device.architecture < 80 ? kNotCompiled : emulator::device.multiprocessors;
           }},
          Traits::kUnits,
          shape_of_group<Traits>,
          kMasks};
}
template <typename Traits, bool kMasks>
Launched<StreamedEntry, PersistentFwdParams<typename Traits::T>> streamed_fwd_entry() {
  return {streamed_entry<Traits, kMasks>(), run_streamed_fwd<Traits, kMasks>};
}
template <typename Traits, bool kMasks>
Launched<StreamedEntry, PersistentBwdParams<typename Traits::T>> streamed_bwd_entry() {
  return {streamed_entry<Traits, kMasks>(), run_streamed_bwd<Traits, kMasks>};
}

template <typename Traits>
HeldEntry held_entry(int packet_bytes) {
  return {{device::kOnFmaUnits<typename Traits::Operand>, Traits::kRows, resident<Traits>},
          Traits::kHidden,
          Traits::kC,
          Traits::kPairs,
          Traits::kOverflowBytes,
          packet_bytes};
}
template <typename Traits>
Launched<HeldEntry, PersistentFwdParams<typename Traits::T>> cluster_fwd_entry() {
  return {held_entry<Traits>(0), run_fwd<Traits>};
}
template <typename Traits>
Launched<HeldEntry, PersistentBwdParams<typename Traits::T>> cluster_bwd_entry() {
  return {held_entry<Traits>(0), run_bwd<Traits>};
}
template <typename Traits>
Launched<HeldEntry, PersistentFwdParams<typename Traits::T>> group_fwd_entry() {
  return {held_entry<Traits>(Traits::kPacketBytes), run_group_fwd<Traits>};
}
template <typename Traits>
Launched<HeldEntry, PersistentBwdParams<typename Traits::T>> group_bwd_entry() {
  return {held_entry<Traits>(Traits::kPacketBytes), run_group_bwd<Traits>};
}

}  // namespace

#define GRU_LIST(Entries, name, ...)              \
  const Entries& name() {                         \
    static const Entries entries = {__VA_ARGS__}; \
    return entries;                               \
  }
#define GRU_ENTRIES(T, name, Entries, ...) \
  template <>                              \
  GRU_LIST(Entries<T>, name<T>, __VA_ARGS__)

#define GRU_16BIT(T)                                                                                          \
  GRU_ENTRIES(T, cluster_fwd_entries, HeldFwdEntries,                                                         \
              cluster_fwd_entry<device::GruClusterFwdTraits<T, 64, 1, 8, 4, 4>>(),                            \
              cluster_fwd_entry<device::GruClusterFwdTraits<T, 64, 4, 16, 2, 2>>())                           \
  GRU_ENTRIES(T, cluster_bwd_entries, HeldBwdEntries,                                                         \
              cluster_bwd_entry<device::GruClusterBwdTraits<T, 64, 1, 8, 4, 12>>(),                           \
              cluster_bwd_entry<device::GruClusterBwdTraits<T, 64, 4, 16, 2, 3>>())                           \
  GRU_ENTRIES(T, group_fwd_entries, HeldFwdEntries,                                                           \
              group_fwd_entry<device::GruClusterFwdTraits<T, 128, 4, 16, 4, 4, device::Exchange::packets>>()) \
  GRU_ENTRIES(T, group_bwd_entries, HeldBwdEntries, group_bwd_entry<device::GruGroupBwdTraits<T, 128, 4, 16, 4, 2>>())
GRU_16BIT(bfloat16)
GRU_16BIT(float16)

GRU_ENTRIES(float, cluster_fwd_entries, HeldFwdEntries,
            cluster_fwd_entry<device::GruClusterFwdTraits<float, 64, 4, 16, 2, 4>>())
GRU_ENTRIES(float, cluster_bwd_entries, HeldBwdEntries,
            cluster_bwd_entry<device::GruClusterBwdTraits<float, 64, 4, 16, 2, 6>>())
GRU_ENTRIES(float, group_fwd_entries, HeldFwdEntries,
            group_fwd_entry<device::GruClusterFwdTraits<float, 128, 4, 16, 4, 8, device::Exchange::packets>>())
GRU_ENTRIES(float, group_bwd_entries, HeldBwdEntries,
            group_bwd_entry<device::GruGroupBwdTraits<float, 128, 4, 16, 4, 4>>())

#define GRU_STREAMED(T)                                                                            \
  GRU_ENTRIES(T, streamed_fwd_entries, StreamedFwdEntries,                                         \
              streamed_fwd_entry<device::GruStreamedFwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, false>(), \
              streamed_fwd_entry<device::GruStreamedFwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, true>())  \
  GRU_ENTRIES(T, streamed_bwd_entries, StreamedBwdEntries,                                         \
              streamed_bwd_entry<device::GruStreamedBwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, false>(), \
              streamed_bwd_entry<device::GruStreamedBwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, true>())
GRU_STREAMED(bfloat16)
GRU_STREAMED(float16)
GRU_STREAMED(float)

GRU_LIST(HeldFwdEntries<float>, cluster_fwd_ieee_entries,
         cluster_fwd_entry<device::GruClusterFwdTraits<device::ieee, 64, 4, 16, 2, 4>>())
GRU_LIST(HeldBwdEntries<float>, cluster_bwd_ieee_entries,
         cluster_bwd_entry<device::GruClusterBwdTraits<device::ieee, 64, 4, 16, 2, 6>>())
GRU_LIST(HeldFwdEntries<float>, group_fwd_ieee_entries,
         group_fwd_entry<device::GruClusterFwdTraits<device::ieee, 128, 4, 16, 4, 8, device::Exchange::packets>>())
GRU_LIST(HeldBwdEntries<float>, group_bwd_ieee_entries,
         group_bwd_entry<device::GruGroupBwdTraits<device::ieee, 128, 4, 16, 4, 4>>())

}  // namespace gru_ext
