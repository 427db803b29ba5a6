// Integers, floating point, logic, comparison and selection, moves between registers.
#include <cmath>
#include <type_traits>

#include "machine.h"

namespace ptx {
namespace {

template <typename T>
using Unsigned = std::make_unsigned_t<T>;

#define PTX_OP(name, parameters, expression)        \
  template <typename T>                             \
  struct name {                                     \
    static auto f parameters { return expression; } \
  };
PTX_OP(AddI, (T a, T b), static_cast<T>(Unsigned<T>(a) + Unsigned<T>(b)))
PTX_OP(SubI, (T a, T b), static_cast<T>(Unsigned<T>(a) - Unsigned<T>(b)))
PTX_OP(MulLo, (T a, T b), static_cast<T>(uint64_t(Unsigned<T>(a)) * uint64_t(Unsigned<T>(b))))
PTX_OP(MadLo, (T a, T b, T c),
       static_cast<T>(uint64_t(Unsigned<T>(a)) * uint64_t(Unsigned<T>(b)) + uint64_t(Unsigned<T>(c))))
PTX_OP(MulHi, (T a, T b), static_cast<T>((static_cast<__int128>(a) * static_cast<__int128>(b)) >> (8 * sizeof(T))))
PTX_OP(MinI, (T a, T b), a < b ? a : b)
PTX_OP(MaxI, (T a, T b), a < b ? b : a)
PTX_OP(And, (T a, T b), static_cast<T>(a& b))
PTX_OP(Or, (T a, T b), static_cast<T>(a | b))
PTX_OP(Xor, (T a, T b), static_cast<T>(a ^ b))
PTX_OP(Not, (T a), static_cast<T>(~a))
PTX_OP(NegI, (T a), static_cast<T>(0 - Unsigned<T>(a)))
PTX_OP(AbsI, (T a), a < 0 ? static_cast<T>(0 - Unsigned<T>(a)) : a)
PTX_OP(Add, (T a, T b), a + b)
PTX_OP(Sub, (T a, T b), a - b)
PTX_OP(Mul, (T a, T b), a* b)
PTX_OP(Div, (T a, T b), a / b)
PTX_OP(Fma, (T a, T b, T c), std::fma(a, b, c))
PTX_OP(MinF, (T a, T b), std::fmin(a, b))
PTX_OP(MaxF, (T a, T b), std::fmax(a, b))
PTX_OP(NegF, (T a), -a)
PTX_OP(AbsF, (T a), std::fabs(a))
PTX_OP(Rcp, (T a), T(1) / a)
PTX_OP(Sqrt, (T a), std::sqrt(a))
PTX_OP(CopySign, (T a, T b), std::copysign(b, a))  // the sign of a, the magnitude of b

// Of integers half as wide as the product.
template <typename T>
struct MulWide {
  using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                  std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
  static Wide f(T a, T b) { return static_cast<Wide>(Wide{a} * Wide{b}); }
};

template <typename T>
struct MadWide {
  static uint64_t f(T a, T b, uint64_t c) { return static_cast<uint64_t>(MulWide<T>::f(a, b)) + c; }
};

template <typename T, bool kRemainder>
void divide(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t *a = w.in(i.s[0]), *b = w.in(i.s[1]);
  uint64_t* d = w.out(i.d[0]);
  each(mask, [&](int l) {
    const T x = get<T>(a, l), y = get<T>(b, l);
    if (y == 0) fail(&w, &i, l, "division by zero");
    if (std::is_signed_v<T> && y == static_cast<T>(-1)) {
      set(d, l, static_cast<T>(kRemainder ? 0 : 0 - Unsigned<T>(x)));
    } else {
      set(d, l, static_cast<T>(kRemainder ? x % y : x / y));
    }
  });
}

// Of the 64 bits b:a, by c modulo 32.
uint32_t funnel_left(uint32_t a, uint32_t b, uint32_t c) {
  return static_cast<uint32_t>((uint64_t{b} << 32 | a) << (c & 31) >> 32);
}
uint32_t funnel_right(uint32_t a, uint32_t b, uint32_t c) {
  return static_cast<uint32_t>((uint64_t{b} << 32 | a) >> (c & 31));
}

// Four of the eight bytes of b:a. A nibble of c names each by its low three bits; its highest bit asks for the byte's
// sign, eight times, instead.
uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t name = c >> (4 * i) & 15;
    const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (name & 7))) & 255;
    result |= (name & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
  }
  return result;
}

// The two halves of a times two bytes of b, the lower or the upper ones, and c.
template <int kShift>
uint32_t product_of_halves(uint32_t a, uint32_t b, uint32_t c) {
  const uint32_t bytes = b >> kShift;
  return c + (a & 0xffff) * (bytes & 255) + (a >> 16) * (bytes >> 8 & 255);
}

// Amounts beyond the width shift everything out.
template <typename T>
struct ShiftLeft {
  static T f(T a, uint32_t n) { return n >= 8 * sizeof(T) ? T(0) : static_cast<T>(Unsigned<T>(a) << n); }
};
template <typename T>
struct ShiftRight {
  static T f(T a, uint32_t n) { return static_cast<T>(n >= 8 * sizeof(T) ? (a < 0 ? -1 : 0) : a >> n); }
};

uint64_t insert_bit_field(uint64_t a, uint64_t b, uint32_t c, uint32_t d) {
  const uint32_t begin = c & 0xff, length = d & 0xff;
  for (uint32_t n = 0; n < length && begin + n < 64; ++n) {
    const uint64_t bit = uint64_t{1} << (begin + n);
    b = (a >> n & 1) != 0 ? b | bit : b & ~bit;
  }
  return b;
}

// ---- Floating point

// Towards minus infinity.
float fma_down(float a, float b, float c) {
  const __float128 exact = static_cast<__float128>(a) * b + c;
  const float nearest = static_cast<float>(exact);
  return static_cast<__float128>(nearest) > exact ? std::nextafterf(nearest, -INFINITY) : nearest;
}

template <typename T>
T flushed(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}

// Off by up to `units` of the last place, as many as the ISA allows, by a rule that looks like none. Exact where the
// argument is an integer, and so at powers of two: there the machine is, and libdevice's tanh of a double relies on it.
float approximate(float x, float argument, int units) {
  if (!std::isfinite(x) || x == 0 || argument == std::nearbyint(argument)) return x;
  const auto bits = bits_to<uint32_t>(argument);
  const uint32_t hash = (bits ^ bits >> 15) * 0x9E3779B1u >> 16;
  const int off = static_cast<int>(hash % static_cast<uint32_t>(2 * units + 1)) - units;
  return bits_to<float>(static_cast<uint32_t>(bits_to<int32_t>(x) + off));
}
float approximate_exp2(float a) {
  return flushed(approximate(static_cast<float>(std::exp2(static_cast<double>(flushed(a)))), a, 2));
}
float approximate_reciprocal(float a) {
  return flushed(approximate(static_cast<float>(1 / static_cast<double>(flushed(a))), a, 1));
}
// The upper 32 bits of the argument give the upper 32 of the result; the lower are zero.
double upper(double x) { return bits_to<double>(bits_to<uint64_t>(x) & 0xffffffff00000000u); }
double approximate_reciprocal_64(double a) {
  return flushed(upper(1 / (std::fpclassify(a) == FP_SUBNORMAL ? flushed(a) : upper(a))));
}

// A function of float32, of two of them in 64 bits.
template <auto f, typename... T>
uint64_t of_pairs(T... operands) {
  const auto of_halves = [&](int shift) {
    return uint64_t{bits_to<uint32_t>(f(bits_to<float>(static_cast<uint32_t>(operands >> shift))...))};
  };
  return of_halves(32) << 32 | of_halves(0);
}

// ---- Comparison and selection

void select_lanes(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t *a = w.in(i.s[0]), *b = w.in(i.s[1]);
  uint64_t* d = w.out(i.d[0]);
  const uint32_t c = w.pred(i.s[2]);
  each(mask, [&](int l) { d[l] = (c >> l & 1) != 0 ? a[l] : b[l]; });
}

uint64_t same(uint64_t a) { return a; }

template <auto f>
void of_predicate(Warp& w, const Instruction& i, uint32_t mask) {
  w.set_pred(i.d[0], mask, f(w.pred(i.s[0])));
}
template <auto f>
void of_predicates(Warp& w, const Instruction& i, uint32_t mask) {
  w.set_pred(i.d[0], mask, f(w.pred(i.s[0]), w.pred(i.s[1])));
}

void global_timer(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t* d = w.out(i.d[0]);
  each(mask, [&](int l) { d[l] = w.machine->time; });
}

template <template <typename> class F>
void add_integers(Table& t, const std::string& name) {
  add<F, uint16_t, uint32_t, uint64_t>(t, name + ".u");
  add<F, int16_t, int32_t, int64_t>(t, name + ".s");
}
template <bool kRemainder>
void add_divisions(Table& t, const std::string& name) {
  t[name + ".s32"] = divide<int32_t, kRemainder>;
  t[name + ".u32"] = divide<uint32_t, kRemainder>;
  t[name + ".s64"] = divide<int64_t, kRemainder>;
  t[name + ".u64"] = divide<uint64_t, kRemainder>;
}

}  // namespace

void add_arithmetic(Opcodes& opcodes) {
  Table& t = opcodes.alone;
  // "Integer Arithmetic Instructions"
  add_integers<AddI>(t, "add");
  add_integers<SubI>(t, "sub");
  add_integers<MulLo>(t, "mul.lo");
  add_integers<MulHi>(t, "mul.hi");
  add<MulWide, uint16_t, uint32_t>(t, "mul.wide.u");
  add<MulWide, int16_t, int32_t>(t, "mul.wide.s");
  add_integers<MadLo>(t, "mad.lo");
  add<MadWide, uint32_t>(t, "mad.wide.u");
  add<MadWide, int32_t>(t, "mad.wide.s");
  add_divisions<false>(t, "div");
  add_divisions<true>(t, "rem");
  add<AbsI, int32_t, int64_t>(t, "abs.s");
  add<NegI, int32_t, int64_t>(t, "neg.s");
  add_integers<MinI>(t, "min");
  add_integers<MaxI>(t, "max");
  t["bfi.b64"] = lanewise<insert_bit_field>;

  // "Floating Point Instructions": .rn where no rounding is named, "add", "sub", "mul".
  for (const std::string rn : {"", ".rn"}) {
    add<Add, float, double>(t, "add" + rn + ".f");
    add<Sub, float, double>(t, "sub" + rn + ".f");
    add<Mul, float, double>(t, "mul" + rn + ".f");
    t["add" + rn + ".f32x2"] = lanewise<of_pairs<Add<float>::f, uint64_t, uint64_t>>;
    t["mul" + rn + ".f32x2"] = lanewise<of_pairs<Mul<float>::f, uint64_t, uint64_t>>;
  }
  add<Fma, float, double>(t, "fma.rn.f");
  t["fma.rn.f32x2"] = lanewise<of_pairs<Fma<float>::f, uint64_t, uint64_t, uint64_t>>;
  t["fma.rm.f32"] = lanewise<fma_down>;
  add<Div, float, double>(t, "div.rn.f");
  add<AbsF, float, double>(t, "abs.f");
  add<NegF, float, double>(t, "neg.f");
  add<MinF, float, double>(t, "min.f");
  add<MaxF, float, double>(t, "max.f");
  add<CopySign, float, double>(t, "copysign.f");
  add<Rcp, float, double>(t, "rcp.rn.f");
  add<Sqrt, float, double>(t, "sqrt.rn.f");
  t["rcp.approx.ftz.f32"] = lanewise<approximate_reciprocal>;
  t["rcp.approx.ftz.f64"] = lanewise<approximate_reciprocal_64>;
  t["ex2.approx.ftz.f32"] = lanewise<approximate_exp2>;

  // "Logic and Shift Instructions"
  add<And, uint16_t, uint32_t, uint64_t>(t, "and.b");
  add<Or, uint16_t, uint32_t, uint64_t>(t, "or.b");
  add<Xor, uint16_t, uint32_t, uint64_t>(t, "xor.b");
  add<Not, uint16_t, uint32_t, uint64_t>(t, "not.b");
  t["and.pred"] = of_predicates<And<uint32_t>::f>;
  t["or.pred"] = of_predicates<Or<uint32_t>::f>;
  t["xor.pred"] = of_predicates<Xor<uint32_t>::f>;
  t["not.pred"] = of_predicate<Not<uint32_t>::f>;
  add<ShiftLeft, uint16_t, uint32_t, uint64_t>(t, "shl.b");
  add<ShiftRight, uint16_t, uint32_t, uint64_t>(t, "shr.b");
  add_integers<ShiftRight>(t, "shr");
  t["shf.l.wrap.b32"] = lanewise<funnel_left>;
  t["shf.r.wrap.b32"] = lanewise<funnel_right>;
  t["prmt.b32"] = lanewise<permute>;
  t["dp2a.lo.u32.u32"] = lanewise<product_of_halves<0>>;
  t["dp2a.hi.u32.u32"] = lanewise<product_of_halves<16>>;

  // "Comparison and Selection Instructions": selp; setp is in decode.cpp. "Data Movement and Conversion Instructions":
  // mov of a register or a constant; "Special Registers: %globaltimer".
  for (const std::string type : {"b", "u", "s", "f"}) {
    for (const std::string bits : {"16", "32", "64"}) {
      t["selp." + type + bits] = select_lanes;
      t["mov." + type + bits] = lanewise<same>;
    }
  }
  t["mov.pred"] = of_predicate<same>;
  t["globaltimer"] = global_timer;
}

}  // namespace ptx
