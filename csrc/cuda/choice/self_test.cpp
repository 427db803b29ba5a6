#include "cuda/choice/self_test.h"

#include <ATen/ATen.h>

#include <cmath>
#include <optional>
#include <sstream>
#include <vector>

#include "cuda/members.h"
#include "cuda/stepwise/stepwise.h"
#include "op/check.h"

namespace gru_ext {
namespace {

using at::Tensor;

// Of the largest value: what two right kernels, which round differently, may differ by. A kernel that is wrong differs
// by about 1.
constexpr double kTolerance = 0.05;

// Values in [-scale, scale] without pattern, the same at every call, from no generator of torch's: the fractional parts
// of large sines.
Tensor scattered(at::IntArrayRef shape, double scale, double phase, const at::TensorOptions& options) {
  const Tensor index = at::arange(c10::multiply_integers(shape), options.dtype(at::kDouble));
  const Tensor fraction = index.mul(12.9898).add_(phase).sin_().mul_(43758.5453).frac_();
  return fraction.mul_(scale).view(shape).to(options.dtype());
}

// What is wrong with the first tensor that differs, if one does; or that the kernel has set `error`, as it waited too
// long. Waits for the device.
std::string compare(const Tensor& error,
                    const std::vector<std::pair<const char*, std::pair<Tensor, Tensor>>>& results) {
  std::string fault;
  for (const auto& [name, pair] : results) {
    if (!fault.empty()) break;
    const Tensor ours = pair.first.to(at::kDouble), stepwise = pair.second.to(at::kDouble);
    const double largest = stepwise.abs().max().item<double>();
    const double difference = ours.sub(stepwise).abs_().max().item<double>();
    if (difference <= kTolerance * largest) continue;  // not so where it is NaN
    std::ostringstream words;
    words << name << " differs by " << difference << ", where the largest value is " << largest;
    fault = words.str();
  }
  return error.item<int>() == 0 ? fault : "it waited too long for other blocks of its cluster";
}

}  // namespace

std::string self_test(const Kernel& kernel, Pass pass, at::ScalarType dtype, at::Device device, Stream stream) {
  const TestSize size = kernel.test_size();
  const int64_t T = 5, B = size.B, I = 4, H = size.H, D = 2;
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  double phase = 0;
  Sequence s{};
  s.members = kernel.takes_members() ? 2 : 0;
  const auto tensor = [&](std::vector<int64_t> shape, double scale) {
    return scattered(s.shape(std::move(shape)), scale, phase += 1, options);
  };
  const Tensor x = tensor({T, B, I}, 2);
  const std::optional<Tensor> hx = tensor({D, B, H}, 1), dy = tensor({T, B, D * H}, 1), dh_n = tensor({D, B, H}, 1);
  std::vector<Tensor> weights;
  for (int64_t d = 0; d < D; ++d) {
    const double scale = 2 / std::sqrt(static_cast<double>(H));
    for (const auto& shape : std::vector<std::vector<int64_t>>{{3 * H, I}, {3 * H, H}, {3 * H}, {3 * H}}) {
      weights.push_back(tensor(shape, scale));
    }
  }
  const std::optional<Tensor> no_batch_sizes;
  Variant variant;
  if (size.masks) {
    const auto mask = [&](std::vector<int64_t> shape) { return tensor(std::move(shape), 1).gt(-0.5); };
    variant.zoneout_mask = mask({D, T * B, H});
    variant.candidate_mask = mask({D, T * B, H});
    variant.recurrent_mask = mask({D, B, H});
    variant.zoneout = variant.candidate_dropout = variant.recurrent_dropout = 0.25;
  }
  const Layer layer{x, hx, weights, no_batch_sizes, /*bidirectional=*/true, variant};
  s = s.members > 0 ? check_fwd_members(layer) : check_fwd(layer);

  const char* error = nullptr;
  const auto not_launched = [&] {
    TORCH_CHECK_WITH(OutOfMemoryError, !is_out_of_memory(error), "gru: no memory is left to launch the kernel");
    return std::string("it could not be launched: ") + error;
  };
  // The device's own word is of the calls before this one, which may still run.
  const Tensor waited = at::zeros({1}, options.dtype(at::kInt));
  const FwdCall fwd{s, layer, /*save_gates=*/true, /*save_y=*/true, stream, waited.data_ptr<int>()};
  const auto [y, h_n, gates] = *run_with_members(stepwise_kernel(), fwd, error);
  if (pass == Pass::forward) {
    const auto ours = kernel.run(fwd, error);
    if (!ours) return not_launched();
    return compare(
        waited,
        {{"y", {std::get<0>(*ours), y}}, {"h_n", {std::get<1>(*ours), h_n}}, {"gates", {std::get<2>(*ours), gates}}});
  }
  const BwdCall bwd{{dy, dh_n, layer, y, gates, {true, true, true}}, s, stream, waited.data_ptr<int>()};
  const auto [dx, dhx, dweights] = *run_with_members(stepwise_kernel(), bwd, error);
  const auto ours = kernel.run(bwd, error);
  if (!ours) return not_launched();
  const auto& our_dweights = std::get<2>(*ours);
  return compare(waited, {{"dx", {std::get<0>(*ours), dx}},
                          {"dhx", {std::get<1>(*ours), dhx}},
                          {"the gradient of weight_ih", {our_dweights[0], dweights[0]}},
                          {"the gradient of weight_hh", {our_dweights[1], dweights[1]}},
                          {"the gradient of bias_ih", {our_dweights[2], dweights[2]}},
                          {"the gradient of bias_hh", {our_dweights[3], dweights[3]}},
                          {"the gradient of weight_hh_reverse", {our_dweights[5], dweights[5]}}});
}

}  // namespace gru_ext
