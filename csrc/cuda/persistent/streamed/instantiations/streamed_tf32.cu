#include "cuda/persistent/streamed/launch.cuh"

namespace gru_ext {

#define GRU_FWD_ENTRY(...) streamed_fwd_entry<device::GruStreamedFwdTraits<float, __VA_ARGS__>, false>(),
#define GRU_MASKED_FWD_ENTRY(...) streamed_fwd_entry<device::GruStreamedFwdTraits<float, __VA_ARGS__>, true>(),
#define GRU_BWD_ENTRY(...) streamed_bwd_entry<device::GruStreamedBwdTraits<float, __VA_ARGS__>, false>(),
#define GRU_MASKED_BWD_ENTRY(...) streamed_bwd_entry<device::GruStreamedBwdTraits<float, __VA_ARGS__>, true>(),

template <>
GRU_ENTRIES(StreamedFwdEntries<float>, streamed_fwd_entries<float>,
            GRU_STREAMED_FWD_TF32(GRU_FWD_ENTRY) GRU_STREAMED_MASKED_FWD_TF32(GRU_MASKED_FWD_ENTRY))

template <>
GRU_ENTRIES(StreamedBwdEntries<float>, streamed_bwd_entries<float>,
            GRU_STREAMED_BWD_TF32(GRU_BWD_ENTRY) GRU_STREAMED_MASKED_BWD_TF32(GRU_MASKED_BWD_ENTRY))

}  // namespace gru_ext
