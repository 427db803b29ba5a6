// The persistent kernels as the host side knows them: a few small instantiations, launched in the emulator.
#include "cuda/persistent/cluster/launch.cuh"
#include "cuda/persistent/group/launch.cuh"
#include "cuda/persistent/streamed/entries.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"

namespace gru_ext {
namespace {

using device::bfloat16;
using device::float16;

// So little shared memory that of all but the smallest H some weights are streamed.
template <typename Traits>
StreamedShape shape_of_group(int H) {
  const int bytes = Traits::kWeightOffset + (Traits::kWeightStages + 1) * Traits::kSlabBytes;
  const bool has_enough = emulator::device.has_shared_memory && emulator::device.shared_bytes >= bytes;
  return device::streamed_shape<Traits>(H, has_enough ? bytes : 0);
}

int resident_blocks() {
  ++emulator::device.residency_queries;
  return emulator::device.architecture < 80 ? kNotCompiled : emulator::device.multiprocessors;
}

template <typename Traits, typename Parameters>
const char* launch_streamed(const char* name, void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  const StreamedShape shape = shape_of_group<Traits>(p.H);
  return launch_in_turns(p, Traits::kRows, [&](const Parameters& part, int groups) {
    name_arguments(p, Traits::kRows);
    name_values("flags", p.streamed.flags, int64_t{clusters_of(p, Traits::kRows)} * shape.blocks, true);
    emulator::name_buffer("operand", p.streamed.operand, p.groups_at_a_time * shape.operand_bytes, true);
    if (shape.weight_bytes > 0) {
      emulator::name_buffer("weights", p.streamed.weights, p.E * p.D * shape.weight_bytes, true);
    }
    return run({name, groups * shape.blocks, shape.blocks, Traits::kThreads, static_cast<size_t>(shape.shared_bytes)},
               kernel, part, stream);
  });
}

template <typename Traits, bool kMasks>
Launched<StreamedEntry, PersistentFwdParams<typename Traits::T>> streamed_fwd_entry() {
  return {{{/*ieee=*/false, Traits::kRows, resident_blocks}, Traits::kUnits, shape_of_group<Traits>, kMasks},
          [](const auto& p, Stream stream) {
            const auto kernel = device::gru_streamed_fwd_kernel<Traits, kMasks>;
            return launch_streamed<Traits>("gru_streamed_fwd_kernel", kernel, p, stream);
          }};
}
template <typename Traits, bool kMasks>
Launched<StreamedEntry, PersistentBwdParams<typename Traits::T>> streamed_bwd_entry() {
  return {{{/*ieee=*/false, Traits::kRows, resident_blocks}, Traits::kUnits, shape_of_group<Traits>, kMasks},
          [](const auto& p, Stream stream) {
            const auto kernel = device::gru_streamed_bwd_kernel<Traits, kMasks>;
            return launch_streamed<Traits>("gru_streamed_bwd_kernel", kernel, p, stream);
          }};
}

}  // namespace

#define GRU_ENTRIES_OF(T, name, Entries, ...) \
  template <>                                 \
  GRU_ENTRIES(Entries<T>, name<T>, __VA_ARGS__)

#define GRU_16BIT(T)                                                                                             \
  GRU_ENTRIES_OF(T, cluster_fwd_entries, HeldFwdEntries,                                                         \
                 cluster_fwd_entry<device::GruClusterFwdTraits<T, 64, 1, 8, 4, 4>>(),                            \
                 cluster_fwd_entry<device::GruClusterFwdTraits<T, 64, 4, 16, 2, 2>>())                           \
  GRU_ENTRIES_OF(T, cluster_bwd_entries, HeldBwdEntries,                                                         \
                 cluster_bwd_entry<device::GruClusterBwdTraits<T, 64, 1, 8, 4, 12>>(),                           \
                 cluster_bwd_entry<device::GruClusterBwdTraits<T, 64, 4, 16, 2, 3>>())                           \
  GRU_ENTRIES_OF(T, group_fwd_entries, HeldFwdEntries,                                                           \
                 group_fwd_entry<device::GruClusterFwdTraits<T, 128, 4, 16, 4, 4, device::Exchange::packets>>()) \
  GRU_ENTRIES_OF(T, group_bwd_entries, HeldBwdEntries,                                                           \
                 group_bwd_entry<device::GruGroupBwdTraits<T, 128, 4, 16, 4, 2>>())
GRU_16BIT(bfloat16)
GRU_16BIT(float16)

GRU_ENTRIES_OF(float, cluster_fwd_entries, HeldFwdEntries,
               cluster_fwd_entry<device::GruClusterFwdTraits<float, 64, 4, 16, 2, 4>>())
GRU_ENTRIES_OF(float, cluster_bwd_entries, HeldBwdEntries,
               cluster_bwd_entry<device::GruClusterBwdTraits<float, 64, 4, 16, 2, 6>>())
GRU_ENTRIES_OF(float, group_fwd_entries, HeldFwdEntries,
               group_fwd_entry<device::GruClusterFwdTraits<float, 128, 4, 16, 4, 8, device::Exchange::packets>>())
GRU_ENTRIES_OF(float, group_bwd_entries, HeldBwdEntries,
               group_bwd_entry<device::GruGroupBwdTraits<float, 128, 4, 16, 4, 4>>())

#define GRU_STREAMED(T)                                                                               \
  GRU_ENTRIES_OF(T, streamed_fwd_entries, StreamedFwdEntries,                                         \
                 streamed_fwd_entry<device::GruStreamedFwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, false>(), \
                 streamed_fwd_entry<device::GruStreamedFwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, true>())  \
  GRU_ENTRIES_OF(T, streamed_bwd_entries, StreamedBwdEntries,                                         \
                 streamed_bwd_entry<device::GruStreamedBwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, false>(), \
                 streamed_bwd_entry<device::GruStreamedBwdTraits<T, 32, 16, 2, 2, 1, 3, 3>, true>())
GRU_STREAMED(bfloat16)
GRU_STREAMED(float16)
GRU_STREAMED(float)

GRU_ENTRIES(HeldFwdEntries<float>, cluster_fwd_ieee_entries,
            cluster_fwd_entry<device::GruClusterFwdTraits<device::ieee, 64, 4, 16, 2, 4>>())
GRU_ENTRIES(HeldBwdEntries<float>, cluster_bwd_ieee_entries,
            cluster_bwd_entry<device::GruClusterBwdTraits<device::ieee, 64, 4, 16, 2, 6>>())
GRU_ENTRIES(HeldFwdEntries<float>, group_fwd_ieee_entries,
            group_fwd_entry<device::GruClusterFwdTraits<device::ieee, 128, 4, 16, 4, 8, device::Exchange::packets>>())
GRU_ENTRIES(HeldBwdEntries<float>, group_bwd_ieee_entries,
            group_bwd_entry<device::GruGroupBwdTraits<device::ieee, 128, 4, 16, 4, 4>>())

}  // namespace gru_ext
