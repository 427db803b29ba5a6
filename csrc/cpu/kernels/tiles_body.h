// Tiles: what a product may ask of a matrix unit, with two back ends of the same meaning and the same bits.
//
//   AmxTiles        the instructions of Intel AMX; the process must have permission (tiles.h)
//   PortableTiles   the same in plain C++, for tests on any machine. It ends the process where the instructions would
//                   fault: for tiles that were not configured, or whose shapes do not fit each other
//
// A thread has 8 tiles of at most 16 rows of at most 64 bytes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "cpu/kernels/inline.h"

namespace gru_ext {
namespace {

constexpr int kTiles = 8;
constexpr int kTileHeight = 16;    // most rows of a tile
constexpr int kTileRowBytes = 64;  // most bytes of a row

// The shapes of all tiles: the operand of LDTILECFG.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileShapes) == 64);

#if defined(__x86_64__)
// Inline assembly, not intrinsics: g++ makes the tile's number part of the instruction's text, which a template
// argument cannot be. It needs no target flag.
struct AmxTiles {
  static GRU_INLINE void configure(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
  static GRU_INLINE void release() { asm volatile("tilerelease"); }
  template <int tile>
  static GRU_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  // Rows from `source` on, `stride` bytes apart; with a stride of 0 all are the same.
  template <int tile>
  static GRU_INLINE void load(const void* source, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  static GRU_INLINE void store(void* target, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(stride), "i"(tile) : "memory");
  }
  // c (M, N) float += a (M, K/2 pairs of bfloat16) times b (K/2, N pairs of bfloat16): pairs of K, as packed words are.
  template <int c, int a, int b>
  static GRU_INLINE void multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
  // c (M, N) int32 += a (M, K/4 quadruples of int8) times b (K/4, N quadruples of int8).
  template <int c, int a, int b>
  static GRU_INLINE void multiply_int8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
};
#endif

class PortableTiles {
 public:
  static void configure(const TileShapes& shapes) {
    for (int tile = 0; tile < kTiles; ++tile) {
      expect(shapes.rows[tile] <= kTileHeight && shapes.row_bytes[tile] <= kTileRowBytes, "a shape too large");
      expect((shapes.rows[tile] == 0) == (shapes.row_bytes[tile] == 0), "rows without bytes, or bytes without rows");
    }
    State& s = state();
    s.shapes = shapes;
    s.configured = true;
    std::memset(s.data, 0, sizeof s.data);
  }
  static void release() { state().configured = false; }
  template <int tile>
  static void zero() {
    zero(tile);
  }
  template <int tile>
  static void load(const void* source, int64_t stride) {
    load(tile, source, stride);
  }
  template <int tile>
  static void store(void* target, int64_t stride) {
    store(tile, target, stride);
  }
  template <int c, int a, int b>
  static void multiply_bf16() {
    static_assert(a != b && b != c && a != c);
    multiply_bf16(c, a, b);
  }
  template <int c, int a, int b>
  static void multiply_int8() {
    static_assert(a != b && b != c && a != c);
    multiply_int8(c, a, b);
  }

 private:
  // Not inlined nor cloned: a kernel names many combinations of tiles, and each would take its time to compile.
  static __attribute__((noinline, noclone)) void zero(int tile) {
    checked(tile);
    std::memset(state().data[tile], 0, sizeof state().data[tile]);
  }
  static __attribute__((noinline, noclone)) void load(int tile, const void* source, int64_t stride) {
    const Shape shape = checked(tile);
    zero(tile);
    for (int m = 0; m < shape.rows; ++m) {
      std::memcpy(state().data[tile][m], static_cast<const char*>(source) + m * stride, shape.bytes);
    }
  }
  static __attribute__((noinline, noclone)) void store(int tile, void* target, int64_t stride) {
    const Shape shape = checked(tile);
    for (int m = 0; m < shape.rows; ++m) {
      std::memcpy(static_cast<char*>(target) + m * stride, state().data[tile][m], shape.bytes);
    }
  }
  // As Intel's manual defines TDPBF16PS: even and odd products in two chains of fused multiply-adds that start at zero;
  // their sum is added to c. Subnormal operands and results count as zero; rounding is to nearest even.
  static __attribute__((noinline, noclone)) void multiply_bf16(int c, int a, int b) {
    const auto [sums, right] = checked_product(c, a, b);
    State& s = state();
    float columns[kTileHeight][2][kTileHeight] = {};
    for (int k = 0; k < right.rows; ++k) {
      for (int n = 0; n < right.bytes / 4; ++n) {
        for (int i = 0; i < 2; ++i) columns[k][i][n] = half(s.data[b][k], 2 * n + i);
      }
    }
    for (int m = 0; m < sums.rows; ++m) {
      float chains[2][kTileHeight] = {};
      for (int k = 0; k < right.rows; ++k) {
        for (int i = 0; i < 2; ++i) {
          const float value = half(s.data[a][m], 2 * k + i);
          for (int n = 0; n < kTileHeight; ++n) {
            chains[i][n] = flushed(std::fma(value, columns[k][i][n], chains[i][n]));
          }
        }
      }
      float row[kTileHeight];
      std::memcpy(row, s.data[c][m], sizeof row);
      for (int n = 0; n < kTileHeight; ++n) row[n] = flushed(flushed(row[n]) + flushed(chains[0][n] + chains[1][n]));
      std::memcpy(s.data[c][m], row, sums.bytes);
    }
  }
  // Exact, modulo 2^32.
  static __attribute__((noinline, noclone)) void multiply_int8(int c, int a, int b) {
    const auto [sums, right] = checked_product(c, a, b);
    State& s = state();
    int columns[kTileHeight][4][kTileHeight];
    for (int k = 0; k < right.rows; ++k) {
      for (int i = 0; i < 4; ++i) {
        for (int n = 0; n < kTileHeight; ++n) columns[k][i][n] = static_cast<int8_t>(s.data[b][k][4 * n + i]);
      }
    }
    for (int m = 0; m < sums.rows; ++m) {
      uint32_t row[kTileHeight];
      std::memcpy(row, s.data[c][m], sizeof row);
      for (int k = 0; k < right.rows; ++k) {
        for (int i = 0; i < 4; ++i) {
          const int value = static_cast<int8_t>(s.data[a][m][4 * k + i]);
          for (int n = 0; n < kTileHeight; ++n) row[n] += value * columns[k][i][n];
        }
      }
      std::memcpy(s.data[c][m], row, sums.bytes);
    }
  }

  struct State {
    TileShapes shapes;
    bool configured;
    unsigned char data[kTiles][kTileHeight][kTileRowBytes];
  };
  static State& state() {
    static thread_local State of_thread{};
    return of_thread;
  }
  static void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "gru_ext: tiles: %s\n", what);
    std::abort();
  }
  struct Shape {
    int rows, bytes;
  };
  static Shape checked(int tile) {
    expect(state().configured, "a tile before a configuration");
    const Shape shape = {state().shapes.rows[tile], state().shapes.row_bytes[tile]};
    expect(shape.rows > 0, "a tile without a shape");
    return shape;
  }
  // The shapes of c and b.
  static std::pair<Shape, Shape> checked_product(int c, int a, int b) {
    const Shape sums = checked(c), left = checked(a), right = checked(b);
    expect(sums.rows == left.rows && sums.bytes == right.bytes, "a product of another shape");
    expect(left.bytes == 4 * right.rows, "a product whose operands do not fit each other");
    return {sums, right};
  }
  static float flushed(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static float half(const unsigned char* row, int place) {
    uint16_t upper;
    std::memcpy(&upper, row + 2 * place, sizeof upper);
    const uint32_t bits = static_cast<uint32_t>(upper) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return flushed(value);
  }
};

}  // namespace
}  // namespace gru_ext
