// The CPU backend with weights that were arranged once: op/prepared.cpp.
//
// The bytes are a header, a `Seen` for each weight, then for each direction of each layer its arrays (arranged.h), each
// at a multiple of a cache line.
#include <ATen/ATen.h>

#include <cstring>
#include <vector>

#include "cpu/arranged.h"
#include "cpu/buffers.h"
#include "cpu/call.h"
#include "cpu/isa.h"
#include "cpu/op_cpu.h"
#include "cpu/pass.h"
#include "cpu/results.h"
#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

constexpr int64_t kLine = 64;

struct Header {
  uint64_t mark;  // mark_of
  CpuIsa isa;
  at::ScalarType dtype;
  int64_t L, D, I, H;
  double zoneout;
  int64_t layer_norm, weights;
  bool reset_after;

  int64_t inputs(int64_t layer) const { return layer == 0 ? I : D * H; }
};

// Which weight was arranged: where its values are, and how often they had changed. Tensors of inference mode do not
// count that.
struct Seen {
  const void* data;
  int64_t version;

  static Seen of(const Tensor& weight) {
    return {weight.const_data_ptr(), weight.is_inference() ? 0 : static_cast<int64_t>(weight._version())};
  }
  bool operator==(const Seen& other) const { return data == other.data && version == other.version; }
};
static_assert(std::is_trivially_copyable_v<Header> && std::is_trivially_copyable_v<Seen>);
static_assert(sizeof(Header) % alignof(Seen) == 0);

// What the bytes of a header say of those after the mark (FNV-1a): other bytes have it by no accident, and none where
// one word is damaged.
uint64_t mark_of(const void* header) {
  uint64_t words[sizeof(Header) / sizeof(uint64_t)];
  static_assert(sizeof words == sizeof(Header));
  std::memcpy(words, header, sizeof words);
  uint64_t mark = 0xcbf29ce484222325ULL;
  for (size_t i = 1; i < std::size(words); ++i) mark = (mark ^ words[i]) * 0x100000001b3ULL;
  return mark;
}

// Calls visit(i, arrangement, arrays) for each direction of each layer, which is the i-th of all; its arrays lie from
// `base` on, and nowhere where that is null. Returns the size of all.
template <typename scalar_t, typename operand_t, typename Visit>
int64_t for_each_direction(const Header& header, char* base, const Visit& visit) {
  using acc_t = acc_type<scalar_t>;
  int64_t size = (sizeof(Header) + header.weights * sizeof(Seen) + kLine - 1) / kLine * kLine;
  const auto next = [&](int64_t count) {
    char* const place = base == nullptr ? nullptr : base + size;
    size += (count * static_cast<int64_t>(sizeof(acc_t)) + kLine - 1) / kLine * kLine;
    return place;
  };
  for (int64_t layer = 0; layer < header.L; ++layer) {
    const Arrangement<scalar_t, operand_t> arrangement{header.inputs(layer), header.H, header.reset_after};
    for (int64_t direction = 0; direction < header.D; ++direction) {
      ArrangedWeights arrays;
      arrays.weight_ih = next(arrangement.words_ih());
      arrays.weight_hh = next(arrangement.words_hh());
      arrays.weight_hn = next(arrangement.words_hn());
      arrays.bias = next(4 * arrangement.stride());
      arrays.gains = next(header.layer_norm > 0 ? 6 * arrangement.stride() : 0);
      visit(layer * header.D + direction, arrangement, arrays);
    }
  }
  return size;
}

// Throws where a weight has not the dtype of the first, or not the shape that the sizes of the first two ask for.
void check_weights(TensorList weights, const Header& header, int64_t per_direction) {
  const Tensor& first = weights[0];
  for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i) {
    const int64_t layer = i / (per_direction * header.D), kind = i % per_direction;
    const int64_t columns = kind == 0 ? header.inputs(layer) : header.H;
    const Tensor& weight = weights[i];
    TORCH_CHECK(weight.scalar_type() == first.scalar_type() && weight.device().is_cpu(),
                "prepare: expected all weights of one dtype, ", first.scalar_type(), ", on the CPU, got ",
                weight.scalar_type(), " on ", weight.device());
    const bool fits = kind < 2 ? weight.dim() == 2 && weight.size(0) == 3 * header.H && weight.size(1) == columns
                               : weight.dim() == 1 && weight.size(0) == 3 * header.H;
    TORCH_CHECK(fits, "prepare: expected weights[", i, "] of shape ", kind < 2 ? "(3H, K) = (" : "(3H) = (",
                3 * header.H, kind < 2 ? ", " : "", kind < 2 ? std::to_string(columns) : "", "), got ", weight.sizes());
  }
}

Header header_of(const Tensor& prepared) {
  Header header{};
  TORCH_CHECK(prepared.scalar_type() == at::kByte && prepared.is_contiguous() &&
                  prepared.numel() >= static_cast<int64_t>(sizeof header) &&
                  reinterpret_cast<uintptr_t>(prepared.const_data_ptr()) % kLine == 0,
              "gru_prepared: expected prepared as `prepare` returned it, got ", prepared.sizes(), ", ",
              prepared.scalar_type());
  std::memcpy(&header, prepared.const_data_ptr(), sizeof header);
  TORCH_CHECK(header.mark == mark_of(prepared.const_data_ptr()),
              "gru_prepared: expected prepared as `prepare` returned it, got other bytes");
  TORCH_CHECK(header.isa == cpu_isa(), "gru_prepared: expected weights prepared for ", isa_name(cpu_isa()), ", got ",
              isa_name(header.isa));
  return header;
}

}  // namespace

Tensor prepare_cpu(TensorList weights, int64_t num_layers, bool bidirectional, bool bias, double zoneout,
                   bool reset_after, int64_t layer_norm) {
  const int64_t D = bidirectional ? 2 : 1, per_direction = 2 + (bias ? 2 : 0) + (layer_norm > 0 ? 2 : 0);
  TORCH_CHECK(num_layers >= 1 && static_cast<int64_t>(weights.size()) == num_layers * D * per_direction,
              "prepare: expected ", num_layers * D * per_direction, " weights, got ", weights.size());
  const Tensor &weight_ih = weights[0], &weight_hh = weights[1];
  TORCH_CHECK(weight_ih.dim() == 2 && weight_hh.dim() == 2 && weight_hh.size(1) > 0,
              "prepare: expected weights of shape (3H, I) and (3H, H), H at least 1, got ", weight_ih.sizes(), " and ",
              weight_hh.sizes());
  const Header header{/*mark=*/0,
                      cpu_isa(),
                      weight_ih.scalar_type(),
                      num_layers,
                      D,
                      weight_ih.size(1),
                      weight_hh.size(1),
                      zoneout,
                      layer_norm,
                      static_cast<int64_t>(weights.size()),
                      reset_after};
  TORCH_CHECK_VALUE(header.dtype == at::kFloat || header.dtype == at::kDouble || header.dtype == at::kBFloat16 ||
                        header.dtype == at::kHalf,
                    "prepare: expected weights of dtype float32, float64, bfloat16 or float16, got ", header.dtype);
  check_weights(weights, header, per_direction);

  return call_on_cpu([&] {
    return with_scalar_and_operand_type(header.dtype, [&](auto scalar, auto operand) {
      using scalar_t = decltype(scalar);
      using operand_t = decltype(operand);
      using acc_t = acc_type<scalar_t>;
      const int64_t size =
          for_each_direction<scalar_t, operand_t>(header, nullptr, [](int64_t, const auto&, const ArrangedWeights&) {});
      // From the pool for its large pages: single rows read the weights no faster than addresses are looked up.
      const Tensor prepared = pooled_empty({size}, at::TensorOptions(at::kByte));
      char* const base = static_cast<char*>(prepared.data_ptr());
      std::memset(base, 0, size);
      std::memcpy(base, &header, sizeof header);
      reinterpret_cast<Header*>(base)->mark = mark_of(base);
      Seen* const seen = reinterpret_cast<Seen*>(base + sizeof(Header));
      for (size_t i = 0; i < weights.size(); ++i) seen[i] = Seen::of(weights[i]);
      for_each_direction<scalar_t, operand_t>(
          header, base, [&](int64_t i, const auto& arrangement, const ArrangedWeights& arrays) {
            const Tensor* const given = &weights[i * per_direction];
            const Tensor ih = given[0].contiguous(), hh = given[1].contiguous();
            arrangement.pack(ih.template const_data_ptr<scalar_t>(), hh.template const_data_ptr<scalar_t>(), arrays,
                             /*thread=*/0, /*team=*/1);
            acc_t* const sum = static_cast<acc_t*>(const_cast<void*>(arrays.bias));
            arrangement.fill_bias(bias ? given + 2 : nullptr, bias ? given + 3 : nullptr, sum);
            if (layer_norm > 0) {
              acc_t* const gains = static_cast<acc_t*>(const_cast<void*>(arrays.gains));
              fill_gains<scalar_t>(given + per_direction - 2, header.H, gains, arrangement.stride());
            }
          });
      return prepared;
    });
  });
}

std::tuple<Tensor, Tensor> gru_prepared_cpu(const Tensor& x, const std::optional<Tensor>& hx, TensorList weights,
                                            const Tensor& prepared, bool batch_first) {
  return call_on_cpu([&] {
    const Header header = header_of(prepared);
    const int64_t L = header.L, D = header.D, H = header.H;
    TORCH_CHECK_VALUE(x.dim() == 3 && x.scalar_type() == header.dtype, "gru_prepared: expected x of shape (T, B, I), ",
                      header.dtype, ", got ", x.sizes(), ", ", x.scalar_type());
    const Tensor by_step = batch_first ? x.transpose(0, 1) : x;
    const int64_t T = by_step.size(0), B = by_step.size(1);
    TORCH_CHECK(T > 0 && x.size(2) == header.I, "gru_prepared: expected x of shape (T, B, I) = (", T, ", ", B, ", ",
                header.I, "), T at least 1, got ", by_step.sizes());
    TORCH_CHECK(!hx.has_value() || (hx->dim() == 3 && hx->size(0) == L * D && hx->size(1) == B && hx->size(2) == H &&
                                    hx->scalar_type() == header.dtype && hx->device().is_cpu()),
                "gru_prepared: expected hx of shape (L*D, B, H) = (", L * D, ", ", B, ", ", H, "), ", header.dtype,
                ", on the CPU, got ", hx->sizes(), ", ", hx->scalar_type(), " on ", hx->device());
    std::vector<ArrangedWeights> arranged(L * D);
    with_scalar_and_operand_type(header.dtype, [&](auto scalar, auto operand) {
      char* const base = static_cast<char*>(const_cast<void*>(prepared.const_data_ptr()));
      const int64_t size = for_each_direction<decltype(scalar), decltype(operand)>(
          header, base, [&](int64_t i, const auto&, const ArrangedWeights& arrays) { arranged[i] = arrays; });
      TORCH_CHECK(prepared.numel() == size, "gru_prepared: expected prepared of ", size, " bytes, got ",
                  prepared.numel());
    });

    const Seen* const seen =
        reinterpret_cast<const Seen*>(static_cast<const char*>(prepared.const_data_ptr()) + sizeof(Header));
    TORCH_CHECK(static_cast<int64_t>(weights.size()) == header.weights, "gru_prepared: expected ", header.weights,
                " weights, as were prepared, got ", weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      TORCH_CHECK(seen[i] == Seen::of(weights[i]),
                  "gru_prepared: expected the weights that were prepared, got weights[", i, "] with other values");
    }

    Variant variant;
    variant.zoneout = header.zoneout;
    variant.reset_after = header.reset_after;
    variant.layer_norm = header.layer_norm;
    const Tensor h_n = pooled_empty({L * D, B, H}, x.options());
    const std::optional<Tensor> not_packed;
    // The part of a layer of hx or h_n. Of a single layer it is the tensor itself: a view takes as long as a short
    // step.
    const auto of_layer = [&](const Tensor& states, int64_t layer) {
      return L == 1 ? states : states.narrow(0, layer * D, D);
    };
    Tensor y, input = by_step;
    for (int64_t layer = 0; layer < L; ++layer) {
      const bool last = layer + 1 == L;
      y = last && batch_first ? pooled_empty({B, T, D * H}, x.options()).transpose(0, 1)
                              : pooled_empty({T, B, D * H}, x.options());
      std::optional<Tensor> state;
      if (hx.has_value()) state = of_layer(*hx, layer);
      const Sequence s{T,  B, header.inputs(layer), H, D, T * B, /*all_H=*/H, /*has_bias=*/true, header.layer_norm > 0,
                       {}, {}};
      gru_fwd_cpu_into(s, {input, state, {}, not_packed, D == 2, variant}, {y, of_layer(h_n, layer), Tensor()},
                       arranged.data() + layer * D);
      input = y;
    }
    return std::make_tuple(batch_first ? y.transpose(0, 1) : y, h_n);
  });
}

}  // namespace gru_ext
