#include "cpu/tiles.h"

#include <c10/util/Exception.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cerrno>
#include <cstring>

#include "cpu/kernels/tiles_body.h"

namespace gru_ext {
namespace {

#if defined(__x86_64__)
// 0 where the process may use tiles, -1 where the processor has none, else the errno of Linux. A test puts its own
// answer in its place: never inlined.
__attribute__((noinline)) int ask_for_tiles() {
  unsigned a, b, c, d;
  constexpr unsigned all = 1u << 22 | 1u << 24 | 1u << 25;  // of bfloat16, tiles themselves, of int8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & all) != all) return -1;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM and the state, of asm/prctl.h
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 0 : errno;
}

constexpr int kRows = 3, kWords = 5, kColumns = 7, kValues = 3 * kRows * kColumns;

// What comes of every instruction that the kernels use: products of the same operands as bfloat16, added to a row that
// is repeated and to zero, and as int8.
template <typename Tiles>
std::array<float, kValues> try_tiles() {
  uint32_t left[kRows][kWords], right[kWords][kColumns];
  float row[kColumns];
  // Bits of two bfloat16 of every sign from 1/4 to 4, and now and then a subnormal one.
  uint32_t random = 1;
  const auto half = [&] {
    random = random * 1664525u + 1013904223u;
    return random >> 29 == 0 ? random >> 28 : 0x3e80u + (random >> 23 & 0x1ffu) + (random >> 31 << 15);
  };
  for (auto& words : left) {
    for (uint32_t& word : words) word = half() | half() << 16;
  }
  for (auto& words : right) {
    for (uint32_t& word : words) word = half() | half() << 16;
  }
  for (int i = 0; i < kColumns; ++i) row[i] = 0.3f * static_cast<float>(i - 3);
  TileShapes shapes;
  shapes.set(0, kRows, sizeof row);
  shapes.set(1, kRows, sizeof row);
  shapes.set(2, kRows, sizeof row);
  shapes.set(3, kRows, sizeof left[0]);
  shapes.set(4, kWords, sizeof right[0]);
  Tiles::configure(shapes);
  Tiles::template load<0>(row, 0);
  Tiles::template zero<1>();
  Tiles::template zero<2>();
  Tiles::template load<3>(left, sizeof left[0]);
  Tiles::template load<4>(right, sizeof right[0]);
  Tiles::template multiply_bf16<0, 3, 4>();
  Tiles::template multiply_bf16<1, 3, 4>();
  Tiles::template multiply_int8<2, 3, 4>();
  std::array<float, kValues> results{};
  Tiles::template store<0>(&results[0], sizeof row);
  Tiles::template store<1>(&results[kRows * kColumns], sizeof row);
  Tiles::template store<2>(&results[2 * kRows * kColumns], sizeof row);
  Tiles::release();
  return results;
}

std::string find_out() {
  const int answer = ask_for_tiles();
  if (answer < 0) return "the processor has none";
  if (answer > 0) return std::string("Linux refuses them: ") + std::strerror(answer);
  const auto found = try_tiles<AmxTiles>(), expected = try_tiles<PortableTiles>();
  if (std::memcmp(found.data(), expected.data(), sizeof found) == 0) return "";
  TORCH_WARN("gru_ext: the tiles of this processor (Intel AMX) do not compute what they should; they are not used");
  return "they do not compute what they should";
}
#else
std::string find_out() { return "the processor has none"; }
#endif

}  // namespace

const std::string& why_no_tiles() {
  static const std::string reason = find_out();
  return reason;
}

}  // namespace gru_ext
