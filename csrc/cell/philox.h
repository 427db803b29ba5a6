// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
// 1, 2, 3", 2011: four words that depend on a counter of four and a key of two, and on nothing else.
#pragma once

#include <cstdint>

namespace gru_ext {

// As many counters as `lanes` at once: word w of counter i is words[w][i]. Each becomes its four random words.
template <int lanes>
inline __attribute__((always_inline)) void philox(uint32_t (&words)[4][lanes], uint32_t key_0, uint32_t key_1) {
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < lanes; ++i) {
      const uint64_t product_0 = uint64_t{0xD2511F53} * words[0][i];
      const uint64_t product_1 = uint64_t{0xCD9E8D57} * words[2][i];
      words[0][i] = static_cast<uint32_t>(product_1 >> 32) ^ words[1][i] ^ key_0;
      words[1][i] = static_cast<uint32_t>(product_1);
      words[2][i] = static_cast<uint32_t>(product_0 >> 32) ^ words[3][i] ^ key_1;
      words[3][i] = static_cast<uint32_t>(product_0);
    }
    key_0 += 0x9E3779B9;
    key_1 += 0xBB67AE85;
  }
}

}  // namespace gru_ext
