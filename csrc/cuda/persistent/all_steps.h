// A layer by a persistent kernel: both directions, of all members, in one launch. On the current device, and without
// waiting for it. `stream` is the current one, on which torch's products run.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cell/masks.h"
#include "cuda/persistent/kernel.h"
#include "cuda/products.h"
#include "op/check.h"

namespace gru_ext {

// The masks of each direction, which the streamed kernels take; none in a plain layer.
struct PersistentMasks {
  DirectionMasks<float> of[2];
};

// A launch; letters and shapes as in op/layer.h, with members before where the call has some.
struct PersistentFwd {
  at::Tensor x, h0;  // h0 is undefined for zero
  at::TensorList weights;
  PersistentMasks masks;
  at::Tensor y, h_n, gates;  // written; gates are undefined where they are not saved
  Stream stream;
  int* error;  // as in FwdCall
};
struct PersistentBwd {
  at::Tensor x, h0;
  at::TensorList weights;
  PersistentMasks masks;
  at::Tensor dy, dh_n;  // undefined for zero; dy has unit stride in its last dimension
  at::Tensor y, gates;
  at::Tensor dh0;                      // (D, B, H), written, as are the others
  std::vector<DirectionGrads>& grads;  // one of each direction, in the dtype of the sums; undefined where not needed
  at::Tensor dx;                       // (N, I), likewise
  Stream stream;
  int* error;
};

// Each returns null, or what went wrong with the launch.
const char* persistent_fwd(const PersistentKernel& kernel, const Sequence& s, const PersistentFwd& call);
const char* persistent_bwd(const PersistentKernel& kernel, const Sequence& s, PersistentBwd call);

}  // namespace gru_ext
