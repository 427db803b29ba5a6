#include "op/check.h"

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <initializer_list>
#include <string>

#include "op/int8.h"

namespace gru_ext {
namespace {

// `letters` is the shape in the letters of layer.h, `expected` the same in numbers.
void check_shape(const char* name, const at::Tensor& tensor, const char* letters, at::IntArrayRef shape) {
  if (tensor.sizes() == shape) return;
  TORCH_CHECK(false, "gru: expected ", name, " of shape ", letters, " = (", c10::Join(", ", shape), "), got (",
              c10::Join(", ", tensor.sizes()), ")");
}

void check_device(const char* name, const at::Tensor& tensor, const at::Tensor& x) {
  TORCH_CHECK(tensor.device() == x.device(), "gru: expected ", name, " on the device of x, ", x.device(), ", got ",
              tensor.device());
}

void check_like_x(const char* name, const at::Tensor& tensor, const at::Tensor& x) {
  TORCH_CHECK_VALUE(tensor.scalar_type() == x.scalar_type(), "gru: expected ", name, " of the dtype of x, ",
                    x.scalar_type(), ", got ", tensor.scalar_type());
  check_device(name, tensor, x);
}

void read_batch_sizes(const at::Tensor& batch_sizes, Sequence& s) {
  TORCH_CHECK(batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.device().is_cpu(),
              "gru: expected batch_sizes of shape (T), int64, on the CPU, got ", batch_sizes.dim(), " dimensions, ",
              batch_sizes.scalar_type(), ", on ", batch_sizes.device());
  const at::Tensor sizes = batch_sizes.contiguous();
  const int64_t* data = sizes.const_data_ptr<int64_t>();
  s.packed_sizes.assign(data, data + sizes.numel());
  int64_t offset = 0;
  for (size_t t = 0; t < s.packed_sizes.size(); ++t) {
    const int64_t largest = t == 0 ? s.N : s.packed_sizes[t - 1];
    TORCH_CHECK(s.packed_sizes[t] >= 1 && s.packed_sizes[t] <= largest,
                "gru: expected batch_sizes between 1 and the size before it, got ", s.packed_sizes[t], " after ",
                largest, " at step ", t);
    s.packed_offsets.push_back(offset);
    offset += s.packed_sizes[t];
  }
  TORCH_CHECK(offset == s.N, "gru: expected batch_sizes with the sum N = ", s.N, ", the rows of x, got ", offset);
}

void check_rank(const at::Tensor& x, bool packed) {
  TORCH_CHECK_VALUE(x.dim() == (packed ? 2 : 3), "gru: expected x of shape ",
                    packed ? "(N, I) with batch_sizes" : "(T, B, I)", ", got ", x.dim(), " dimensions");
}

// Reads T, B, N and the rows of each step.
void read_steps(const at::Tensor& x, const std::optional<at::Tensor>& batch_sizes, Sequence& s) {
  if (batch_sizes.has_value()) {
    s.N = x.size(0);
    read_batch_sizes(*batch_sizes, s);
    s.T = static_cast<int64_t>(s.packed_sizes.size());
    s.B = s.T == 0 ? 0 : s.packed_sizes[0];
  } else {
    s.T = x.size(0);
    s.B = x.size(1);
    s.N = s.T * s.B;
  }
  TORCH_CHECK(s.T >= 1 || batch_sizes.has_value(), "gru: expected x with T >= 1 steps, got T = 0");
}

void check_state(const char* name, const std::optional<at::Tensor>& state, const at::Tensor& x, const Sequence& s) {
  if (!state.has_value()) return;
  check_shape(name, *state, "(D, B, H)", {s.D, s.B, s.all_H});
  check_like_x(name, *state, x);
}

void check_mask(const char* name, const std::optional<at::Tensor>& mask, const at::Tensor& x, const char* letters,
                std::initializer_list<int64_t> shape) {
  if (!mask.has_value()) return;
  check_shape(name, *mask, letters, shape);
  TORCH_CHECK_VALUE(mask->scalar_type() == at::kBool, "gru: expected ", name, " of dtype bool, got ",
                    mask->scalar_type());
  check_device(name, *mask, x);
}

void check_rate(const char* name, double rate) {
  TORCH_CHECK_VALUE(rate >= 0 && rate < 1, "gru: expected ", name, " in [0, 1), got ", rate);
}

void check_variant(const Variant& variant, const at::Tensor& x, const Sequence& s) {
  check_mask("zoneout_mask", variant.zoneout_mask, x, "(D, N, H)", {s.D, s.N, s.H});
  check_mask("recurrent_mask", variant.recurrent_mask, x, "(D, B, H)", {s.D, s.B, s.H});
  check_mask("candidate_mask", variant.candidate_mask, x, "(D, N, H)", {s.D, s.N, s.H});
  check_rate("zoneout", variant.zoneout);
  check_rate("recurrent_dropout", variant.recurrent_dropout);
  check_rate("candidate_dropout", variant.candidate_dropout);
  TORCH_CHECK_VALUE(0 <= variant.layer_norm && variant.layer_norm <= 2, "gru: expected layer_norm from 0 to 2, got ",
                    variant.layer_norm);
  TORCH_CHECK_VALUE(variant.layer_norm == 0 || variant.reset_after,
                    "gru: expected reset_after=True with layer_norm, got reset_after=False");
}

// Whether `weights` is as long as D times `without` or `with` biases.
bool check_count(at::TensorList weights, int64_t D, int64_t without, int64_t with) {
  const auto count = static_cast<int64_t>(weights.size());
  TORCH_CHECK(count == without * D || count == with * D, "gru: expected ", without * D, " weights, or ", with * D,
              " with biases, for D = ", D, ", got ", count);
  return count == with * D;
}

}  // namespace

Sequence check_fwd(const Layer& layer, int64_t blocks) {
  const at::Tensor& x = layer.x;
  const at::TensorList weights = layer.weights;
  check_rank(x, layer.batch_sizes.has_value());
  const auto dtype = x.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
                    "gru: expected x of dtype float32, float64, bfloat16 or float16, got ", dtype);

  Sequence s{};
  s.D = layer.bidirectional ? 2 : 1;
  const auto count = static_cast<int64_t>(weights.size());
  s.has_gains = layer.variant.layer_norm > 0;
  const int64_t gains = s.has_gains ? 2 : 0;
  s.has_bias = check_count(weights, s.D, 2 + gains, 4 + gains);
  TORCH_CHECK(weights[1].dim() == 2, "gru: expected weight_hh of shape (3H, H), got ", weights[1].dim(), " dimensions");
  const int64_t columns = weights[1].size(1);
  s.H = s.all_H = blocks * columns;
  s.I = x.size(-1);
  TORCH_CHECK(s.H >= 1, "gru: expected weight_hh of shape (3H, H) with H >= 1, got H = 0");
  read_steps(x, layer.batch_sizes, s);

  for (int64_t i = 0; i < count; i += s.weights_per_direction()) {
    check_shape("weight_ih", weights[i], "(3H, I)", {3 * s.H, s.I});
    check_shape("weight_hh", weights[i + 1], blocks == 1 ? "(3H, H)" : "(3H, H / G)", {3 * s.H, columns});
    check_like_x("weight_ih", weights[i], x);
    check_like_x("weight_hh", weights[i + 1], x);
    constexpr const char* names[] = {"bias_ih", "bias_hh", "gain_ih", "gain_hh"};
    const char* const* name = s.has_bias ? names : names + 2;
    for (int64_t j = i + 2; j < i + s.weights_per_direction(); ++j, ++name) {
      check_shape(*name, weights[j], "(3H)", {3 * s.H});
      check_like_x(*name, weights[j], x);
    }
  }
  check_state("hx", layer.hx, x, s);
  check_variant(layer.variant, x, s);
  s.H = columns;
  return s;
}

Sequence check_int8(const at::Tensor& x, const std::optional<at::Tensor>& hx, at::TensorList weights,
                    const std::optional<at::Tensor>& batch_sizes, bool bidirectional, int64_t blocks) {
  check_rank(x, batch_sizes.has_value());
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat, "gru: expected x of dtype float32, for weights of int8, got ",
                    x.scalar_type());
  Sequence s{};
  s.D = bidirectional ? 2 : 1;
  const auto count = static_cast<int64_t>(weights.size());
  s.has_bias = check_count(weights, s.D, 4, 6);
  TORCH_CHECK(weights[3].dim() == 1 && weights[3].size(0) >= 3 && weights[3].size(0) % 3 == 0,
              "gru: expected scale_hh of shape (3H) with H >= 1, got ", weights[3].sizes());
  s.H = s.all_H = weights[3].size(0) / 3;
  TORCH_CHECK_VALUE(blocks >= 1 && s.H % blocks == 0, "gru: expected blocks that divide H = ", s.H, ", got ", blocks);
  const int64_t units = s.H / blocks;
  s.I = x.size(-1);
  read_steps(x, batch_sizes, s);

  const auto check_packed = [&](const char* name, const at::Tensor& tensor, const char* letters, int64_t K) {
    check_shape(name, tensor, letters,
                {blocks * ((units + kInt8Units - 1) / kInt8Units), 1 + (K + 3) / 4, 3, kInt8Units});
    TORCH_CHECK_VALUE(tensor.scalar_type() == at::kInt && tensor.is_contiguous(), "gru: expected ", name,
                      " as gru_ext.quantize.pack returns it, contiguous and int32, got ", tensor.scalar_type());
    check_device(name, tensor, x);
  };
  constexpr const char* names[] = {"scale_ih", "scale_hh", "bias_ih", "bias_hh"};
  for (int64_t i = 0; i < count; i += count / s.D) {
    check_packed("weight_ih", weights[i],
                 blocks == 1 ? "(ceil(H / 16), 1 + ceil(I / 4), 3, 16)"
                             : "(blocks * ceil(H / blocks / 16), 1 + ceil(I / 4), 3, 16)",
                 s.I);
    check_packed("weight_hh", weights[i + 1],
                 blocks == 1 ? "(ceil(H / 16), 1 + ceil(H / 4), 3, 16)"
                             : "(blocks * ceil(H / blocks / 16), 1 + ceil(H / blocks / 4), 3, 16)",
                 units);
    for (int64_t j = 2; j < count / s.D; ++j) {
      check_shape(names[j - 2], weights[i + j], "(3H)", {3 * s.H});
      check_like_x(names[j - 2], weights[i + j], x);
    }
  }
  check_state("hx", hx, x, s);
  s.H = units;
  return s;
}

Sequence check_bwd(const Backward& call, int64_t blocks) {
  const Layer& layer = call.layer;
  const Sequence s = check_fwd(layer, blocks);
  const at::Tensor& x = layer.x;
  const auto check_outputs = [&](const char* name, const at::Tensor& tensor) {
    if (layer.batch_sizes.has_value()) {
      check_shape(name, tensor, "(N, D*H)", {s.N, s.D * s.all_H});
    } else {
      check_shape(name, tensor, "(T, B, D*H)", {s.T, s.B, s.D * s.all_H});
    }
    check_like_x(name, tensor, x);
  };
  check_outputs("y", call.y);
  if (were_saved(call.gates)) {
    check_shape("gates", call.gates,
                s.has_gains                 ? "(D, N, 9 H + 16)"
                : layer.variant.reset_after ? "(D, N, 4, H)"
                                            : "(D, N, 3, H)",
                layer.variant.gates_shape(s.D, s.N, s.H));
  }
  check_like_x("gates", call.gates, x);
  TORCH_CHECK(call.y.is_contiguous() && call.gates.is_contiguous(),
              "gru: expected y and gates as gru_fwd returned them");
  if (call.dy.has_value()) check_outputs("dy", *call.dy);
  check_state("dh_n", call.dh_n, x, s);
  return s;
}

}  // namespace gru_ext
