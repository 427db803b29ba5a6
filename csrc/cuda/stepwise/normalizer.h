// Layer normalisation: the host's part of step_layer_norm.cuh, for one direction. What is saved of a row, see `gates`
// in op/layer.h: r, z, n, W x and R h normalised, H values of each gate, and 1 / sqrt(variance + eps) of each.
#pragma once

#include <ATen/ATen.h>

#include "cuda/arguments.h"
#include "cuda/stepwise/direction.h"
#include "cuda/stepwise/launchers.h"

namespace gru_ext {

template <typename at_t>
class Normalizer {
 public:
  using acc_t = typename Device<at_t>::acc_t;
  using scalar_t = typename Device<at_t>::scalar_t;
  enum Side { of_x, of_h };

  // `gates` (N, 9H + 16), or undefined where nothing is saved.
  Normalizer(const Sequence& s, const StepDirection& direction, const at::Tensor& gates, Stream stream)
      : H_(s.H), direction_(direction), gates_(gates), stream_(stream) {}

  // Normalises the rows of a product (rows, 3H), which are those from `first` on of all.
  void fwd(const at::Tensor& product, Side side, int64_t first) const {
    at_t* const saved = gates_.defined() ? gates_.data_ptr<at_t>() : nullptr;
    auto p = parameters<GruStepNormFwdParams<scalar_t, acc_t>>(product.size(0), side, saved, first);
    p.values = product.data_ptr<acc_t>();
    check_launch(launch_gru_step_norm_fwd(p, stream_));
  }

  // The gradients of a product: from dcell (rows, 4H), n, r, z, q, to a half of dgates (rows, 6H), n, r, z of W x, then
  // r, z, n of R h.
  void bwd(const at::Tensor& dcell, const at::Tensor& dgates, Side side, int64_t first) const {
    auto p = parameters<GruStepNormBwdParams<scalar_t>>(dcell.size(0), side, gates_.const_data_ptr<at_t>(), first);
    p.d = device_pointer(dcell.const_data_ptr<at_t>());
    p.d_stride = dcell.stride(0);
    p.out = device_pointer(dgates.data_ptr<at_t>());
    p.out_stride = dgates.stride(0);
    constexpr int cell[2][3] = {{1, 2, 0}, {1, 2, 3}}, out[2][3] = {{1, 2, 0}, {3, 4, 5}};
    std::copy_n(cell[side], 3, p.d_gate);
    std::copy_n(out[side], 3, p.out_gate);
    check_launch(launch_gru_step_norm_bwd(p, stream_));
  }

  // The gates as the cell's kernels have them, (rows, 4H): into what is saved, and from it, q computed again.
  void save_cell_gates(const at::Tensor& cell_gates, int64_t first) const {
    saved(first, cell_gates.size(0), 0).copy_(cell_gates.narrow(1, 0, 3 * H_));
  }
  void load_cell_gates(const at::Tensor& cell_gates, int64_t first, at::ScalarType acc_dtype) const {
    const int64_t rows = cell_gates.size(0);
    cell_gates.narrow(1, 0, 3 * H_).copy_(saved(first, rows, 0));
    const auto of_n = [&](const at::Tensor& vector) { return vector.narrow(0, 2 * H_, H_).to(acc_dtype); };
    at::Tensor q = saved(first, rows, 6).narrow(1, 2 * H_, H_).to(acc_dtype) * of_n(direction_.gain_hh);
    if (direction_.bias_hh.defined()) q.add_(of_n(direction_.bias_hh));
    cell_gates.narrow(1, 3 * H_, H_).copy_(q);
  }

  // Adds (`add`) or sets the gradients (6H) of the gains, from dcell (rows, 4H) of the rows from `first` on.
  void gain_grads(const at::Tensor& dcell, int64_t first, bool add, const at::Tensor& grads) const {
    const int64_t rows = dcell.size(0);
    const auto of = [&](int64_t gate, int64_t count) { return dcell.narrow(1, gate * H_, count * H_); };
    const auto sums = [&](const at::Tensor& d, Side side) {
      return (d.to(grads.scalar_type()) * saved(first, rows, 3 + 3 * side)).sum(0);
    };
    const at::Tensor both = at::cat({sums(at::cat({of(1, 2), of(0, 1)}, 1), of_x), sums(of(1, 3), of_h)});
    add ? grads.add_(both) : grads.copy_(both);
  }

 private:
  // Those that both passes have. `saved`: what is saved of the first row of all; null where nothing is.
  template <typename Parameters, typename Value>
  Parameters parameters(int64_t rows, Side side, Value* saved, int64_t first) const {
    Parameters p{};
    p.rows = rows;
    p.H = H_;
    p.norms = static_cast<int>(direction_.variant.layer_norm);
    p.gain = device_pointer((side == of_x ? direction_.gain_ih : direction_.gain_hh).template const_data_ptr<at_t>());
    if (saved == nullptr) return p;
    p.saved_stride = gates_.stride(0);
    p.hat = device_pointer(saved + first * p.saved_stride + (3 + 3 * side) * H_);
    p.inverse_std = device_pointer(saved + first * p.saved_stride + 9 * H_ + 2 * side);
    return p;
  }
  at::Tensor saved(int64_t first, int64_t rows, int64_t gate) const {
    return gates_.narrow(0, first, rows).narrow(1, gate * H_, 3 * H_);
  }

  const int64_t H_;
  const StepDirection& direction_;
  const at::Tensor& gates_;
  const Stream stream_;
};

}  // namespace gru_ext
