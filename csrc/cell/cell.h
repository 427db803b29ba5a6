// The GRU cell: one step of the recurrence for one hidden unit of one row, and its derivative.
//
// All functions are written over a value type V: a scalar, or a vector of lanes of which each is a unit of its
// own. `Math` supplies what differs between machines: `Math::sigmoid(V)` and `Math::tanh(V)`.
// Nothing here knows of memory, threads or tiles, so that every kernel, on a CPU or a GPU, has the same cell.
//
//     r  = sigmoid(a_r)          a_r = W_r x + b_ir + R_r h + b_hr
//     z  = sigmoid(a_z)          a_z = W_z x + b_iz + R_z h + b_hz
//     n  = tanh(a_n + r * q)     a_n = W_n x + b_in,   q = R_n h + b_hn
//     h' = n + z * (h - n)
//
// or, with the reset gate before the recurrent product, as a step of two parts, because that product needs the first
// part of all units:
//
//     r  = sigmoid(a_r)          a_r = W_r x + b_ir + R_r h + b_hr
//     z  = sigmoid(a_z)          a_z = W_z x + b_iz + R_z h + b_hz
//     n  = tanh(a_n)             a_n = W_n x + b_in + R_n (r * h) + b_hn
//     h' = n + z * (h - n)
//
// With layer normalisation (Ba, Kiros, Hinton 2016) W x and R h are normalised over units, for each row, before they
// are added: N(v) = (v - mean) / sqrt(variance + eps), and
//
//     a_r = g_r * N(W_r x) + b_ir + k_r * N(R_r h) + b_hr          g, k: gains; z likewise
//     a_n = g_n * N(W_n x) + b_in,   q = k_n * N(R_n h) + b_hn
#pragma once

#if defined(__CUDACC__)
#define GRU_CELL_FUNCTION __host__ __device__ __forceinline__
#else
#define GRU_CELL_FUNCTION inline __attribute__((always_inline))
#endif

namespace gru_ext {

// What a step leaves for its derivative.
template <typename V>
struct Gates {
  V r;  // reset gate
  V z;  // update gate
  V n;  // candidate state
  V q;  // recurrent part of the candidate, before the reset gate
};

// Gradients of the loss with respect to the pre-activations.
template <typename V>
struct GateGrads {
  V r;  // of a_r
  V z;  // of a_z
  V n;  // of a_n
  V q;  // of q
};

// What regularises a step of a unit. Without masks: nothing.
template <typename V>
struct NoMasks {
  GRU_CELL_FUNCTION V candidate(V n) const { return n; }       // what enters the state of n, or of its gradient
  GRU_CELL_FUNCTION V renewed(V d) const { return d; }         // what the cell computes of d
  GRU_CELL_FUNCTION V blend(V, V next) const { return next; }  // the new state, of the old and the cell's
};

// Zoneout (Krueger et al. 2017) and dropout of the candidate (Semeniuta et al. 2016).
template <typename V>
struct CellMasks {
  V kept;      // the part of its state that the unit keeps: 0 or 1 in training
  V factor;    // of n: 0 where it is dropped
  bool zones;  // whether there is zoneout; without, an infinite state must not meet a `kept` of 0

  GRU_CELL_FUNCTION V candidate(V n) const { return factor * n; }
  GRU_CELL_FUNCTION V renewed(V d) const { return (V{} + 1 - kept) * d; }
  GRU_CELL_FUNCTION V blend(V h, V next) const { return zones ? kept * h + renewed(next) : next; }
};

// The new state, of the old one, z and n; and its derivative, which both recurrences share. `d` is dL/dh'. Returns the
// part of dL/dh that passes through no product (without masks d * z), and n and z in `grads`.
template <typename Gates, typename V, typename Masks>
GRU_CELL_FUNCTION V next_state(const Gates& gates, V h, const Masks& masks) {
  const V n = masks.candidate(gates.n);
  return masks.blend(h, n + gates.z * (h - n));
}

template <typename Gates, typename Grads, typename V, typename Masks>
GRU_CELL_FUNCTION V next_state_bwd(const Gates& gates, V h, V d, Grads& grads, const Masks& masks) {
  const V one = V{} + 1;
  const V renewed = masks.renewed(d);
  grads.n = masks.candidate(renewed * (one - gates.z)) * (one - gates.n * gates.n);
  grads.z = renewed * (h - masks.candidate(gates.n)) * gates.z * (one - gates.z);
  return masks.blend(d, d * gates.z);
}

// Returns h', and the gates in `gates`.
template <typename Math, typename V, typename Masks = NoMasks<V>>
GRU_CELL_FUNCTION V cell_fwd(V a_r, V a_z, V a_n, V q, V h, Gates<V>& gates, const Masks& masks = Masks()) {
  gates.r = Math::sigmoid(a_r);
  gates.z = Math::sigmoid(a_z);
  gates.n = Math::tanh(a_n + gates.r * q);
  gates.q = q;
  return next_state(gates, h, masks);
}

// `d` is dL/dh', the gradient of the new state. Returns the part of dL/dh that does not pass through the
// recurrent product (without masks d * z), and the gradients of the pre-activations in `grads`.
template <typename V, typename Masks = NoMasks<V>>
GRU_CELL_FUNCTION V cell_bwd(const Gates<V>& gates, V h, V d, GateGrads<V>& grads, const Masks& masks = Masks()) {
  const V past_product = next_state_bwd(gates, h, d, grads, masks);
  grads.r = grads.n * gates.q * gates.r * (V{} + 1 - gates.r);
  grads.q = grads.n * gates.r;
  return past_product;
}

// ---- Layer normalisation

constexpr double kNormEpsilon = 1e-5;  // as torch.nn.LayerNorm and haste have it

// The gradient of v, of which `hat` = N(v): `d` is the gradient of hat, and mean_d and mean_d_hat are the means of
// d and of d * hat over what was normalised together.
template <typename V, typename S>
GRU_CELL_FUNCTION V norm_bwd(V d, V hat, S mean_d, S mean_d_hat, S inverse_std) {
  return (d - mean_d - hat * mean_d_hat) * inverse_std;
}

// ---- Reset gate before the recurrent product

template <typename V>
struct ResetBeforeGates {
  V r;  // reset gate
  V z;  // update gate
  V n;  // candidate state
};

template <typename V>
struct ResetBeforeGrads {
  V r;  // of a_r
  V z;  // of a_z
  V n;  // of a_n
};

// The first part. Returns r * h, and r and z in `gates`.
template <typename Math, typename V>
GRU_CELL_FUNCTION V reset_fwd(V a_r, V a_z, V h, ResetBeforeGates<V>& gates) {
  gates.r = Math::sigmoid(a_r);
  gates.z = Math::sigmoid(a_z);
  return gates.r * h;
}

// The second part, for the z in `gates`. Returns h', and n in `gates`.
template <typename Math, typename V, typename Masks = NoMasks<V>>
GRU_CELL_FUNCTION V candidate_fwd(V a_n, V h, ResetBeforeGates<V>& gates, const Masks& masks = Masks()) {
  gates.n = Math::tanh(a_n);
  return next_state(gates, h, masks);
}

// The second part backwards, as `next_state_bwd`.
template <typename V, typename Masks = NoMasks<V>>
GRU_CELL_FUNCTION V candidate_bwd(const ResetBeforeGates<V>& gates, V h, V d, ResetBeforeGrads<V>& grads,
                                  const Masks& masks = Masks()) {
  return next_state_bwd(gates, h, d, grads, masks);
}

// The first part backwards: `d` is the gradient of r * h. Returns the part of dL/dh that passes through r * h, and r in
// `grads`.
template <typename V>
GRU_CELL_FUNCTION V reset_bwd(const ResetBeforeGates<V>& gates, V h, V d, ResetBeforeGrads<V>& grads) {
  grads.r = d * h * gates.r * (V{} + 1 - gates.r);
  return d * gates.r;
}

}  // namespace gru_ext
