// The instantiations of the streamed kernels, see configs.h.
#pragma once

#include <vector>

#include "cuda/persistent/entry.h"

namespace gru_ext {

struct StreamedEntry : PersistentEntry {
  int units;                      // of a block
  StreamedShape (*shape)(int H);  // on the current device
  bool masks;                     // whether it is for layers with masks, and for no others
};
template <typename scalar_t>
using StreamedFwdEntries = std::vector<Launched<StreamedEntry, PersistentFwdParams<scalar_t>>>;
template <typename scalar_t>
using StreamedBwdEntries = std::vector<Launched<StreamedEntry, PersistentBwdParams<scalar_t>>>;

// For bfloat16, float16 and float, which is multiplied in TF32.
template <typename scalar_t>
const StreamedFwdEntries<scalar_t>& streamed_fwd_entries();
template <typename scalar_t>
const StreamedBwdEntries<scalar_t>& streamed_bwd_entries();

}  // namespace gru_ext
