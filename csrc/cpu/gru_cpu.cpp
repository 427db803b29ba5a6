// The CPU backend: one layer, forward and backward.
//
// Time is cut into chunks. Forward, a chunk is one parallel region: each thread multiplies the chunk's input with the
// weights of its own hidden units, then goes through the steps (recurrence_body.h). Backward, a chunk is the same steps
// in the opposite order, then the GEMMs that turn the gate gradients of all its rows into the gradients of the weights
// and of x. Half precisions compute and carry the state in fp32: their chunks are converted as they are used.
#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "../check.h"
#include "../gru.h"
#include "isa.h"
#include "kernels.h"
#include "step_barrier.h"
#include "threads.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

// The kernel calls at:: for products; none of these may be recorded for autograd or cast by autocast again.
struct BelowAutogradAndAutocast {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard below_autocast{c10::autocast_dispatch_keyset};
};

// Rows of a chunk. Forward: few enough for its gates to stay in the cache. Backward: enough for its GEMMs to run at
// full speed.
constexpr int64_t kFwdChunkRows = 128;
constexpr int64_t kBwdChunkRows = 512;
// Calls of fewer rows read the weights where they are: packing them would cost more than the products.
constexpr int64_t kPackedRows = 16;
// Columns added to buffers that are read by column, so that rows do not fall into the same sets of the cache.
constexpr int64_t kSkew = 16;

struct Chunk {
  int64_t t_begin, t_end;  // steps
  int64_t offset, rows;    // rows of all these steps
};

// Chunks of consecutive steps, in the order of time.
std::vector<Chunk> chunks_of(const Sequence& s, int64_t target_rows) {
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

// The parameters of one direction, contiguous; the weights in the dtypes they are multiplied in.
struct Direction {
  Tensor weight_ih;         // (3H, I)
  Tensor weight_hh;         // (3H, H)
  Tensor bias_ih, bias_hh;  // (3H); undefined without biases
  bool reverse;

  Direction(const Sequence& s, TensorList weights, int64_t d, at::ScalarType ih_dtype, at::ScalarType hh_dtype,
            at::ScalarType acc_dtype)
      : reverse(d == 1) {
    const Tensor* first = &weights[d * s.weights_per_direction()];
    weight_ih = first[0].to(ih_dtype).contiguous();
    weight_hh = first[1].to(hh_dtype).contiguous();
    if (s.has_bias) {
      bias_ih = first[2].to(acc_dtype).contiguous();
      bias_hh = first[3].to(acc_dtype).contiguous();
    }
  }
};

// The rows of x in a chunk, (rows, I), in the dtype they are multiplied in; a view where x allows it.
Tensor chunk_of_x(const Sequence& s, const Tensor& x, const Chunk& chunk, at::ScalarType operand_dtype) {
  const Tensor part =
      x.dim() == 2 ? x.narrow(0, chunk.offset, chunk.rows) : x.narrow(0, chunk.t_begin, chunk.t_end - chunk.t_begin);
  const Tensor rows = part.reshape({chunk.rows, s.I}).to(operand_dtype);
  return rows.stride(1) == 1 ? rows : rows.contiguous();
}

// Where the rows of y or dy begin: element offset of step t, stride between the rows of a step.
struct Rows {
  bool packed;
  int64_t stride_t, stride_b;

  explicit Rows(const Tensor& tensor)
      : packed(tensor.dim() == 2), stride_t(packed ? 0 : tensor.stride(0)), stride_b(tensor.stride(-2)) {}
  int64_t offset(const Sequence& s, int64_t t) const { return packed ? s.offset(t) * stride_b : t * stride_t; }
};

// Runs `body` on the threads. Where they mostly waited for cores that other programs hold, `threads` becomes 1.
template <typename Body>
void run_chunk(int& threads, StepBarrier& barrier, const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  run_threads(threads, body);
  if (threads > 1 && barrier.crowded(std::chrono::steady_clock::now() - start)) threads = 1;
}

// Copies `rows` rows of `columns` values between buffers of other strides and dtypes.
template <typename From, typename To>
void copy_rows(const From* source, int64_t source_stride, To* target, int64_t target_stride, int64_t rows,
               int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(source + row * source_stride, columns, target + row * target_stride);
  }
}

// An uninitialised buffer for packed weights. A large one is new memory at every call, and its first touch costs as
// much as packing it unless the system gives it in large pages.
Tensor packed_buffer(int64_t size, const at::TensorOptions& options) {
  constexpr uintptr_t kLargePage = uintptr_t{1} << 21;
  const Tensor buffer = at::empty({size}, options);
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data_ptr());
  const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (begin + buffer.nbytes()) / kLargePage * kLargePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only advice: may fail
  return buffer;
}

// Forward over all steps of one direction; `h` (B, H) is the state, before and after.
template <typename scalar_t, typename operand_t>
void forward_direction(const Sequence& s, const Tensor& x, const Direction& direction, const Tensor& y, int64_t column,
                       scalar_t* gates, acc_type<scalar_t>* h) {
  using acc_t = acc_type<scalar_t>;
  const FwdKernels<scalar_t, operand_t> kernel = fwd_kernels<scalar_t, operand_t>();
  const auto operand_options = direction.weight_hh.options();
  const auto options = operand_options.dtype(c10::CppTypeToScalarType<acc_t>::value);
  const auto chunks = chunks_of(s, kFwdChunkRows);
  int threads = threads_for(s.T, 6.0 * s.B * s.H * (s.H + s.I));
  const int64_t groups = (s.H + kernel.lanes - 1) / kernel.lanes;
  const int64_t stride = groups * kernel.lanes + kSkew;

  const bool packed = s.N >= kPackedRows;
  Tensor weight_ih = direction.weight_ih;
  Tensor weight_hh = direction.weight_hh;
  if (packed) {
    constexpr int64_t values = packed_values<scalar_t, operand_t>;
    weight_ih = packed_buffer(groups * ((s.I + values - 1) / values) * 3 * kernel.lanes, options);
    weight_hh = packed_buffer(groups * ((s.H + values - 1) / values) * 3 * kernel.lanes, options);
    run_threads(threads, [&](int thread, int team) {
      const int64_t begin = share(groups, thread, team), end = share(groups, thread + 1, team);
      kernel.pack_gates(direction.weight_ih.const_data_ptr<operand_t>(), s.H, s.I, begin, end, weight_ih.data_ptr());
      kernel.pack_gates(direction.weight_hh.const_data_ptr<operand_t>(), s.H, s.H, begin, end, weight_hh.data_ptr());
    });
  }

  const Tensor bias = at::zeros({4, stride}, options);
  if (s.has_bias) {
    const acc_t* bias_ih = direction.bias_ih.const_data_ptr<acc_t>();
    const acc_t* bias_hh = direction.bias_hh.const_data_ptr<acc_t>();
    acc_t* sum = bias.data_ptr<acc_t>();
    copy_rows(bias_ih, s.H, sum, stride, 3, s.H);
    for (int64_t u = 0; u < s.H; ++u) sum[u] += bias_hh[u];
    for (int64_t u = 0; u < s.H; ++u) sum[stride + u] += bias_hh[s.H + u];
    copy_rows(bias_hh + 2 * s.H, s.H, sum + 3 * stride, stride, 1, s.H);
  }
  const Tensor state = at::zeros({s.B, stride}, options);
  copy_rows(h, s.H, state.data_ptr<acc_t>(), stride, s.B, s.H);
  const Tensor exchanged = at::zeros({2, s.B, stride}, operand_options);
  operand_t* const exchange[2] = {exchanged.data_ptr<operand_t>(), exchanged.data_ptr<operand_t>() + s.B * stride};
  for (operand_t* copy : exchange) copy_rows(h, s.H, copy, stride, s.B, s.H);

  const Tensor input_gates = at::empty({groups * most_rows(chunks) * 3 * kernel.lanes}, options);
  StepBarrier barrier(threads);
  const Rows rows_of_y(y);
  std::vector<Step> steps;
  FwdChunk<scalar_t, operand_t> p;
  p.I = s.I;
  p.H = s.H;
  p.first_step = 0;
  p.packed = packed;
  p.weight_ih = weight_ih.const_data_ptr();
  p.weight_hh = weight_hh.const_data_ptr();
  p.input_bias = bias.const_data_ptr<acc_t>();
  p.bias_hn = p.input_bias + 3 * stride;
  p.input_gates = input_gates.data_ptr<acc_t>();
  p.h[0] = exchange[0];
  p.h[1] = exchange[1];
  p.h_stride = stride;
  p.state = state.data_ptr<acc_t>();
  p.y = y.data_ptr<scalar_t>() + column;
  p.y_stride = rows_of_y.stride_b;
  p.gates = gates;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[direction.reverse ? chunks.size() - 1 - i : i];
    const int64_t count = chunk.t_end - chunk.t_begin;
    steps.clear();
    for (int64_t step = 0; step < count; ++step) {
      const int64_t t = direction.reverse ? chunk.t_end - 1 - step : chunk.t_begin + step;
      steps.push_back({s.offset(t) - chunk.offset, s.rows(t), s.offset(t), rows_of_y.offset(s, t), 0, 0, 0});
    }
    const Tensor chunk_x = chunk_of_x(s, x, chunk, operand_options.dtype().toScalarType());
    p.steps = steps.data();
    p.step_count = count;
    p.rows = chunk.rows;
    p.x = chunk_x.const_data_ptr<operand_t>();
    p.x_stride = chunk_x.stride(0);
    run_chunk(threads, barrier, [&](int thread, int team) { kernel.fwd(p, thread, team, barrier); });
    p.first_step += count;
  }
  copy_rows(p.state, stride, h, s.H, s.B, s.H);
}

// Gradients of one direction's parameters. Undefined where not needed.
struct DirectionGrads {
  Tensor weight_ih;  // (3H, I), in the dtype of the GEMMs
  Tensor weight_hh;  // (3H, H), likewise
  Tensor bias;       // (4H) sums of the gate gradients, in their order n, r, z, q
};

// target = product, or target += product: the first chunk fills what later ones add to.
void add_product(Tensor target, const Tensor& a, const Tensor& b, bool first) {
  at::addmm_out(target, target, a, b, /*beta=*/first ? 0 : 1);
}

// What follows from the gate gradients dgates (rows, 4H), order n, r, z, q, of some rows, in the dtype of all its
// operands: their part of the gradients of the weights, and the rows of dx.
void add_gemms(const Sequence& s, const Direction& direction, const Tensor& dgates, const Tensor& x,
               const Tensor& h_prev, bool first, DirectionGrads& grads, const Tensor& dx) {
  if (grads.weight_ih.defined()) {
    const Tensor dgates_t = dgates.t();
    add_product(grads.weight_ih.narrow(0, 0, 2 * s.H), dgates_t.narrow(0, s.H, 2 * s.H), x, first);
    add_product(grads.weight_ih.narrow(0, 2 * s.H, s.H), dgates_t.narrow(0, 0, s.H), x, first);
    add_product(grads.weight_hh, dgates_t.narrow(0, s.H, 3 * s.H), h_prev, first);
  }
  if (dx.defined()) {
    const Tensor weight_rz = direction.weight_ih.narrow(0, 0, 2 * s.H);
    const Tensor weight_n = direction.weight_ih.narrow(0, 2 * s.H, s.H);
    if (dx.scalar_type() == at::kBFloat16) {  // one product, so that the sum is rounded once
      add_product(dx, dgates.narrow(1, 0, 3 * s.H), at::cat({weight_n, weight_rz}), /*first=*/!direction.reverse);
    } else {
      add_product(dx, dgates.narrow(1, s.H, 2 * s.H), weight_rz, /*first=*/!direction.reverse);
      add_product(dx, dgates.narrow(1, 0, s.H), weight_n, /*first=*/false);
    }
  }
}

// Backward over all steps of one direction; `dh` (B, H) enters as the gradient of the last state, leaves as that of h0.
// The GEMMs run chunk by chunk, which needs little memory and rounds little; in bfloat16, whose sums would be rounded
// after each chunk, over all rows at once.
template <typename scalar_t>
void backward_direction(const Sequence& s, const Tensor& x, const Direction& direction, const Tensor& y, int64_t column,
                        const scalar_t* gates, const scalar_t* h0, const Tensor& dy, acc_type<scalar_t>* dh,
                        bool need_dhx, Tensor dx, DirectionGrads& grads) {
  using acc_t = acc_type<scalar_t>;
  const BwdKernels<scalar_t> kernel = bwd_kernels<scalar_t>();
  const auto options = direction.weight_hh.options();
  const auto chunks = chunks_of(s, kBwdChunkRows);
  int threads = threads_for(s.T, 6.0 * s.B * s.H * s.H);
  const int64_t panels = (s.H + kernel.panel_columns - 1) / kernel.panel_columns;
  const Tensor weight_hh = packed_buffer(panels * 3 * s.H * kernel.panel_columns, options);
  if (s.T > 1 || need_dhx) {
    run_threads(threads, [&](int thread, int team) {
      kernel.pack_columns(direction.weight_hh.const_data_ptr<acc_t>(), s.H, share(panels, thread, team),
                          share(panels, thread + 1, team), weight_hh.data_ptr<acc_t>());
    });
  }
  const int64_t dh_stride = panels * kernel.panel_columns + kSkew;
  const Tensor padded_dh = at::zeros({s.B, dh_stride}, options);
  acc_t* const state_grad = padded_dh.data_ptr<acc_t>();
  copy_rows(dh, s.H, state_grad, dh_stride, s.B, s.H);
  const int64_t dgates_stride = 4 * s.H + kSkew;
  const Tensor dgates = at::empty({most_rows(chunks), dgates_stride}, options);
  const Tensor h_prev = at::empty({most_rows(chunks), s.H}, options);

  const bool in_bf16 = direction.weight_ih.scalar_type() == at::kBFloat16;
  Tensor all_dgates, all_h_prev;
  if (in_bf16) {
    all_dgates = at::empty({s.N, 4 * s.H}, options.dtype(at::kBFloat16));
    all_h_prev = at::empty({s.N, s.H}, options.dtype(at::kBFloat16));
  }

  StepBarrier barrier(threads);
  const Rows rows_of_y(y);
  const Rows rows_of_dy(dy.defined() ? dy : y);
  std::vector<Step> steps;
  BwdChunk<scalar_t> p;
  p.H = s.H;
  p.first_step = 0;
  p.weight_hh = weight_hh.const_data_ptr<acc_t>();
  p.dy = dy.defined() ? dy.const_data_ptr<scalar_t>() + column : nullptr;
  p.dy_stride = rows_of_dy.stride_b;
  p.gates = gates;
  p.y = y.const_data_ptr<scalar_t>() + column;
  p.y_stride = rows_of_y.stride_b;
  p.h0 = h0;
  p.dh = state_grad;
  p.dh_stride = dh_stride;
  p.h_prev = h_prev.data_ptr<acc_t>();
  p.dgates = dgates.data_ptr<acc_t>();
  p.dgates_stride = dgates_stride;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[direction.reverse ? i : chunks.size() - 1 - i];
    const int64_t count = chunk.t_end - chunk.t_begin;
    steps.clear();
    for (int64_t step = 0; step < count; ++step) {
      const int64_t t = direction.reverse ? chunk.t_begin + step : chunk.t_end - 1 - step;
      const int64_t t_prev = direction.reverse ? t + 1 : t - 1;
      const bool has_prev = t_prev >= 0 && t_prev < s.T;
      steps.push_back({s.offset(t) - chunk.offset, s.rows(t), s.offset(t), 0, rows_of_dy.offset(s, t),
                       has_prev ? rows_of_y.offset(s, t_prev) : 0, has_prev ? std::min(s.rows(t), s.rows(t_prev)) : 0});
    }
    p.steps = steps.data();
    p.step_count = count;
    p.last_product = need_dhx || i + 1 < chunks.size();
    run_chunk(threads, barrier, [&](int thread, int team) { kernel.bwd(p, thread, team, barrier); });
    p.first_step += count + 1;

    const Tensor chunk_dgates = dgates.narrow(0, 0, chunk.rows).narrow(1, 0, 4 * s.H);
    const Tensor chunk_h_prev = h_prev.narrow(0, 0, chunk.rows);
    const bool first = i == 0;
    if (grads.bias.defined()) {
      first ? grads.bias.copy_(chunk_dgates.sum(0)) : grads.bias.add_(chunk_dgates.sum(0));
    }
    if (in_bf16) {
      all_dgates.narrow(0, chunk.offset, chunk.rows).copy_(chunk_dgates);
      all_h_prev.narrow(0, chunk.offset, chunk.rows).copy_(chunk_h_prev);
    } else {
      add_gemms(s, direction, chunk_dgates, chunk_of_x(s, x, chunk, options.dtype().toScalarType()), chunk_h_prev,
                first, grads, dx.defined() ? dx.narrow(0, chunk.offset, chunk.rows) : dx);
    }
  }
  if (in_bf16) {
    const Tensor all_x = chunk_of_x(s, x, Chunk{0, s.T, 0, s.N}, at::kBFloat16);
    add_gemms(s, direction, all_dgates, all_x, all_h_prev, /*first=*/true, grads, dx);
  }
  copy_rows(state_grad, dh_stride, dh, s.H, s.B, s.H);
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
    with_scalar_type(x.scalar_type(), [&](auto zero) {
      using scalar_t = decltype(zero);
      for (int64_t d = 0; d < s.D; ++d) {
        scalar_t* saved = save_gates ? gates.data_ptr<scalar_t>() + d * s.N * 4 * s.H : nullptr;
        acc_type<scalar_t>* state = h.data_ptr<acc_type<scalar_t>>() + d * s.B * s.H;
        const auto run = [&](auto operand) {
          using operand_t = decltype(operand);
          constexpr auto operand_dtype = c10::CppTypeToScalarType<operand_t>::value;
          const Direction direction(s, weights, d, operand_dtype, operand_dtype, acc_dtype);
          forward_direction<scalar_t, operand_t>(s, x, direction, y, d * s.H, saved, state);
        };
        if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
          if (multiplies_bf16()) {
            run(c10::BFloat16{});
            continue;
          }
        }
        run(acc_type<scalar_t>{});
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
  const auto dtype = x.scalar_type();
  // Small problems are not worth the conversion of their gate gradients.
  const bool in_bf16 = dtype == at::kBFloat16 && multiplies_bf16() && s.N >= kBwdChunkRows;
  const auto gemm_dtype = in_bf16 ? at::kBFloat16 : acc_dtype;
  const Tensor dx = need_dx ? at::empty({s.N, s.I}, acc_options.dtype(gemm_dtype)) : Tensor();
  std::vector<DirectionGrads> grads(s.D);
  if (need_dweights) {
    for (DirectionGrads& grad : grads) {
      const auto new_grad = [&](at::IntArrayRef shape, at::ScalarType grad_dtype) {
        const auto grad_options = acc_options.dtype(grad_dtype);
        return s.N > 0 ? at::empty(shape, grad_options) : at::zeros(shape, grad_options);
      };
      grad.weight_ih = new_grad({3 * s.H, s.I}, gemm_dtype);
      grad.weight_hh = new_grad({3 * s.H, s.H}, gemm_dtype);
      grad.bias = new_grad({4 * s.H}, acc_dtype);
    }
  }
  if (s.N > 0) {
    with_scalar_type(x.scalar_type(), [&](auto zero) {
      using scalar_t = decltype(zero);
      const Tensor unit_stride_dy = !dy.has_value() ? Tensor() : dy->stride(-1) == 1 ? *dy : dy->contiguous();
      const Tensor h0 = hx.has_value() ? hx->contiguous() : Tensor();
      for (int64_t d = 0; d < s.D; ++d) {
        const scalar_t* initial = h0.defined() ? h0.const_data_ptr<scalar_t>() + d * s.B * s.H : nullptr;
        backward_direction<scalar_t>(s, x, Direction(s, weights, d, gemm_dtype, acc_dtype, acc_dtype), y, d * s.H,
                                     gates.const_data_ptr<scalar_t>() + d * s.N * 4 * s.H, initial, unit_stride_dy,
                                     dh.data_ptr<acc_type<scalar_t>>() + d * s.B * s.H, need_dhx, dx, grads[d]);
      }
    });
  }

  const auto not_needed = [&] { return at::empty({0}, x.options()); };
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
  return {need_dx ? dx.to(dtype).view(x.sizes()) : not_needed(), need_dhx ? dh.to(dtype) : not_needed(), dweights};
}

}  // namespace gru_ext
