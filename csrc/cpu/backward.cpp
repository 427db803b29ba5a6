// The CPU backend: a layer backward. In each chunk the threads go through the steps in the opposite order
// (recurrence_body.h), then turn the gate gradients of all its rows into the gradients of the weights and of x
// (gradients_body.h). Half precisions carry dL/dh and sum the weight gradients in fp32. Gates that the forward has not
// kept are computed again, chunk by chunk (recompute.h).
//
// Many threads go through the steps of several chunks, a stretch, before the gradients of all of them: so there are
// fewer parts at whose ends they wait. The sums over rows begin anew with each chunk, so that the bits do not depend on
// it.
#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <set>
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

// Rows of a chunk: enough for its products to run at full speed, few enough for its gate gradients to stay in the
// cache. More where their gates are computed again, which packs the weights for each chunk.
constexpr int64_t kBwdChunkRows = 512, kComputedChunkRows = 1024;
// Calls of fewer rows read the weights where they are, instead of packing them; of a quarter where weights do not stay
// in the cache, as they are then read again for each few rows, or are converted each time. Measured on a Zen 3 with one
// thread, without the weight gradients: float32 is level at 64 rows for H = 64, 30 for 256, 14 for 512 and 10 for 1024,
// bfloat16 at 12 rows for 256 and 6 for 1024.
constexpr int64_t kRowsWorthPacking = 32;

// Tensors of a layer's call that all directions share; undefined or null where not given.
template <typename scalar_t>
struct BwdTensors {
  const Layer& layer;
  Tensor x;   // contiguous rows
  Tensor hx;  // (D, B, H), contiguous
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
        packs_(should_pack()),
        team_(work(), threads, wait),
        most_steps_(most_steps(chunks_)) {
    const int64_t first_weight = direction * s.weights_per_direction();
    weight_ih_ = tensors.layer.weights[first_weight].contiguous();
    weight_hh_ = tensors.layer.weights[first_weight + 1].contiguous();

    const bool need_dx = tensors.need.dx, need_dweights = tensors.need.dweights;
    if (shares_gradients(threads, wait)) team_.use_all(threads);
    find_stretches();
    const auto of_stretch = [&](const auto& value) {
      int64_t most = 0;
      for (const Stretch& stretch : stretches_) most = std::max(most, sum_of(stretch, value));
      return most;
    };
    const int64_t rows = of_stretch([](const Chunk& chunk) { return chunk.rows; });
    const int64_t most_ranges = of_stretch(ranges_of);
    p_.reset_after = tensors.layer.variant.reset_after;
    keeps_products_ = need_dweights && keeps_products(most_ranges);
    const int64_t padded_H = panels_of(s.H) * kernel_.panel_columns;
    p_.I = s.I;
    p_.H = s.H;
    p_.B = s.B;
    p_.masks = tensors.masks.template of<acc_t>(s, direction);
    p_.dh_stride = padded_H + kSkew;
    p_.norms = static_cast<int>(tensors.layer.variant.layer_norm);
    p_.dgates_of_h = s.has_gains ? 3 * s.H : s.H;
    p_.dgates_stride = kParts<operand_t> * ((s.has_gains ? 6 : tensors.layer.variant.saved_gates()) * s.H + 2 * kSkew);
    p_.sums = s.has_gains ? 10 : 4;
    p_.row_block = row_block_of(s.B);
    p_.need_dx = need_dx;
    p_.need_dweights = need_dweights;
    const int64_t bias_sums = bias_blocks() * p_.sums * p_.dh_stride;
    acc_t *gains, *sums_ih, *sums_hh;
    workspace_.reserve(p_.dh, s.B * p_.dh_stride);
    workspace_.reserve(p_.dbias, 2 * bias_sums);
    workspace_.reserve(gains, s.has_gains ? 7 * p_.dh_stride : 0);
    workspace_.reserve(p_.da, s.has_gains ? 4 * s.B * p_.dh_stride : 0);
    workspace_.reserve(p_.moments, s.has_gains ? threads * s.B * kMoments : 0);
    workspace_.reserve(p_.dgates, rows * p_.dgates_stride);
    workspace_.reserve(p_.panels,
                       need_dweights ? of_stretch([&](const Chunk& chunk) { return words_of_panels(chunk); }) : 0);
    workspace_.reserve(p_.products, keeps_products_ ? most_ranges * values_of_weights() : 0);
    workspace_.reserve(p_.operand, need_dweights && p_.masks.recurrent ? rows * s.H : 0);
    workspace_.reserve(packed_hh_, packs_ && uses_weight_hh() ? packed_words(kernel_, gates_of_h() * s.H, s.H) : 0);
    workspace_.reserve(packed_hn_, packs_ && !p_.reset_after ? packed_words(kernel_, s.H, s.H) : 0);
    workspace_.reserve(packed_ih_, packs_ && need_dx ? packed_words(kernel_, 3 * s.H, s.I) : 0);
    workspace_.reserve(x_, s.N);
    workspace_.reserve(h_prev_, s.N);
    workspace_.reserve(dx_, need_dx ? s.N : 0);
    workspace_.reserve(steps_of_threads_, team_.steps_of_threads(most_steps_));
    // Half precisions: sums in fp32.
    constexpr bool sums = !std::is_same_v<scalar_t, acc_t>;
    const bool keeps_sums = need_dweights && sums && s.N > kLongestSum;
    workspace_.reserve(sums_ih, keeps_sums ? 3 * s.H * s.I : 0);
    workspace_.reserve(sums_hh, keeps_sums ? 3 * s.H * s.H : 0);
    workspace_.allocate();

    p_.dbias_partial = p_.dbias + bias_sums;
    if (s.has_gains) fill_gains_and_bias(gains);
    p_.moment_rows = s.B;
    if (!keeps_products_) p_.products = nullptr;
    p_.packed = packs_;
    p_.one_chain = splits_packed_rows(s);
    const auto* weight_hh_data = weight_hh_.template const_data_ptr<scalar_t>();
    p_.weight_hh = packs_ ? static_cast<const void*>(packed_hh_) : weight_hh_data;
    p_.weight_hn = packs_ ? static_cast<const void*>(packed_hn_) : weight_hh_data + 2 * s.H * s.H;
    p_.weight_ih = packs_ ? packed_ih_ : weight_ih_.const_data_ptr();
    if (need_dweights) {
      p_.dweight_ih = tensors.dweights[first_weight].template data_ptr<scalar_t>();
      p_.dweight_hh = tensors.dweights[first_weight + 1].template data_ptr<scalar_t>();
      if constexpr (sums) {
        p_.sums_ih = sums_ih;
        p_.sums_hh = sums_hh;
      } else {
        p_.sums_ih = p_.dweight_ih;
        p_.sums_hh = p_.dweight_hh;
      }
    }
    p_.dy = tensors.dy.defined() ? tensors.dy.template const_data_ptr<scalar_t>() + direction * s.all_H : nullptr;
    p_.dy_stride = rows_of_dy_.stride_b;
    p_.first_step = 0;
    p_.add_to_dx = need_dx && direction == 1 && tensors.dx[0].is_same(tensors.dx[1]);
    if (tensors.gates.defined()) {
      gates_ = tensors.gates.select(0, direction);
    } else {
      states_ = pooled_empty({1, rows, s.H}, tensors.y.options());
      computed_gates_ = pooled_empty(tensors.layer.variant.gates_shape(1, rows, s.H), tensors.y.options());
    }
    const Tensor h0 = initial();
    h0_ = h0.defined() ? h0.template const_data_ptr<scalar_t>() : nullptr;
    steps_.reserve(of_stretch([](const Chunk& chunk) { return chunk.t_end - chunk.t_begin; }));
    parts_.reserve(of_stretch([](const Chunk&) { return 1; }));
    if (!packs_) prepare(0, 1);
  }

  bool prepares() const { return packs_; }
  size_t stretches() const { return stretches_.size(); }
  // Whether to begin a stretch is a call of its own, with threads of its own: gates are computed again.
  bool begins_with_a_call() const { return !tensors_.gates.defined(); }
  // Whether the bits of the results depend on the number of threads, which then stays what it is.
  bool sums_across_threads() const { return p_.norms > 0; }
  Team& team() { return team_; }

  void prepare(int thread, int team) {
    fill_sums(thread, team);
    for (int64_t t = share(s_.T, thread, team); t < share(s_.T, thread + 1, team); ++t) find_rows(t);
    if (!packs_) return;
    const auto pack = [&](const scalar_t* weights, int64_t gates, int64_t columns, int64_t first_row, int number,
                          acc_t* packed) {
      const int64_t panels = panels_of(columns);
      kernel_.pack_columns(weights, gates * s_.H, columns, first_row, share(panels, number, team),
                           share(panels, number + 1, team), packed);
    };
    const auto* weight_hh = weight_hh_.const_data_ptr<scalar_t>();
    if (uses_weight_hh()) pack(weight_hh, gates_of_h(), s_.H, /*first_row=*/0, thread, packed_hh_);
    if (!p_.reset_after) pack(weight_hh + 2 * s_.H * s_.H, /*gates=*/1, s_.H, /*first_row=*/0, thread, packed_hn_);
    // Where threads are more than panels, others have those of W.
    const int from_last = team - 1 - thread;
    if (p_.need_dx) {
      pack(weight_ih_.const_data_ptr<scalar_t>(), /*gates=*/3, s_.I, /*first_row=*/2 * s_.H, from_last, packed_ih_);
    }
  }

  void begin(size_t i) {
    const Stretch& stretch = stretches_[i];
    const Chunk &first = nth_chunk(stretch.first), &last = nth_chunk(stretch.last - 1);
    team_.share_rows(s_, std::min(first.t_begin, last.t_begin), std::max(first.t_end, last.t_end));
    steps_.clear();
    parts_.clear();
    BwdChunk<scalar_t, operand_t> p = p_;
    for (size_t index = stretch.first; index < stretch.last; ++index) {
      const Chunk& chunk = nth_chunk(index);
      p.first = index == 0;
      p.last = index + 1 == chunks_.size();
      p.step_count = chunk.t_end - chunk.t_begin;
      p.rows = chunk.rows;
      p.last_product = tensors_.need.dhx || !p.last;
      p.steps = steps_.data() + steps_.size();
      for (int64_t step = 0; step < p.step_count; ++step) {
        const int64_t t = direction_ == 1 ? chunk.t_begin + step : chunk.t_end - 1 - step;
        steps_.push_back({s_.offset(t) - chunk.offset, s_.rows(t), s_.offset(t), rows_of_dy_.offset(s_, t)});
      }
      if (!tensors_.gates.defined()) gates_ = gates_of(chunk, initial());
      const int64_t first_row = tensors_.gates.defined() ? chunk.offset : 0;
      p.gates = gates_.template const_data_ptr<scalar_t>() + first_row * gates_.stride(0);
      p.x = x_ + chunk.offset;
      p.h_prev = h_prev_ + chunk.offset;
      p.dx = dx_ + chunk.offset;
      parts_.push_back(p);
      p.first_step += p.step_count + 1;
      p.dgates += p.rows * p.dgates_stride;
      p.panels += words_of_panels(chunk);
      if (p.products != nullptr) p.products += ranges_of(chunk) * values_of_weights();
      p.operand += p.rows * s_.H;
    }
    p_.first_step = p.first_step;
  }

  enum { kSteps, kProducts, kGradients, kPhases };
  int threads_of(int phase) const {
    if (phase == kProducts && p_.products == nullptr) return 0;
    return phase == kSteps || p_.need_dx || p_.need_dweights ? team_.plan().threads : 0;
  }
  void run(int phase, int thread, int team) {
    if (phase == kProducts) {
      if (p_.products != nullptr) kernel_.products(parts_.data(), parts_.size(), thread, team);
      return;
    }
    if (phase == kGradients) {
      kernel_.gradients(parts_.data(), parts_.size(), thread, team);
      if (p_.need_dweights && parts_.back().last) add_up_biases(thread, team);
      return;
    }
    // Threads that have no part in the steps pack the rows meanwhile, if they are as many as the others.
    const int others = team - team_.plan().grid.size();
    const int first = 2 * others >= team ? team - others : 0;
    if (thread >= first) kernel_.pack_rows(parts_.data(), parts_.size(), thread - first, team - first);
    const auto steps = p_.masks.any ? kernel_.bwd_masked : kernel_.bwd;
    team_.run(thread, team, [&](int group, int member, int members, StepBarrier& barrier) {
      for (const BwdChunk<scalar_t, operand_t>& chunk : parts_) {
        if (group == Team::kAllRows) {
          steps(chunk, member, members, barrier);
        } else {
          steps(chunk_of(chunk, group, steps_of_threads_ + thread * most_steps_), member, members, barrier);
        }
      }
    });
  }

  // Of the thread that reads most, what threads wrote whose cores do not share its cache: in the steps the gate
  // gradients of its rows by the other members, after them the columns of gate gradients and of packed rows that meet
  // in its items, and its share of the products.
  double bytes_from_afar(int together) const {
    const int threads = team_.plan().threads;
    const Grid& grid = team_.plan().grid;
    const double in_steps = 3.0 * s_.H * grid.members_afar(together) / grid.size();
    const int64_t items = items_of_weights(), ranges = keeps_products_ ? (s_.N + kLongestSum - 1) / kLongestSum : 1;
    const int64_t at_once =
        panels_at_once(items * ranges, threads, kernel_.tile_rows, kernel_.panel_columns, sizeof(acc_t));
    const int64_t rows = kernel_.tile_rows, tiles = (3 * s_.H + rows - 1) / rows;
    const ItemOrder orders[] = {{tiles, panels_of(s_.I), at_once}, {tiles, panels_of(s_.H), at_once}};
    size_t most = 0;
    for (int thread = 0; thread < threads; ++thread) {
      std::set<std::array<int64_t, 2>> gates_met;   // range, column of dgates
      std::set<std::array<int64_t, 3>> panels_met;  // range, x or states, number
      for (int64_t i = share(items * ranges, thread, threads); i < share(items * ranges, thread + 1, threads); ++i) {
        const int64_t of_states = i % items >= orders[0].count();
        const auto [tile, panel, run] = orders[of_states].at(i % items - of_states * orders[0].count());
        const int64_t first = tile * rows, last = std::min(3 * s_.H, first + rows);
        for (int64_t column = first; column < last; ++column) gates_met.insert({i / items, of_states * s_.H + column});
        panels_met.insert({i / items, of_states, panel});
      }
      most = std::max(most, gates_met.size() + panels_met.size() * kernel_.panel_columns);
    }
    // With products dx is of the rows that the thread has read for them.
    const double in_gradients = static_cast<double>(most) / ranges + (keeps_products_ ? 0 : 3.0 * s_.H / threads);
    const double of_products = keeps_products_ ? static_cast<double>(ranges) * values_of_weights() / threads : 0;
    const double afar = std::max(0.0, 1 - static_cast<double>(together) / threads);
    return s_.N * (in_steps + in_gradients * afar) * sizeof(operand_t) + of_products * afar * sizeof(acc_t);
  }

  void finish() {
    if (tensors_.need.dhx) {
      scalar_t* dhx = tensors_.dhx.template data_ptr<scalar_t>() + direction_ * s_.B * s_.all_H;
      copy_rows(p_.dh, p_.dh_stride, dhx, s_.all_H, s_.B, s_.H);
    }
    if (tensors_.need.dweights) finish_biases(&tensors_.dweights[direction_ * s_.weights_per_direction()]);
  }

 private:
  static constexpr int64_t kMoments = 8;  // values of a row in p_.moments
  // That a thread reads of what another core wrote in the time of a part that threads share.
  static constexpr double kValuesOfRegion = 12500;

  int64_t bias_blocks() const { return (s_.B + p_.row_block - 1) / p_.row_block; }
  // A thread's share of the sums over all blocks of rows, which become those of the first block.
  void add_up_biases(int thread, int team) {
    const int64_t sums = p_.sums * p_.dh_stride, end = share(sums, thread + 1, team);
    for (int64_t block = 1; block < bias_blocks(); ++block) {
      for (int64_t i = share(sums, thread, team); i < end; ++i) p_.dbias[i] += p_.dbias[block * sums + i];
    }
  }
  // The gradients of the biases and gains, of the sums.
  void finish_biases(const Tensor* dweights) {
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

  bool should_pack() const {
    if (!std::is_same_v<operand_t, acc_t>) return true;
    const bool stay_in_cache = 3 * s_.H * (s_.H + s_.I) * static_cast<int64_t>(sizeof(acc_t)) <= 2 * kUsualCache;
    return s_.N >= (stay_in_cache && std::is_same_v<scalar_t, acc_t> ? kRowsWorthPacking : kRowsWorthPacking / 4);
  }
  Work work() const {
    // Gate gradients, and panels of x and the states. Gates that are computed again are those of one chunk.
    const int64_t values = 4 * s_.H + 2 * kSkew + (panels_of(s_.I) + panels_of(s_.H)) * kernel_.panel_columns;
    const int64_t row_bytes = tensors_.gates.defined() ? values * static_cast<int64_t>(sizeof(operand_t)) : 0;
    const int64_t row_block = !s_.is_packed() || splits_packed_rows(s_) ? row_block_of(s_.B) : s_.B;
    return {s_.T,
            kBwdChunkRows,
            /*chunk_of_group=*/false,
            row_bytes,
            s_.B,
            row_block,
            s_.H,
            kernel_.panel_columns,
            s_.has_gains || !tensors_.layer.variant.reset_after ? 2.0 : 1.0,
            vector_flops<operand_t>(recurrent_flops(s_), s_.B, /*cells=*/0),
            /*input_flops=*/0,
            static_cast<double>(3 * s_.H * s_.H * kParts<operand_t> * sizeof(operand_t)),
            /*input_gate_bytes=*/0,
            vector_flops<operand_t>(0, s_.B, s_.B * s_.H),
            on_tiles<operand_t>() ? kTileProductRows : 1,
            rows_until_blocks(s_, row_block, 0, s_.T)};
  }
  // Whether the gradients of a chunk alone are worth all threads.
  bool shares_gradients(int threads, double wait) const {
    const int64_t rows = std::min(s_.N, std::max(kBwdChunkRows, s_.B));
    const int64_t inputs = (tensors_.need.dx + tensors_.need.dweights) * s_.I + tensors_.need.dweights * s_.H;
    const double flops = vector_flops<operand_t>(6.0 * rows * s_.H * inputs, rows, /*cells=*/0);
    return pays(flops, threads, wait);
  }

  // Consecutive chunks, in the order of the backward.
  struct Stretch {
    size_t first, last;
  };
  const Chunk& nth_chunk(size_t i) const { return chunks_[direction_ == 1 ? i : chunks_.size() - 1 - i]; }
  template <typename Value>
  int64_t sum_of(const Stretch& stretch, const Value& value) const {
    int64_t sum = 0;
    for (size_t i = stretch.first; i < stretch.last; ++i) sum += value(nth_chunk(i));
    return sum;
  }
  void find_stretches() {
    const int64_t most = tensors_.gates.defined() ? team_.rows_of_region() : 0;
    int64_t rows = most;
    for (size_t i = 0; i < chunks_.size(); ++i) {
      rows += nth_chunk(i).rows;
      if (i > 0 && rows <= most) {
        stretches_.back().last = i + 1;
      } else {
        stretches_.push_back({i, i + 1});
        rows = nth_chunk(i).rows;
      }
    }
  }
  // Of p_.panels for a chunk.
  int64_t words_of_panels(const Chunk& chunk) const {
    const int64_t states = p_.reset_after ? 1 : 2;  // of a row: h, and r * h
    return packed_words(kernel_, chunk.rows, s_.I) + states * packed_words(kernel_, chunk.rows, s_.H);
  }

  // Sums of kLongestSum rows.
  static int64_t ranges_of(const Chunk& chunk) { return (chunk.rows + kLongestSum - 1) / kLongestSum; }
  // Tiles of the gradients of the weights, see gradients_body.h.
  int64_t panels_of(int64_t columns) const { return (columns + kernel_.panel_columns - 1) / kernel_.panel_columns; }
  int64_t items_of_weights() const {
    const auto items = [&](int64_t gates, int64_t columns) {
      return (gates * s_.H + kernel_.tile_rows - 1) / kernel_.tile_rows * panels_of(columns);
    };
    return items(3, s_.I) + (p_.reset_after ? items(3, s_.H) : items(2, s_.H) + items(1, s_.H));
  }
  int64_t values_of_weights() const { return items_of_weights() * kernel_.tile_rows * kernel_.panel_columns; }
  // Whether the products of each range of rows are kept until all are there. Threads then share the rows as well as the
  // gradients, so that each reads few rows, and the products besides; else each reads, of all rows, the columns that
  // meet in its items: of n items about twice the root of their values.
  bool keeps_products(int64_t ranges) const {
    const int threads = team_.plan().threads;
    const double values = static_cast<double>(values_of_weights()), part = values / threads;
    const double saved = 2 * kLongestSum * std::sqrt(part) * (ranges - std::sqrt(ranges));
    const bool fit = ranges * values * sizeof(acc_t) <= static_cast<double>(threads * cache_of_core());
    // To be worth the memory it must save twice what it costs: products are written and read, in a region more.
    return threads > 1 && fit && saved > 2 * (2 * ranges * part + kValuesOfRegion);
  }

  // A thread's share of p_.dh, which begins with dh_n, and of p_.dbias and p_.dbias_partial.
  void fill_sums(int thread, int team) {
    const int64_t first = share(s_.B, thread, team), rows = share(s_.B, thread + 1, team) - first;
    acc_t* const dh = p_.dh + first * p_.dh_stride;
    std::fill_n(dh, rows * p_.dh_stride, acc_t(0));
    if (tensors_.dh_n != nullptr) {
      copy_rows(tensors_.dh_n + (direction_ * s_.B + first) * s_.H, s_.H, dh, p_.dh_stride, rows, s_.H);
    }
    const int64_t sums = 2 * (p_.dbias_partial - p_.dbias), first_sum = share(sums, thread, team);
    std::fill_n(p_.dbias + first_sum, share(sums, thread + 1, team) - first_sum, acc_t(0));
  }

  // The initial state, (B, H); undefined for zero.
  Tensor initial() const { return tensors_.hx.defined() ? tensors_.hx.select(0, direction_) : Tensor(); }
  // Where the rows of a step lie.
  void find_rows(int64_t t) {
    const int64_t t_prev = direction_ == 1 ? t + 1 : t - 1, offset = s_.offset(t);
    const int64_t prev_rows = t_prev >= 0 && t_prev < s_.T ? s_.rows(t_prev) : 0;
    const scalar_t* x = tensors_.x.template const_data_ptr<scalar_t>() + rows_of_x_.offset(s_, t);
    const scalar_t* y = tensors_.y.template const_data_ptr<scalar_t>() + direction_ * s_.all_H;
    if (prev_rows > 0) y += rows_of_y_.offset(s_, t_prev);
    for (int64_t row = 0; row < s_.rows(t); ++row) {
      x_[offset + row] = x + row * rows_of_x_.stride_b;
      h_prev_[offset + row] = row < prev_rows  ? y + row * rows_of_y_.stride_b
                              : h0_ != nullptr ? h0_ + row * s_.H
                                               : nullptr;
    }
    if (!p_.need_dx) return;
    scalar_t* dx = tensors_.dx[direction_].template data_ptr<scalar_t>() + offset * s_.I;
    for (int64_t row = 0; row < s_.rows(t); ++row) dx_[offset + row] = dx + row * s_.I;
  }

  // The part of a chunk that a row group has, for one of its threads.
  BwdChunk<scalar_t, operand_t> chunk_of(const BwdChunk<scalar_t, operand_t>& chunk, int group, Step* steps) const {
    const int64_t first = team_.first_row(group), block = first / p_.row_block;
    BwdChunk<scalar_t, operand_t> p = chunk;
    p.B = team_.last_row(group) - first;
    take_rows(p, first, first + p.B, p.dy_stride, steps);
    p.dh += first * p.dh_stride;
    p.da += first * 4 * p.dh_stride;
    p.moments += group * team_.plan().grid.unit_groups * p.moment_rows * kMoments;
    p.dbias += block * p.sums * p.dh_stride;
    p.dbias_partial += block * p.sums * p.dh_stride;
    if (p.masks.recurrent != nullptr) p.masks.recurrent += first * s_.H;
    return p;
  }

  bool uses_weight_hh() const { return s_.T > 1 || tensors_.need.dhx; }
  // p_.gains and, after them, p_.bias_hn.
  void fill_gains_and_bias(acc_t* gains) {
    const Tensor* weights = &tensors_.layer.weights[direction_ * s_.weights_per_direction()];
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
                      tensors_.layer.weights.slice(direction_ * per_direction, per_direction),
                      no_batch_sizes,
                      /*bidirectional=*/false,
                      variant_of_gates(s_, chunk, direction_, tensors_.layer.variant)};
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
  const bool packs_;  // whether this call packs the weights
  Team team_;
  const int64_t most_steps_;  // of a chunk
  std::vector<Stretch> stretches_;
  bool keeps_products_;
  Tensor weight_ih_;                // (3H, I)
  Tensor weight_hh_;                // (3H, H)
  Tensor gates_;                    // of all rows; those of the chunk where gates are computed again
  Tensor states_, computed_gates_;  // (1, rows, H), Variant::gates_shape: where gates are computed again
  acc_t *packed_ih_, *packed_hh_, *packed_hn_;
  Workspace workspace_;
  std::vector<Step> steps_;              // of the stretch
  Step* steps_of_threads_;               // (threads of the steps, most_steps_)
  const scalar_t *h0_, **x_, **h_prev_;  // of the first row; (N), the rows of x and the states before
  scalar_t** dx_;                        // (N)
  BwdChunk<scalar_t, operand_t> p_;      // what all chunks have, with the buffers of the first one of a stretch
  std::vector<BwdChunk<scalar_t, operand_t>> parts_;  // the chunks of the stretch
};

}  // namespace

BwdResult gru_bwd_cpu(const Backward& call) {
  return call_on_cpu([&] {
    const Sequence s = check_bwd(call);
    const Layer& layer = call.layer;
    const Need need = call.need;
    const auto options = layer.x.options();
    const Tensor dx = need.dx ? pooled_empty(layer.x.sizes(), options) : at::empty({0}, options);
    const Tensor dhx = need.dhx ? at::empty({s.D, s.B, s.H}, options) : at::empty({0}, options);
    const BwdResult results{dx, dhx, need.dweights ? pooled_like(layer.weights) : std::vector<Tensor>()};
    gru_bwd_cpu_into(s, call, results);
    return results;
  });
}

double bwd_vector_flops(const Sequence& s, at::ScalarType dtype) {
  return with_scalar_and_operand_type(dtype, parts_of_float32(s), [&](auto, auto operand) {
    return vector_flops<decltype(operand)>(recurrent_flops(s), s.B, s.B * s.H);
  });
}

void gru_bwd_cpu_into(const Sequence& s, const Backward& call, const BwdResult& results, Rehearsal* rehearsal) {
  const BelowAutogradAndAutocast guard;
  const Tensor dx = std::get<0>(results), dhx = std::get<1>(results);
  const std::vector<Tensor>& dweights = std::get<2>(results);
  const Layer& layer = call.layer;
  const OptionalTensor& dh_n = call.dh_n;
  const Need need = call.need;
  if (s.N == 0) {
    if (need.dhx) dh_n.has_value() ? dhx.copy_(*dh_n) : dhx.zero_();
    for (const Tensor& grad : dweights) grad.zero_();
    return;
  }
  const double flops = bwd_vector_flops(s, layer.x.scalar_type());
  with_scalar_and_operand_type(layer.x.scalar_type(), parts_of_float32(s), [&](auto scalar, auto operand) {
    using scalar_t = decltype(scalar);
    const Tensor h0 = contiguous_or_undefined(layer.hx), last = contiguous_or_undefined(dh_n);
    const auto data = [](const Tensor& tensor) {
      return tensor.defined() ? tensor.const_data_ptr<scalar_t>() : nullptr;
    };
    const bool side_by_side = runs_side_by_side(s, flops);
    std::vector<Tensor> dx_of_directions;
    if (need.dx) dx_of_directions.assign(2, dx);
    if (need.dx && side_by_side) dx_of_directions[1] = pooled_empty(dx.sizes(), dx.options());
    const LayerMasks masks(layer.variant);
    const BwdTensors<scalar_t> tensors{layer,
                                       with_contiguous_rows(layer.x),
                                       h0,
                                       call.y,
                                       were_saved(call.gates) ? call.gates : Tensor(),
                                       call.dy.has_value() ? with_contiguous_rows(*call.dy) : Tensor(),
                                       data(last),
                                       need,
                                       dx_of_directions,
                                       dhx,
                                       dweights,
                                       masks};
    const double of_row = 6.0 * s.H * ((need.dx + need.dweights) * s.I + need.dweights * s.H);
    const double all_flops = s.T * flops + vector_flops<decltype(operand)>(s.N * of_row, s.N, /*cells=*/0);
    run_layer<BwdPass<scalar_t, decltype(operand)>>(s, tensors, flops, all_flops, rehearsal);
    if (need.dx && side_by_side) dx.add_(dx_of_directions[1]);
  });
}

}  // namespace gru_ext
