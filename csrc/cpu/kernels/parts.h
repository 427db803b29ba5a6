// float32 as parts of bfloat16, whose products are a matrix unit's.
//
// A float32 has 24 bits of significand and a bfloat16 has 8. The first part of a float32 is the nearest bfloat16, the
// next one is the nearest to what is left: one part is within 2^-8 of a number, two are within 2^-17. With two parts,
// a product is the sum of three, without that of both second parts, which is at most 2^-16:
//
//     (a0 + a1) (b0 + b1) = a0 b0 + a0 b1 + a1 b0   within 2^-15 of a b
//
// Of an infinity NaN is left, and a product with it is NaN: the parts of the other number may have either sign.
#pragma once

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace gru_ext {

// One of `count` parts. A row of a matrix has its first parts and then its next ones: each has an equal share of the
// row's stride.
template <int count>
struct Part : c10::BFloat16 {};

template <typename operand_t>
constexpr int kParts = 1;
template <int count>
constexpr int kParts<Part<count>> = count;

// Whether products have bfloat16 in the place of the tensors' float32.
template <typename scalar_t, typename operand_t>
constexpr bool kByParts = std::is_same_v<scalar_t, float> && std::is_base_of_v<c10::BFloat16, operand_t>;

// Words of T that K values of a row take in a panel.
template <typename T, typename operand_t>
constexpr int64_t words_of(int64_t K) {
  constexpr int64_t values = sizeof(T) / sizeof(operand_t);
  return (K + values - 1) / values * kParts<operand_t>;
}

// In a panel, so many words of the first parts are followed by the same words of the next parts.
constexpr int64_t kPartWords = 16;

// Of a panel whose parts have `words` words each: how many of a part lie together where `word` does.
inline int64_t words_together(int64_t word, int64_t words) {
  return std::min(kPartWords, words - word / kPartWords * kPartWords);
}

// Where the first part of `word` lies in a panel, in words.
template <typename operand_t>
int64_t place_of_word(int64_t word) {
  const int64_t within = word % kPartWords;
  return (word - within) * kParts<operand_t> + within;
}

}  // namespace gru_ext
