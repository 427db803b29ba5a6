// The instantiations of the cluster-persistent kernels, see configs.h: the smallest `hidden` first.
#pragma once

#include "cuda/persistent/entry.h"

namespace gru_ext {

// For bfloat16, float16 and float, which is multiplied in TF32.
template <typename scalar_t>
const HeldFwdEntries<scalar_t>& cluster_fwd_entries();
template <typename scalar_t>
const HeldBwdEntries<scalar_t>& cluster_bwd_entries();
// For float, multiplied as it is.
const HeldFwdEntries<float>& cluster_fwd_ieee_entries();
const HeldBwdEntries<float>& cluster_bwd_ieee_entries();

}  // namespace gru_ext
