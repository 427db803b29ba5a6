// The kernels that layer-normalised gates add to the stepwise ones: after a product the normalisation of its rows, and
// backwards its derivative. The cell between them is that of step.cuh.
//
// A block works on one row at a time, all its units, and goes on to further rows where there are more than blocks. Its
// threads add their sums up in shared memory, always in the same order.
#pragma once

#include "cuda/stepwise/step.cuh"

namespace gru_ext {

// The sum of what all threads of the block give, to each of them.
template <typename acc_t>
GRU_DEVICE acc_t block_sum(acc_t value) {
  acc_t* const parts = reinterpret_cast<acc_t*>(device::shared_memory());
  const int thread = device::thread_index();
  device::store_shared(parts + thread, value);
  device::block_barrier();
  for (int half = kStepThreads / 2; half > 0; half /= 2) {
    if (thread < half) {
      device::store_shared(parts + thread,
                           device::load_shared(parts + thread) + device::load_shared(parts + thread + half));
    }
    device::block_barrier();
  }
  const acc_t sum = device::load_shared(parts);
  device::block_barrier();  // before the next sum overwrites it
  return sum;
}

// What is normalised together of a row of r, z, n, H values each: the columns [first, last).
struct NormColumns {
  int64_t first, last;

  GRU_DEVICE NormColumns(int norms, int norm, int64_t H)
      : first(norm == 0 ? 0 : 2 * H), last(norms == 2 && norm == 0 ? 2 * H : 3 * H) {}
};

// The sum over this thread's columns of term(value), value = load(column). Several loads are under way before the first
// value is touched; the terms are added in the order of the columns.
template <typename Load, typename Term>
GRU_DEVICE auto sum_of_columns(const NormColumns& columns, const Load& load, const Term& term) {
  constexpr int kAtOnce = 4;
  decltype(term(load(0))) sum{};
  for (int64_t i = columns.first + device::thread_index(); i < columns.last; i += kAtOnce * kStepThreads) {
    decltype(load(0)) values[kAtOnce] = {};
    GRU_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * kStepThreads < columns.last) values[k] = load(i + k * kStepThreads);
    }
    GRU_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * kStepThreads < columns.last) sum = sum + term(values[k]);
    }
  }
  return sum;
}

// The place of a gate: an index into an array of the parameters would have them copied to local memory.
GRU_DEVICE int64_t place_of(const int (&places)[3], int gate) {
  return gate == 0 ? places[0] : gate == 1 ? places[1] : places[2];
}

// Grid: any number of blocks.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_norm_fwd_kernel(const GruStepNormFwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  for (int64_t row = device::block_index(); row < p.rows; row += device::block_count()) {
    acc_t* const values = p.values + row * 3 * p.H;
    for (int norm = 0; norm < p.norms; ++norm) {
      const NormColumns columns(p.norms, norm, p.H);
      const acc_t count = static_cast<acc_t>(columns.last - columns.first);
      const auto load = [&](int64_t i) { return load_global(values + i); };
      const acc_t mean = block_sum(sum_of_columns(columns, load, [](acc_t value) { return value; })) / count;
      const acc_t squares = sum_of_columns(columns, load, [&](acc_t value) { return (value - mean) * (value - mean); });
      const acc_t inverse_std =
          acc_t(1) / device::square_root(block_sum(squares) / count + static_cast<acc_t>(kNormEpsilon));
      for (int64_t i = columns.first + device::thread_index(); i < columns.last; i += kStepThreads) {
        const acc_t hat = (load_global(values + i) - mean) * inverse_std;
        store_global(values + i, hat * to_acc(load_global(p.gain + i)));
        if (p.hat != nullptr) store_global(p.hat + row * p.saved_stride + i, from_acc<scalar_t>(hat));
      }
      if (p.hat != nullptr && device::thread_index() == 0) {
        store_global(p.inverse_std + row * p.saved_stride + norm, from_acc<scalar_t>(inverse_std));
      }
    }
  }
}

// Grid: any number of blocks.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_norm_bwd_kernel(const GruStepNormBwdParams<scalar_t> p) {
  using acc_t = device::acc_type<scalar_t>;
  for (int64_t row = device::block_index(); row < p.rows; row += device::block_count()) {
    const scalar_t* const hat = p.hat + row * p.saved_stride;
    for (int norm = 0; norm < p.norms; ++norm) {
      const NormColumns columns(p.norms, norm, p.H);
      const acc_t count = static_cast<acc_t>(columns.last - columns.first);
      // The gradient of what was normalised, of column i in the order r, z, n.
      const auto gradient = [&](int64_t i) {
        const int gate = static_cast<int>(i / p.H);
        const scalar_t* d = p.d + row * p.d_stride + place_of(p.d_gate, gate) * p.H + (i - gate * p.H);
        return to_acc(load_global(d)) * to_acc(load_global(p.gain + i));
      };
      acc_t sum = 0, sum_hat = 0;
      for (int64_t i = columns.first + device::thread_index(); i < columns.last; i += kStepThreads) {
        const acc_t normalised = to_acc(load_global(hat + i)), d = gradient(i);
        sum += d;
        sum_hat += d * normalised;
      }
      const acc_t mean_d = block_sum(sum) / count, mean_d_hat = block_sum(sum_hat) / count;
      const acc_t inverse_std = to_acc(load_global(p.inverse_std + row * p.saved_stride + norm));
      for (int64_t i = columns.first + device::thread_index(); i < columns.last; i += kStepThreads) {
        const int gate = static_cast<int>(i / p.H);
        const acc_t grad = norm_bwd(gradient(i), to_acc(load_global(hat + i)), mean_d, mean_d_hat, inverse_std);
        store_global(p.out + row * p.out_stride + place_of(p.out_gate, gate) * p.H + (i - gate * p.H),
                     from_acc<scalar_t>(grad));
      }
    }
  }
}

}  // namespace gru_ext
