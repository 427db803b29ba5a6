#include "cuda/stepwise/direction.h"

#include <ATen/ATen.h>

namespace gru_ext {

using at::Tensor;

StepDirection direction_of(const Sequence& s, const Layer& layer, int64_t d) {
  const Tensor* first = &layer.weights[d * s.weights_per_direction()];
  const auto vector = [&](bool has, int64_t i) { return has ? first[i].contiguous() : Tensor(); };
  const int64_t gains = s.weights_per_direction() - 2;
  StepDirection direction{d == 1,
                          first[0],
                          first[1],
                          vector(s.has_bias, 2),
                          vector(s.has_bias, 3),
                          vector(s.has_gains, gains),
                          vector(s.has_gains, gains + 1),
                          layer.variant};
  for (OptionalTensor* mask : direction.variant.masks()) {
    *mask = part_of(*mask, [&](const Tensor& all) { return all.select(0, d).contiguous(); });
  }
  return direction;
}

std::vector<StepDirection> directions_of(const Sequence& s, const Layer& layer) {
  std::vector<StepDirection> directions;
  for (int64_t d = 0; d < s.D; ++d) directions.push_back(direction_of(s, layer, d));
  return directions;
}

}  // namespace gru_ext
