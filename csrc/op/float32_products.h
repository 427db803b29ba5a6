// What torch's switches say of products of float32 matrices.
#pragma once

#include <ATen/Context.h>

#include <type_traits>

namespace gru_ext {

// As it is; with the 10 bits of TF32, or the 16 of two bfloat16, of its significand; with the 8 of one bfloat16.
enum class Float32Products { ieee, tf32, bf16 };

namespace detail {

// Until torch 2.9 there is one switch for all devices.
template <typename Context, typename = void>
struct ProductSwitch {
  static Float32Products read(const Context& context, c10::DeviceType) {
    switch (context.float32MatmulPrecision()) {
      case at::Float32MatmulPrecision::HIGHEST:
        return Float32Products::ieee;
      case at::Float32MatmulPrecision::HIGH:
        return Float32Products::tf32;
      default:
        return Float32Products::bf16;
    }
  }
};

// Since then each has a precision by name, with a default that further switches set; the old getters throw where the
// name was set. Products follow the name.
template <typename Context>
struct ProductSwitch<Context, std::void_t<decltype(&Context::float32Precision)>> {
  static Float32Products read(const Context& context, c10::DeviceType device) {
    return read(context, device, &Context::float32Precision);
  }

 private:
  template <typename Precision, typename Backend, typename Op>  // strings at first, then enumerations
  static Float32Products read(const Context& context, c10::DeviceType device,
                              Precision (Context::*precision)(Backend, Op) const) {
    if constexpr (std::is_convertible_v<const char*, std::decay_t<Backend>>) {
      const auto name = (context.*precision)(device == at::kCPU ? "mkldnn" : "cuda", "matmul");
      return name == "tf32" ? Float32Products::tf32 : name == "bf16" ? Float32Products::bf16 : Float32Products::ieee;
    } else {
      const auto value = (context.*precision)(device == at::kCPU ? Backend::MKLDNN : Backend::CUDA, Op::MATMUL);
      return value == Precision::TF32   ? Float32Products::tf32
             : value == Precision::BF16 ? Float32Products::bf16
                                        : Float32Products::ieee;
    }
  }
};

}  // namespace detail

// For products on the CPU or on CUDA devices.
inline Float32Products float32_products(c10::DeviceType device) {
  return detail::ProductSwitch<at::Context>::read(at::globalContext(), device);
}

}  // namespace gru_ext
