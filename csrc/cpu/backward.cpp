// The CPU backend: a layer backward. In each chunk the threads go through the steps in the opposite order
// (recurrence_body.h), then turn the gate gradients of all its rows into the gradients of the weights and of x
// (gradients_body.h). Half precisions carry dL/dh and sum the weight gradients in fp32. Gates that the forward has not
// kept are computed again, chunk by chunk (recompute.h).
#include <ATen/ATen.h>

#include <vector>

#include "cpu/buffers.h"
#include "cpu/call.h"
#include "cpu/kernels/kernels.h"
#include "cpu/op_cpu.h"
#include "cpu/pass.h"
#include "cpu/results.h"
#include "op/check.h"
#include "op/layer.h"
#include "op/recompute.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

// Rows of a chunk: enough for its products to run at full speed, few enough for its gate gradients to stay in the
// cache. More where their gates are computed again, which packs the weights for each chunk.
constexpr int64_t kBwdChunkRows = 512, kComputedChunkRows = 1024;

// Tensors of a layer's call that all directions share; undefined or null where not given.
template <typename scalar_t>
struct BwdTensors {
  Tensor x;   // contiguous rows
  Tensor hx;  // (D, B, H), contiguous
  TensorList weights;
  const Variant& variant;
  Tensor y;
  Tensor gates;                  // of Variant::gates_shape; undefined where they were not saved
  Tensor dy;                     // contiguous rows
  const scalar_t* dh_n;          // (D, B, H)
  Need need;                     // of what follows
  std::vector<Tensor> dx;        // (D)  (N, I): one for each direction, the same one unless they run side by side
  Tensor dhx;                    // (D, B, all_H)
  std::vector<Tensor> dweights;  // as weights
  const LayerMasks& masks;
};

template <typename scalar_t, typename operand_t>
class BwdPass {
 public:
  using acc_t = acc_type<scalar_t>;

  BwdPass(const Sequence& s, const BwdTensors<scalar_t>& tensors, int64_t direction, int threads, double wait)
      : s_(s),
        tensors_(tensors),
        direction_(direction),
        chunks_(chunks_of(s, tensors.gates.defined() ? kBwdChunkRows : kComputedChunkRows)),
        rows_of_x_(tensors.x),
        rows_of_y_(tensors.y),
        rows_of_dy_(tensors.dy.defined() ? tensors.dy : tensors.y),
        team_(work(), plan(threads, wait)) {
    const int64_t first_weight = direction * s.weights_per_direction();
    weight_ih_ = tensors.weights[first_weight].contiguous();
    weight_hh_ = tensors.weights[first_weight + 1].contiguous();

    const bool need_dx = tensors.need.dx, need_dweights = tensors.need.dweights;
    const int64_t rows = most_rows(chunks_);
    const int64_t padded_H = (s.H + kernel_.panel_columns - 1) / kernel_.panel_columns * kernel_.panel_columns;
    p_.I = s.I;
    p_.H = s.H;
    p_.B = s.B;
    p_.masks = tensors.masks.template of<acc_t>(s, direction);
    p_.dh_stride = padded_H + kSkew;
    p_.reset_after = tensors.variant.reset_after;
    p_.norms = static_cast<int>(tensors.variant.layer_norm);
    p_.dgates_of_h = s.has_gains ? 3 * s.H : s.H;
    p_.dgates_stride = kParts<operand_t> * ((s.has_gains ? 6 : tensors.variant.saved_gates()) * s.H + 2 * kSkew);
    p_.sums = s.has_gains ? 10 : 4;
    p_.need_dx = need_dx;
    p_.need_dweights = need_dweights;
    const size_t dh = workspace_.reserve<acc_t>(s.B * p_.dh_stride);
    const int64_t sums_of_blocks = (s.B + kRowBlock - 1) / kRowBlock * p_.sums * p_.dh_stride;
    const size_t dbias = workspace_.reserve<acc_t>(2 * sums_of_blocks);
    const size_t gains = workspace_.reserve<acc_t>(s.has_gains ? 7 * p_.dh_stride : 0);
    const size_t da = workspace_.reserve<acc_t>(s.has_gains ? 4 * s.B * p_.dh_stride : 0);
    const size_t moments = workspace_.reserve<acc_t>(s.has_gains ? threads * s.B * kMoments : 0);
    const size_t dgates = workspace_.reserve<operand_t>(rows * p_.dgates_stride);
    const int64_t states = p_.reset_after ? 1 : 2;  // of a row: h, and r * h
    const size_t panels = workspace_.reserve<acc_t>(
        need_dweights ? packed_words(kernel_, rows, s.I) + states * packed_words(kernel_, rows, s.H) : 0);
    const size_t operand = workspace_.reserve<scalar_t>(need_dweights && p_.masks.recurrent ? rows * s.H : 0);
    const size_t packed_hh =
        workspace_.reserve<acc_t>(uses_weight_hh() ? packed_words(kernel_, gates_of_h() * s.H, s.H) : 0);
    const size_t packed_hn = workspace_.reserve<acc_t>(p_.reset_after ? 0 : packed_words(kernel_, s.H, s.H));
    const size_t packed_ih = workspace_.reserve<acc_t>(need_dx ? packed_words(kernel_, 3 * s.H, s.I) : 0);
    // Half precisions: the sums over chunks, in fp32.
    constexpr bool sums = !std::is_same_v<scalar_t, acc_t>;
    const size_t dweight_ih = workspace_.reserve<acc_t>(need_dweights && sums ? 3 * s.H * s.I : 0);
    const size_t dweight_hh = workspace_.reserve<acc_t>(need_dweights && sums ? 3 * s.H * s.H : 0);
    workspace_.allocate();

    p_.dh = workspace_.at<acc_t>(dh);
    std::fill_n(p_.dh, s.B * p_.dh_stride, acc_t(0));
    if (tensors.dh_n != nullptr) {
      copy_rows(tensors.dh_n + direction * s.B * s.H, s.H, p_.dh, p_.dh_stride, s.B, s.H);
    }
    p_.dbias = workspace_.at<acc_t>(dbias);
    p_.dbias_partial = p_.dbias + sums_of_blocks;
    std::fill_n(p_.dbias, 2 * sums_of_blocks, acc_t(0));
    if (s.has_gains) fill_gains_and_bias(workspace_.at<acc_t>(gains));
    p_.da = workspace_.at<acc_t>(da);
    p_.moments = workspace_.at<acc_t>(moments);
    p_.moment_rows = s.B;
    p_.dgates = workspace_.at<operand_t>(dgates);
    p_.panels = workspace_.at<acc_t>(panels);
    p_.operand = workspace_.at<scalar_t>(operand);
    packed_hh_ = workspace_.at<acc_t>(packed_hh);
    packed_hn_ = workspace_.at<acc_t>(packed_hn);
    packed_ih_ = workspace_.at<acc_t>(packed_ih);
    p_.weight_hh = packed_hh_;
    p_.weight_hn = packed_hn_;
    p_.weight_ih = packed_ih_;
    if (need_dweights) {
      if constexpr (sums) {
        p_.dweight_ih = workspace_.at<acc_t>(dweight_ih);
        p_.dweight_hh = workspace_.at<acc_t>(dweight_hh);
      } else {
        p_.dweight_ih = tensors.dweights[first_weight].template data_ptr<acc_t>();
        p_.dweight_hh = tensors.dweights[first_weight + 1].template data_ptr<acc_t>();
      }
    }
    p_.dy = tensors.dy.defined() ? tensors.dy.template const_data_ptr<scalar_t>() + direction * s.all_H : nullptr;
    p_.dy_stride = rows_of_dy_.stride_b;
    p_.first_step = 0;
    if (!tensors.gates.defined()) {
      states_ = pooled_empty({1, rows, s.H}, tensors.y.options());
      computed_gates_ = pooled_empty(tensors.variant.gates_shape(1, rows, s.H), tensors.y.options());
    }
    x_.reserve(rows);
    h_prev_.reserve(rows);
    dx_.reserve(need_dx ? rows : 0);
  }

  bool packs() const { return uses_weight_hh() || !p_.reset_after || p_.need_dx; }
  size_t chunks() const { return chunks_.size(); }
  // Whether the bits of the results depend on the number of threads, which then stays what it is.
  bool sums_across_threads() const { return p_.norms > 0; }
  Team& team() { return team_; }

  void pack(int thread, int team) {
    const auto pack = [&](const scalar_t* weights, int64_t gates, int64_t columns, int64_t first_row, acc_t* packed) {
      const int64_t panels = (columns + kernel_.panel_columns - 1) / kernel_.panel_columns;
      kernel_.pack_columns(weights, gates * s_.H, columns, first_row, share(panels, thread, team),
                           share(panels, thread + 1, team), packed);
    };
    const auto* weight_hh = weight_hh_.const_data_ptr<scalar_t>();
    if (uses_weight_hh()) pack(weight_hh, gates_of_h(), s_.H, /*first_row=*/0, packed_hh_);
    if (!p_.reset_after) pack(weight_hh + 2 * s_.H * s_.H, /*gates=*/1, s_.H, /*first_row=*/0, packed_hn_);
    if (p_.need_dx) {
      pack(weight_ih_.const_data_ptr<scalar_t>(), /*gates=*/3, s_.I, /*first_row=*/2 * s_.H, packed_ih_);
    }
  }

  void begin(size_t i) {
    const bool reverse = direction_ == 1;
    const Chunk& chunk = chunks_[reverse ? i : chunks_.size() - 1 - i];
    p_.first = i == 0;
    if (i > 0) p_.first_step += p_.step_count + 1;
    p_.step_count = chunk.t_end - chunk.t_begin;
    p_.rows = chunk.rows;
    p_.last_product = tensors_.need.dhx || i + 1 < chunks_.size();
    steps_.clear();
    for (int64_t step = 0; step < p_.step_count; ++step) {
      const int64_t t = reverse ? chunk.t_begin + step : chunk.t_end - 1 - step;
      steps_.push_back({s_.offset(t) - chunk.offset, s_.rows(t), s_.offset(t), rows_of_dy_.offset(s_, t)});
    }
    p_.steps = steps_.data();

    const scalar_t* x = tensors_.x.template const_data_ptr<scalar_t>();
    const scalar_t* y = tensors_.y.template const_data_ptr<scalar_t>() + direction_ * s_.all_H;
    const Tensor initial = tensors_.hx.defined() ? tensors_.hx.select(0, direction_) : Tensor();
    const scalar_t* h0 = initial.defined() ? initial.template const_data_ptr<scalar_t>() : nullptr;
    gates_ = tensors_.gates.defined() ? tensors_.gates.select(0, direction_).narrow(0, chunk.offset, chunk.rows)
                                      : gates_of(chunk, initial);
    p_.gates = gates_.template const_data_ptr<scalar_t>();
    x_.clear();
    h_prev_.clear();
    dx_.clear();
    for (int64_t t = chunk.t_begin; t < chunk.t_end; ++t) {
      const int64_t t_prev = reverse ? t + 1 : t - 1;
      const int64_t prev_rows = t_prev >= 0 && t_prev < s_.T ? s_.rows(t_prev) : 0;
      for (int64_t row = 0; row < s_.rows(t); ++row) {
        x_.push_back(x + rows_of_x_.offset(s_, t) + row * rows_of_x_.stride_b);
        h_prev_.push_back(row < prev_rows ? y + rows_of_y_.offset(s_, t_prev) + row * rows_of_y_.stride_b
                          : h0 != nullptr ? h0 + row * s_.H
                                          : nullptr);
      }
    }
    p_.x = x_.data();
    p_.h_prev = h_prev_.data();
    if (p_.need_dx) {
      scalar_t* dx = tensors_.dx[direction_].template data_ptr<scalar_t>() + chunk.offset * s_.I;
      for (int64_t row = 0; row < chunk.rows; ++row) dx_.push_back(dx + row * s_.I);
      p_.dx = dx_.data();
      p_.add_to_dx = reverse && tensors_.dx[0].is_same(tensors_.dx[1]);
    }
    if (team_.row_groups() == 1) return;
    groups_.assign(team_.row_groups(), p_);
    steps_of_groups_.resize(team_.row_groups());
    for (int group = 0; group < team_.row_groups(); ++group) fill_group(group);
  }

  enum { kSteps, kGradients, kPhases };
  int threads_of(int phase) const {
    return phase == kSteps || p_.need_dx || p_.need_dweights ? team_.plan().threads : 0;
  }
  void run(int phase, int thread, int team) {
    if (phase == kGradients) return kernel_.gradients(p_, thread, team);
    // Threads that have no part in the steps pack the rows meanwhile, if they are as many as the others.
    const int others = team - team_.plan().grid.size();
    const int first = 2 * others >= team ? team - others : 0;
    if (thread >= first) kernel_.pack_rows(p_, thread - first, team - first);
    team_.run(thread, team, [&](int group, int member, int members, StepBarrier& barrier) {
      const auto& chunk = group == Team::kAllRows ? p_ : groups_[group];
      (chunk.masks.any ? kernel_.bwd_masked : kernel_.bwd)(chunk, member, members, barrier);
    });
  }

  void finish() {
    for (int64_t block = 1; block * kRowBlock < s_.B; ++block) {
      const acc_t* sums = p_.dbias + block * p_.sums * p_.dh_stride;
      for (int64_t i = 0; i < p_.sums * p_.dh_stride; ++i) p_.dbias[i] += sums[i];
    }
    if (tensors_.need.dhx) {
      scalar_t* dhx = tensors_.dhx.template data_ptr<scalar_t>() + direction_ * s_.B * s_.all_H;
      copy_rows(p_.dh, p_.dh_stride, dhx, s_.all_H, s_.B, s_.H);
    }
    if (!tensors_.need.dweights) return;
    const Tensor* dweights = &tensors_.dweights[direction_ * s_.weights_per_direction()];
    if constexpr (!std::is_same_v<scalar_t, acc_t>) {
      std::copy_n(p_.dweight_ih, 3 * s_.H * s_.I, dweights[0].data_ptr<scalar_t>());
      std::copy_n(p_.dweight_hh, 3 * s_.H * s_.H, dweights[1].data_ptr<scalar_t>());
    }
    const auto copy_gate = [&](int64_t from, const Tensor& bias, int64_t to) {
      copy_rows(p_.dbias + from * p_.dh_stride, s_.H, bias.data_ptr<scalar_t>() + to * s_.H, s_.H, 1, s_.H);
    };
    if (s_.has_gains) {
      for (int64_t i = 0; i < 6; ++i) copy_gate(4 + i, dweights[s_.weights_per_direction() - 2 + i / 3], i % 3);
    }
    if (!s_.has_bias) return;
    enum { n, r, z, q };  // the order of dbias; that of the parameters is r, z, and n or q
    copy_gate(r, dweights[2], 0);
    copy_gate(z, dweights[2], 1);
    copy_gate(n, dweights[2], 2);
    copy_gate(r, dweights[3], 0);
    copy_gate(z, dweights[3], 1);
    copy_gate(p_.reset_after ? q : n, dweights[3], 2);
  }

 private:
  static constexpr int64_t kMoments = 8;  // values of a row in p_.moments

  Work work() const {
    return {s_.T, kBwdChunkRows,
            /*chunk_of_group=*/false, s_.B,
            // Rows that end early stay in one group, as bits depend on how many rows a product has.
            s_.packed_sizes.empty() ? kRowBlock : s_.B, s_.H, kernel_.panel_columns,
            s_.has_gains || !tensors_.variant.reset_after ? 2.0 : 1.0, 6.0 * s_.B * s_.H * s_.H,
            /*input_flops=*/0, static_cast<double>(3 * s_.H * s_.H * kParts<operand_t> * sizeof(operand_t)),
            /*input_gate_bytes=*/0};
  }
  // All threads share the gradients of a chunk, if these alone are worth them.
  Plan plan(int threads, double wait) const {
    Plan plan = fastest_plan(work(), threads, wait);
    const int64_t rows = std::min(s_.N, std::max(kBwdChunkRows, s_.B));
    const int64_t inputs = (tensors_.need.dx + tensors_.need.dweights) * s_.I + tensors_.need.dweights * s_.H;
    if (pays(6.0 * rows * s_.H * inputs, threads, wait)) plan.threads = threads;
    return plan;
  }

  // The chunk of a row group.
  void fill_group(int group) {
    const int64_t first = team_.first_row(group), block = first / kRowBlock;
    BwdChunk<scalar_t, operand_t>& p = groups_[group];
    p.B = team_.first_row(group + 1) - first;
    steps_of_groups_[group] = steps_of_rows(steps_, first, first + p.B, p.dy_stride);
    p.steps = steps_of_groups_[group].data();
    p.dh += first * p.dh_stride;
    p.da += first * 4 * p.dh_stride;
    p.moments += group * team_.plan().grid.unit_groups * p.moment_rows * kMoments;
    p.dbias += block * p.sums * p.dh_stride;
    p.dbias_partial += block * p.sums * p.dh_stride;
    if (p.masks.recurrent != nullptr) p.masks.recurrent += first * s_.H;
  }

  bool uses_weight_hh() const { return s_.T > 1 || tensors_.need.dhx; }
  // p_.gains and, after them, p_.bias_hn.
  void fill_gains_and_bias(acc_t* gains) {
    const Tensor* weights = &tensors_.weights[direction_ * s_.weights_per_direction()];
    fill_gains<scalar_t>(weights + s_.weights_per_direction() - 2, s_.H, gains, p_.dh_stride);
    acc_t* bias_hn = gains + 6 * p_.dh_stride;
    std::fill_n(bias_hn, p_.dh_stride, acc_t(0));
    if (s_.has_bias) {
      copy_rows(weights[3].contiguous().const_data_ptr<scalar_t>() + 2 * s_.H, s_.H, bias_hn, s_.H, 1, s_.H);
    }
    p_.gains = gains;
    p_.bias_hn = bias_hn;
  }
  // Gates whose recurrent product is of the state itself.
  int64_t gates_of_h() const { return p_.reset_after ? 3 : 2; }

  // Computes the gates of a chunk again. `h0`: (B, H).
  Tensor gates_of(const Chunk& chunk, const Tensor& h0) const {
    const Tensor states = states_.narrow(1, 0, chunk.rows), gates = computed_gates_.narrow(1, 0, chunk.rows);
    const Tensor y = tensors_.y.narrow(-1, direction_ * s_.all_H, s_.H);
    copy_states_before(s_, chunk, /*reverse=*/direction_ == 1, y, h0, states[0]);
    const Tensor x = input_of(s_, tensors_.x, chunk);
    const std::optional<Tensor> hx = states, no_batch_sizes;
    const int64_t per_direction = s_.weights_per_direction();
    const Layer layer{x,
                      hx,
                      tensors_.weights.slice(direction_ * per_direction, per_direction),
                      no_batch_sizes,
                      /*bidirectional=*/false,
                      variant_of_gates(s_, chunk, direction_, tensors_.variant)};
    // The step's own new states are of no use: they replace the old ones, which it has read by then.
    gru_fwd_cpu_into(as_one_step(s_, chunk), layer, {at::empty({0}, y.options()), states, gates});
    return gates[0];
  }

  const Sequence& s_;
  const BwdTensors<scalar_t>& tensors_;
  const int64_t direction_;
  const BwdKernels<scalar_t, operand_t> kernel_ = bwd_kernels<scalar_t, operand_t>();
  const std::vector<Chunk> chunks_;
  const Rows rows_of_x_, rows_of_y_, rows_of_dy_;
  Team team_;
  Tensor weight_ih_;                // (3H, I)
  Tensor weight_hh_;                // (3H, H)
  Tensor gates_;                    // of the chunk
  Tensor states_, computed_gates_;  // (1, rows, H), Variant::gates_shape: where gates are computed again
  acc_t *packed_ih_, *packed_hh_, *packed_hn_;
  Workspace workspace_;
  std::vector<Step> steps_;
  std::vector<const scalar_t*> x_, h_prev_;
  std::vector<scalar_t*> dx_;
  BwdChunk<scalar_t, operand_t> p_;
  std::vector<BwdChunk<scalar_t, operand_t>> groups_;  // of p_, where there are several row groups
  std::vector<std::vector<Step>> steps_of_groups_;
};

}  // namespace

BwdResult gru_bwd_cpu(const std::optional<Tensor>& dy, const std::optional<Tensor>& dh_n, const Layer& layer,
                      const Tensor& y, const Tensor& gates, Need need) {
  return call_on_cpu([&] {
    const Sequence s = check_bwd(dy, dh_n, layer, y, gates);
    const auto options = layer.x.options();
    const Tensor dx = need.dx ? pooled_empty(layer.x.sizes(), options) : at::empty({0}, options);
    const Tensor dhx = need.dhx ? at::empty({s.D, s.B, s.H}, options) : at::empty({0}, options);
    std::vector<Tensor> dweights;
    if (need.dweights) {
      for (const Tensor& weight : layer.weights) dweights.push_back(pooled_empty(weight.sizes(), options));
    }
    const BwdResult results{dx, dhx, dweights};
    gru_bwd_cpu_into(s, dy, dh_n, layer, y, gates, need, results);
    return results;
  });
}

void gru_bwd_cpu_into(const Sequence& s, const std::optional<Tensor>& dy, const std::optional<Tensor>& dh_n,
                      const Layer& layer, const Tensor& y, const Tensor& gates, Need need, const BwdResult& results,
                      Rehearsal* rehearsal) {
  const BelowAutogradAndAutocast guard;
  const Tensor dx = std::get<0>(results), dhx = std::get<1>(results);
  const std::vector<Tensor>& dweights = std::get<2>(results);
  const Tensor& x = layer.x;
  const std::optional<Tensor>& hx = layer.hx;
  if (s.N == 0) {
    if (need.dhx) dh_n.has_value() ? dhx.copy_(*dh_n) : dhx.zero_();
    for (const Tensor& grad : dweights) grad.zero_();
    return;
  }
  with_scalar_and_operand_type(x.scalar_type(), parts_of_float32(s), [&](auto scalar, auto operand) {
    using scalar_t = decltype(scalar);
    const Tensor h0 = hx.has_value() ? hx->contiguous() : Tensor();
    const Tensor last = dh_n.has_value() ? dh_n->contiguous() : Tensor();
    const auto data = [](const Tensor& tensor) {
      return tensor.defined() ? tensor.const_data_ptr<scalar_t>() : nullptr;
    };
    const double flops = bwd_flops(s);
    const bool side_by_side = runs_side_by_side(s, flops);
    std::vector<Tensor> dx_of_directions;
    if (need.dx) dx_of_directions.assign(2, dx);
    if (need.dx && side_by_side) dx_of_directions[1] = pooled_empty(dx.sizes(), dx.options());
    const LayerMasks masks(layer.variant);
    const BwdTensors<scalar_t> tensors{with_contiguous_rows(x),
                                       h0,
                                       layer.weights,
                                       layer.variant,
                                       y,
                                       were_saved(gates) ? gates : Tensor(),
                                       dy.has_value() ? with_contiguous_rows(*dy) : Tensor(),
                                       data(last),
                                       need,
                                       dx_of_directions,
                                       dhx,
                                       dweights,
                                       masks};
    run_layer<BwdPass<scalar_t, decltype(operand)>>(s, tensors, flops, rehearsal);
    if (need.dx && side_by_side) dx.add_(dx_of_directions[1]);
  });
}

}  // namespace gru_ext
