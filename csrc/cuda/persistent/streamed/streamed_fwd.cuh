// The recurrence for any H, all steps of a layer and both directions in one launch; see slabs.cuh for how blocks
// share out the recurrent weights R (3H, H), and exchange h. Equations: cluster_fwd.cuh.
//
// Grid: groups of as many blocks as H needs, all of which run at the same time. A block owns kUnits hidden units: their
// rows of R, r, z and n side by side, and their state of every row of the tile, in float32 in registers. A step:
//   1. A slice waits for the part of h that it needs, and multiplies its slabs.          flags
//   2. The warps write their sums to shared memory.                                     barrier of the block
//   3. A thread adds those of its pair of units, applies the gates, and stores h'.      barrier of the block
//   4. One thread raises the block's flag. y and the gates are stored.
// 2 and 3, and what is stored, are for the rows of a pass, pass after pass; the flag is for all of them. Waits that
// take too long: as in cluster_fwd.cuh.
#pragma once

#include "cuda/cell_masks.cuh"
#include "cuda/persistent/streamed/slabs.cuh"

namespace gru_ext {
namespace device {

template <typename Name, int Units, int Rows, int Slices, int Parts, int RegisterSlabs, int WeightStages,
          int OperandStages>
using GruStreamedFwdTraits = StreamedTraits<Name, Units, 3 * Units, /*Gates=*/1, Rows, Slices, Parts, RegisterSlabs,
                                            WeightStages, OperandStages>;

// kMasks: whether there may be any.
template <typename Traits, bool kMasks>
GRU_DEVICE void gru_streamed_fwd(const PersistentFwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  using Math = typename Traits::Math;
  using Words = PairWords<typename Traits::Operand>;
  constexpr int kPassRows = Traits::kPassRows, kPasses = Traits::kPasses, kUnits = Traits::kUnits;

  const int thread = thread_index(), H = p.H;
  const int group_of_launch = block_index() / p.streamed.blocks, block = block_index() % p.streamed.blocks;
  const int group = p.first_group + group_of_launch, tiles = (p.B + Traits::kRows - 1) / Traits::kRows;
  const int direction = group / tiles, row0 = group % tiles * Traits::kRows;
  const int steps = p.lengths ? load_global(p.lengths + row0) : p.T;  // the first row of a tile has the most
  const bool reverse = direction == 1;
  const T* const weight_hh = p.weight_hh[direction];
  float* const sums = reinterpret_cast<float*>(shared_memory());

  Slabs<Traits> slabs(p.streamed, group, group_of_launch, direction, block);
  slabs.load_weights([&](int slab, int row, int word) {
    const int lane = thread % kWarpSize, g = lane / 4, c = lane % 4;
    uint32_t words[4];
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row_of_block = row + g + i % 2 * 8, unit = block * kUnits + row_of_block % kUnits;
      const int column = (slab * Traits::kSlabWords + word + c + i / 2 * 4) * kValuesPerWord<T>;
      const int count = unit < H ? clamp(H - column, 0, 2) : 0;
      const T* const first = weight_hh + (static_cast<int64_t>(row_of_block / kUnits) * H + unit) * H + column;
      if constexpr (kValuesPerWord<T> == 1) {
        words[i] = operand_word<typename Traits::Operand>(count > 0 ? load_global(first) : T{}, T{}, count);
      } else {
        const LoadedPair<T> pair = load_pair(first, count, p.paired);
        words[i] = operand_word<typename Traits::Operand>(pair.first(), pair.second(), count);
      }
    }
    return u32x4{words[0], words[1], words[2], words[3]};
  });

  // The pair of units that this thread works on, in one row of every pass.
  const int row_of_pass = Traits::row_of_thread(thread), pair = thread % Traits::kUnitPairs * 2;  // of the block
  const int unit = block * kUnits + pair;
  const int units = clamp(H - unit, 0, 2);  // how many of the two there are
  const bool works = row_of_pass < kPassRows;
  float bias[3][2];
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    const T* const bias_hh = at_offset(p.bias_hh[direction], gate * H + unit);
    const LoadedPair<T> values = load_pair(bias_hh, p.bias_hh[direction] ? units : 0, p.paired);
    bias[gate][0] = to_acc(values.first());
    bias[gate][1] = to_acc(values.second());
  }
  const auto row_of = [&](int pass) { return row0 + pass * kPassRows + row_of_pass; };
  struct {
    int steps;  // of the row's sequence; 0 beyond B, and where the thread has none
    float h[2];
    LoadedPair<T> a_x[3];  // of the step to come
  } own[kPasses];

  const DirectionMasks<float>& masks = p.masks[direction];
  // What the recurrent mask, which is that of all steps, lets through: bit 2 * pass + i is that of unit i of the pair.
  uint32_t let_through = 0;
  const auto factor_of = [&](int pass, int i) {
    return kMasks ? recurrent_factor(masks, (let_through >> (2 * pass + i) & 1) != 0) : 1.0f;
  };
  const auto store_operand = [&](const float (&h)[2], int pass, int s) {
    const Words words = Words::of(h[0] * factor_of(pass, 0), h[1] * factor_of(pass, 1));
    const int word = unit / kValuesPerWord<T>, slab = word / Traits::kSlabWords;
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) {
      store_exchanged(operand_word_at<Traits>(p.streamed, group_of_launch, GRU_FAULT(one_operand_buffer, s % 2, 0),
                                              slab, word % Traits::kSlabWords + w, pass * kPassRows + row_of_pass),
                      words.word[w]);
    }
  };
  GRU_UNROLL
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& of_pass = own[pass];
    const bool exists = works && row_of(pass) < p.B;
    of_pass.steps = !exists ? 0 : p.lengths ? load_global(p.lengths + row_of(pass)) : p.T;
    const int64_t place = (static_cast<int64_t>(direction) * p.B + row_of(pass)) * H + unit;
    const LoadedPair<T> h = load_pair(at_offset(p.h0, place), p.h0 && exists ? units : 0, p.paired);
    of_pass.h[0] = to_acc(h.first());
    of_pass.h[1] = to_acc(h.second());
    if constexpr (kMasks) {
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int64_t element = static_cast<int64_t>(row_of(pass)) * H + unit + i;
        const int mask = load_mask(exists && i < units ? masks.recurrent : nullptr, element);
        let_through |= static_cast<uint32_t>(mask) << (2 * pass + i);
      }
    }
    if (works) store_operand(of_pass.h, pass, 0);
  }
  block_barrier();
  if (thread == 0) raise_flag(flag_of_block(p.streamed, group, block), 1);

  // Passes whose W x is loaded before the products, as many as registers allow; the others follow as passes are done.
  constexpr int kPassesAhead = Traits::kRows < 64 ? 2 : kPasses < 4 ? 1 : 0;
  const bool packed = p.offsets != nullptr;
  const auto load_a_x = [&](int pass, const Step& step) {
    auto& of_pass = own[pass];
    const T* const a_x = rows_of_step(p.a_x[direction], packed, step) +
                         static_cast<int64_t>(row_of(pass)) * p.a_x[direction].row_stride + unit;
    const int count = step.t < of_pass.steps ? units : 0;
    load_pairs(of_pass.a_x, {a_x, a_x + H, a_x + 2 * H}, {count, count, count}, p.paired);
  };

  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? steps - 1 - s : s) : 0; };
  int64_t next_row = row_of_step(0);
  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0; s < steps; ++s) {
    at_step(s);
    const int t = reverse ? steps - 1 - s : s;
    const int64_t row = next_row;
    GRU_UNROLL
    for (int pass = 0; pass < kPasses && pass < kPassesAhead; ++pass) load_a_x(pass, {t, row});
    next_row = row_of_step(s + 1);
    failed = !slabs.wait(s, p.wait_limit);
    float d[Traits::kWeightTiles][Traits::kColumns][4] = {};
    if (!failed) slabs.multiply(d, s);

    T* const y = rows_of_step(p.y, packed, {t, row}) + direction * H;
    T* const gates_of_step = p.gates ? p.gates + (direction * p.N + row) * 4 * H : nullptr;
    GRU_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      auto& of_pass = own[pass];
      if (pass + kPassesAhead < kPasses) load_a_x(pass + kPassesAhead, {t, row});
      store_sums<Traits>(sums, d, pass);
      GRU_FAULT(no_block_barrier, block_barrier(), void());
      const int count = t < of_pass.steps ? units : 0;
      Gates<float> gates[2] = {};
      if (count > 0) {
        LoadedMasks loaded[2] = {};
        if constexpr (kMasks) {
          const int64_t place = (row + row_of(pass)) * H + unit;
          GRU_UNROLL
          for (int i = 0; i < 2; ++i) loaded[i] = load_masks(masks, i < count, place + i);
        }
        const Pair<float> r = sum_of_slices<Traits>(sums, row_of_pass, pair),
                          z = sum_of_slices<Traits>(sums, row_of_pass, kUnits + pair),
                          q = sum_of_slices<Traits>(sums, row_of_pass, 2 * kUnits + pair);
        const LoadedPair<T>(&a_x)[3] = of_pass.a_x;
        const float a[2][4] = {
            {to_acc(a_x[0].first()) + bias[0][0] + r.first, to_acc(a_x[1].first()) + bias[1][0] + z.first,
             to_acc(a_x[2].first()), bias[2][0] + q.first},
            {to_acc(a_x[0].second()) + bias[0][1] + r.second, to_acc(a_x[1].second()) + bias[1][1] + z.second,
             to_acc(a_x[2].second()), bias[2][1] + q.second}};
        const auto next = [&](int i) {
          if constexpr (kMasks) {
            return cell_fwd<Math>(a[i][0], a[i][1], a[i][2], a[i][3], of_pass.h[i], gates[i],
                                  cell_masks(masks, loaded[i]));
          } else {
            return cell_fwd<Math>(a[i][0], a[i][1], a[i][2], a[i][3], of_pass.h[i], gates[i]);
          }
        };
        of_pass.h[0] = next(0);
        const float second = next(1);
        if (count == 2) of_pass.h[1] = second;
      }
      // Beyond H, h' is zero, beyond a sequence's end what it was there.
      if (works && s + 1 < steps) store_operand(of_pass.h, pass, s + 1);
      if (pass + 1 == kPasses) {  // others wait for the flag: it goes before what they do not need
        failed = GRU_FAULT(no_barrier_before_flag, block_barrier_or(failed), failed);
        if (thread == 0 && s + 1 < steps && !failed) {
          raise_flag(flag_of_block(p.streamed, group, block), static_cast<uint32_t>(s + 2));
        }
      }
      store_pair(y + static_cast<int64_t>(row_of(pass)) * p.y.row_stride + unit, of_pass.h[0], of_pass.h[1], count,
                 p.paired);
      if (p.gates) {
        T* const to = gates_of_step + static_cast<int64_t>(row_of(pass)) * 4 * H + unit;
        store_pair(to, gates[0].r, gates[1].r, count, p.paired);
        store_pair(to + H, gates[0].z, gates[1].z, count, p.paired);
        store_pair(to + 2 * H, gates[0].n, gates[1].n, count, p.paired);
        store_pair(to + 3 * H, gates[0].q, gates[1].q, count, p.paired);
      }
      if (pass + 1 < kPasses) block_barrier();
    }
    if (failed) break;
  }
  GRU_FAULT(no_last_copy_wait, copy_async_wait(), void());

  if (failed) store_global(p.error, 1);
  const int own_unit = anew(unit);
  GRU_UNROLL
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto& of_pass = own[pass];
    const int64_t row = static_cast<int64_t>(direction) * p.B + anew(row_of(pass));
    store_pair(p.h_n + row * H + own_unit, of_pass.h[0], of_pass.h[1],
               of_pass.steps > 0 ? clamp(H - own_unit, 0, 2) : 0, p.paired);
  }
}

template <typename Traits, bool kMasks>
GRU_KERNEL(Traits::kThreads, 1)
gru_streamed_fwd_kernel(const PersistentFwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_streamed_fwd<Traits, kMasks>(p);
}

}  // namespace device
}  // namespace gru_ext
