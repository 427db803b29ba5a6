// The weights of a direction as the forward's kernels read them: packed in panels, biases and gains in whole groups.
// They are arranged in each call that packs (forward.cpp), or once for many calls (prepared.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "cpu/kernels/kernels.h"

namespace gru_ext {

// Columns added to buffers that are read by column, so that rows do not fall into the same sets of the cache.
constexpr int64_t kSkew = 16;

// Copies `rows` rows of `columns` values between buffers of other strides and dtypes.
template <typename From, typename To>
void copy_rows(const From* source, int64_t source_stride, To* target, int64_t target_stride, int64_t rows,
               int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(source + row * source_stride, columns, target + row * target_stride);
  }
}

// A direction's, of the types of its tensors.
struct ArrangedWeights {
  const void *weight_ih, *weight_hh, *weight_hn;  // as in FwdChunk, packed
  const void* bias;                               // (4, stride): the input_bias and bias_hn of FwdChunk
  const void* gains;                              // (6, stride): as in FwdChunk
};

// The sizes of these, and how they are filled.
template <typename scalar_t, typename operand_t>
struct Arrangement {
  using acc_t = acc_type<scalar_t>;
  int64_t I, H;
  bool reset_after;
  FwdKernels<scalar_t, operand_t> kernel = fwd_kernels<scalar_t, operand_t>();

  int64_t groups() const { return (H + kernel.lanes - 1) / kernel.lanes; }
  int64_t stride() const { return groups() * kernel.lanes + kSkew; }
  int64_t words_ih() const { return words(kThreeGates, I); }
  int64_t words_hh() const { return words(reset_after ? kThreeGates : kTwoGates, H); }
  int64_t words_hn() const { return reset_after ? 0 : words(kTwoGroups, H); }

  // One thread's part. weight_ih (3H, I), weight_hh (3H, H).
  void pack(const scalar_t* weight_ih, const scalar_t* weight_hh, const ArrangedWeights& packed, int thread,
            int team) const {
    const auto pack = [&](const scalar_t* weights, UnitVectors vectors, int64_t K, const void* target) {
      const int64_t count = panels(vectors);
      kernel.pack_units(weights, vectors, H, K, share(count, thread, team), share(count, thread + 1, team),
                        const_cast<void*>(target));
    };
    pack(weight_ih, kThreeGates, I, packed.weight_ih);
    pack(weight_hh, reset_after ? kThreeGates : kTwoGates, H, packed.weight_hh);
    if (!reset_after) pack(weight_hh + 2 * H * H, kTwoGroups, H, packed.weight_hn);
  }

  // The biases that are added to W x: b_ih, and b_hh too, but that of q, which comes last. Zero without biases, which
  // are null then.
  void fill_bias(const at::Tensor* bias_ih, const at::Tensor* bias_hh, acc_t* sum) const {
    std::fill_n(sum, 4 * stride(), acc_t(0));
    if (bias_ih == nullptr) return;
    const at::Tensor of_input = bias_ih->contiguous(), of_state = bias_hh->contiguous();
    const scalar_t* of_x = of_input.const_data_ptr<scalar_t>();
    const scalar_t* of_h = of_state.const_data_ptr<scalar_t>();
    for (int64_t gate = 0; gate < 3; ++gate) {
      acc_t* target = sum + gate * stride();
      for (int64_t u = 0; u < H; ++u) target[u] = static_cast<acc_t>(of_x[gate * H + u]);
      if (gate == 2 && reset_after) break;
      for (int64_t u = 0; u < H; ++u) target[u] += static_cast<acc_t>(of_h[gate * H + u]);
    }
    copy_rows(of_h + 2 * H, H, sum + 3 * stride(), stride(), 1, H);
  }

 private:
  int64_t panels(UnitVectors vectors) const { return (groups() + vectors.groups() - 1) / vectors.groups(); }
  int64_t words(UnitVectors vectors, int64_t K) const {
    return panels(vectors) * words_of<acc_t, operand_t>(K) * vectors.count * kernel.lanes;
  }
};

// The gains of a direction, gain_ih and gain_hh (3H) each, as (6, stride), zero beyond H.
template <typename scalar_t, typename acc_t>
void fill_gains(const at::Tensor* weights, int64_t H, acc_t* gains, int64_t stride) {
  std::fill_n(gains, 6 * stride, acc_t(0));
  for (int i = 0; i < 2; ++i) {
    const at::Tensor gain = weights[i].contiguous();
    copy_rows(gain.const_data_ptr<scalar_t>(), H, gains + 3 * i * stride, stride, 3, H);
  }
}

}  // namespace gru_ext
