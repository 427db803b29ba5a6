#include "cuda/stepwise/steps.h"

#include <ATen/ATen.h>

#include "cuda/arguments.h"
#include "cuda/stepwise/launchers.h"
#include "cuda/stepwise/normalizer.h"
#include "op/chunks.h"
#include "op/dispatch.h"
#include "op/recompute.h"

namespace gru_ext {
namespace {

using at::Tensor;

// Memory for what is computed for many steps at once. Forward: little enough to stay in the L2 cache until it is read.
// Backward: enough for products of full speed. The emulated tests make both small.
#if defined(GRU_EXT_CHUNK_BYTES)
constexpr int64_t kFwdChunkBytes = GRU_EXT_CHUNK_BYTES, kBwdChunkBytes = GRU_EXT_CHUNK_BYTES;
#else
constexpr int64_t kFwdChunkBytes = int64_t{32} << 20;
constexpr int64_t kBwdChunkBytes = int64_t{128} << 20;
#endif

// What a row takes in a backward that computes the gates again: the gates and their gradients, with layer normalisation
// of the cell and of the products, the state before, and what a forward has of a row.
template <typename at_t>
int64_t bytes_of_computed_row(const Sequence& s, bool norms) {
  return s.H * static_cast<int64_t>((norms ? 25 : 10) * sizeof(at_t) + 7 * sizeof(typename Device<at_t>::acc_t));
}

// The factor of h (B, H) in the recurrent product, applied to `state`; `state` itself where nothing is dropped.
Tensor through_recurrent_mask(const StepDirection& direction, const Tensor& state) {
  const OptionalTensor& mask = direction.variant.recurrent_mask;
  if (!mask.has_value()) return state;
  return state.mul(mask->narrow(0, 0, state.size(0))).div_(1 - direction.variant.recurrent_dropout);
}

template <typename at_t>
void forward_direction(const Sequence& s, const Tensor& x, const StepDirection& direction, const Tensor& y,
                       const Tensor& gates, const Tensor& h, Stream stream) {
  using acc_t = typename Device<at_t>::acc_t;
  const Tensor weight_ih_t = product_operand(direction.weight_ih).t();
  const Tensor weight_hh_t = product_operand(direction.weight_hh).t();
  // Reset gate before the product: those of r and z, and those of the candidate.
  const Tensor weight_rz_t = weight_hh_t.narrow(1, 0, 2 * s.H), weight_hn_t = weight_hh_t.narrow(1, 2 * s.H, s.H);
  const int64_t gates_of_h = direction.variant.reset_after ? 3 : 2;
  const auto chunks = chunks_of(s, kFwdChunkBytes / (3 * s.H * static_cast<int64_t>(sizeof(acc_t))));
  const Tensor a_x = at::empty({most_rows(chunks), 3 * s.H}, h.options());
  const Tensor a_h = at::empty({s.B, gates_of_h * s.H}, h.options());
  const Tensor operand = through_recurrent_mask(direction, h).to(x.scalar_type());
  const DirectionMasks<acc_t> masks = masks_of<acc_t>(direction);

  const Rows rows_of_y(y.defined() ? y : x);
  GruStepFwdParams<typename Device<at_t>::scalar_t, acc_t> p{};
  p.H = s.H;
  p.a_h = a_h.const_data_ptr<acc_t>();
  p.bias_ih = readable<at_t>(direction.bias_ih);
  p.bias_hh = readable<at_t>(direction.bias_hh);
  p.h = h.data_ptr<acc_t>();
  p.h_operand = operand.is_same(h) ? nullptr : writable<at_t>(operand);
  p.y_stride = rows_of_y.stride_b;
  Tensor reset, z, a_reset;
  if (!direction.variant.reset_after) {
    reset = at::empty({s.B, s.H}, operand.options());
    z = at::empty({s.B, s.H}, h.options());
    a_reset = at::empty({s.B, s.H}, h.options());
    p.reset = writable<at_t>(reset);
    p.z = z.data_ptr<acc_t>();
    p.a_reset = a_reset.const_data_ptr<acc_t>();
  }
  const Normalizer<at_t> normalizer(s, direction, gates, stream);
  using Side = typename Normalizer<at_t>::Side;
  const bool norms = direction.variant.layer_norm > 0;
  const Tensor cell_gates =
      norms && gates.defined() ? at::empty({most_rows(chunks), 4 * s.H}, gates.options()) : Tensor();
  Tensor operand_rows, a_h_rows;  // the first p.rows of each
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[direction.reverse ? chunks.size() - 1 - i : i];
    product_out(a_x.narrow(0, 0, chunk.rows), input_of(s, x, chunk)[0], weight_ih_t);
    if (norms) normalizer.fwd(a_x.narrow(0, 0, chunk.rows), Side::of_x, chunk.offset);
    for (int64_t step = 0; step < chunk.t_end - chunk.t_begin; ++step) {
      const int64_t t = direction.reverse ? chunk.t_end - 1 - step : chunk.t_begin + step;
      if (s.rows(t) != p.rows) {
        p.rows = s.rows(t);
        operand_rows = operand.narrow(0, 0, p.rows);
        a_h_rows = a_h.narrow(0, 0, p.rows);
      }
      p.a_x = a_x.const_data_ptr<acc_t>() + (s.offset(t) - chunk.offset) * 3 * s.H;
      p.y = y.defined() ? device_pointer(y.data_ptr<at_t>() + rows_of_y.offset(s, t)) : nullptr;
      const int64_t row = s.offset(t) - chunk.offset;
      p.gates = !gates.defined() ? nullptr
                : norms          ? device_pointer(cell_gates.data_ptr<at_t>() + row * 4 * s.H)
                                 : device_pointer(gates.data_ptr<at_t>() + s.offset(t) * gates.stride(0));
      p.masks = masks_of_step(masks, s.offset(t), s.H);
      if (direction.variant.reset_after) {
        product_out(a_h_rows, operand_rows, weight_hh_t);
        if (norms) normalizer.fwd(a_h_rows, Side::of_h, s.offset(t));
        check_launch(launch_gru_step_fwd(p, stream));
      } else {
        product_out(a_h_rows, operand_rows, weight_rz_t);
        check_launch(launch_gru_step_reset_fwd(p, stream));
        product_out(a_reset.narrow(0, 0, p.rows), reset.narrow(0, 0, p.rows), weight_hn_t);
        check_launch(launch_gru_step_candidate_fwd(p, stream));
      }
    }
    if (cell_gates.defined()) normalizer.save_cell_gates(cell_gates.narrow(0, 0, chunk.rows), chunk.offset);
  }
}

// What `gru_step_gates` does, by way of `states` (rows, H) in the dtype of the sums.
template <typename at_t>
void gates_of_chunk(const Sequence& s, const Chunk& chunk, const Tensor& x, const StepDirection& direction,
                    const Tensor& y, const Tensor& h0, const Tensor& states, const Tensor& gates, Stream stream) {
  copy_states_before(s, chunk, direction.reverse, y, h0, states);
  StepDirection step = direction;
  step.reverse = false;
  Variant& v = step.variant;
  v.zoneout_mask = v.candidate_mask = std::nullopt;  // these come after the gates
  v.zoneout = 0;
  if (v.recurrent_mask.has_value()) v.recurrent_mask = mask_of_rows(s, chunk, *v.recurrent_mask);
  forward_direction<at_t>(as_one_step(s, chunk), input_of(s, x, chunk), step, /*y=*/Tensor(), gates, states, stream);
}

template <typename at_t>
void backward_direction(const Sequence& s, const Tensor& x, const StepDirection& direction, const Tensor& dy,
                        const Tensor& y, const Tensor& gates, const Tensor& h0, const Tensor& dh, bool need_dhx,
                        bool first, DirectionGrads& grads, const Tensor& dx, Stream stream) {
  using acc_t = typename Device<at_t>::acc_t;
  const bool need_dweights = grads.weight_ih.defined();
  const Tensor weight_hh = product_operand(direction.weight_hh);
  Tensor weight_nrz;
  if (dx.defined()) {
    const Tensor of_n = direction.weight_ih.narrow(0, 2 * s.H, s.H);
    weight_nrz = product_operand(at::cat({of_n, direction.weight_ih.narrow(0, 0, 2 * s.H)}));
  }
  const bool saved = gates.defined(), norms = direction.variant.layer_norm > 0;
  const auto chunks = chunks_of(s, saved ? kBwdChunkBytes / (5 * s.H * static_cast<int64_t>(sizeof(at_t)))
                                         : kBwdChunkBytes / bytes_of_computed_row<at_t>(s, norms));
  const int64_t most = most_rows(chunks);
  const int64_t gates_of_h = direction.variant.reset_after ? 3 : 2;  // r, z and, reset gate after, q
  const int64_t cell_values = (gates_of_h + 1) * s.H;                // of a row, that the cell leaves and takes
  const Tensor computed = saved ? Tensor() : at::empty({most, norms ? 9 * s.H + 16 : cell_values}, y.options());
  const Tensor states = saved ? Tensor() : at::empty({most, s.H}, dh.options());
  const Tensor& kept = saved ? gates : computed;  // of all rows, or of a chunk's
  const Normalizer<at_t> normalizer(s, direction, kept, stream);
  using Side = typename Normalizer<at_t>::Side;
  const Tensor dcell = at::empty({most, cell_values}, y.options());
  const Tensor dgates = norms ? at::empty({most, 6 * s.H}, y.options()) : dcell;
  const Tensor cell_gates = norms ? at::empty({most, cell_values}, y.options()) : Tensor();
  const Tensor dgates_of_h = dgates.narrow(1, norms ? 3 * s.H : s.H, gates_of_h * s.H);
  const Tensor weight_of_h = weight_hh.narrow(0, 0, gates_of_h * s.H);
  const Tensor h_operand = need_dweights ? at::empty({most_rows(chunks), s.H}, y.options()) : Tensor();
  const Tensor dh_product = at::empty({s.B, s.H}, dh.options());

  const Rows rows_of_y(y);
  const Rows rows_of_dy(dy.defined() ? dy : y);
  GruStepBwdParams<typename Device<at_t>::scalar_t, acc_t> p{};
  p.H = s.H;
  p.dy_stride = rows_of_dy.stride_b;
  p.y_stride = rows_of_y.stride_b;
  p.h0 = readable<at_t>(h0);
  p.dh = dh.data_ptr<acc_t>();
  p.dh_product = dh_product.const_data_ptr<acc_t>();
  const DirectionMasks<acc_t> masks = masks_of<acc_t>(direction);
  Tensor reset, dreset, weight_hn;
  if (!direction.variant.reset_after) {
    if (need_dweights) reset = at::empty_like(h_operand);
    dreset = at::empty({s.B, s.H}, dh.options());
    p.dreset = dreset.const_data_ptr<acc_t>();
    weight_hn = weight_hh.narrow(0, 2 * s.H, s.H);
  }
  Tensor dh_product_rows;  // the first p.rows
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[direction.reverse ? i : chunks.size() - 1 - i];
    if (!saved) {
      gates_of_chunk<at_t>(s, chunk, x, direction, y, h0, states.narrow(0, 0, chunk.rows),
                           computed.narrow(0, 0, chunk.rows), stream);
    }
    const int64_t kept_row = saved ? chunk.offset : 0;  // of the chunk's first
    if (norms) normalizer.load_cell_gates(cell_gates.narrow(0, 0, chunk.rows), kept_row, dh.scalar_type());
    for (int64_t step = 0; step < chunk.t_end - chunk.t_begin; ++step) {
      const int64_t t = direction.reverse ? chunk.t_begin + step : chunk.t_end - 1 - step;
      const int64_t t_prev = direction.reverse ? t + 1 : t - 1;
      const bool has_prev = t_prev >= 0 && t_prev < s.T;
      const int64_t row = s.offset(t) - chunk.offset;
      if (s.rows(t) != p.rows) {
        p.rows = s.rows(t);
        dh_product_rows = dh_product.narrow(0, 0, p.rows);
      }
      p.prev_rows = has_prev ? std::min(p.rows, s.rows(t_prev)) : 0;
      p.dy = dy.defined() ? device_pointer(dy.const_data_ptr<at_t>() + rows_of_dy.offset(s, t)) : nullptr;
      p.gates = device_pointer(norms ? cell_gates.const_data_ptr<at_t>() + row * cell_values
                                     : kept.const_data_ptr<at_t>() + (kept_row + row) * cell_values);
      p.y_prev = has_prev ? device_pointer(y.const_data_ptr<at_t>() + rows_of_y.offset(s, t_prev)) : nullptr;
      p.dgates = device_pointer(dcell.data_ptr<at_t>() + row * cell_values);
      p.h_operand = need_dweights ? device_pointer(h_operand.data_ptr<at_t>() + row * s.H) : nullptr;
      p.reset = reset.defined() ? device_pointer(reset.data_ptr<at_t>() + row * s.H) : nullptr;
      p.masks = masks_of_step(masks, s.offset(t), s.H);
      if (direction.variant.reset_after) {
        check_launch(launch_gru_step_bwd(p, stream));
        if (norms) {
          normalizer.bwd(dcell.narrow(0, row, p.rows), dgates.narrow(0, row, p.rows), Side::of_h, kept_row + row);
        }
      } else {
        check_launch(launch_gru_step_candidate_bwd(p, stream));
        const Tensor dgates_of_n = dgates.narrow(0, row, p.rows).narrow(1, 0, s.H);
        product_out(dreset.narrow(0, 0, p.rows), dgates_of_n, weight_hn);
        check_launch(launch_gru_step_reset_bwd(p, stream));
      }
      if (has_prev || need_dhx) {
        product_out(dh_product_rows, dgates_of_h.narrow(0, row, p.rows), weight_of_h);
        p.product_rows = p.rows;
      }
    }
    const Tensor chunk_dgates = dgates.narrow(0, 0, chunk.rows), chunk_dcell = dcell.narrow(0, 0, chunk.rows);
    if (norms && (need_dweights || dx.defined())) normalizer.bwd(chunk_dcell, chunk_dgates, Side::of_x, kept_row);
    if (need_dweights) {
      add_weight_grads(s, chunk_dgates, input_of(s, x, chunk)[0], h_operand.narrow(0, 0, chunk.rows),
                       reset.defined() ? reset.narrow(0, 0, chunk.rows) : Tensor(), i == 0, grads);
      add_bias_grads(chunk_dcell, i == 0, grads);
      if (norms) normalizer.gain_grads(chunk_dcell, kept_row, /*add=*/i > 0, grads.gains);
    }
    if (dx.defined()) add_input_grads(s, chunk_dgates, weight_nrz, first, dx.narrow(0, chunk.offset, chunk.rows));
  }
  if (need_dhx) dh.narrow(0, 0, p.product_rows).add_(through_recurrent_mask(direction, dh_product_rows));
}

}  // namespace

void gru_step_fwd(const Sequence& s, const Tensor& x, const StepDirection& direction, const Tensor& y,
                  const Tensor& gates, const Tensor& h, Stream stream) {
  with_scalar_type(x.scalar_type(),
                   [&](auto zero) { forward_direction<decltype(zero)>(s, x, direction, y, gates, h, stream); });
}

void gru_step_bwd(const Sequence& s, const Tensor& x, const StepDirection& direction, const Tensor& dy, const Tensor& y,
                  const Tensor& gates, const Tensor& h0, const Tensor& dh, bool need_dhx, bool first,
                  DirectionGrads& grads, const Tensor& dx, Stream stream) {
  with_scalar_type(x.scalar_type(), [&](auto zero) {
    backward_direction<decltype(zero)>(s, x, direction, dy, y, gates, h0, dh, need_dhx, first, grads, dx, stream);
  });
}

void gru_step_gates(const Sequence& s, const Chunk& chunk, const Tensor& x, const StepDirection& direction,
                    const Tensor& y, const Tensor& h0, const Tensor& gates, Stream stream) {
  with_scalar_type(x.scalar_type(), [&](auto zero) {
    using at_t = decltype(zero);
    const auto acc_dtype = acc_dtype_of(x.scalar_type());
    const Tensor states = at::empty({chunk.rows, s.H}, y.options().dtype(acc_dtype));
    gates_of_chunk<at_t>(s, chunk, x, direction, y, h0, states, gates, stream);
  });
}

}  // namespace gru_ext
