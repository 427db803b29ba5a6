// The CPU backend: one layer, forward and backward.
//
// Time is cut into chunks of some hundreds of rows. Forward, a chunk is one GEMM for the input's part of the gates,
// then for each step the recurrent product and one pass over the gates (steps.h). Backward, a chunk is the same steps
// in the opposite order, then the GEMMs that turn the gate gradients of all its rows into the gradients of the weights
// and of x. Half precisions compute and carry the state in fp32: their chunks are converted as they are used.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>

#include "../check.h"
#include "../gru.h"
#include "steps.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

// The kernel calls at:: for products; none of these may be recorded for autograd or cast by autocast again.
struct BelowAutogradAndAutocast {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard below_autocast{c10::autocast_dispatch_keyset};
};

// A chunk's rows: enough for its GEMMs to run at full speed, few enough for its gates to stay in the cache.
constexpr int64_t kMinChunkRows = 256;
constexpr int64_t kChunkElements = int64_t{1} << 19;
// Gates below which a step's pass is not worth waking another thread.
constexpr int64_t kGatesPerThread = 4096;

struct Chunk {
  int64_t t_begin, t_end;  // steps
  int64_t offset, rows;    // rows of all these steps
};

// Chunks of consecutive steps, in the order of time.
std::vector<Chunk> chunks_of(const Sequence& s) {
  const int64_t target_rows = std::max(kMinChunkRows, kChunkElements / (4 * s.H));
  std::vector<Chunk> chunks;
  for (int64_t t = 0; t < s.T;) {
    Chunk chunk{t, t, s.offset(t), 0};
    do {
      chunk.rows += s.rows(chunk.t_end++);
    } while (chunk.t_end < s.T && chunk.rows + s.rows(chunk.t_end) <= target_rows);
    t = chunk.t_end;
    chunks.push_back(chunk);
  }
  return chunks;
}

int64_t most_rows(const std::vector<Chunk>& chunks) {
  return std::max_element(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) { return a.rows < b.rows; })
      ->rows;
}

// The parameters of one direction, in the type they are computed in.
struct Direction {
  Tensor weight_ih;   // (3H, I)
  Tensor weight_hh;   // (3H, H)
  Tensor input_bias;  // (3H) b_ih, plus b_hh for r and z; undefined without biases
  Tensor bias_hn;     // (H)  b_hh of n; zeros without biases
  bool reverse;

  Direction(const Sequence& s, TensorList weights, int64_t d, at::ScalarType acc_dtype) : reverse(d == 1) {
    const int64_t first = d * s.weights_per_direction();
    weight_ih = weights[first].to(acc_dtype);
    weight_hh = weights[first + 1].to(acc_dtype);
    if (s.has_bias) {
      const Tensor bias_hh = weights[first + 3].to(acc_dtype);
      input_bias = weights[first + 2].to(acc_dtype, /*non_blocking=*/false, /*copy=*/true);
      input_bias.narrow(0, 0, 2 * s.H).add_(bias_hh.narrow(0, 0, 2 * s.H));
      bias_hn = bias_hh.narrow(0, 2 * s.H, s.H).contiguous();
    } else {
      bias_hn = at::zeros({s.H}, weight_hh.options());
    }
  }
};

// The rows of x in a chunk, (rows, I), in the type they are computed in; a view where x allows it.
Tensor chunk_of_x(const Sequence& s, const Tensor& x, const Chunk& chunk, at::ScalarType acc_dtype) {
  const Tensor part =
      x.dim() == 2 ? x.narrow(0, chunk.offset, chunk.rows) : x.narrow(0, chunk.t_begin, chunk.t_end - chunk.t_begin);
  return part.reshape({chunk.rows, s.I}).to(acc_dtype);
}

// y, gates, dy: strides of the rows of one direction.
template <typename scalar_t>
struct Rows {
  scalar_t* data = nullptr;
  int64_t stride_t = 0;  // between steps; unused where packed
  int64_t stride_b = 0;  // between the rows of a step
  bool packed = false;

  Rows() = default;
  Rows(const Tensor& tensor, int64_t column) {
    data = static_cast<scalar_t*>(tensor.data_ptr()) + column;
    packed = tensor.dim() == 2;
    stride_t = packed ? 0 : tensor.stride(0);
    stride_b = tensor.stride(-2);
  }
  scalar_t* step(const Sequence& s, int64_t t) const {
    if (data == nullptr) return nullptr;
    return data + (packed ? s.offset(t) * stride_b : t * stride_t);
  }
};

template <typename Body>
void for_rows(int64_t rows, int64_t H, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGatesPerThread / H);
  if (rows <= grain) {
    body(0, rows);
  } else {
    at::parallel_for(0, rows, grain, body);
  }
}

template <typename scalar_t>
void forward_direction(const Sequence& s, const std::vector<Chunk>& chunks, const Tensor& x, const Direction& direction,
                       const Rows<scalar_t>& y, scalar_t* gates, Tensor h) {
  using acc_t = acc_type<scalar_t>;
  const auto options = h.options();
  const Tensor input_gates = at::empty({most_rows(chunks), 3 * s.H}, options);
  const Tensor hidden_gates = at::empty({s.B, 3 * s.H}, options);
  const Tensor weight_ih_t = direction.weight_ih.t();
  const Tensor weight_hh_t = direction.weight_hh.t();
  const auto kernel = step_kernels<scalar_t>().fwd;
  Tensor active_h = h;
  Tensor active_gates = hidden_gates;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[direction.reverse ? chunks.size() - 1 - i : i];
    const Tensor chunk_x = chunk_of_x(s, x, chunk, h.scalar_type());
    Tensor chunk_gates = input_gates.narrow(0, 0, chunk.rows);
    if (direction.input_bias.defined()) {
      at::addmm_out(chunk_gates, direction.input_bias, chunk_x, weight_ih_t);
    } else {
      at::mm_out(chunk_gates, chunk_x, weight_ih_t);
    }
    const int64_t steps = chunk.t_end - chunk.t_begin;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t t = direction.reverse ? chunk.t_end - 1 - step : chunk.t_begin + step;
      const int64_t rows = s.rows(t);
      if (active_h.size(0) != rows) {
        active_h = h.narrow(0, 0, rows);
        active_gates = hidden_gates.narrow(0, 0, rows);
      }
      at::mm_out(active_gates, active_h, weight_hh_t);
      StepFwd<scalar_t> p;
      p.H = s.H;
      p.input_gates = input_gates.const_data_ptr<acc_t>() + (s.offset(t) - chunk.offset) * 3 * s.H;
      p.hidden_gates = hidden_gates.const_data_ptr<acc_t>();
      p.bias_hn = direction.bias_hn.const_data_ptr<acc_t>();
      p.h = h.data_ptr<acc_t>();
      p.y = y.step(s, t);
      p.y_stride = y.stride_b;
      p.gates = gates == nullptr ? nullptr : gates + s.offset(t) * 4 * s.H;
      for_rows(rows, s.H, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
    }
  }
}

// Gradients that gather over the chunks, in the type they are computed in. Undefined where not needed.
struct DirectionGrads {
  Tensor weight_ih;  // (3H, I)
  Tensor weight_hh;  // (3H, H)
  Tensor bias;       // (4H) sums of the gate gradients, in their order n, r, z, q
};

// dgates of a chunk (rows, 4H), order n, r, z, q -> the gradients of the weights, added to `grads`.
void add_weight_grads(const Sequence& s, const Tensor& dgates, const Tensor& x, const Tensor& h_prev,
                      DirectionGrads& grads) {
  const Tensor dgates_t = dgates.t();
  const auto add_product = [&](Tensor target, int64_t first_gate, int64_t gate_count, const Tensor& rows) {
    at::addmm_out(target, target, dgates_t.narrow(0, first_gate * s.H, gate_count * s.H), rows);
  };
  add_product(grads.weight_ih.narrow(0, 0, 2 * s.H), 1, 2, x);
  add_product(grads.weight_ih.narrow(0, 2 * s.H, s.H), 0, 1, x);
  add_product(grads.weight_hh, 1, 3, h_prev);
  grads.bias.add_(dgates.sum(0));
}

template <typename scalar_t>
void backward_direction(const Sequence& s, const std::vector<Chunk>& chunks, const Tensor& x,
                        const Direction& direction, const Rows<scalar_t>& y, const scalar_t* gates, const scalar_t* h0,
                        const Rows<const scalar_t>& dy, Tensor dh, Tensor dx, DirectionGrads& grads) {
  using acc_t = acc_type<scalar_t>;
  const auto options = dh.options();
  const Tensor dgates = at::empty({most_rows(chunks), 4 * s.H}, options);
  const Tensor h_prev = at::empty({most_rows(chunks), s.H}, options);
  const auto kernel = step_kernels<scalar_t>().bwd;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[direction.reverse ? i : chunks.size() - 1 - i];
    const int64_t steps = chunk.t_end - chunk.t_begin;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t t = direction.reverse ? chunk.t_begin + step : chunk.t_end - 1 - step;
      const int64_t t_prev = direction.reverse ? t + 1 : t - 1;
      const bool has_prev = t_prev >= 0 && t_prev < s.T;
      const int64_t rows = s.rows(t);
      const int64_t row = s.offset(t) - chunk.offset;
      StepBwd<scalar_t> p;
      p.H = s.H;
      p.dy = dy.step(s, t);
      p.dy_stride = dy.stride_b;
      p.gates = gates + s.offset(t) * 4 * s.H;
      p.y_prev = has_prev ? y.step(s, t_prev) : nullptr;
      p.y_stride = y.stride_b;
      p.prev_rows = has_prev ? std::min(rows, s.rows(t_prev)) : 0;
      p.h0 = h0;
      p.h_prev = h_prev.data_ptr<acc_t>() + row * s.H;
      p.dh = dh.data_ptr<acc_t>();
      p.dgates = dgates.data_ptr<acc_t>() + row * 4 * s.H;
      for_rows(rows, s.H, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
      Tensor active_dh = dh.narrow(0, 0, rows);
      const Tensor recurrent_dgates = dgates.narrow(0, row, rows).narrow(1, s.H, 3 * s.H);
      at::addmm_out(active_dh, active_dh, recurrent_dgates, direction.weight_hh);
    }
    const Tensor chunk_dgates = dgates.narrow(0, 0, chunk.rows);
    if (grads.weight_ih.defined()) {
      add_weight_grads(s, chunk_dgates, chunk_of_x(s, x, chunk, dh.scalar_type()), h_prev.narrow(0, 0, chunk.rows),
                       grads);
    }
    if (dx.defined()) {
      Tensor chunk_dx = dx.narrow(0, chunk.offset, chunk.rows);
      at::addmm_out(chunk_dx, chunk_dx, chunk_dgates.narrow(1, s.H, 2 * s.H),
                    direction.weight_ih.narrow(0, 0, 2 * s.H));
      at::addmm_out(chunk_dx, chunk_dx, chunk_dgates.narrow(1, 0, s.H), direction.weight_ih.narrow(0, 2 * s.H, s.H));
    }
  }
}

// Calls `body` with a value of the type that holds `dtype`.
template <typename Body>
void with_scalar_type(at::ScalarType dtype, const Body& body) {
  switch (dtype) {
    case at::kFloat:
      return body(float{});
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(c10::BFloat16{});
    default:
      return body(c10::Half{});
  }
}

at::ScalarType acc_dtype_of(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace

std::tuple<Tensor, Tensor, Tensor> gru_fwd_cpu(const Tensor& x, const std::optional<Tensor>& hx, TensorList weights,
                                               const std::optional<Tensor>& batch_sizes, bool bidirectional,
                                               bool save_gates) {
  const BelowAutogradAndAutocast guard;
  const Sequence s = check_fwd(x, hx, weights, batch_sizes, bidirectional);
  const auto acc_dtype = acc_dtype_of(x.scalar_type());
  const auto options = x.options();
  const Tensor y =
      batch_sizes.has_value() ? at::empty({s.N, s.D * s.H}, options) : at::empty({s.T, s.B, s.D * s.H}, options);
  const Tensor gates = save_gates ? at::empty({s.D, s.N, 4, s.H}, options) : at::empty({0}, options);
  const auto acc_options = options.dtype(acc_dtype);
  // The state, overwritten step by step: at the end, each row's last one.
  const Tensor h = hx.has_value()
                       ? hx->to(acc_dtype, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous)
                       : at::zeros({s.D, s.B, s.H}, acc_options);
  if (s.N > 0) {
    const auto chunks = chunks_of(s);
    with_scalar_type(x.scalar_type(), [&](auto zero) {
      using scalar_t = decltype(zero);
      for (int64_t d = 0; d < s.D; ++d) {
        scalar_t* saved = save_gates ? gates.data_ptr<scalar_t>() + d * s.N * 4 * s.H : nullptr;
        forward_direction<scalar_t>(s, chunks, x, Direction(s, weights, d, acc_dtype), Rows<scalar_t>(y, d * s.H),
                                    saved, h.select(0, d));
      }
    });
  }
  return {y, h.to(x.scalar_type()), gates};
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> gru_bwd_cpu(const std::optional<Tensor>& dy,
                                                            const std::optional<Tensor>& dh_n, const Tensor& x,
                                                            const std::optional<Tensor>& hx, TensorList weights,
                                                            const std::optional<Tensor>& batch_sizes,
                                                            bool bidirectional, const Tensor& y, const Tensor& gates,
                                                            bool need_dx, bool need_dhx, bool need_dweights) {
  const BelowAutogradAndAutocast guard;
  const Sequence s = check_bwd(dy, dh_n, x, hx, weights, batch_sizes, bidirectional, y, gates);
  const auto acc_dtype = acc_dtype_of(x.scalar_type());
  const auto acc_options = x.options().dtype(acc_dtype);
  const Tensor dh = dh_n.has_value()
                        ? dh_n->to(acc_dtype, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous)
                        : at::zeros({s.D, s.B, s.H}, acc_options);
  Tensor dx = need_dx ? at::zeros({s.N, s.I}, acc_options) : Tensor();
  std::vector<DirectionGrads> grads(s.D);
  if (need_dweights) {
    for (DirectionGrads& grad : grads) {
      grad.weight_ih = at::zeros({3 * s.H, s.I}, acc_options);
      grad.weight_hh = at::zeros({3 * s.H, s.H}, acc_options);
      grad.bias = at::zeros({4 * s.H}, acc_options);
    }
  }
  if (s.N > 0) {
    const auto chunks = chunks_of(s);
    with_scalar_type(x.scalar_type(), [&](auto zero) {
      using scalar_t = decltype(zero);
      const Tensor unit_stride_dy = !dy.has_value() ? Tensor() : dy->stride(-1) == 1 ? *dy : dy->contiguous();
      const Tensor h0 = hx.has_value() ? hx->contiguous() : Tensor();
      for (int64_t d = 0; d < s.D; ++d) {
        const auto dy_rows = dy.has_value() ? Rows<const scalar_t>(unit_stride_dy, d * s.H) : Rows<const scalar_t>();
        const scalar_t* initial = h0.defined() ? h0.const_data_ptr<scalar_t>() + d * s.B * s.H : nullptr;
        backward_direction<scalar_t>(s, chunks, x, Direction(s, weights, d, acc_dtype), Rows<scalar_t>(y, d * s.H),
                                     gates.const_data_ptr<scalar_t>() + d * s.N * 4 * s.H, initial, dy_rows,
                                     dh.select(0, d), dx, grads[d]);
      }
    });
  }

  const auto dtype = x.scalar_type();
  const Tensor not_needed = at::empty({0}, x.options());
  std::vector<Tensor> dweights;
  if (need_dweights) {
    for (const DirectionGrads& grad : grads) {
      dweights.push_back(grad.weight_ih.to(dtype));
      dweights.push_back(grad.weight_hh.to(dtype));
      if (!s.has_bias) continue;
      const Tensor of_r_and_z = grad.bias.narrow(0, s.H, 2 * s.H);
      dweights.push_back(at::cat({of_r_and_z, grad.bias.narrow(0, 0, s.H)}).to(dtype));
      dweights.push_back(grad.bias.narrow(0, s.H, 3 * s.H).to(dtype, /*non_blocking=*/false, /*copy=*/true));
    }
  }
  return {need_dx ? dx.to(dtype).view(x.sizes()) : not_needed, need_dhx ? dh.to(dtype) : not_needed, dweights};
}

}  // namespace gru_ext
