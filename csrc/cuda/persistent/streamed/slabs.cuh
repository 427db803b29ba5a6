// What the streamed kernels, forward and backward, have in common: a recurrence whose weights need not fit on the
// multiprocessors.
//
// The blocks of a group share out the units of a layer, kUnits to each, so that H decides how many blocks there are. A
// block multiplies its rows of R (forward), or its columns (backward), by what all blocks have told each other of the
// last step: the state h, or the gate gradients. Call that the operand. The sum over the operand is cut into slabs of
// 16 words of a row, 32 values of 16 bits or 16 of TF32. The warps of a block form slices: each slice has a run of
// neighbouring slabs, of which each of its kParts warps multiplies some of the block's rows of weights.
//
// Weights. A slab of them is, for a warp, the A fragments of two tiles of each 16 of its rows, as `mma` takes them. The
// first kRegisterSlabs stay in registers, the next ones in shared memory, as many as fit, and the rest, if there is
// one, is read again every step: from a copy in global memory, in the order of the fragments, by way of a ring of
// kWeightStages places. Every thread copies, and later loads, its own 16 bytes of every fragment: cp.async, the wait
// for the thread's own copies, no barrier. The ring is filled as places become free, also for the step after this one,
// so that weights come while blocks wait for each other. Steps read the streamed slabs forwards and backwards in turn:
// what was read last is likely to be in the L2 cache still.
//
// The operand. It lies in global memory, which here means the L2 cache, in two buffers by the parity of the step, in
// the order of the B fragments of `mma`, and goes to the slice that needs it through a ring of kOperandStages places.
// Its warps share out the copying; a barrier of the slice before each slab says that the slab has come, and that the
// one before it is done with, whose place is then filled again.
//
// Flags. When a block has stored its part of the operand of step s (the first is h0), it raises its flag to s + 1. A
// slice waits for the flags of those blocks whose units are in its slabs. Two buffers are enough: a block stores its
// part of step s + 1 when all its slices have seen the flags of step s, so those of all blocks, which then had read the
// operand of step s - 1.
#pragma once

#include "cuda/persistent/pairs.cuh"
#include "cuda/persistent/rows.cuh"
#include "cuda/persistent/tiles.cuh"

namespace gru_ext {
namespace device {

// Name: of the types, see TypesOf. Units: of a block. RowsOfWeights: that a block multiplies by, 3 Units forward, Units
// backward. Gates: values of the operand for a unit: 1 forward, 3 backward. Rows: of a tile of the batch. Parts: warps
// of a slice.
template <typename Name, int Units, int RowsOfWeights, int Gates, int Rows, int Slices, int Parts, int RegisterSlabs,
          int WeightStages, int OperandStages>
struct StreamedTraits {
  using T = typename TypesOf<Name>::Tensor;
  using Operand = typename TypesOf<Name>::Operand;
  using Math = typename TypesOf<Name>::Math;
  static constexpr int kUnits = Units, kRows = Rows, kSlices = Slices, kParts = Parts, kGates = Gates;
  static constexpr int kRegisterSlabs = RegisterSlabs, kWeightStages = WeightStages, kOperandStages = OperandStages;
  static constexpr int kWarps = Slices * Parts, kThreads = kWarps * kWarpSize;
  static constexpr int kSlabWords = 16;
  static constexpr int kSlabUnits = kSlabWords * kValuesPerWord<T>;
  static constexpr int kWeightTiles = RowsOfWeights / 16 / Parts;  // of a warp
  static constexpr int kFragments = 2 * kWeightTiles;              // of a warp's slab of weights
  static constexpr int kColumns = Rows / 8;                        // tiles of the batch
  // Those of which a warp has B in registers at a time; beside many sums there is not the room for all.
  static constexpr int kColumnsAtOnce = kColumns <= 4 || kWeightTiles < 3 ? kColumns : 4;
  static constexpr int kUnitPairs = Units / 2;
  // Rows whose sums are in shared memory at a time, a pair of units of each row to a thread.
  static constexpr int pass_rows(int rows) { return rows * kUnitPairs <= kThreads ? rows : pass_rows(rows / 2); }
  static constexpr int kPassRows = pass_rows(Rows);
  static constexpr int kPasses = Rows / kPassRows;
  // The row of a pass that a thread works on; from kPassRows on for those that have none. Half a warp loads from as
  // many rows of the sums as it takes to fill 16 pairs: with 8 in a row, from two that are 4 apart and so in other
  // banks.
  static GRU_DEVICE int row_of_thread(int thread) {
    const int i = thread / kUnitPairs;
    return kUnitPairs == 8 ? i / 8 * 8 + i % 2 * 4 + i % 8 / 2 : i;
  }
  static constexpr int kSumPitch = RowsOfWeights + 4;  // floats between rows of the sums: writes meet every bank once

  static constexpr int kSumBytes = Slices * kPassRows * kSumPitch * 4;
  static constexpr int kOperandOffset = kSumBytes;
  static constexpr int kOperandBytes = Slices * OperandStages * kColumns * kWarpSize * 16;
  static constexpr int kWeightOffset = kOperandOffset + kOperandBytes;
  static constexpr int kSlabBytes = kWarps * kFragments * kWarpSize * 16;  // of weights, a slab of every slice

  static_assert(Units % 16 == 0 && RowsOfWeights % (16 * Parts) == 0, "a warp multiplies whole tiles of 16 rows");
  static_assert(Rows % 8 == 0 && kPassRows % 8 == 0, "the tensor core takes 8 rows");
  static_assert(WeightStages >= OperandStages && OperandStages >= 2,
                "weights are copied no later than the operand that they meet");
  static_assert(Slices <= 15, "a named barrier for each");
  static_assert(!kOnFmaUnits<Operand>, "products are the tensor core's");
};

// How a group shares out a layer, its blocks having at most so many bytes of shared memory.
template <typename Traits>
StreamedShape streamed_shape(int H, int most_shared_bytes) {
  StreamedShape shape{};
  shape.blocks = (H + Traits::kUnits - 1) / Traits::kUnits;
  shape.slabs = (shape.blocks * Traits::kUnits + Traits::kSlabUnits - 1) / Traits::kSlabUnits * Traits::kGates;
  shape.slabs_of_slice = (shape.slabs + Traits::kSlices - 1) / Traits::kSlices;
  const int beyond_registers = shape.slabs_of_slice - Traits::kRegisterSlabs;
  const int left = beyond_registers > 0 ? beyond_registers : 0;
  const int places = (most_shared_bytes - Traits::kWeightOffset) / Traits::kSlabBytes;
  shape.shared_slabs = left <= places ? left : places - Traits::kWeightStages;
  const int used = left > places ? places : left > 0 ? left : 1;  // one is needed to fill the registers
  shape.shared_bytes = places < 1 || shape.shared_slabs < 0 ? 0 : Traits::kWeightOffset + used * Traits::kSlabBytes;
  shape.operand_bytes = int64_t{2} * shape.slabs * Traits::kColumns * kWarpSize * 16;
  shape.weight_bytes = int64_t{shape.blocks} * (left - shape.shared_slabs) * Traits::kSlabBytes;
  return shape;
}

// Two neighbours along the sum, of which the first `count` exist, as a word of the operand type; or, where a word holds
// one, the first.
template <typename Operand, typename T>
GRU_DEVICE uint32_t operand_word(T first, T second, int count) {
  if constexpr (kValuesPerWord<T> == 1) {
    return tf32_bits(count > 0 ? to_acc(first) : 0.0f);
  } else {
    return pack<Operand>(count > 0 ? to_acc(first) : 0.0f, count > 1 ? to_acc(second) : 0.0f);
  }
}

// Where the block stores the operand's word `word` of slab `slab`, of row `row` of the tile, in buffer 0 or 1. `group`:
// of the launch's.
template <typename Traits>
GRU_DEVICE uint32_t* operand_word_at(const StreamedShare& share, int group, int buffer, int slab, int word, int row) {
  const int64_t column = ((static_cast<int64_t>(group) * 2 + buffer) * share.slabs + slab) * Traits::kColumns + row / 8;
  const int lane = row % 8 * 4 + word % 4;
  return reinterpret_cast<uint32_t*>(share.operand + column * kWarpSize + lane) + word / 4;
}

// `group`: of the call's.
GRU_DEVICE uint32_t* flag_of_block(const StreamedShare& share, int group, int block) {
  return share.flags + static_cast<int64_t>(group) * share.blocks + block;
}

// The slabs of a slice, as one of its warps has them.
template <typename Traits>
class Slabs {
 public:
  // `group`: of the call's, with `group_of_launch` its place in the launch; `layer`: see BlockWork; `block`: of the
  // group's.
  GRU_DEVICE Slabs(const StreamedShare& share, int group, int group_of_launch, int64_t layer, int block)
      : total_(share.slabs) {
    const int warp = thread_index() / kWarpSize, lane = thread_index() % kWarpSize;
    slice_ = warp / Traits::kParts;
    part_ = warp % Traits::kParts;
    first_ = slice_ * total_ / Traits::kSlices;
    count_ = (slice_ + 1) * total_ / Traits::kSlices - first_;
    const int kept = Traits::kRegisterSlabs + share.shared_slabs;
    kept_ = count_ < kept ? count_ : kept;
    streamed_ = count_ - kept_;
    char* const shared = shared_memory();
    operand_ring_ = reinterpret_cast<u32x4*>(shared + Traits::kOperandOffset) +
                    slice_ * (Traits::kOperandStages * Traits::kColumns * kWarpSize) + lane;
    places_ = reinterpret_cast<u32x4*>(shared + Traits::kWeightOffset) + warp * (Traits::kFragments * kWarpSize) + lane;
    ring_ = places_ + share.shared_slabs * kPlaceSize;
    const int most_streamed = (total_ + Traits::kSlices - 1) / Traits::kSlices - kept;  // of a slice
    const int64_t warp_of_layer = (layer * share.blocks + block) * Traits::kWarps + warp;
    copies_ = at_offset(share.weights, warp_of_layer * (most_streamed * Traits::kFragments * kWarpSize) + lane);
    operand_ = share.operand +
               (static_cast<int64_t>(group_of_launch) * 2 * total_ + first_) * (Traits::kColumns * kWarpSize) + lane;
    flags_ = flag_of_block(share, group, 0);
    first_block_ = first_ / Traits::kGates * Traits::kSlabUnits / Traits::kUnits;
    const int end_unit = count_ == 0 ? 0 : ((first_ + count_ - 1) / Traits::kGates + 1) * Traits::kSlabUnits;
    end_block_ = clamp((end_unit + Traits::kUnits - 1) / Traits::kUnits, 0, share.blocks);
  }

  // Takes the weights from `fragment_of(slab, row, word)`: of the fragment of 16 rows and 8 words that begins there,
  // what this thread has; row of the block's rows of weights, word of the slab's. Begins to stream.
  template <typename FragmentOf>
  GRU_DEVICE void load_weights(const FragmentOf& fragment_of) {
    // Two at a time, so that the loads of one need not wait for those of the other.
    const auto keep = [&](int i, int f, const auto& store) {
      const int row = (part_ * Traits::kWeightTiles + f / 2) * 16;
      const u32x4 first = i < count_ ? fragment_of(first_ + i, row, 0) : u32x4{};
      const u32x4 second = i < count_ ? fragment_of(first_ + i, row, 8) : u32x4{};
      store(f, first);
      store(f + 1, second);
    };
    GRU_UNROLL
    for (int i = 0; i < Traits::kRegisterSlabs; ++i) {
      GRU_NO_UNROLL
      for (int f = 0; f < Traits::kFragments; f += 2) {
        keep(i, f, [&](int f, const u32x4& words) { store_shared(places_ + f * kWarpSize, words); });
      }
      GRU_UNROLL
      for (int f = 0; f < Traits::kFragments; ++f) words_of(load_shared(places_ + f * kWarpSize), registers_[i][f]);
    }
    GRU_NO_UNROLL
    for (int i = Traits::kRegisterSlabs; i < count_; ++i) {
      GRU_NO_UNROLL
      for (int f = 0; f < Traits::kFragments; f += 2) {
        keep(i, f, [&](int f, const u32x4& words) {
          if (i < kept_) {
            store_shared(places_ + (i - Traits::kRegisterSlabs) * kPlaceSize + f * kWarpSize, words);
          } else {
            store_global(copies_ + ((i - kept_) * Traits::kFragments + f) * kWarpSize, words);
          }
        });
      }
    }
    if (streamed_ > 0) {
      GRU_FAULT(no_global_fence, global_fence(), void());
      GRU_NO_UNROLL
      for (int i = 0; i < Traits::kWeightStages; ++i) copy_next_weights();
    }
    copy_async_commit();
  }

  // Waits until all that the slice needs of step s has been stored; all its threads call it, and one of its warps
  // looks. False if that took more than `limit` ticks.
  GRU_DEVICE bool wait(int s, uint32_t limit) const {
    bool failed = false;
    const auto raised = static_cast<uint32_t>(GRU_FAULT(early_flag, s + 1, s));
    const int end = part_ == 0 ? end_block_ : 0;
    for (int block = first_block_ + thread_index() % kWarpSize; block < end; block += kWarpSize) {
      failed |= !wait_for_flag(flags_ + block, raised, limit);
    }
    return !GRU_FAULT(no_barrier_after_flags, slice_barrier_or(failed), failed);
  }

  // Adds the products of the slice's slabs with the operand of step s to d, the rows of this warp.
  GRU_DEVICE void multiply(float (&d)[Traits::kWeightTiles][Traits::kColumns][4], int s) {
    const u32x4* const operand = operand_ + static_cast<int64_t>(s % 2) * total_ * (Traits::kColumns * kWarpSize);
    const bool backwards = s % 2 == 1;
    const auto copy_operand = [&](int i) {
      if (i >= count_) return;
      const int slab = backwards && i >= kept_ ? count_ - 1 - (i - kept_) : i;
      GRU_UNROLL
      for (int j = 0; j < (Traits::kColumns + Traits::kParts - 1) / Traits::kParts; ++j) {
        const int n = j * Traits::kParts + part_;
        if (Traits::kColumns % Traits::kParts != 0 && n >= Traits::kColumns) continue;
        copy_exchanged_async(operand_ring_ + (i % Traits::kOperandStages * Traits::kColumns + n) * kWarpSize,
                             operand + (slab * Traits::kColumns + n) * kWarpSize);
      }
    };
    // `was_streamed`: whether the slab before this one was, of which the place is then filled again.
    const auto multiply_slab = [&](int i, bool was_streamed, const auto& weights) {
      GRU_FAULT(no_wait_for_operand, copy_async_wait_but<Traits::kOperandStages - 2>(), void());
      if constexpr (Traits::kParts > 1) {
        GRU_FAULT(no_slice_barrier, named_barrier(1 + slice_, Traits::kParts * kWarpSize), void());
      }
      copy_operand(i + Traits::kOperandStages - 1);
      if (was_streamed) copy_next_weights();
      copy_async_commit();
      constexpr int kAtOnce = Traits::kColumnsAtOnce;
      const u32x4* const from = operand_ring_ + i % Traits::kOperandStages * (Traits::kColumns * kWarpSize);
      GRU_UNROLL
      for (int first = 0; first < Traits::kColumns; first += kAtOnce) {
        uint32_t b[kAtOnce][4];
        GRU_UNROLL
        for (int n = 0; n < kAtOnce; ++n) words_of(load_shared(from + (first + n) * kWarpSize), b[n]);
        GRU_UNROLL
        for (int f = 0; f < Traits::kFragments; ++f) {
          uint32_t a[4];
          weights(f, a);
          GRU_UNROLL
          for (int n = 0; n < kAtOnce; ++n) {
            mma<typename Traits::Operand>(d[f / 2][first + n], a, b[n][f % 2 * 2], b[n][f % 2 * 2 + 1]);
          }
        }
      }
    };

    GRU_UNROLL
    for (int i = 0; i < Traits::kOperandStages - 1; ++i) {
      copy_operand(i);
      copy_async_commit();
    }
    GRU_UNROLL
    for (int i = 0; i < Traits::kRegisterSlabs; ++i) {
      if (i >= count_) continue;
      multiply_slab(i, false, [&](int f, uint32_t (&a)[4]) {
        GRU_UNROLL
        for (int j = 0; j < 4; ++j) a[j] = registers_[i][f][j];
      });
    }
    GRU_NO_UNROLL
    for (int i = Traits::kRegisterSlabs; i < count_; ++i) {
      const bool streamed = i >= kept_;
      const u32x4* const place =
          streamed ? ring_ + taken_ * kPlaceSize : places_ + (i - Traits::kRegisterSlabs) * kPlaceSize;
      multiply_slab(i, i > kept_, [&](int f, uint32_t (&a)[4]) { words_of(load_shared(place + f * kWarpSize), a); });
      if (streamed) taken_ = taken_ + 1 == Traits::kWeightStages ? 0 : taken_ + 1;
    }
    if (streamed_ > 0) copy_next_weights();
    copy_async_commit();
  }

 private:
  static constexpr int kPlaceSize = Traits::kWarps * Traits::kFragments * kWarpSize;

  GRU_DEVICE static void words_of(const u32x4& v, uint32_t (&words)[4]) {
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }

  GRU_DEVICE bool slice_barrier_or(bool vote) const {
    if constexpr (Traits::kParts == 1) {
      return warp_barrier_or(vote);
    } else {
      return named_barrier_or(1 + slice_, Traits::kParts * kWarpSize, vote);
    }
  }

  // To the next place of the ring, which must be free.
  GRU_DEVICE void copy_next_weights() {
    const int i = next_backwards_ ? streamed_ - 1 - next_ : next_;
    GRU_UNROLL
    for (int f = 0; f < Traits::kFragments; ++f) {
      copy_async(ring_ + filled_ * kPlaceSize + f * kWarpSize, copies_ + (i * Traits::kFragments + f) * kWarpSize,
                 true);
    }
    filled_ = filled_ + 1 == Traits::kWeightStages ? 0 : filled_ + 1;
    if (++next_ == streamed_) {
      next_ = 0;
      next_backwards_ = !next_backwards_;
    }
  }

  uint32_t registers_[Traits::kRegisterSlabs > 0 ? Traits::kRegisterSlabs : 1][Traits::kFragments][4];
  const int total_;  // slabs of the operand
  int slice_, part_;
  int first_, count_;              // of the slabs of the operand, this slice's
  int kept_, streamed_;            // of these, those in registers and shared memory; the others
  int first_block_, end_block_;    // whose units they have
  u32x4 *operand_ring_, *places_;  // this thread's 16 bytes of the first fragment, in shared memory
  u32x4 *ring_, *copies_;          // likewise, of the ring and of the streamed slabs in global memory
  const u32x4* operand_;           // likewise, of the operand of even steps
  const uint32_t* flags_;          // of the first block
  int filled_ = 0, taken_ = 0;     // places of the ring: the next to be filled, and to be used
  int next_ = 0;                   // of the streamed slabs, the next to be copied, as this step or the next reads them
  bool next_backwards_ = false;
};

// Writes the sums of a warp, of the rows of one pass, to shared memory: (slices, kPassRows, kSumPitch).
template <typename Traits>
GRU_DEVICE void store_sums(float* sums, const float (&d)[Traits::kWeightTiles][Traits::kColumns][4], int pass) {
  const int warp = thread_index() / kWarpSize;
  const int slice = warp / Traits::kParts, first_tile = warp % Traits::kParts * Traits::kWeightTiles;
  GRU_UNROLL
  for (int m = 0; m < Traits::kWeightTiles; ++m) {
    GRU_UNROLL
    for (int n = 0; n < Traits::kPassRows / 8; ++n) {
      store_sum_tile(sums + (slice * Traits::kPassRows + n * 8) * Traits::kSumPitch + (first_tile + m) * 16,
                     Traits::kSumPitch, d[m][pass * (Traits::kPassRows / 8) + n]);
    }
  }
}

// The sum over the slices, in their order, for two neighbouring rows of weights.
template <typename Traits>
GRU_DEVICE Pair<float> sum_of_slices(const float* sums, int row_of_pass, int row_of_weights) {
  return sum_of_parts<Traits::kSlices>(sums + row_of_pass * Traits::kSumPitch + row_of_weights,
                                       Traits::kPassRows * Traits::kSumPitch);
}

}  // namespace device
}  // namespace gru_ext
