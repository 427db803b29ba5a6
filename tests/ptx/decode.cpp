// Opcodes to what they do: those of a table as they are, and those that are a matter of their modifiers.
#include <algorithm>
#include <cstdlib>

#include "machine.h"

namespace ptx {
namespace {

Opcodes all_opcodes() {
  Opcodes opcodes;
  add_arithmetic(opcodes);
  add_conversions(opcodes);
  add_memory(opcodes);
  add_synchronisation(opcodes);
  add_warps(opcodes);
  return opcodes;
}

using Modifiers = std::vector<std::string>;

int bytes_of(const std::string& type) { return std::atoi(type.c_str() + 1) / 8; }

Scope scope_named(const std::string& name) {
  if (name == "cta") return Scope::cta;
  if (name == "cluster") return Scope::cluster;
  if (name == "gpu") return Scope::gpu;
  return name == "sys" ? Scope::sys : Scope::none;
}

// "Data Movement and Conversion Instructions: mov" with vectors.

// size: bits of a part
void pack_parts(Warp& w, const Instruction& i, uint32_t mask) {
  uint64_t* d = w.out(i.d[0]);
  const uint64_t part = i.size == 64 ? ~uint64_t{0} : (uint64_t{1} << i.size) - 1;
  each(mask, [&](int l) {
    uint64_t value = 0;
    for (size_t n = 0; n < i.s.size(); ++n) value |= (w.in(i.s[n])[l] & part) << (n * static_cast<size_t>(i.size));
    d[l] = value;
  });
}
void unpack_parts(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t part = (uint64_t{1} << i.size) - 1;
  each(mask, [&](int l) {
    const uint64_t value = w.in(i.s[0])[l];
    for (size_t n = 0; n < i.d.size(); ++n) {
      if (i.d[n].kind == Operand::reg) w.out(i.d[n])[l] = value >> (n * static_cast<size_t>(i.size)) & part;
    }
  });
}
void pack_128(Warp& w, const Instruction& i, uint32_t mask) {
  each(mask, [&](int l) {
    const uint64_t low = w.in(i.s[0])[l], high = w.in(i.s[1])[l];
    w.out(i.d[0])[l] = low;
    w.out(i.d[0])[kLanes + l] = high;
  });
}
void unpack_128(Warp& w, const Instruction& i, uint32_t mask) {
  each(mask, [&](int l) {
    const uint64_t low = w.in(i.s[0])[l], high = w.in(i.s[0])[kLanes + l];
    w.out(i.d[0])[l] = low;
    w.out(i.d[1])[l] = high;
  });
}

Handler select_mov(Instruction& i, const Modifiers& m) {
  const size_t to = i.d.size(), from = i.s.size();
  if (m.size() != 2 || (to == 1) == (from == 1)) return nullptr;
  if (m[1] == "b128") return to == 1 && from == 2 ? pack_128 : to == 2 && from == 1 ? unpack_128 : nullptr;
  i.size = bytes_of(m[1]) * 8 / static_cast<int>(std::max(to, from));
  return to == 1 ? pack_parts : from == 1 ? unpack_parts : nullptr;
}

// "Comparison and Selection Instructions: setp".

// Those that are true of NaN follow the others in their order.
enum Compare : uint32_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, unordered, kCompare = 15 };
enum Combine : uint32_t { with_and = 16, with_or = 32, with_xor = 64 };

template <typename T>
bool compared(Compare how, T a, T b) {
  const bool nan = a != a || b != b;
  if (how >= num) return nan == (how == unordered);
  if (nan) return how >= equ;
  const bool results[] = {a == b, a != b, a<b, a <= b, a> b, a >= b};
  return results[how % equ];
}

// variant: the comparison, and how it is combined with a third operand.
template <typename T>
void set_predicate(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t *a = w.in(i.s[0]), *b = w.in(i.s[1]);
  const auto how = static_cast<Compare>(i.variant & kCompare);
  uint32_t result = 0;
  each(mask, [&](int l) { result |= uint32_t{compared(how, get<T>(a, l), get<T>(b, l))} << l; });
  uint32_t other = ~result;
  if (i.variant > kCompare) {
    const uint32_t c = w.pred(i.s[2]);
    const auto combined = [&](uint32_t x) {
      return (i.variant & with_and) != 0 ? x & c : (i.variant & with_or) != 0 ? x | c : x ^ c;
    };
    result = combined(result);
    other = combined(other);
  }
  w.set_pred(i.d[0], mask, result);
  if (i.d.size() > 1) w.set_pred(i.d[1], mask, other);
}

Handler select_setp(Instruction& i, const Modifiers& m) {
  static const std::map<std::string, Compare> comparisons = {
      {"eq", eq},   {"ne", ne},         {"lt", lt},   {"le", le},   {"gt", gt},   {"ge", ge},
      {"equ", equ}, {"neu", neu},       {"ltu", ltu}, {"leu", leu}, {"gtu", gtu}, {"geu", geu},
      {"num", num}, {"nan", unordered}, {"lo", lt},   {"ls", le},   {"hi", gt},   {"hs", ge}};
  static const std::map<std::string, Combine> combinations = {{"and", with_and}, {"or", with_or}, {"xor", with_xor}};
  static const std::map<std::string, Handler> types = {
      {"u16", set_predicate<uint16_t>}, {"b16", set_predicate<uint16_t>}, {"s16", set_predicate<int16_t>},
      {"u32", set_predicate<uint32_t>}, {"b32", set_predicate<uint32_t>}, {"s32", set_predicate<int32_t>},
      {"u64", set_predicate<uint64_t>}, {"b64", set_predicate<uint64_t>}, {"s64", set_predicate<int64_t>},
      {"f32", set_predicate<float>},    {"f64", set_predicate<double>}};
  if (m.size() < 3 || m.size() > 4) return nullptr;
  const auto how = comparisons.find(m[1]);
  const auto type = types.find(m.back());
  if (how == comparisons.end() || type == types.end()) return nullptr;
  i.variant = how->second;
  if (m.size() == 4) {
    const auto combination = combinations.find(m[2]);
    if (combination == combinations.end()) return nullptr;
    i.variant |= combination->second;
  }
  return type->second;
}

// "Data Movement and Conversion Instructions: ld", "ld.global.nc", "st". Without .relaxed, .acquire or .release they
// are weak.
Handler select_memory(Instruction& i, const Modifiers& m) {
  static const std::map<std::string, Space> spaces = {
      {"global", global}, {"shared", shared}, {"shared::cta", shared}, {"param", parameter}, {"local", local}};
  const bool loads = m[0] == "ld";
  Space space = generic;
  size_t vector = 1;
  for (size_t n = 1; n + 1 < m.size(); ++n) {
    const auto named = spaces.find(m[n]);
    if (named != spaces.end()) {
      space = named->second;
    } else if (m[n] == "v2" || m[n] == "v4") {
      vector = static_cast<size_t>(m[n][1] - '0');
    } else if (m[n] == "relaxed") {
      i.order.strong = true;
    } else if (m[n] == (loads ? "acquire" : "release")) {
      i.order.strong = true;
      (loads ? i.order.acquire : i.order.release) = true;
    } else if (scope_named(m[n]) != Scope::none) {
      i.order.scope = scope_named(m[n]);
    } else if (m[n] != "weak" && !(loads && (m[n] == "nc" || m[n] == "L1::no_allocate"))) {
      return nullptr;
    }
  }
  if (i.order.strong != (i.order.scope != Scope::none)) return nullptr;
  if (i.order.strong && space != global) return nullptr;
  i.size = bytes_of(m.back());
  i.is_signed = m.back()[0] == 's';
  i.yields = i.order.strong;
  if (i.size == 0 || (loads ? i.d.size() : i.s.size() - 1) != vector) return nullptr;
  return loads ? load_from(space) : store_to(space);
}

// The order of the others that have one: "membar / fence", "mbarrier.*": .acquire or .release, .cta where none is
// named; "barrier.cluster": arrive releases and wait acquires, where they do not say .relaxed.
void set_order(Instruction& i, const Modifiers& m) {
  for (const std::string& part : m) {
    if (scope_named(part) != Scope::none) i.order.scope = scope_named(part);
  }
  i.order.strong = true;
  i.order.acquire = i.order.release = std::find(m.begin(), m.end(), "relaxed") == m.end();
  if (i.order.scope == Scope::none) i.order.scope = Scope::cta;
}

}  // namespace

void select(Instruction& i, const Modifiers& m) {
  static const Opcodes opcodes = all_opcodes();
  const std::string& op = m[0];
  if (op == "fence" || op == "mbarrier" || op == "barrier") set_order(i, m);
  i.is_async = op == "cp" || (op == "st" && m.size() > 1 && m[1] == "async");
  i.run = op == "mov" ? select_mov(i, m) : op == "setp" ? select_setp(i, m) : nullptr;
  if (i.run == nullptr) {
    const auto alone = opcodes.alone.find(op == "globaltimer" ? op : i.opcode);
    if (alone != opcodes.alone.end()) i.run = alone->second;
  }
  if (i.run == nullptr) {
    const auto together = opcodes.together.find(i.opcode);
    if (together != opcodes.together.end()) {
      i.run = together->second;
      i.kind = Instruction::collective;
      i.warp_aligned = !(op == "shfl" || op == "vote" || i.opcode == "bar.warp.sync");
    }
  }
  if (i.run == nullptr && (op == "ld" || op == "st") && !i.is_async) i.run = select_memory(i, m);
  if (i.run == nullptr) throw Error("unknown opcode " + i.opcode);
}

}  // namespace ptx
