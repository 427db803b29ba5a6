// The int8 kernel for any CPU: 16-byte GNU vectors.
#include "cpu/kernels/before_target.h"

#define GRU_VECTOR_BYTES 16
#include "cpu/int8/int8_body.h"

namespace gru_ext {
namespace {

// Bytes are multiplied as the halves of 16-bit lanes, the odd ones and the even ones: 2 * 127 * 127 fits.
struct Dot {
  typedef int16_t ShortVector __attribute__((vector_size(GRU_VECTOR_BYTES)));
  static constexpr int rows = 2;
  static constexpr int zero = 0;
  struct Word {
    ShortVector odd, even;
  };
  static GRU_INLINE Word split(ShortVector bytes) { return {bytes >> 8, (ShortVector)(bytes << 8) >> 8}; }
  static GRU_INLINE Word broadcast(const uint8_t* bytes) {
    int32_t word;
    std::memcpy(&word, bytes, sizeof word);
    return split((ShortVector)(IntVector{} + word));
  }
  static GRU_INLINE void add(IntVector& sum, const Word& word, IntVector column) {
    const Word weights = split((ShortVector)column);
    const auto pairs = (IntVector)(word.odd * weights.odd + word.even * weights.even);
    sum += (pairs >> 16) + ((pairs << 16) >> 16);
  }
  static GRU_INLINE void store_rounded(uint8_t* target, VectorOf<float> value) {
    const auto rounded = (IntVector)(value + FloatFormat<float>::round_magic);  // see vector_math.h
    for (int lane = 0; lane < kLanes; ++lane) target[lane] = static_cast<uint8_t>(rounded[lane]);
  }
};

}  // namespace

Int8Kernel int8_kernel_portable() { return int8_chunk<Dot>; }

}  // namespace gru_ext
