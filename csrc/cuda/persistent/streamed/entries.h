// The instantiations of the streamed kernels, see configs.h.
#pragma once

#include <vector>

#include "cuda/persistent/entry.h"

namespace gru_ext {

// How a group of a streamed kernel shares out a layer, see slabs.cuh.
struct StreamedShape {
  int blocks;                           // of the group
  int slabs, slabs_of_slice;            // of the operand; of that of a slice, at the most
  int shared_slabs;                     // of the weights of a slice, those that stay in shared memory
  int shared_bytes;                     // of a block; 0 where there is too little
  int64_t operand_bytes, weight_bytes;  // in global memory: both buffers; weights that are read again every step
};

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
