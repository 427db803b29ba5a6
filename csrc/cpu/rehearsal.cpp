// A layer on more cores than there are: see Rehearsal in results.h.
#include <ATen/ATen.h>

#include "cpu/call.h"
#include "cpu/op_cpu.h"
#include "cpu/results.h"
#include "op/check.h"

namespace gru_ext {

std::vector<double> rehearse_cpu(const at::Tensor& x, at::TensorList weights, int64_t threads, int64_t together,
                                 double wait, bool backward, const OptionalTensor& batch_sizes) {
  constexpr int64_t most = 1 << 16;
  TORCH_CHECK_VALUE(threads >= 1 && threads <= most && together >= 1 && together <= most && wait > 0,
                    "rehearse_cpu: expected threads and together from 1 to ", most, " and wait above 0, got ", threads,
                    ", ", together, " and ", wait);
  const std::optional<at::Tensor> none;
  const Layer layer{x, none, weights, batch_sizes, /*bidirectional=*/false, {}};
  Rehearsal rehearsal{static_cast<int>(threads), static_cast<int>(together), wait};
  const FwdResult forward = gru_fwd_cpu(layer, /*save_gates=*/true, /*save_y=*/true);
  const auto& [y, h_n, gates] = forward;
  call_on_cpu([&] {
    const Sequence s = check_fwd(layer);
    if (!backward) {
      gru_fwd_cpu_into(s, layer, {at::empty_like(y), at::empty_like(h_n), at::Tensor()}, nullptr, &rehearsal);
      return 0;
    }
    const Need need{/*dx=*/true, /*dhx=*/false, /*dweights=*/true};
    gru_bwd_cpu_into(s, {at::ones_like(y), none, layer, y, gates, need},
                     {at::empty_like(x), at::Tensor(), pooled_like(weights)}, &rehearsal);
    return 0;
  });
  return {rehearsal.serial,
          rehearsal.longest,
          rehearsal.average,
          static_cast<double>(rehearsal.parts),
          static_cast<double>(rehearsal.row_groups),
          static_cast<double>(rehearsal.members),
          rehearsal.read};
}

}  // namespace gru_ext
