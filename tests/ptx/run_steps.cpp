// The stepwise kernels and the one-step kernel as Python runs them, by the project's own launchers.
#include <stdexcept>

#include "cuda/one_step/launchers.h"
#include "cuda/stepwise/launchers.h"
#include "runner.h"

namespace gru_ext {

using device::bfloat16;
using device::float16;

#define GRU_LAUNCHERS(X, T, acc_t)                                       \
  X(step_fwd, step_fwd_parameters, GruStepFwdParams<T, acc_t>)           \
  X(step_bwd, step_bwd_parameters, GruStepBwdParams<T, acc_t>)           \
  X(step_reset_fwd, step_fwd_parameters, GruStepFwdParams<T, acc_t>)     \
  X(step_candidate_fwd, step_fwd_parameters, GruStepFwdParams<T, acc_t>) \
  X(step_candidate_bwd, step_bwd_parameters, GruStepBwdParams<T, acc_t>) \
  X(step_reset_bwd, step_bwd_parameters, GruStepBwdParams<T, acc_t>)     \
  X(step_norm_fwd, norm_fwd_parameters, GruStepNormFwdParams<T, acc_t>)  \
  X(step_norm_bwd, norm_bwd_parameters, GruStepNormBwdParams<T>)         \
  X(one_step_fwd, one_step_parameters, GruOneStepFwdParams<T>)

// Weak: a library may be linked of a few instantiations.
#define GRU_WEAK(kernel, parameters, ...) \
  template <>                             \
  __attribute__((weak)) const char* launch_gru_##kernel(const __VA_ARGS__&, Stream);
GRU_LAUNCHERS(GRU_WEAK, bfloat16, float)
GRU_LAUNCHERS(GRU_WEAK, float16, float)
GRU_LAUNCHERS(GRU_WEAK, float, float)
GRU_LAUNCHERS(GRU_WEAK, double, double)

namespace emulator {
namespace {

// What the passes have in common.
template <typename T, typename Parameters>
Parameters step_parameters() {
  Parameters p{};
  p.rows = number("rows");
  p.H = number("H");
  p.y_stride = number("y_stride");
  p.h_operand = buffer<T>("h_operand");
  p.reset = buffer<T>("reset");
  return p;
}
template <typename T, typename Parameters>
Parameters norm_parameters() {
  Parameters p{};
  p.rows = number("rows");
  p.H = number("H");
  p.norms = static_cast<int>(number("norms"));
  p.gain = buffer<const T>("gain");
  p.saved_stride = number("saved_stride");
  return p;
}

template <typename T, typename acc_t>
GruStepFwdParams<T, acc_t> step_fwd_parameters() {
  auto p = step_parameters<T, GruStepFwdParams<T, acc_t>>();
  p.a_x = buffer<const acc_t>("a_x");
  p.a_h = buffer<const acc_t>("a_h");
  p.bias_ih = buffer<const T>("bias_ih");
  p.bias_hh = buffer<const T>("bias_hh");
  p.h = buffer<acc_t>("h");
  p.y = buffer<T>("y");
  p.gates = buffer<T>("gates");
  p.z = buffer<acc_t>("z");
  p.a_reset = buffer<const acc_t>("a_reset");
  return p;
}

template <typename T, typename acc_t>
GruStepBwdParams<T, acc_t> step_bwd_parameters() {
  auto p = step_parameters<T, GruStepBwdParams<T, acc_t>>();
  p.product_rows = number("product_rows");
  p.prev_rows = number("prev_rows");
  p.dy = buffer<const T>("dy");
  p.dy_stride = p.y_stride;
  p.gates = buffer<const T>("gates");
  p.y_prev = buffer<const T>("y_prev");
  p.h0 = buffer<const T>("h0");
  p.dh = buffer<acc_t>("dh");
  p.dh_product = buffer<const acc_t>("dh_product");
  p.dgates = buffer<T>("dgates");
  p.dreset = buffer<const acc_t>("dreset");
  return p;
}

template <typename T, typename acc_t>
GruStepNormFwdParams<T, acc_t> norm_fwd_parameters() {
  auto p = norm_parameters<T, GruStepNormFwdParams<T, acc_t>>();
  p.values = buffer<acc_t>("values");
  p.hat = buffer<T>("hat");
  p.inverse_std = buffer<T>("inverse_std");
  return p;
}

template <typename T, typename acc_t>
GruStepNormBwdParams<T> norm_bwd_parameters() {
  auto p = norm_parameters<T, GruStepNormBwdParams<T>>();
  p.d = buffer<const T>("d");
  p.d_stride = p.out_stride = 3 * p.H;
  for (int gate = 0; gate < 3; ++gate) p.d_gate[gate] = p.out_gate[gate] = gate;
  p.hat = buffer<const T>("hat");
  p.inverse_std = buffer<const T>("inverse_std");
  p.out = buffer<T>("out");
  return p;
}

// One direction, everything contiguous.
template <typename T, typename acc_t>
GruOneStepFwdParams<T> one_step_parameters() {
  GruOneStepFwdParams<T> p{};
  p.B = number("rows");
  p.H = number("H");
  p.D = 1;
  const auto product = [&](const char* weight, const char* operand, int64_t length) {
    GruOneStepProduct<T> product{};
    product.length = length;
    product.weight[0] = buffer<const T>(weight);
    product.operand = buffer<const T>(operand);
    product.row_stride = length;
    product.value_stride = 1;
    product.aligned = number("aligned") != 0;
    return product;
  };
  p.of_x = product("weight_ih", "x", number("I"));
  p.of_h = product("weight_hh", "h0", p.H);
  p.bias_ih[0] = buffer<const T>("bias_ih");
  p.bias_hh[0] = buffer<const T>("bias_hh");
  p.y = buffer<T>("y");
  p.h_n = buffer<T>("h_n");
  p.gates = buffer<T>("gates");
  return p;
}

template <typename Parameters>
void make_known(const std::string& name, const char* (*launch)(const Parameters&, Stream), Parameters (*parameters)()) {
  if (launch == nullptr) return;
  Kernel(name, [launch, parameters] {
    const char* const error = launch(parameters(), /*stream=*/nullptr);
    if (error != nullptr) throw std::runtime_error(error);
  });
}

#define GRU_KNOWN(kernel, parameters, ...) \
  make_known<__VA_ARGS__>("gru_" #kernel "_" + dtype, launch_gru_##kernel, parameters<T, acc_t>);
template <typename T, typename acc_t>
void make_known(const std::string& dtype) {
  GRU_LAUNCHERS(GRU_KNOWN, T, acc_t)
}

const bool known = [] {
  make_known<bfloat16, float>("bfloat16");
  make_known<float16, float>("float16");
  make_known<float, float>("float");
  make_known<double, double>("double");
  return true;
}();

}  // namespace
}  // namespace emulator
}  // namespace gru_ext
