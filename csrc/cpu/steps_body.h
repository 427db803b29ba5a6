// The step kernels, once. Each steps_*.cpp selects an instruction set, defines GRU_VECTOR_BYTES and
// GRU_STEP_KERNELS (the name of its `step_kernels_*`), and includes this file last.

#include "../cell.h"
#include "steps.h"
#include "vector_math.h"

namespace gru_ext {
namespace {

// `count` values from `source`, converted; the lanes beyond them are zero.
template <typename acc_t, typename T>
inline __attribute__((always_inline)) typename VectorMath<acc_t>::Vector load(const T* source, int count) {
  using Math = VectorMath<acc_t>;
  typename Math::Vector result{};
  if constexpr (std::is_same_v<T, acc_t>) {
    if (count == Math::lanes) {
      std::memcpy(&result, source, sizeof result);
      return result;
    }
  }
  acc_t lane[Math::lanes] = {};
  if (count == Math::lanes) {
    for (int i = 0; i < Math::lanes; ++i) lane[i] = static_cast<acc_t>(source[i]);
  } else {
    for (int i = 0; i < count; ++i) lane[i] = static_cast<acc_t>(source[i]);
  }
  std::memcpy(&result, lane, sizeof result);
  return result;
}

template <typename acc_t, typename T>
inline __attribute__((always_inline)) void store(T* target, typename VectorMath<acc_t>::Vector value, int count) {
  using Math = VectorMath<acc_t>;
  if constexpr (std::is_same_v<T, acc_t>) {
    if (count == Math::lanes) {
      std::memcpy(target, &value, sizeof value);
      return;
    }
  }
  acc_t lane[Math::lanes];
  std::memcpy(lane, &value, sizeof value);
  if (count == Math::lanes) {
    for (int i = 0; i < Math::lanes; ++i) target[i] = static_cast<T>(lane[i]);
  } else {
    for (int i = 0; i < count; ++i) target[i] = static_cast<T>(lane[i]);
  }
}

// Calls `body(unit, count)` for every group of `lanes` units of [0, H); the last group may be shorter.
template <int lanes, typename Body>
inline __attribute__((always_inline)) void for_each_group(int64_t H, const Body& body) {
  int64_t unit = 0;
  for (; unit + lanes <= H; unit += lanes) body(unit, lanes);
  if (unit < H) body(unit, static_cast<int>(H - unit));
}

template <typename scalar_t>
void step_fwd(const StepFwd<scalar_t>& p, int64_t row_begin, int64_t row_end) {
  using acc_t = acc_type<scalar_t>;
  using Math = VectorMath<acc_t>;
  using Vector = typename Math::Vector;
  const int64_t H = p.H;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const acc_t* input = p.input_gates + row * 3 * H;
    const acc_t* hidden = p.hidden_gates + row * 3 * H;
    acc_t* h = p.h + row * H;
    scalar_t* y = p.y + row * p.y_stride;
    scalar_t* saved = p.gates == nullptr ? nullptr : p.gates + row * 4 * H;
    for_each_group<Math::lanes>(H, [&](int64_t u, int count) __attribute__((always_inline)) {
      const Vector a_r = load<acc_t>(input + u, count) + load<acc_t>(hidden + u, count);
      const Vector a_z = load<acc_t>(input + H + u, count) + load<acc_t>(hidden + H + u, count);
      const Vector q = load<acc_t>(hidden + 2 * H + u, count) + load<acc_t>(p.bias_hn + u, count);
      const Vector a_n = load<acc_t>(input + 2 * H + u, count);
      Gates<Vector> gates;
      const Vector h_next = cell_fwd<Math>(a_r, a_z, a_n, q, load<acc_t>(h + u, count), gates);
      store<acc_t>(h + u, h_next, count);
      store<acc_t>(y + u, h_next, count);
      if (saved != nullptr) {
        store<acc_t>(saved + u, gates.r, count);
        store<acc_t>(saved + H + u, gates.z, count);
        store<acc_t>(saved + 2 * H + u, gates.n, count);
        store<acc_t>(saved + 3 * H + u, gates.q, count);
      }
    });
  }
}

template <typename scalar_t>
void step_bwd(const StepBwd<scalar_t>& p, int64_t row_begin, int64_t row_end) {
  using acc_t = acc_type<scalar_t>;
  using Math = VectorMath<acc_t>;
  using Vector = typename Math::Vector;
  const int64_t H = p.H;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const scalar_t* dy = p.dy == nullptr ? nullptr : p.dy + row * p.dy_stride;
    const scalar_t* saved = p.gates + row * 4 * H;
    const scalar_t* before = p.h0 == nullptr ? nullptr : p.h0 + row * H;
    if (row < p.prev_rows) before = p.y_prev + row * p.y_stride;
    acc_t* h_prev = p.h_prev + row * H;
    acc_t* dh = p.dh + row * H;
    acc_t* dgates = p.dgates + row * 4 * H;
    for_each_group<Math::lanes>(H, [&](int64_t u, int count) __attribute__((always_inline)) {
      const Gates<Vector> gates = {load<acc_t>(saved + u, count), load<acc_t>(saved + H + u, count),
                                   load<acc_t>(saved + 2 * H + u, count), load<acc_t>(saved + 3 * H + u, count)};
      const Vector h = before == nullptr ? Vector{} : load<acc_t>(before + u, count);
      Vector d = load<acc_t>(dh + u, count);
      if (dy != nullptr) d += load<acc_t>(dy + u, count);
      GateGrads<Vector> grads;
      const Vector past_product = cell_bwd(gates, h, d, grads);
      store<acc_t>(h_prev + u, h, count);
      store<acc_t>(dh + u, past_product, count);
      store<acc_t>(dgates + u, grads.n, count);
      store<acc_t>(dgates + H + u, grads.r, count);
      store<acc_t>(dgates + 2 * H + u, grads.z, count);
      store<acc_t>(dgates + 3 * H + u, grads.q, count);
    });
  }
}

}  // namespace

template <typename scalar_t>
StepKernels<scalar_t> GRU_STEP_KERNELS() {
  return {step_fwd<scalar_t>, step_bwd<scalar_t>};
}
template StepKernels<float> GRU_STEP_KERNELS();
template StepKernels<double> GRU_STEP_KERNELS();
template StepKernels<c10::BFloat16> GRU_STEP_KERNELS();
template StepKernels<c10::Half> GRU_STEP_KERNELS();

}  // namespace gru_ext
