// The operator `bernoulli`: a tensor of bools, true with probability p, that depends on the seed and its shape alone
// and not on the number of threads. Sixteen random bits decide an element: p is rounded to a multiple of 2^-16.
//
//   seed   () int64: the key
//   shape  of the result
//
// torch's own Bernoulli numbers on the CPU come one after another from one sequence, which takes longer than a whole
// layer's share for the same element.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cell/philox.h"
#include "cpu/call.h"
#include "op/registration.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GRU_FOR_EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GRU_FOR_EACH_MACHINE
#endif

namespace gru_ext {
namespace {

// Blocks of four words that are computed at once, and the elements that come of them: two a word, the lower halves of
// the first words first.
constexpr int kLanes = 16;
constexpr int64_t kElements = 8 * kLanes;

// Elements [kElements * group, kElements * (group + 1)).
GRU_FOR_EACH_MACHINE
void fill_group(uint64_t seed, uint64_t group, uint32_t threshold, bool* target) {
  uint32_t words[4][kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t block = group * kLanes + i;
    words[0][i] = static_cast<uint32_t>(block);
    words[1][i] = static_cast<uint32_t>(block >> 32);
  }
  philox(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  for (int w = 0; w < 4; ++w) {
    for (int i = 0; i < kLanes; ++i) target[2 * w * kLanes + i] = (words[w][i] & 0xffff) < threshold;
    for (int i = 0; i < kLanes; ++i) target[(2 * w + 1) * kLanes + i] = (words[w][i] >> 16) < threshold;
  }
}

at::Tensor bernoulli(const at::Tensor& seed, at::IntArrayRef shape, double p) {
  TORCH_CHECK(seed.dim() == 0 && seed.scalar_type() == at::kLong, "bernoulli: expected seed of shape (), int64, got ",
              seed.sizes(), ", ", seed.scalar_type());
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, "bernoulli: expected p in [0, 1], got ", p);
  const auto key = static_cast<uint64_t>(*seed.const_data_ptr<int64_t>());
  const auto threshold = static_cast<uint32_t>(std::lround(p * 65536));
  return call_on_cpu([&] {
    const at::Tensor result = at::empty(shape, at::TensorOptions(at::kBool));
    bool* const data = result.mutable_data_ptr<bool>();
    const int64_t count = result.numel();
    constexpr int64_t groups_of_a_thread = 128;  // some microseconds
    at::parallel_for(0, (count + kElements - 1) / kElements, groups_of_a_thread, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        const int64_t first = group * kElements;
        if (first + kElements <= count) {
          fill_group(key, group, threshold, data + first);
        } else {
          bool part[kElements];
          fill_group(key, group, threshold, part);
          std::copy_n(part, count - first, data + first);
        }
      }
    });
    return result;
  });
}

// Of one counter (4) and a key (2), for tests of the generator.
std::vector<int64_t> philox_words(at::IntArrayRef counter, at::IntArrayRef key) {
  TORCH_CHECK(counter.size() == 4 && key.size() == 2, "philox: expected a counter of 4 words and a key of 2, got ",
              counter.size(), " and ", key.size());
  uint32_t words[4][1];
  for (int i = 0; i < 4; ++i) words[i][0] = static_cast<uint32_t>(counter[i]);
  philox(words, static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1]));
  return {words[0][0], words[1][0], words[2][0], words[3][0]};
}

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.set_python_module("gru_ext.tracing");
  m.def("bernoulli(Tensor seed, SymInt[] shape, float p) -> Tensor");
  m.def("philox(int[4] counter, int[2] key) -> int[]", gru_ext::philox_words);
}

TORCH_LIBRARY_IMPL(gru_ext, CPU, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("bernoulli", gru_ext::bernoulli);
}
