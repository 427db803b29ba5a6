// What the lanes of a warp do together; the scheduler has seen to it that all that take part are there. shfl.sync,
// vote.sync; "Warp Level Matrix Multiply-Accumulate Instructions": ldmatrix, mma.
#include "machine.h"

namespace ptx {
namespace {

// ---- "shfl.sync"

enum Shuffle { up, down, butterfly, indexed };

template <Shuffle kMode>
void shuffle(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t *a = w.in(i.s[0]), *b = w.in(i.s[1]), *c = w.in(i.s[2]);
  uint64_t from[kLanes];
  std::memcpy(from, a, sizeof from);
  uint32_t in_range = 0;
  uint64_t* d = w.out(i.d[0]);
  each(mask, [&](int l) {
    const int bval = b[l] & 31, cval = c[l] & 31, segments = c[l] >> 8 & 31;
    const int highest = (l & segments) | (cval & ~segments), lowest = l & segments;
    const int j = kMode == up          ? l - bval
                  : kMode == down      ? l + bval
                  : kMode == butterfly ? l ^ bval
                                       : lowest | (bval & ~segments);
    const bool p = kMode == up ? j >= highest : j <= highest;
    const int source = p ? j : l;
    if ((mask >> source & 1) == 0) {
      fail(&w, &i, l, "takes a value from lane ", source, ", which does not take part");
    }
    d[l] = static_cast<uint32_t>(from[source]);
    in_range |= uint32_t{p} << l;
  });
  if (i.d.size() > 1) w.set_pred(i.d[1], mask, in_range);
}

// ---- "vote.sync"

enum Vote { any, all_of, uniform };

template <Vote kMode>
void vote(Warp& w, const Instruction& i, uint32_t mask) {
  const uint32_t votes = w.pred(i.s[0]) & mask;
  const bool value = kMode == any ? votes != 0 : kMode == all_of ? votes == mask : votes == 0 || votes == mask;
  w.set_pred(i.d[0], mask, value ? kAll : 0);
}
void ballot(Warp& w, const Instruction& i, uint32_t mask) {
  const uint32_t votes = w.pred(i.s[0]) & mask;
  each(mask, [&](int l) { w.out(i.d[0])[l] = votes; });
}

void need_all(Warp& w, const Instruction& i, uint32_t mask) {
  if (mask != kAll) fail(&w, &i, __builtin_ctz(mask), "divergence: not all threads of the warp are there");
}

// ---- "ldmatrix": thread 8 m + r gives row r of matrix m. Thread t gets, of each, elements 2 (t % 4) and the next of
// row t / 4; transposed: of column t / 4.
template <bool kTransposed>
void load_matrix(Warp& w, const Instruction& i, uint32_t mask) {
  need_all(w, i, mask);
  const int matrices = static_cast<int>(i.d.size());
  const uint64_t* base = w.in(i.s[0]);
  uint16_t rows[4][8][8];
  for (int l = 0; l < 8 * matrices; ++l) {
    std::memcpy(rows[l / 8][l % 8], own_shared(w, i, l, base[l] + static_cast<uint64_t>(i.s[0].offset), 16, false), 16);
  }
  for (int m = 0; m < matrices; ++m) {
    uint64_t* d = w.out(i.d[static_cast<size_t>(m)]);
    for (int l = 0; l < kLanes; ++l) {
      const int line = l / 4, first = l % 4 * 2;
      const uint32_t low = kTransposed ? rows[m][first][line] : rows[m][line][first];
      const uint32_t high = kTransposed ? rows[m][first + 1][line] : rows[m][line][first + 1];
      d[l] = high << 16 | low;
    }
  }
}

// ---- "mma": operands by type

struct Bf16 {
  static constexpr int kPerWord = 2;
  static float f(const Warp&, const Instruction&, int, uint32_t word, int half) {
    return bits_to<float>((half != 0 ? word >> 16 : word & 0xffff) << 16);
  }
};
struct F16 {
  static constexpr int kPerWord = 2;
  static float f(const Warp&, const Instruction&, int, uint32_t word, int half) {
    return static_cast<float>(bits_to<_Float16>(static_cast<uint16_t>(half != 0 ? word >> 16 : word)));
  }
};
struct Tf32 {  // "Alternate Floating-Point Data Formats": the lower 13 bits are undefined
  static constexpr int kPerWord = 1;
  static float f(const Warp& w, const Instruction& i, int lane, uint32_t word, int) {
    if ((word & 0x1fff) != 0) fail(&w, &i, lane, "an operand that was not rounded to TF32");
    return bits_to<float>(word);
  }
};

// "Matrix Fragments for mma.m16n8k16", of 16-bit values, and m16n8k8, of TF32: with g = lane / 4, c = lane % 4, word w
// of A is row g + 8 (w % 2), and columns (c + 4 (w / 2)) n on, n values to the word; word w of B is rows (c + 4 w) n on
// of column g; element e of C and D is row g + 8 (e / 2), column 2 c + e % 2. Sums are rounded once.
template <typename Type>
void multiply(Warp& w, const Instruction& i, uint32_t mask) {
  need_all(w, i, mask);
  constexpr int n = Type::kPerWord, K = 8 * n;
  float A[16][K], B[K][8];
  for (int l = 0; l < kLanes; ++l) {
    const int g = l / 4, c = l % 4;
    for (int e = 0; e < 4; ++e) {
      const auto word = get<uint32_t>(w.in(i.s[static_cast<size_t>(e)]), l);
      for (int half = 0; half < n; ++half)
        A[g + 8 * (e % 2)][(c + 4 * (e / 2)) * n + half] = Type::f(w, i, l, word, half);
    }
    for (int e = 0; e < 2; ++e) {
      const auto word = get<uint32_t>(w.in(i.s[static_cast<size_t>(4 + e)]), l);
      for (int half = 0; half < n; ++half) B[(c + 4 * e) * n + half][g] = Type::f(w, i, l, word, half);
    }
  }
  double sum[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < K; ++k) {
      for (int column = 0; column < 8; ++column) sum[row][column] += static_cast<double>(A[row][k]) * B[k][column];
    }
  }
  float result[4][kLanes];
  for (int e = 0; e < 4; ++e) {
    const uint64_t* c = w.in(i.s[static_cast<size_t>(6 + e)]);
    for (int l = 0; l < kLanes; ++l) {
      result[e][l] = static_cast<float>(sum[l / 4 + 8 * (e / 2)][l % 4 * 2 + e % 2] + get<float>(c, l));
    }
  }
  for (int e = 0; e < 4; ++e) {
    uint64_t* d = w.out(i.d[static_cast<size_t>(e)]);
    for (int l = 0; l < kLanes; ++l) set(d, l, result[e][l]);
  }
}

}  // namespace

void add_warps(Opcodes& opcodes) {
  Table& t = opcodes.together;
  t["shfl.sync.up.b32"] = shuffle<up>;
  t["shfl.sync.down.b32"] = shuffle<down>;
  t["shfl.sync.bfly.b32"] = shuffle<butterfly>;
  t["shfl.sync.idx.b32"] = shuffle<indexed>;
  t["vote.sync.any.pred"] = vote<any>;
  t["vote.sync.all.pred"] = vote<all_of>;
  t["vote.sync.uni.pred"] = vote<uniform>;
  t["vote.sync.ballot.b32"] = ballot;
  for (const std::string count : {"x2", "x4"}) {
    t["ldmatrix.sync.aligned.m8n8." + count + ".shared.b16"] = load_matrix<false>;
    t["ldmatrix.sync.aligned.m8n8." + count + ".trans.shared.b16"] = load_matrix<true>;
  }
  t["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] = multiply<Bf16>;
  t["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] = multiply<F16>;
  t["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"] = multiply<Tf32>;
}

}  // namespace ptx
