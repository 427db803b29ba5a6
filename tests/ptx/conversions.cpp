// "Data Movement and Conversion Instructions: cvt".
#include <cmath>
#include <limits>

#include "machine.h"

namespace ptx {
namespace {

uint16_t to_bf16(float a) {
  const auto bits = bits_to<uint32_t>(a);
  return std::isnan(a) ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint16_t to_f16(float a) { return std::isnan(a) ? 0x7fff : bits_to<uint16_t>(static_cast<_Float16>(a)); }
float of_f16(uint16_t a) { return static_cast<float>(bits_to<_Float16>(a)); }
// Of two, the first goes to the upper half.
uint32_t to_bf16x2(float a, float b) { return uint32_t{to_bf16(a)} << 16 | to_bf16(b); }
uint32_t to_bf16x2_towards_zero(float a, float b) {
  return (bits_to<uint32_t>(a) & 0xffff0000u) | bits_to<uint32_t>(b) >> 16;
}
uint32_t to_f16x2(float a, float b) { return uint32_t{to_f16(a)} << 16 | to_f16(b); }
// To the nearest, ties away from zero.
uint32_t to_tf32(float a) { return (bits_to<uint32_t>(a) + (std::isfinite(a) ? 0x1000 : 0)) & ~0x1fffu; }
float saturated(float a) { return std::isnan(a) || a < 0 ? 0.0f : a > 1 ? 1.0f : a; }
float rounded(float a) { return std::nearbyint(a); }

template <typename To>
struct Of {
  template <typename From>
  struct Plain {
    static auto f(From a) {
      if constexpr (std::is_integral_v<To>) {
        return static_cast<int64_t>(static_cast<To>(a));  // registers may be wider than To: sign or zeros
      } else {
        return static_cast<To>(a);
      }
    }
  };
  // Floating point to integer: what is out of range becomes the nearest that is not, NaN becomes zero.
  template <typename From>
  struct Zero {
    static int64_t f(From a) {
      using Limits = std::numeric_limits<To>;
      if (std::isnan(a)) return 0;
      if (a <= static_cast<From>(Limits::min())) return static_cast<int64_t>(Limits::min());
      if (a >= static_cast<From>(Limits::max())) return static_cast<int64_t>(Limits::max());
      return static_cast<int64_t>(static_cast<To>(a));
    }
  };
  template <typename From>
  struct Nearest {
    static int64_t f(From a) { return Zero<From>::f(std::nearbyint(a)); }
  };
};

template <typename To>
void add_to_integer(Table& t, const std::string& to) {
  add<Of<To>::template Plain, uint8_t, uint16_t, uint32_t, uint64_t>(t, "cvt." + to + ".u");
  add<Of<To>::template Plain, int8_t, int16_t, int32_t, int64_t>(t, "cvt." + to + ".s");
  add<Of<To>::template Zero, float, double>(t, "cvt.rzi." + to + ".f");
  add<Of<To>::template Nearest, float, double>(t, "cvt.rni." + to + ".f");
}
template <typename... To>
void add_to_integers(Table& t, const std::string& kind) {
  (add_to_integer<To>(t, kind + std::to_string(8 * sizeof(To))), ...);
}
template <typename To>
void add_of_integers(Table& t, const std::string& to) {
  add<Of<To>::template Plain, uint32_t, uint64_t>(t, "cvt.rn." + to + ".u");
  add<Of<To>::template Plain, int32_t, int64_t>(t, "cvt.rn." + to + ".s");
}

}  // namespace

void add_conversions(Opcodes& opcodes) {
  Table& t = opcodes.alone;
  add_to_integers<uint8_t, uint16_t, uint32_t, uint64_t>(t, "u");
  add_to_integers<int8_t, int16_t, int32_t, int64_t>(t, "s");
  add_of_integers<float>(t, "f32");
  add_of_integers<double>(t, "f64");
  t["cvt.f64.f32"] = lanewise<Of<double>::Plain<float>::f>;
  t["cvt.rn.f32.f64"] = lanewise<Of<float>::Plain<double>::f>;
  t["cvt.sat.f32.f32"] = lanewise<saturated>;
  t["cvt.rni.f32.f32"] = lanewise<rounded>;
  t["cvt.f32.f16"] = lanewise<of_f16>;
  t["cvt.rn.f16.f32"] = lanewise<to_f16>;
  t["cvt.rn.bf16.f32"] = lanewise<to_bf16>;
  t["cvt.rn.f16x2.f32"] = lanewise<to_f16x2>;
  t["cvt.rn.bf16x2.f32"] = lanewise<to_bf16x2>;
  t["cvt.rz.bf16x2.f32"] = lanewise<to_bf16x2_towards_zero>;
  t["cvt.rna.tf32.f32"] = lanewise<to_tf32>;
}

}  // namespace ptx
