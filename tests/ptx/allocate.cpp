// Fewer registers: the text of a kernel has thousands, each in use for a short while. Lanes are independent of each
// other, each has its own place in the code, so that what one thread may still read is all that counts.
#include <algorithm>

#include "machine.h"

namespace ptx {
namespace {

using Bits = std::vector<uint64_t>;
bool test(const Bits& b, int i) { return b[i / 64] >> (i % 64) & 1; }
void put(Bits& b, int i) { b[i / 64] |= uint64_t{1} << (i % 64); }
void drop(Bits& b, int i) { b[i / 64] &= ~(uint64_t{1} << (i % 64)); }

// Calls f with the index of each register among some operands.
template <typename Operands, typename F>
void each_register(Operands& operands, const F& f) {
  for (auto& operand : operands) {
    if (operand.kind == Operand::reg) f(operand.index);
  }
}

}  // namespace

void compact_registers(Kernel& k) {
  const int n = static_cast<int>(k.code.size());
  // Basic blocks.
  std::vector<char> leads(n + 1, 0);
  leads[0] = 1;
  for (int i = 0; i < n; ++i) {
    if (k.code[i].kind == Instruction::branch) leads[k.code[i].target] = 1;
    if (k.code[i].kind == Instruction::branch || k.code[i].kind == Instruction::exit) leads[i + 1] = 1;
  }
  std::vector<int> begin, block_of(n);
  for (int i = 0; i < n; ++i) {
    if (leads[i]) begin.push_back(i);
    block_of[i] = static_cast<int>(begin.size()) - 1;
  }
  const int blocks = static_cast<int>(begin.size());
  begin.push_back(n);
  const size_t words = k.registers / 64 + 1;
  std::vector<Bits> in(blocks, Bits(words)), out(blocks, Bits(words));
  const auto backwards = [&](const Instruction& i, Bits& live) {
    if (i.guard < 0) each_register(i.d, [&](int r) { drop(live, r); });
    each_register(i.s, [&](int r) { put(live, r); });
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (int b = blocks - 1; b >= 0; --b) {
      Bits live(words);
      const auto join = [&](int to) {
        for (size_t w = 0; w < words; ++w) live[w] |= in[to][w];
      };
      const Instruction& last = k.code[begin[b + 1] - 1];
      if (last.kind == Instruction::branch) join(block_of[last.target]);
      const bool falls = !(last.guard < 0 && (last.kind == Instruction::branch || last.kind == Instruction::exit));
      if (falls && begin[b + 1] < n) join(b + 1);
      out[b] = live;
      for (int i = begin[b + 1]; i-- > begin[b];) backwards(k.code[i], live);
      if (live != in[b]) in[b] = live, changed = true;
    }
  }
  // Each register's interval in the order of the text.
  std::vector<int> first(k.registers, n), last(k.registers, -1);
  const auto extend = [&](int r, int i) {
    first[r] = std::min(first[r], i);
    last[r] = std::max(last[r], i);
  };
  std::vector<char> wide(k.registers, 0);
  for (int b = 0; b < blocks; ++b) {
    for (int r = 0; r < k.registers; ++r) {
      if (test(in[b], r)) extend(r, begin[b]);
      if (test(out[b], r)) extend(r, begin[b + 1]);
    }
    for (int i = begin[b]; i < begin[b + 1]; ++i) {
      const bool is_wide = k.code[i].opcode.find("b128") != std::string::npos;
      for (const auto* list : {&k.code[i].d, &k.code[i].s}) {
        each_register(*list, [&](int r) {
          extend(r, i);
          if (is_wide) wide[r] = 1;
        });
      }
    }
  }
  // A register begins where another ends at the earliest at the next instruction: no operand is overwritten while read.
  std::vector<int> order, place(k.registers, -1), free;
  for (int r = kSpecials; r < k.registers; ++r) {
    if (last[r] >= 0) order.push_back(r);
  }
  std::sort(order.begin(), order.end(), [&](int a, int b) { return first[a] < first[b]; });
  std::vector<std::vector<int>> ends(n + 2);
  int used = kSpecials, at = 0;
  for (int r = 0; r < kSpecials; ++r) place[r] = r;
  for (int r : order) {
    for (; at < first[r]; ++at) free.insert(free.end(), ends[at].begin(), ends[at].end());
    if (wide[r]) {  // two in a row, for itself
      place[r] = used;
      used += 2;
    } else if (!free.empty()) {
      place[r] = free.back();
      free.pop_back();
    } else {
      place[r] = used++;
    }
    if (!wide[r]) ends[last[r]].push_back(place[r]);
  }
  for (Instruction& i : k.code) {
    for (auto* list : {&i.d, &i.s}) each_register(*list, [&](int& r) { r = place[r]; });
  }
  k.registers = used;
}

}  // namespace ptx
