// Number formats, and what the tensor core computes with them.
#include <cmath>

#include "cuda/primitives.cuh"

namespace gru_ext::emulator {

namespace {

using device::float_bits;
using device::float_of_bits;

// The values of a word of an operand, in float; returns how many.
int values_of(Operand type, uint32_t word, float (&values)[2]) {
  switch (type) {
    case Operand::bfloat16:
      values[0] = float_of_bits(word << 16);
      values[1] = float_of_bits(word & 0xffff0000u);
      return 2;
    case Operand::float16:
      values[0] = float16_value(static_cast<uint16_t>(word));
      values[1] = float16_value(static_cast<uint16_t>(word >> 16));
      return 2;
    case Operand::tf32:
      values[0] = float_of_bits(word & 0xffffe000u);  // the instruction does not look at the others
      return 1;
  }
  return 0;
}

}  // namespace

uint16_t bfloat16_bits(float x) {
  if (std::isnan(x)) return 0x7fff;
  const uint32_t bits = float_bits(x);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint16_t float16_bits(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;  // would round to 2^16
  if (magnitude < 0x1p-14f) return static_cast<uint16_t>(sign | std::lrint(magnitude * 0x1p24f));  // denormal
  int exponent;
  const float significand = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  // Rounding up to the next power of two carries into the exponent.
  return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + std::lrint(significand * 0x1p11f)));
}

float float16_value(uint16_t bits) {
  const uint32_t exponent = (bits >> 10) & 31, fraction = bits & 0x3ff;
  float magnitude;
  if (exponent == 31) {
    magnitude = fraction ? NAN : INFINITY;
  } else if (exponent == 0) {
    magnitude = static_cast<float>(fraction) * 0x1p-24f;
  } else {
    magnitude = float_of_bits((exponent + 127 - 15) << 23 | fraction << 13);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

float approximate(float x) {
  if (!std::isfinite(x)) return x;
  if (std::fabs(x) < 0x1p-126f) return 0.0f;
  const uint32_t mixed = float_bits(x) * 0x9e3779b1u;
  return x * (mixed >> 31 ? 1.0f + 0x1p-22f : 1.0f - 0x1p-22f);
}

void multiply_tiles(Operand type, float* const (&d)[32], const uint32_t* const (&a)[32],
                    const uint32_t* const (&b)[32]) {
  constexpr int kWords = 8;
  float values[2];
  float left[16][2 * kWords], right[8][2 * kWords];
  int per_word = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, c = lane % 4;
    for (int i = 0; i < 4; ++i) {
      per_word = values_of(type, a[lane][i], values);
      for (int v = 0; v < per_word; ++v) left[g + i % 2 * 8][(c + i / 2 * 4) * per_word + v] = values[v];
    }
    for (int i = 0; i < 2; ++i) {
      values_of(type, b[lane][i], values);
      for (int v = 0; v < per_word; ++v) right[g][(c + i * 4) * per_word + v] = values[v];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const float* row = left[lane / 4 + i / 2 * 8];
      const float* column = right[lane % 4 * 2 + i % 2];
      float sum = 0.0f;
      for (int k = 0; k < kWords * per_word; ++k) sum += row[k] * column[k];
      d[lane][i] += sum;
    }
  }
}

}  // namespace gru_ext::emulator
