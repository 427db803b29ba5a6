#include "cuda/persistent/windows.h"

#include <ATen/ATen.h>

#include "cuda/device_types.h"
#include "op/recompute.h"

namespace gru_ext {
namespace {

using at::Tensor;

// Memory for what a window needs besides the arguments and results: enough for its products to run at full speed, and
// for its launch to take little of its time. The emulated tests make it small.
#if defined(GRU_EXT_WINDOW_BYTES)
constexpr int64_t kWindowBytes = GRU_EXT_WINDOW_BYTES;
#else
constexpr int64_t kWindowBytes = int64_t{256} << 20;
#endif

std::vector<Chunk> windows_of(const Sequence& s, int64_t bytes_of_row) {
  return s.D == 1 ? chunks_of(s, kWindowBytes / (s.layers() * bytes_of_row)) : std::vector<Chunk>{{0, s.T, 0, s.N}};
}

Sequence sequence_of(const Sequence& s, const Chunk& window) {
  Sequence part = s;
  part.T = window.t_end - window.t_begin;
  part.B = s.rows(window.t_begin);
  part.N = window.rows;
  if (s.packed_sizes.empty()) return part;
  part.packed_sizes.assign(s.packed_sizes.begin() + window.t_begin, s.packed_sizes.begin() + window.t_end);
  part.packed_offsets.clear();
  for (int64_t t = window.t_begin; t < window.t_end; ++t) part.packed_offsets.push_back(s.offset(t) - window.offset);
  return part;
}

// The steps of a window, of (T, B, F) or (N, F).
Tensor steps_of(const Sequence& s, const Tensor& tensor, const Chunk& window) {
  if (!tensor.defined()) return tensor;
  return !s.packed_sizes.empty() ? tensor.narrow(-2, window.offset, window.rows)
                                 : tensor.narrow(-3, window.t_begin, window.t_end - window.t_begin);
}

// Those of the sequences that a window has, of (D, B, H).
Tensor sequences_of(const Tensor& states, const Sequence& part) {
  return states.defined() ? states.narrow(-2, 0, part.B).contiguous() : states;
}

PersistentMasks masks_of_window(const PersistentMasks& masks, const Chunk& window, int64_t H) {
  return {{masks_of_step(masks.of[0], window.offset, H), masks_of_step(masks.of[1], window.offset, H)}};
}

// The state (D, B, H) before a window.
Tensor state_before(const Sequence& s, const Chunk& window, const Tensor& y, const Tensor& h0) {
  if (window.t_begin == 0) return h0;
  const Tensor step = !s.packed_sizes.empty() ? y.narrow(-2, s.offset(window.t_begin - 1), s.rows(window.t_begin))
                                              : y.select(-3, window.t_begin - 1);
  return step.unsqueeze(-3);
}

// Persistent kernels know no gains.
DirectionGrads empty_like(const DirectionGrads& grads) {
  return {at::empty_like(grads.weight_ih), at::empty_like(grads.weight_hh), /*gains=*/Tensor(),
          at::empty_like(grads.bias)};
}

void add_grads(std::vector<DirectionGrads>& sums, const std::vector<DirectionGrads>& grads) {
  for (size_t d = 0; d < sums.size(); ++d) {
    sums[d].weight_ih.add_(grads[d].weight_ih);
    sums[d].weight_hh.add_(grads[d].weight_hh);
    sums[d].bias.add_(grads[d].bias);
  }
}

}  // namespace

const char* windows_fwd(const PersistentKernel& kernel, const Sequence& s, const PersistentFwd& call) {
  const auto windows = windows_of(s, 3 * s.H * call.x.element_size());
  if (windows.size() == 1) return persistent_fwd(kernel, s, call);
  PersistentFwd part_of_call = call;
  Tensor state = call.h0;
  for (const Chunk& window : windows) {
    const Sequence part = sequence_of(s, window);
    part_of_call.x = steps_of(s, call.x, window);
    part_of_call.h0 = sequences_of(state, part);
    part_of_call.masks = masks_of_window(call.masks, window, s.H);
    part_of_call.y = steps_of(s, call.y, window);
    part_of_call.h_n = at::empty(s.shape({s.D, part.B, s.H}), call.x.options());
    const char* const error = persistent_fwd(kernel, part, part_of_call);
    if (error != nullptr) return error;
    state = part_of_call.h_n;
    call.h_n.narrow(-2, 0, part.B).copy_(state);
  }
  return nullptr;
}

const char* windows_bwd(const PersistentKernel& kernel, const Sequence& s, const std::vector<StepDirection>& directions,
                        const PersistentBwd& call) {
  const Tensor &x = call.x, &h0 = call.h0, &y = call.y, &dh0 = call.dh0, &dx = call.dx;
  const bool need_dweights = call.grads[0].weight_ih.defined();
  const auto acc_options = x.options().dtype(acc_dtype_of(x.scalar_type()));
  // Gates and their gradients, the states before, what the stepwise forward has of a row, and dx.
  const int64_t acc_size = acc_options.dtype().itemsize();
  const auto windows = windows_of(s, s.H * (9 * x.element_size() + 7 * acc_size) + s.I * acc_size);
  call.dh_n.defined() ? dh0.copy_(call.dh_n) : dh0.zero_();
  for (size_t i = 0; i < windows.size(); ++i) {
    const Chunk& window = windows[windows.size() - 1 - i];
    const Sequence part = sequence_of(s, window);
    const Tensor gates = at::empty(s.shape({s.D, window.rows, 4, s.H}), x.options());
    for (int64_t layer = 0; layer < s.layers(); ++layer) {
      const int64_t e = layer / s.D, d = layer % s.D;
      const auto of_member = [&](const Tensor& tensor) { return s.members > 0 ? tensor.select(0, e) : tensor; };
      gru_step_gates(s, window, of_member(x), directions[layer], of_member(y).narrow(-1, d * s.H, s.H),
                     h0.defined() ? of_member(h0).select(0, d) : Tensor(), of_member(gates).select(0, d), call.stream);
    }
    const Tensor dh = at::empty(s.shape({s.D, part.B, s.H}), x.options());
    const Tensor part_of_dx = dx.defined() ? at::empty(s.shape({window.rows, s.I}), acc_options) : Tensor();
    std::vector<DirectionGrads> of_window(call.grads.size());
    for (size_t d = 0; d < call.grads.size() && need_dweights; ++d) {
      of_window[d] = i == 0 ? call.grads[d] : empty_like(call.grads[d]);
    }
    const char* const error =
        persistent_bwd(kernel, part,
                       {steps_of(s, x, window), sequences_of(state_before(s, window, y, h0), part), call.weights,
                        masks_of_window(call.masks, window, s.H), steps_of(s, call.dy, window), sequences_of(dh0, part),
                        steps_of(s, y, window), gates, dh, of_window, part_of_dx, call.stream, call.error});
    if (error != nullptr) return error;
    dh0.narrow(-2, 0, part.B).copy_(dh);
    if (dx.defined()) dx.narrow(-2, window.offset, window.rows).copy_(part_of_dx);
    if (need_dweights && i > 0) add_grads(call.grads, of_window);
  }
  return nullptr;
}

}  // namespace gru_ext
