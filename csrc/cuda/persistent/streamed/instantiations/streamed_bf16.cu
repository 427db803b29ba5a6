#include "cuda/persistent/streamed/launch.cuh"

namespace gru_ext {

#define GRU_FWD_ENTRY(...) streamed_fwd_entry<device::GruStreamedFwdTraits<device::bfloat16, __VA_ARGS__>, false>(),
#define GRU_MASKED_FWD_ENTRY(...) \
  streamed_fwd_entry<device::GruStreamedFwdTraits<device::bfloat16, __VA_ARGS__>, true>(),
#define GRU_BWD_ENTRY(...) streamed_bwd_entry<device::GruStreamedBwdTraits<device::bfloat16, __VA_ARGS__>, false>(),
#define GRU_MASKED_BWD_ENTRY(...) \
  streamed_bwd_entry<device::GruStreamedBwdTraits<device::bfloat16, __VA_ARGS__>, true>(),

template <>
GRU_ENTRIES(StreamedFwdEntries<device::bfloat16>, streamed_fwd_entries<device::bfloat16>,
            GRU_STREAMED_FWD_16BIT(GRU_FWD_ENTRY) GRU_STREAMED_MASKED_FWD_16BIT(GRU_MASKED_FWD_ENTRY))

template <>
GRU_ENTRIES(StreamedBwdEntries<device::bfloat16>, streamed_bwd_entries<device::bfloat16>,
            GRU_STREAMED_BWD_16BIT(GRU_BWD_ENTRY) GRU_STREAMED_MASKED_BWD_16BIT(GRU_MASKED_BWD_ENTRY))

}  // namespace gru_ext
