// The CPU backend: a layer forward. In each chunk a thread multiplies the chunk's input with the weights of its own
// hidden units, or all threads share that product; then the threads of the steps go through them (recurrence_body.h).
// Half precisions carry the state in fp32.
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

namespace gru_ext {
namespace {

using at::Tensor;

// Least rows of a chunk that a row group has: few enough for their gates to stay in the cache.
constexpr int64_t kFwdChunkRows = 128;
// To convert a value of x takes as long as so many operations of products.
constexpr double kFlopsOfCopy = 10;
// Whether the weights are packed. Calls of few rows read them where they are: packing costs a pass over I + H columns
// of them, and products with unpacked weights about so many columns' time for each row, with bfloat16 that becomes
// float twice as many. So does a vector of AVX-512 where rows of a weight do not begin at cache lines, so that it lies
// in two: on a Zen 5, in float32, packing is level at 64 to 190 rows for H = 512 and 120 to 170 for 848, but at 16 to
// 24 for 513 and 64 to 85 for 850.
constexpr int64_t kColumnsOfRow = 20;
// `passes`: what packing costs.
bool packs_weights(const Sequence& s, int64_t weight_size, int64_t passes, int64_t columns_of_row = kColumnsOfRow) {
  constexpr int64_t kCacheLine = 64;
  const int64_t columns = s.I + s.H;
  int64_t crossing = 0;
  for (const int64_t width : {s.I, s.H}) {
    if (cpu_isa() >= CpuIsa::avx512 && width * weight_size % kCacheLine != 0) crossing += width;
  }
  return columns_of_row * s.N * (columns + crossing) >= passes * columns * columns;
}
// Twice as dear where weights are far; but not of bfloat16 that is multiplied as it is: on a Zen 5 that is level at 64
// to 190 rows for H = 1024 and 60 to 110 for 2048.
int64_t passes_to_pack(const Sequence& s, int64_t weight_size) {
  return are_far(3 * s.H * (s.I + s.H) * weight_size) ? 2 : 1;
}
// On tiles, up to 16 rows take what one takes, and packing gains less. A prototype on Emerald Rapids packed for as long
// as seven steps then took (10,4,256: packed once 0.35 of a time, at each call 0.60); a step with weights as they are
// took 1.45 times as long at 5,4,256, 1.7 at 40,1,512, 1.6 at 1,16,1024 and 1.13 at 25,4,2560. So the two are level at
// 16, 10, 12 and 56 steps, if packing is seven steps everywhere; this has 16, 23, 32 and 51.
bool packs_weights_for_tiles(const Sequence& s) {
  const int64_t steps = s.T * ((s.B + 15) / 16);
  return 2 * steps * steps >= s.I + s.H;
}

// Tensors of a layer's call that all directions share.
template <typename scalar_t>
struct FwdTensors {
  const Layer& layer;
  Tensor x;            // contiguous rows
  const scalar_t* hx;  // (D, B, H); null for zero
  Tensor y;            // undefined where it is not saved
  scalar_t* h_n;       // (D, B, all_H)
  Tensor gates;        // of Variant::gates_shape; undefined where none are saved
  const LayerMasks& masks;
  const ArrangedWeights* arranged;  // of each direction, in the place of the weights; null where the call arranges them
};

template <typename scalar_t, typename operand_t>
class FwdPass {
 public:
  using acc_t = acc_type<scalar_t>;

  FwdPass(const Sequence& s, const FwdTensors<scalar_t>& tensors, int64_t direction, int threads, double wait)
      : s_(s),
        tensors_(tensors),
        direction_(direction),
        arrangement_{s.I, s.H, tensors.layer.variant.reset_after},
        rows_of_x_(tensors.x),
        rows_of_y_(tensors.y.defined() ? tensors.y : tensors.x),
        packs_(tensors.arranged == nullptr && should_pack()),
        in_words_(tensors.arranged == nullptr && !packs_ && takes_words()),
        wait_(wait),
        team_(work(threads), threads, wait),
        chunks_(chunks_of(s, team_.rows_of_region())),
        most_steps_(most_steps(chunks_)) {
    const ArrangedWeights* const given = tensors.arranged == nullptr ? nullptr : tensors.arranged + direction;
    const Tensor* weights = nullptr;
    if (given == nullptr) {
      weights = &tensors.layer.weights[direction * s.weights_per_direction()];
      weight_ih_ = weights[0].contiguous();
      weight_hh_ = weights[1].contiguous();
    }

    const int64_t groups = arrangement_.groups(), stride = arrangement_.stride(), lanes = arrangement_.kernel.lanes;
    const int64_t rows = most_rows(chunks_);
    copies_x_ = !std::is_same_v<scalar_t, operand_t> || !rows_of_x_.uniform(s) || in_words_;
    p_.I = s.I;
    p_.H = s.H;
    p_.reset_after = tensors.layer.variant.reset_after;
    p_.packed = packs_ || given != nullptr;
    p_.one_chain = splits_packed_rows(s);
    p_.norms = static_cast<int>(tensors.layer.variant.layer_norm);
    p_.B = s.B;
    p_.moment_rows = std::max(rows, s.B);
    p_.masks = tensors.masks.template of<acc_t>(s, direction);
    acc_t *bias, *gains, *packed_ih, *packed_hh, *packed_hn;
    workspace_.reserve(bias, given == nullptr ? 4 * stride : 0);
    workspace_.reserve(gains, given == nullptr && s.has_gains ? 6 * stride : 0);
    workspace_.reserve(p_.hidden_gates, s.has_gains ? groups * s.B * 3 * lanes : 0);
    workspace_.reserve(p_.moments, s.has_gains ? threads * p_.moment_rows * kMoments : 0);
    workspace_.reserve(p_.state, s.B * stride);
    workspace_.reserve(entering_, masks_h0() ? s.B * stride : 0);
    p_.unit_stride = stride;
    p_.h_stride = in_words_ ? words_stride(s.H) : kParts<operand_t> * stride;
    workspace_.reserve(p_.h[0], 2 * rows_in_memory(s.B) * p_.h_stride);
    workspace_.reserve(p_.input_gates, groups * rows * 3 * lanes);
    p_.x_stride = in_words_ ? words_stride(s.I) : copies_x_ ? kParts<operand_t> * s.I : rows_of_x_.stride_b;
    workspace_.reserve(copied_x_, copies_x_ ? rows_in_memory(rows) * p_.x_stride : 0);
    workspace_.reserve(row_of_x_, in_words_ ? s.I : 0);
    workspace_.reserve(steps_of_threads_, team_.steps_of_threads(most_steps_));
    workspace_.reserve(packed_ih, packs_ ? arrangement_.words_ih() : 0);
    workspace_.reserve(packed_hh, packs_ ? arrangement_.words_hh() : 0);
    workspace_.reserve(packed_hn, packs_ ? arrangement_.words_hn() : 0);
    workspace_.allocate();

    ArrangedWeights arranged{};
    if (given != nullptr) {
      arranged = *given;
    } else {
      arrangement_.fill_bias(s.has_bias ? weights + 2 : nullptr, s.has_bias ? weights + 3 : nullptr, bias);
      if (s.has_gains) fill_gains<scalar_t>(weights + s.weights_per_direction() - 2, s.H, gains, stride);
      arranged = {packed_ih, packed_hh, packed_hn, bias, gains};
      if (!packs_) {
        arranged.weight_ih = weight_ih_.const_data_ptr();
        arranged.weight_hh = weight_hh_.const_data_ptr();
        arranged.weight_hn = weight_hh_.const_data_ptr<scalar_t>() + 2 * s.H * s.H;
      }
    }
    p_.weight_ih = arranged.weight_ih;
    p_.weight_hh = arranged.weight_hh;
    p_.weight_hn = arranged.weight_hn;
    p_.input_bias = static_cast<const acc_t*>(arranged.bias);
    p_.bias_hn = p_.input_bias + 3 * stride;
    p_.gains = static_cast<const acc_t*>(arranged.gains);
    p_.h[1] = p_.h[0] + rows_in_memory(s.B) * p_.h_stride;
    if (!packs_) fill_state(0, s.B);
    p_.saves_y = tensors.y.defined();
    p_.y = p_.saves_y ? tensors.y.template data_ptr<scalar_t>() + direction * s.all_H : nullptr;
    p_.y_stride = rows_of_y_.stride_b;
    p_.saves_gates = tensors.gates.defined();
    p_.gates = p_.saves_gates ? tensors.gates.select(0, direction).template data_ptr<scalar_t>() : nullptr;
    p_.first_step = p_.step_count = 0;
    p_.has_input = team_.plan().shares_input;
    p_.all_rows = true;
  }

  bool prepares() const { return packs_; }
  size_t stretches() const { return chunks_.size(); }
  // Whether to begin a stretch is a call of its own, with threads of its own.
  bool begins_with_a_call() const { return false; }
  // Whether the bits of the results depend on the number of threads, which then stays what it is.
  bool sums_across_threads() const { return p_.norms > 0; }
  Team& team() { return team_; }

  void prepare(int thread, int team) {
    fill_state(share(s_.B, thread, team), share(s_.B, thread + 1, team));
    arrangement_.pack(weight_ih_.const_data_ptr<scalar_t>(), weight_hh_.const_data_ptr<scalar_t>(),
                      {p_.weight_ih, p_.weight_hh, p_.weight_hn, nullptr, nullptr}, thread, team);
  }

  void begin(size_t i) {
    chunk_ = &chunks_[direction_ == 1 ? chunks_.size() - 1 - i : i];
    const Chunk& chunk = *chunk_;
    is_last_ = i + 1 == chunks_.size();
    p_.first_step += p_.step_count;
    if (i > 0 && p_.norms > 0) ++p_.first_step;  // to normalise the input of a chunk counts as a step
    p_.step_count = chunk.t_end - chunk.t_begin;
    p_.rows = chunk.rows;
    team_.share_rows(s_, chunk.t_begin, chunk.t_end);
    steps_.clear();
    for (int64_t step = 0; step < p_.step_count; ++step) {
      const int64_t t = direction_ == 1 ? chunk.t_end - 1 - step : chunk.t_begin + step;
      steps_.push_back({s_.offset(t) - chunk.offset, s_.rows(t), s_.offset(t), rows_of_y_.offset(s_, t)});
    }
    p_.steps = steps_.data();
    // Where nothing is copied, scalar_t is operand_t.
    p_.x = copies_x_ ? copied_x_ : reinterpret_cast<const operand_t*>(x_of(chunk.t_begin));
  }

  enum { kCopies, kInput, kSteps, kPhases };
  int threads_of(int phase) const {
    if (phase == kCopies) return !copies_x_ ? 0 : shares_copies() ? team_.plan().threads : 1;
    if (phase == kInput) return p_.has_input ? team_.plan().threads : 0;
    return team_.plan().grid.size() > 1 ? team_.plan().threads : 1;
  }
  void run(int phase, int thread, int team) {
    const auto& kernel = arrangement_.kernel;
    if (phase == kCopies) return copy_x(thread, team);
    if (phase == kInput) {
      if (p_.has_input) kernel.multiply_input(p_, thread, team);
      return;
    }
    const auto steps = p_.masks.any ? kernel.fwd_masked : kernel.fwd;
    team_.run(thread, team, [&](int group, int member, int members, StepBarrier& barrier) {
      if (group == Team::kAllRows) {
        steps(p_, member, members, barrier);
      } else {
        steps(chunk_of(group, steps_of_threads_ + thread * most_steps_), member, members, barrier);
      }
      if (is_last_) keep_state(group, member, members);
    });
  }
  void finish() {}

  // The state of a thread's rows in each step, by members whose cores do not share its cache.
  double bytes_from_afar(int together) const {
    const Grid& grid = team_.plan().grid;
    return static_cast<double>(grid.members_afar(together)) / grid.size() * s_.N * s_.H * kParts<operand_t> *
           sizeof(operand_t);
  }

 private:
  static constexpr int64_t kMoments = 4;  // values of a row in p_.moments

  Work work(int threads) const {
    constexpr int64_t operand_size = kParts<operand_t> * sizeof(operand_t);
    const int64_t lanes = arrangement_.kernel.lanes;
    const int64_t chunk_steps = std::clamp<int64_t>(kFwdChunkRows / s_.B, 1, s_.T);
    // Bits depend on how many rows a product has, if they are fewer than those of a block and sum in several chains:
    // then chunks of few rows are those of one thread. Rows in words stay together.
    const bool splits = (!s_.is_packed() || splits_packed_rows(s_)) && !in_words_;
    const int64_t row_block = splits ? row_block_of(s_.B) : s_.B;
    // Half of the caches is for weights.
    const int64_t moments = s_.has_gains ? threads * kMoments : 0;
    const int64_t values = arrangement_.groups() * 3 * lanes + s_.I + moments;
    const int64_t row_bytes = splits && s_.B >= kRowBlock ? 2 * values * static_cast<int64_t>(sizeof(acc_t)) : 0;
    return {s_.T,
            kFwdChunkRows,
            /*chunk_of_group=*/true,
            row_bytes,
            s_.B,
            row_block,
            s_.H,
            tensors_.layer.variant.reset_after ? lanes : 2 * lanes,
            s_.has_gains || !tensors_.layer.variant.reset_after ? 2.0 : 1.0,
            vector_flops<operand_t>(recurrent_flops(s_), s_.B, /*cells=*/0),
            input_vector_flops<operand_t>(s_),
            static_cast<double>(3 * s_.H * (s_.H + s_.I / chunk_steps) * operand_size),
            static_cast<double>(3 * s_.B * s_.H * sizeof(acc_t)),
            vector_flops<operand_t>(0, s_.B, s_.B * s_.H),
            on_tiles<operand_t>() ? kTileProductRows : 1,
            rows_until_blocks(s_, row_block, 0, s_.T)};
  }

  // The chunk of a row group, for one of its threads.
  FwdChunk<scalar_t, operand_t> chunk_of(int group, Step* steps) const {
    const int64_t first = team_.first_row(group);
    FwdChunk<scalar_t, operand_t> p = p_;
    take_rows(p, first, team_.last_row(group), p.y_stride, steps);
    p.all_rows = false;
    p.state += first * p.unit_stride;
    for (operand_t*& h : p.h) h += first * p.h_stride;
    p.hidden_gates += first * 3 * arrangement_.kernel.lanes;
    p.moments += group * team_.plan().grid.unit_groups * p.moment_rows * kMoments;
    if (p.masks.recurrent != nullptr) p.masks.recurrent += first * s_.H;
    return p;
  }

  // The final state of a member's rows and units, which no other thread writes in the last chunk.
  void keep_state(int group, int member, int members) const {
    const int64_t row = team_.first_row(group);
    const int64_t unit = team_.first_unit(member, members);
    copy_rows(p_.state + row * p_.unit_stride + unit, p_.unit_stride,
              tensors_.h_n + (direction_ * s_.B + row) * s_.all_H + unit, s_.all_H, team_.last_row(group) - row,
              team_.first_unit(member + 1, members) - unit);
  }

  bool should_pack() const {
    if (kByParts<scalar_t, operand_t>) return true;
    if (takes_words()) return packs_weights_for_tiles(s_);
    if (!std::is_same_v<operand_t, acc_t>) return packs_weights(s_, sizeof(scalar_t), /*passes=*/1);
    constexpr bool widens = std::is_same_v<scalar_t, c10::BFloat16>;
    return packs_weights(s_, sizeof(scalar_t), passes_to_pack(s_, sizeof(scalar_t)),
                         widens ? 2 * kColumnsOfRow : kColumnsOfRow);
  }
  // Whether products with weights that are not packed take rows in words.
  bool takes_words() const { return arrangement_.kernel.to_words != nullptr; }
  // The words of 16 rows are together.
  int64_t rows_in_memory(int64_t rows) const { return in_words_ ? (rows + 15) / 16 * 16 : rows; }

  void put_operands(const acc_t* source, int64_t count, operand_t* rows, int64_t stride, int64_t row) const {
    if (in_words_) return arrangement_.kernel.to_words(source, count, rows, stride, row);
    arrangement_.kernel.to_operands(source, count, rows + row * stride, stride);
  }

  const scalar_t* x_of(int64_t t) const {
    return tensors_.x.template const_data_ptr<scalar_t>() + rows_of_x_.offset(s_, t);
  }
  // Whether the threads share the copies of a chunk's x: those in words are of few rows.
  bool shares_copies() const { return !in_words_ && pays(kFlopsOfCopy * p_.rows * s_.I, team_.plan().threads, wait_); }
  // A thread's share of the rows of a chunk's x, as operands: of those of its row group.
  void copy_x(int thread, int team) {
    if (in_words_) {  // through one buffer for a row
      if (thread == 0) copy_steps(0, s_.B, /*member=*/0, /*members=*/1);
      return;
    }
    if (p_.has_input) return copy_steps(0, s_.B, thread, team);
    team_.run(thread, team, [&](int group, int member, int members, StepBarrier&) {
      copy_steps(team_.first_row(group), team_.last_row(group), member, members);
    });
  }
  // Of the rows [first_row, last_row) of each step.
  void copy_steps(int64_t first_row, int64_t last_row, int member, int members) const {
    for (int64_t t = chunk_->t_begin; t < chunk_->t_end; ++t) {
      const scalar_t* const x = x_of(t);
      const int64_t rows = std::max<int64_t>(0, std::min(last_row, s_.rows(t)) - first_row);
      const int64_t end = first_row + share(rows, member + 1, members), place = s_.offset(t) - chunk_->offset;
      for (int64_t row = first_row + share(rows, member, members); row < end; ++row) {
        const scalar_t* const source = x + row * rows_of_x_.stride_b;
        operand_t* const target = copied_x_ + (place + row) * p_.x_stride;
        if (in_words_) {
          std::copy_n(source, s_.I, row_of_x_);
          arrangement_.kernel.to_words(row_of_x_, s_.I, copied_x_, p_.x_stride, place + row);
        } else if constexpr (std::is_same_v<scalar_t, operand_t>) {
          std::copy_n(source, s_.I, target);
        } else {
          arrangement_.kernel.input_to_operands(source, s_.I, target, p_.x_stride);
        }
      }
    }
  }

  bool masks_h0() const { return tensors_.hx != nullptr && p_.masks.recurrent != nullptr; }

  // h0, or zero, in the state and in its exchanged copies, of the rows [first, last): in both, as a row that begins
  // late is not written until then.
  void fill_state(int64_t first, int64_t last) {
    const int64_t stride = p_.unit_stride;
    const scalar_t* h0 = tensors_.hx == nullptr ? nullptr : tensors_.hx + direction_ * s_.B * s_.H;
    const int64_t given = h0 == nullptr ? 0 : s_.H;  // units of a row
    const bool masked = masks_h0();
    for (int64_t row = first; row < last; ++row) {
      acc_t* state = p_.state + row * stride;
      std::copy_n(h0 + row * given, given, state);
      std::fill_n(state + given, stride - given, acc_t(0));
      acc_t* const entering = entering_ + row * stride;
      for (int64_t unit = 0; masked && unit < stride; ++unit) {
        const bool kept = unit < given && p_.masks.recurrent[row * s_.H + unit];
        entering[unit] = (kept ? p_.masks.recurrent_scale : acc_t(0)) * state[unit];
      }
      put_operands(masked ? entering : state, in_words_ ? s_.H : stride, p_.h[0], p_.h_stride, row);
    }
    // In words, what is beyond H has to be zero.
    if (s_.T > 1 || in_words_) {
      const int64_t values = (rows_in_memory(last) - first) * p_.h_stride;
      std::copy_n(p_.h[0] + first * p_.h_stride, values, p_.h[1] + first * p_.h_stride);
    }
  }

  const Sequence& s_;
  const FwdTensors<scalar_t>& tensors_;
  const int64_t direction_;
  const Arrangement<scalar_t, operand_t> arrangement_;
  const Rows rows_of_x_, rows_of_y_;
  const bool packs_;     // whether this call packs the weights
  const bool in_words_;  // whether x and h are in words: kernels.h
  const double wait_;    // microseconds
  Team team_;
  const std::vector<Chunk> chunks_;
  const Chunk* chunk_;        // the present one
  const int64_t most_steps_;  // of a chunk
  Tensor weight_ih_;          // (3H, I); undefined where weights came arranged
  Tensor weight_hh_;          // (3H, H); likewise
  bool is_last_;              // whether this is the last chunk
  bool copies_x_;             // whether the rows of a chunk's x are converted or gathered
  operand_t* copied_x_;
  acc_t* row_of_x_;         // (I): a row that becomes words
  acc_t* entering_;         // (B, unit_stride): h0 with the mask of its dropout
  Step* steps_of_threads_;  // (threads of the steps, most_steps_)
  Workspace workspace_;
  std::vector<Step> steps_;
  FwdChunk<scalar_t, operand_t> p_;
};

// Weights that are not packed, or were before, are not in parts.
int parts_of_fwd(const Sequence& s, const ArrangedWeights* arranged) {
  const bool packs = arranged == nullptr && packs_weights(s, sizeof(float), passes_to_pack(s, sizeof(float)));
  return packs ? parts_of_float32(s) : 0;
}

}  // namespace

double fwd_vector_flops(const Sequence& s, at::ScalarType dtype, const ArrangedWeights* arranged) {
  return with_scalar_and_operand_type(dtype, parts_of_fwd(s, arranged), [&](auto, auto operand) {
    using operand_t = decltype(operand);
    return vector_flops<operand_t>(recurrent_flops(s), s.B, s.B * s.H) + input_vector_flops<operand_t>(s);
  });
}

FwdResult gru_fwd_cpu(const Layer& layer, bool save_gates, bool save_y) {
  return call_on_cpu([&] {
    const Sequence s = check_fwd(layer);
    const Tensor& x = layer.x;
    const auto options = x.options();
    const Tensor y = !save_y        ? pooled_empty({0}, options)
                     : x.dim() == 2 ? pooled_empty({s.N, s.D * s.H}, options)
                                    : pooled_empty({s.T, s.B, s.D * s.H}, options);
    const Tensor gates =
        save_gates ? pooled_empty(layer.variant.gates_shape(s.D, s.N, s.H), options) : pooled_empty({0}, options);
    const FwdResult results{y, pooled_empty({s.D, s.B, s.H}, options), gates};
    gru_fwd_cpu_into(s, layer, results);
    return results;
  });
}

void gru_fwd_cpu_into(const Sequence& s, const Layer& layer, const FwdResult& results, const ArrangedWeights* arranged,
                      Rehearsal* rehearsal) {
  const BelowAutogradAndAutocast guard;
  const Tensor &y = std::get<0>(results), &h_n = std::get<1>(results), &gates = std::get<2>(results);
  const Tensor& x = layer.x;
  const std::optional<Tensor>& hx = layer.hx;
  if (s.N == 0) {
    hx.has_value() ? h_n.copy_(*hx) : h_n.zero_();
    return;
  }
  const double flops = fwd_vector_flops(s, x.scalar_type(), arranged);
  with_scalar_and_operand_type(x.scalar_type(), parts_of_fwd(s, arranged), [&](auto scalar, auto operand) {
    using scalar_t = decltype(scalar);
    const Tensor h0 = contiguous_or_undefined(hx);
    const LayerMasks masks(layer.variant);
    const FwdTensors<scalar_t> tensors{layer,
                                       with_contiguous_rows(x),
                                       h0.defined() ? h0.const_data_ptr<scalar_t>() : nullptr,
                                       y.dim() > 1 ? y : Tensor(),
                                       h_n.data_ptr<scalar_t>(),
                                       gates.defined() && were_saved(gates) ? gates : Tensor(),
                                       masks,
                                       arranged};
    run_layer<FwdPass<scalar_t, decltype(operand)>>(s, tensors, flops, s.T * flops, rehearsal);
  });
}

}  // namespace gru_ext
