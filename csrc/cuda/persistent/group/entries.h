// The instantiations of the group-persistent kernels, see configs.h: the smallest `hidden` first. A group is as many
// blocks of the grid as a launch has the device run at the same time.
#pragma once

#include "cuda/persistent/entry.h"

namespace gru_ext {

// For bfloat16, float16 and float, which is multiplied in TF32.
template <typename scalar_t>
const HeldFwdEntries<scalar_t>& group_fwd_entries();
template <typename scalar_t>
const HeldBwdEntries<scalar_t>& group_bwd_entries();
// For float, multiplied as it is.
const HeldFwdEntries<float>& group_fwd_ieee_entries();
const HeldBwdEntries<float>& group_bwd_ieee_entries();

}  // namespace gru_ext
