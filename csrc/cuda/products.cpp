#include "cuda/products.h"

#include <ATen/ATen.h>

#include <type_traits>

#include "cuda/device.h"
#include "cuda/device_types.h"
#include "op/float32_products.h"

namespace gru_ext {
namespace {

using at::Tensor;

// The switch is asked for the RNNs by name; torch had at first no names, then strings, then an enumeration.
[[maybe_unused]] bool asks(const at::Context& context, bool (at::Context::*switch_)() const) {
  return (context.*switch_)();
}

template <typename Name>
bool asks(const at::Context& context, bool (at::Context::*switch_)(Name) const) {
  using name_t = std::decay_t<Name>;
  if constexpr (std::is_convertible_v<const char*, name_t>) {
    return (context.*switch_)("rnn");
  } else {
    return (context.*switch_)(name_t::value_type::RNN);
  }
}

// Whether this torch multiplies half precisions into float: since 2.8.
template <typename T, typename = void>
struct MixedProducts : std::false_type {};
template <typename T>
struct MixedProducts<T, std::void_t<decltype(at::mm_out(std::declval<T&>(), std::declval<const T&>(),
                                                        std::declval<const T&>(), at::kFloat))>> : std::true_type {};

// Of matrices, or of those of all members.
template <typename T, typename... Precision>
void of_matrices_out(T& out, const T& a, const T& b, Precision... precision) {
  if (a.dim() == 3) {
    at::bmm_out(out, a, b, precision...);
  } else {
    at::mm_out(out, a, b, precision...);
  }
}

// bfloat16 has no products, or slow ones, before sm_80.
bool multiplies(at::ScalarType dtype) { return dtype != at::kBFloat16 || multiplies_bfloat16(); }

template <typename T>
void mixed_product_out(T& out, const T& a, const T& b) {
  if constexpr (MixedProducts<T>::value) {
    if (a.is_cuda() && multiplies(a.scalar_type())) {  // torch has it for no other device
      of_matrices_out(out, a, b, out.scalar_type());
      return;
    }
  }
  // The same values, the same sums, at the speed of float.
  of_matrices_out(out, a.to(out.scalar_type()), b.to(out.scalar_type()));
}

void add_product(Tensor target, const Tensor& a, const Tensor& b, bool first) {
  if (first) {
    product_out(target, a, b);
  } else {
    // Not addmm: what adds in cuBLASLt does not follow the guard, and no older torch adds half products to float.
    const Tensor product = at::empty(target.sizes(), target.options());
    product_out(product, a, b);
    target.add_(product);
  }
}

}  // namespace

bool rnn_allows_tf32() { return asks(at::globalContext(), &at::Context::allowTF32CuDNN); }
bool products_allow_tf32() { return float32_products(at::kCUDA) != Float32Products::ieee; }

RnnPrecisionGuard::RnnPrecisionGuard() {
  if (!rnn_allows_tf32()) no_tf32_.emplace();
}

Tensor product_operand(const Tensor& weight) {
  const at::ScalarType dtype = weight.scalar_type();
  const bool in_float = at::isReducedFloatingType(dtype) && (!MixedProducts<Tensor>::value || !multiplies(dtype));
  return weight.to(in_float ? at::kFloat : weight.scalar_type()).contiguous();
}

void product_out(Tensor out, const Tensor& a, const Tensor& b) {
  if (out.scalar_type() == a.scalar_type()) {
    of_matrices_out(out, a, b);
  } else {
    mixed_product_out(out, a, b);
  }
}

std::vector<DirectionGrads> new_grads(const Sequence& s, const Layer& layer, bool need_dweights) {
  const auto options = layer.x.options().dtype(acc_dtype_of(layer.x.scalar_type()));
  const auto new_grad = [&](at::IntArrayRef shape) {
    return s.N > 0 ? at::empty(s.shape(shape.vec()), options) : at::zeros(s.shape(shape.vec()), options);
  };
  std::vector<DirectionGrads> grads(s.D);
  for (DirectionGrads& grad : grads) {
    if (!need_dweights) break;
    grad = {new_grad({3 * s.H, s.I}), new_grad({3 * s.H, s.H}), s.has_gains ? new_grad({6 * s.H}) : at::Tensor(),
            new_grad({layer.variant.saved_gates() * s.H})};
  }
  return grads;
}

std::vector<at::Tensor> dweights_of(const Sequence& s, const Layer& layer, const std::vector<DirectionGrads>& grads,
                                    bool need_dweights) {
  const auto dtype = layer.x.scalar_type();
  std::vector<at::Tensor> dweights;
  for (const DirectionGrads& grad : grads) {
    if (!need_dweights) break;
    dweights.push_back(grad.weight_ih.to(dtype));
    dweights.push_back(grad.weight_hh.to(dtype));
    if (s.has_bias) {
      const at::Tensor of_r_and_z = grad.bias.narrow(-1, s.H, 2 * s.H);
      const at::Tensor of_n = grad.bias.narrow(-1, 0, s.H);
      const at::Tensor of_q = layer.variant.reset_after ? grad.bias.narrow(-1, 3 * s.H, s.H) : of_n;
      dweights.push_back(at::cat({of_r_and_z, of_n}, -1).to(dtype));
      dweights.push_back(at::cat({of_r_and_z, of_q}, -1).to(dtype));
    }
    if (!s.has_gains) continue;
    for (const int64_t first : {int64_t{0}, 3 * s.H}) {  // of W x, of R h: results share no memory
      dweights.push_back(grad.gains.narrow(0, first, 3 * s.H).to(dtype, /*non_blocking=*/false, /*copy=*/true));
    }
  }
  return dweights;
}

void add_weight_grads(const Sequence& s, const Tensor& dgates, const Tensor& x, const Tensor& h_prev,
                      const Tensor& reset, bool first, DirectionGrads& grads) {
  const Tensor dgates_t = dgates.transpose(-2, -1);
  add_product(grads.weight_ih.narrow(-2, 0, 2 * s.H), dgates_t.narrow(-2, s.H, 2 * s.H), x, first);
  add_product(grads.weight_ih.narrow(-2, 2 * s.H, s.H), dgates_t.narrow(-2, 0, s.H), x, first);
  if (reset.defined()) {
    add_product(grads.weight_hh.narrow(-2, 0, 2 * s.H), dgates_t.narrow(-2, s.H, 2 * s.H), h_prev, first);
    add_product(grads.weight_hh.narrow(-2, 2 * s.H, s.H), dgates_t.narrow(-2, 0, s.H), reset, first);
  } else {
    add_product(grads.weight_hh, dgates_t.narrow(-2, dgates.size(-1) - 3 * s.H, 3 * s.H), h_prev, first);
  }
}

void add_bias_grads(const Tensor& dgates, bool first, DirectionGrads& grads) {
  const Tensor sums = dgates.sum(0, /*keepdim=*/false, grads.bias.scalar_type());
  first ? grads.bias.copy_(sums) : grads.bias.add_(sums);
}

void add_input_grads(const Sequence& s, const Tensor& dgates, const Tensor& weight_nrz, bool first, Tensor dx) {
  add_product(dx, dgates.narrow(-1, 0, 3 * s.H), weight_nrz, first);
}

}  // namespace gru_ext
