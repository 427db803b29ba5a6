// The operators of the CUDA backend on CPU tensors, as gru_ext_emulated::gru_fwd and gru_bwd: its host side as it is,
// products by torch on the CPU, and the kernels in the emulator, which knows the extent of each of their arguments.
#include <torch/library.h>

#include <string>
#include <vector>

#include "device.h"
#include "cuda/choice/records.h"
#include "cuda/one_step/one_step.cuh"
#include "cuda/stepwise/launchers.h"
#include "cuda/stepwise/step_layer_norm.cuh"
#include "cuda/stepwise/step_reset_before.cuh"
#include "cuda/operators.h"

namespace gru_ext {
namespace {

// So few that a problem of 50 rows has threads with several.
constexpr int64_t kMostBlocks = 6;

// Rows of `columns` values, `stride` apart, as all that a kernel may touch under this name.
template <typename T>
void name_rows(const char* name, const T* p, int64_t rows, int64_t stride, int64_t columns, bool writable) {
  if (p == nullptr || rows == 0) return;
  emulator::name_buffer(name, p, static_cast<size_t>((rows - 1) * stride + columns) * sizeof(T), writable);
}

template <typename acc_t>
void name_masks(const DirectionMasks<acc_t>& masks, int64_t rows, int64_t rows_of_states, int64_t H) {
  name_rows("zoneout mask", masks.zoneout, rows, H, H, false);
  name_rows("candidate mask", masks.candidate, rows, H, H, false);
  name_rows("recurrent mask", masks.recurrent, rows_of_states, H, H, false);
}

// Null, or the failure.
template <typename Kernel>
const char* run_blocks(const char* name, int blocks, int64_t shared_bytes, Stream stream, const Kernel& kernel,
                       int threads = kStepThreads) {
  emulator::check_stream(stream);
  static std::string error;
  error.clear();
  ++emulator::device.block_launches;
  try {
    emulator::launch({name, blocks, /*cluster=*/1, threads, static_cast<size_t>(shared_bytes)}, kernel);
  } catch (const emulator::Failure& failure) {
    error = failure.text;
  }
  emulator::forget_buffers();
  return error.empty() ? nullptr : error.c_str();
}

template <typename Kernel>
const char* run(const char* name, int64_t rows, int64_t H, Stream stream, const Kernel& kernel) {
  return run_blocks(name, step_blocks(rows, H, kMostBlocks), /*shared_bytes=*/0, stream, kernel);
}

// Sets what the host side finds from now on: a new device, of which nothing is known yet or, `tested`, whose kernels
// count as having passed their self-test, which takes longer than most calls of the tests.
void emulate(int64_t multiprocessors, int64_t refusals, int64_t spoiled, bool capturing, bool tested) {
  static int devices = 0;
  emulator::device = {};
  emulator::device.index = ++devices;
  emulator::device.multiprocessors = static_cast<int>(multiprocessors);
  emulator::device.refusals = static_cast<int>(refusals);
  emulator::device.spoiled = static_cast<int>(spoiled);
  emulator::device.capturing = capturing;
  if (!tested) return;
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const Family* family : families()) {
      for (const Pass pass : {Pass::forward, Pass::backward}) {
        for (const Kernel* kernel : family->kernels(pass, dtype)) mark_tested(*kernel);
      }
    }
  }
}

// All that the one-step kernel may touch of a product.
template <typename scalar_t>
void name_product(const GruOneStepProduct<scalar_t>& product, int64_t D, int64_t B, int64_t H) {
  if (product.operand == nullptr || product.length == 0) return;
  for (int d = 0; d < D; ++d) {
    name_rows("weight", product.weight[d], 3 * H, product.length, product.length, false);
    name_rows("operand", product.operand + d * product.direction_stride, B, product.row_stride,
              (product.length - 1) * product.value_stride + 1, false);
  }
}

// What the forward kernels of a step have in common; those of reset_before have three gates.
template <typename scalar_t, typename acc_t>
void name_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, int64_t gates, bool writes_h) {
  name_rows("a_x", p.a_x, p.rows, 3 * p.H, 3 * p.H, false);
  name_rows("bias_ih", p.bias_ih, 3, p.H, p.H, false);
  name_rows("bias_hh", p.bias_hh, 3, p.H, p.H, false);
  name_rows("h", p.h, p.rows, p.H, p.H, writes_h);
  name_rows("gates", p.gates, p.rows, gates * p.H, gates * p.H, true);
  name_masks(p.masks, p.rows, p.rows, p.H);
}

// And the kernels that write y.
template <typename scalar_t, typename acc_t>
void name_results(const GruStepFwdParams<scalar_t, acc_t>& p) {
  name_rows("h_operand", p.h_operand, p.rows, p.H, p.H, true);
  name_rows("y", p.y, p.rows, p.y_stride, p.H, true);
}

// And the backward kernels, of so many rows of dh.
template <typename scalar_t, typename acc_t>
void name_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, int64_t gates, int64_t rows) {
  name_rows("gates", p.gates, p.rows, gates * p.H, gates * p.H, false);
  name_rows("y_prev", p.y_prev, p.prev_rows, p.y_stride, p.H, false);
  name_rows("h0", p.h0, p.rows, p.H, p.H, false);
  name_rows("dh", p.dh, rows, p.H, p.H, true);
  name_rows("dgates", p.dgates, p.rows, gates * p.H, gates * p.H, true);
  name_masks(p.masks, p.rows, rows, p.H);
}

// And the kernels that read dy; returns the rows of dh.
template <typename scalar_t, typename acc_t>
int64_t name_step_bwd_of_dy(const GruStepBwdParams<scalar_t, acc_t>& p, int64_t gates) {
  const int64_t rows = std::max(p.rows, p.product_rows);
  name_step_bwd(p, gates, rows);
  name_rows("dy", p.dy, p.rows, p.dy_stride, p.H, false);
  name_rows("dh_product", p.dh_product, p.product_rows, p.H, p.H, false);
  name_rows("h_operand", p.h_operand, p.rows, p.H, p.H, true);
  return rows;
}

}  // namespace

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream) {
  name_step_fwd(p, 4, true);
  name_results(p);
  name_rows("a_h", p.a_h, p.rows, 3 * p.H, 3 * p.H, false);
  return run("gru_step_fwd_kernel", p.rows, p.H, stream, [&] { gru_step_fwd_kernel<scalar_t>(p); });
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream) {
  const int64_t rows = name_step_bwd_of_dy(p, 4);
  return run("gru_step_bwd_kernel", rows, p.H, stream, [&] { gru_step_bwd_kernel<scalar_t>(p); });
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream) {
  name_step_fwd(p, 3, false);
  name_rows("a_h", p.a_h, p.rows, 2 * p.H, 2 * p.H, false);
  name_rows("reset", p.reset, p.rows, p.H, p.H, true);
  name_rows("z", p.z, p.rows, p.H, p.H, true);
  return run("gru_step_reset_fwd_kernel", p.rows, p.H, stream, [&] { gru_step_reset_fwd_kernel<scalar_t>(p); });
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream) {
  name_step_fwd(p, 3, true);
  name_results(p);
  name_rows("a_reset", p.a_reset, p.rows, p.H, p.H, false);
  name_rows("z", p.z, p.rows, p.H, p.H, false);
  return run("gru_step_candidate_fwd_kernel", p.rows, p.H, stream, [&] { gru_step_candidate_fwd_kernel<scalar_t>(p); });
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream) {
  const int64_t rows = name_step_bwd_of_dy(p, 3);
  name_rows("reset", p.reset, p.rows, p.H, p.H, true);
  return run("gru_step_candidate_bwd_kernel", rows, p.H, stream, [&] { gru_step_candidate_bwd_kernel<scalar_t>(p); });
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream) {
  name_step_bwd(p, 3, p.rows);
  name_rows("dreset", p.dreset, p.rows, p.H, p.H, false);
  return run("gru_step_reset_bwd_kernel", p.rows, p.H, stream, [&] { gru_step_reset_bwd_kernel<scalar_t>(p); });
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<scalar_t, acc_t>& p, Stream stream) {
  name_rows("values", p.values, p.rows, 3 * p.H, 3 * p.H, true);
  name_rows("gain", p.gain, 3, p.H, p.H, false);
  // Both places of a row lie in one tensor, and those of different rows between each other.
  name_rows("saved", p.hat, p.rows, p.saved_stride, p.inverse_std - p.hat + p.norms, true);
  return run_blocks("gru_step_norm_fwd_kernel", static_cast<int>(std::min(p.rows, kMostBlocks)),
                    kStepThreads * sizeof(acc_t), stream, [&] { gru_step_norm_fwd_kernel<scalar_t>(p); });
}

template <typename scalar_t>
const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<scalar_t>& p, Stream stream) {
  name_rows("d", p.d, p.rows, p.d_stride, 4 * p.H, false);
  name_rows("gain", p.gain, 3, p.H, p.H, false);
  name_rows("saved", p.hat, p.rows, p.saved_stride, p.inverse_std - p.hat + p.norms, false);
  name_rows("out", p.out, p.rows, p.out_stride, 6 * p.H, true);
  return run_blocks("gru_step_norm_bwd_kernel", static_cast<int>(std::min(p.rows, kMostBlocks)),
                    kStepThreads * sizeof(device::acc_type<scalar_t>), stream,
                    [&] { gru_step_norm_bwd_kernel<scalar_t>(p); });
}

template <typename scalar_t>
const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<scalar_t>& p, Stream stream) {
  name_product(p.of_x, p.D, p.B, p.H);
  name_product(p.of_h, p.D, p.B, p.H);
  for (int d = 0; d < p.D; ++d) {
    name_rows("bias_ih", p.bias_ih[d], 3, p.H, p.H, false);
    name_rows("bias_hh", p.bias_hh[d], 3, p.H, p.H, false);
  }
  name_rows("y", p.y, p.B, p.D * p.H, p.D * p.H, true);
  name_rows("h_n", p.h_n, p.D * p.B, p.H, p.H, true);
  name_rows("gates", p.gates, p.D * p.B, 4 * p.H, 4 * p.H, true);
  return with_one_step_launch(p, [stream](auto kernel, const auto& parameters, const OneStepShape& shape) {
    return run_blocks(
        "gru_one_step_fwd_kernel", shape.blocks, shape.shared_bytes, stream, [&] { kernel(parameters); },
        shape.threads);
  });
}

// The emulator has nothing to load.
template <typename scalar_t>
bool load_gru_step_kernels() {
  return true;
}
template <typename scalar_t>
bool load_gru_one_step_kernels() {
  return true;
}

#define GRU_KERNELS_OF(T, acc_t)                \
  GRU_STEP_LAUNCHERS(T, acc_t)                  \
  template bool load_gru_one_step_kernels<T>(); \
  template const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<T>&, Stream);
GRU_KERNELS_OF(double, double)
GRU_KERNELS_OF(float, float)
GRU_KERNELS_OF(device::float16, float)
GRU_KERNELS_OF(device::bfloat16, float)

}  // namespace gru_ext

TORCH_LIBRARY(gru_ext_emulated, m) {
  gru_ext::define_operators(m);
  gru_ext::define_kernel_choice(m);
  using gru_ext::emulator::device;
  // What measurements will find, one after the other.
  m.def("emulate_seconds(float[] seconds) -> ()",
        [](const std::vector<double>& seconds) { device.seconds = {seconds.begin(), seconds.end()}; });
  m.def("measurements() -> int", [] { return int64_t{device.measurements}; });
  m.def("emulate(int multiprocessors, int refusals, int spoiled, bool capturing, bool tested=False) -> ()",
        &gru_ext::emulate);
  // What `spoiled` launches leave: `value` more in the first place of a result, see device.h.
  m.def("emulate_spoil(float value, int result) -> ()", [](double value, int64_t result) {
    device.spoil = value;
    device.spoiled_result = static_cast<int>(result);
  });
  // From now on the asynchronous store of this number, counted in every launch, is lost, and waits end; -1: none.
  m.def("lose_store(int number) -> ()", [](int64_t number) {
    gru_ext::emulator::options.lost_store = static_cast<int>(number);
    gru_ext::emulator::options.time_out = number >= 0;
    gru_ext::emulator::options.races = number < 0;  // those that do not wait long enough race
  });
  // The last launch of a cluster kernel still runs, and will have waited too long when the next one begins.
  m.def("fail_late() -> ()", [] { device.late_error = device.error; });
  // Whether there is enough for streamed kernels.
  m.def("emulate_shared_memory(bool enough) -> ()", [](bool enough) { device.has_shared_memory = enough; });
  // What the device was built like, and for; see device.h.
  m.def("emulate_limits(int architecture, int shared_bytes) -> ()", [](int64_t architecture, int64_t shared_bytes) {
    device.architecture = static_cast<int>(architecture);
    device.shared_bytes = static_cast<int>(shared_bytes);
  });
  // So many launches find no memory left; `throws`: as torch finds out, else as the launch does.
  m.def("emulate_no_memory(int launches, bool throws) -> ()", [](int64_t launches, bool throws) {
    device.no_memory = static_cast<int>(launches);
    device.throws_no_memory = throws;
  });
  m.def("emulate_capture(bool capturing) -> ()", [](bool capturing) { device.capturing = capturing; });
  m.def("persistent_launches() -> int", [] { return int64_t{device.launches}; });
  // Of a cluster kernel: rows of the batch, whether it had masks, the seconds that a wait of it may take, and members.
  m.def("last_launch() -> (int, bool, float, int)", [] {
    return std::tuple<int64_t, bool, double, int64_t>{device.rows, device.masked, device.wait_seconds, device.members};
  });
  m.def("residency_queries() -> int", [] { return int64_t{device.residency_queries}; });
  m.def("block_launches() -> int", [] { return int64_t{device.block_launches}; });
}

TORCH_LIBRARY_IMPL(gru_ext_emulated, CPU, m) { gru_ext::implement_operators(m); }
