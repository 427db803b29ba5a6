// Kernels of a few lines, one for each primitive whose meaning a test states for itself.
#include "cuda/primitives.cuh"

#include "runner.h"

namespace gru_ext::emulator {

namespace {

using namespace device;

// a (32, 4), b (32, 2): the words of each thread; d (32, 4): in and out.
template <typename T>
void run_mma() {
  const auto* a = buffer<const uint32_t>("a");
  const auto* b = buffer<const uint32_t>("b");
  auto* d = buffer<float>("d");
  launch({"mma", 1, 1, kWarpSize, 0}, [&] {
    const int lane = thread_index();
    uint32_t left[4];
    float sum[4];
    for (int i = 0; i < 4; ++i) left[i] = load_global(a + lane * 4 + i);
    for (int i = 0; i < 4; ++i) sum[i] = load_global(d + lane * 4 + i);
    device::mma<T>(sum, left, load_global(b + lane * 2), load_global(b + lane * 2 + 1));
    for (int i = 0; i < 4; ++i) store_global(d + lane * 4 + i, sum[i]);
  });
}

// rows (32, 4) words: row i % 8 of matrix i / 8, 16 bytes; words (32, 4): what each thread receives.
void run_ldmatrix() {
  const auto* rows = buffer<const u32x4>("rows");
  auto* words = buffer<uint32_t>("words");
  const bool transposed = number("transposed") != 0;
  launch({"ldmatrix", 1, 1, kWarpSize, 512}, [&] {
    const int lane = thread_index();
    u32x4* const row = reinterpret_cast<u32x4*>(shared_memory()) + lane;
    store_shared(row, load_global(rows + lane));
    block_barrier();
    uint32_t received[4];
    if (transposed) {
      device::ldmatrix_x4_transposed(received, row);
    } else {
      device::ldmatrix_x4(received, row);
    }
    for (int i = 0; i < 4; ++i) store_global(words + lane * 4 + i, received[i]);
  });
}

// x (n) rounded to T, and what comes back.
template <typename T>
void run_convert() {
  const auto* x = buffer<const float>("x");
  auto* rounded = buffer<T>("rounded");
  auto* back = buffer<float>("back");
  const auto n = number("n");
  launch({"convert", 1, 1, kWarpSize, 0}, [&] {
    for (int i = thread_index(); i < n; i += block_size()) {
      const T value = from_acc<T>(load_global(x + i));
      store_global(rounded + i, value);
      store_global(back + i, to_acc(value));
    }
  });
}

// FastMath of x (n).
void run_math() {
  const auto* x = buffer<const float>("x");
  auto* sigmoid = buffer<float>("sigmoid");
  auto* tanh = buffer<float>("tanh");
  const auto n = number("n");
  launch({"fast_math", 1, 1, kWarpSize, 0}, [&] {
    for (int i = thread_index(); i < n; i += block_size()) {
      store_global(sigmoid + i, FastMath::sigmoid(load_global(x + i)));
      store_global(tanh + i, FastMath::tanh(load_global(x + i)));
    }
  });
}

const Kernel mma_bfloat16("mma_bfloat16", run_mma<bfloat16>);
const Kernel mma_float16("mma_float16", run_mma<float16>);
const Kernel mma_tf32("mma_tf32", run_mma<tf32>);
const Kernel ldmatrix("ldmatrix", run_ldmatrix);
const Kernel convert_bfloat16("convert_bfloat16", run_convert<bfloat16>);
const Kernel convert_float16("convert_float16", run_convert<float16>);
const Kernel fast_math("fast_math", run_math);

}  // namespace

}  // namespace gru_ext::emulator
