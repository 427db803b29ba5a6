// Two neighbouring hidden units of a row, which a thread of the pointwise part works on: loaded, stored, sent.
#pragma once

#include <type_traits>

#include "cuda/persistent/types.cuh"

namespace gru_ext {
namespace device {

// Two neighbouring hidden units of a row: what a thread of the pointwise part works on.
template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// The operand words of a pair: one of two halves, or two.
template <typename Operand>
struct PairWords {
  static constexpr int count = 2 / kValuesPerWord<Operand>;
  uint32_t word[count];

  GRU_DEVICE static PairWords of(float first, float second) {
    if constexpr (count == 1) {
      return {{pack<Operand>(first, second)}};
    } else if constexpr (kOnFmaUnits<Operand>) {
      return {{float_bits(first), float_bits(second)}};
    } else {
      return {{tf32_bits(first), tf32_bits(second)}};
    }
  }
};

// A pair as it is in memory: halves in one word until they are used. Were they two registers, the compiler would
// take the word apart where the paths of load_pair meet, right behind the load, and every load would wait for the one
// before.
template <typename T>
struct LoadedPair {
  static constexpr bool kHalves = kValuesPerWord<T> == 2;
  using Memory = std::conditional_t<kHalves, uint32_t, Pair<T>>;
  Memory memory;

  GRU_DEVICE static LoadedPair at(const T* p) { return {load_global(reinterpret_cast<const Memory*>(p))}; }
  GRU_DEVICE static LoadedPair of(T first, T second) {
    if constexpr (kHalves) {
      return {static_cast<uint32_t>(second.bits) << 16 | first.bits};
    } else {
      return {{first, second}};
    }
  }
  GRU_DEVICE static LoadedPair rounded(float first, float second) {
    return of(from_acc<T>(first), from_acc<T>(second));
  }
  GRU_DEVICE void store(T* p) const { store_global(reinterpret_cast<Memory*>(p), memory); }
  GRU_DEVICE T first() const {
    if constexpr (kHalves) {
      return {static_cast<uint16_t>(memory)};
    } else {
      return memory.first;
    }
  }
  GRU_DEVICE T second() const {
    if constexpr (kHalves) {
      return {static_cast<uint16_t>(memory >> 16)};
    } else {
      return memory.second;
    }
  }
};

// f(paired) as a constant: one branch for all pairs of a step.
template <typename Function>
GRU_DEVICE void with_pairing(bool paired, const Function& f) {
  if (paired) {
    f(true);
  } else {
    f(false);
  }
}

// f(paired, H), of constants where `is_largest`, which is that pairs are paired and H is kHidden: places that are H
// apart are no arithmetic then.
template <int kHidden, typename Params, typename Function>
GRU_DEVICE void with_pairing_and_hidden(bool is_largest, const Params& p, const Function& f) {
  if (is_largest) {
    f(true, kHidden);
  } else {
    with_pairing(p.paired, [&](bool paired) { f(paired, p.H); });
  }
}

// Pairs at `from`, of each of which the first `counts` exist; the others are zero. `paired`: every pair of the tensor
// is aligned to its size and whole. All loads are under way before the first value is touched.
template <int N, typename T>
GRU_DEVICE void load_pairs(LoadedPair<T> (&pairs)[N], const T* const (&from)[N], const int (&counts)[N], bool paired) {
  if (paired) {
    GRU_UNROLL
    for (int i = 0; i < N; ++i) pairs[i] = counts[i] > 0 ? LoadedPair<T>::at(from[i]) : LoadedPair<T>{};
  } else {
    T halves[N][2];
    GRU_UNROLL
    for (int i = 0; i < 2 * N; ++i)
      halves[i / 2][i % 2] = counts[i / 2] > i % 2 ? load_global(from[i / 2] + i % 2) : T{};
    GRU_UNROLL
    for (int i = 0; i < N; ++i) pairs[i] = LoadedPair<T>::of(halves[i][0], halves[i][1]);
  }
}
template <typename T>
GRU_DEVICE LoadedPair<T> load_pair(const T* from, int count, bool paired) {
  LoadedPair<T> pair[1];
  load_pairs(pair, {from}, {count}, paired);
  return pair[0];
}

// Pairs to `to`, of each of which the first `count` exist.
template <int N, typename T>
GRU_DEVICE void store_pairs(T* const (&to)[N], const LoadedPair<T> (&pairs)[N], int count, bool paired) {
  if (count <= 0) return;
  if (paired) {
    GRU_UNROLL
    for (int i = 0; i < N; ++i) pairs[i].store(to[i]);
  } else {
    GRU_UNROLL
    for (int i = 0; i < N; ++i) {
      store_global(to[i], pairs[i].first());
      if (count > 1) store_global(to[i] + 1, pairs[i].second());
    }
  }
}
template <typename T>
GRU_DEVICE void store_pair(T* to, float first, float second, int count, bool paired) {
  store_pairs<1, T>({to}, {LoadedPair<T>::rounded(first, second)}, count, paired);
}

}  // namespace device
}  // namespace gru_ext
