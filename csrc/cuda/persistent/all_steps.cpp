#include "cuda/persistent/all_steps.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "cuda/arguments.h"
#include "cuda/persistent/device_facts.h"
#include "op/dispatch.h"

namespace gru_ext {
namespace {

using at::Tensor;

// The kernels have no float64.
template <typename Body>
const char* with_type_of_kernels(at::ScalarType dtype, const Body& body) {
  switch (dtype) {
    case at::kBFloat16:
      return body(c10::BFloat16{});
    case at::kHalf:
      return body(c10::Half{});
    default:
      return body(float{});
  }
}

// Steps, in a packed batch rows, from a member to the next, of (T, B, F) or (N, F) with members before; none where they
// are no whole number.
std::optional<int> member_steps(const Sequence& s, const Tensor& tensor) {
  if (s.members <= 1) return 0;
  const int64_t between_steps = tensor.stride(s.packed_sizes.empty() ? -3 : -2), between_members = tensor.stride(0);
  const int64_t steps = between_steps != 0 ? between_members / between_steps : 0;
  if (steps * between_steps != between_members) return std::nullopt;
  if (steps < 0 || steps > std::numeric_limits<int>::max() / s.members) return std::nullopt;
  return static_cast<int>(steps);
}

// The same tensor, in memory of its own if its members lie where no kernel finds them.
Tensor with_members_in_steps(const Sequence& s, const Tensor& tensor) {
  if (!tensor.defined() || member_steps(s, tensor).has_value()) return tensor;
  return tensor.clone(at::MemoryFormat::Contiguous);
}

// f(tensor), which works on each member alone; done once where all members share it.
template <typename Function>
Tensor of_each_member(const Sequence& s, const Tensor& tensor, const Function& f) {
  if (s.members <= 1 || tensor.stride(0) != 0) return f(tensor);
  const Tensor one = f(tensor.narrow(0, 0, 1));
  std::vector<int64_t> shape = one.sizes().vec();
  shape[0] = s.members;
  return one.expand(shape);
}

template <typename T>
StepRows<T> step_rows(const Sequence& s, T* data, const Tensor& tensor) {
  return {data, s.packed_sizes.empty() ? tensor.stride(-3) : 0, tensor.stride(-2), member_steps(s, tensor).value()};
}

// Whether pairs of neighbouring values can be loaded and stored as one.
bool is_paired(const Tensor& tensor) {
  return !tensor.defined() || (tensor.size(-1) % 2 == 0 && rows_are_aligned(tensor, 2 * tensor.element_size()));
}

// Where the sequences of a packed batch end and its steps begin, on the device. Undefined where all have T steps.
struct PackedIndex {
  Tensor lengths;  // (B) int
  Tensor offsets;  // (T) int64

  PackedIndex(const Sequence& s, const at::Device& device) {
    if (s.packed_sizes.empty()) return;
    const Tensor host_lengths = on_host(s.B, at::kInt, device);
    const Tensor host_offsets = on_host(s.T, at::kLong, device);
    int* length = host_lengths.data_ptr<int>();
    for (int64_t t = s.T, row = 0; t > 0; --t) {
      for (; row < s.packed_sizes[t - 1]; ++row) length[row] = static_cast<int>(t);
    }
    std::copy(s.packed_offsets.begin(), s.packed_offsets.end(), host_offsets.data_ptr<int64_t>());
    lengths = host_lengths.to(device, /*non_blocking=*/true);
    offsets = host_offsets.to(device, /*non_blocking=*/true);
  }

 private:
  // Memory that a copy to the device has left when the call returns, without having waited for the device: pageable for
  // so few bytes that CUDA has room for them, else pinned, which torch keeps until it is copied.
  static Tensor on_host(int64_t count, at::ScalarType dtype, const at::Device& device) {
    constexpr int64_t kMostPageableBytes = 64 << 10;
    const bool pinned = device.is_cuda() && count * static_cast<int64_t>(c10::elementSize(dtype)) > kMostPageableBytes;
    return at::empty({count}, at::TensorOptions().device(at::kCPU).dtype(dtype).pinned_memory(pinned));
  }
};

// The rows of x and of what is computed from them, in the order in which x has them in memory: no copy of a batch that
// is first there.
struct RowOrder {
  const Sequence& s;
  bool batch_first;

  RowOrder(const Sequence& sequence, const Tensor& x) : s(sequence), batch_first(false) {
    const Tensor one = s.members > 0 ? x.select(0, 0) : x;
    batch_first = one.dim() == 3 && !one.is_contiguous() && one.transpose(0, 1).is_contiguous();
  }

  Tensor flat(const Tensor& x) const {  // (N, F) of (T, B, F) or (N, F)
    return of_each_member(s, x, [&](const Tensor& given) {
      std::vector<int64_t> shape = {s.N, x.size(-1)};
      if (s.members > 0) shape.insert(shape.begin(), given.size(0));
      return (batch_first ? given.transpose(-3, -2) : given).reshape(shape);
    });
  }
  Tensor steps(const Tensor& rows) const {  // (T, B, F), or (N, F) of a packed batch, of (N, F)
    if (!s.packed_sizes.empty()) return rows;
    return batch_first ? rows.view(s.shape({s.B, s.T, rows.size(-1)})).transpose(-3, -2)
                       : rows.view(s.shape({s.T, s.B, rows.size(-1)}));
  }
};

template <typename Parameters>
Parameters common_parameters(const Sequence& s, const PackedIndex& index, const PersistentMasks& masks, int* error) {
  Parameters p{};
  p.T = static_cast<int>(s.T);
  p.B = static_cast<int>(s.B);
  p.H = static_cast<int>(s.H);
  p.D = static_cast<int>(s.D);
  p.E = static_cast<int>(s.layers() / s.D);
  p.N = s.N;
  if (index.lengths.defined()) {
    p.lengths = index.lengths.const_data_ptr<int>();
    p.offsets = index.offsets.const_data_ptr<int64_t>();
  }
  std::copy_n(masks.of, 2, p.masks);
  p.wait_limit = wait_limit();
  p.error = error != nullptr ? error : LockedDevice().facts.error.device;
  return p;
}

bool all_paired(std::initializer_list<Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) { return is_paired(tensor); });
}

// Has a direction's weights named in the parameters; returns the tensor that they are in.
template <typename at_t, typename Parameters>
Tensor name_weights(Parameters& p, const Sequence& s, const Tensor& weight_hh, int64_t d) {
  const Tensor weights = of_each_member(s, weight_hh, [](const Tensor& given) { return given.contiguous(); });
  p.weight_hh[d] = readable<at_t>(weights);
  p.weight_stride[d] = s.members > 1 ? weights.stride(0) : 0;
  p.paired = p.paired && is_paired(weights);
  p.aligned = p.aligned && rows_are_aligned(weights, 16);
  return weights;
}

template <typename Parameters>
void name_in(Parameters& p, const ExchangeMemory& memory) {
  p.groups_at_a_time = memory.groups_at_a_time;
  p.streamed = memory.streamed;
  p.packets = static_cast<decltype(p.packets)>(memory.packets);
}

// W x + b_ih of all rows, rounded once where the dtype allows it; of all members in one product, which reads an input
// that they share from one place.
Tensor input_gates(const Tensor& x, const Tensor& weight_ih, const Tensor& bias_ih) {
  if (x.dim() == 3) {
    const Tensor weight = weight_ih.transpose(1, 2), bias = bias_ih.defined() ? bias_ih.unsqueeze(1) : bias_ih;
    if (bias.defined() && x.scalar_type() != at::kFloat) return at::baddbmm(bias, x, weight);
    const Tensor product = at::bmm(x, weight);
    return bias.defined() ? product.add_(bias) : product;
  }
  if (bias_ih.defined() && x.scalar_type() != at::kFloat) return at::addmm(bias_ih, x, weight_ih.t());
  // Not addmm in float: what adds in cuBLASLt does not follow the guard of products.h.
  const Tensor product = at::mm(x, weight_ih.t());
  return bias_ih.defined() ? product.add_(bias_ih) : product;
}

template <typename at_t>
const char* forward(const PersistentKernel& kernel, const Sequence& s, const PersistentFwd& call) {
  using scalar_t = typename Device<at_t>::scalar_t;
  const Tensor& x = call.x;
  const PackedIndex index(s, x.device());
  const RowOrder order(s, x);
  const Tensor rows_of_x = order.flat(x);
  auto p = common_parameters<PersistentFwdParams<scalar_t>>(s, index, call.masks, call.error);
  p.paired = all_paired({call.h0, call.y, call.h_n, call.gates});
  p.aligned = true;
  Tensor a_x[2], weight_hh[2], bias_hh[2];
  for (int64_t d = 0; d < s.D; ++d) {
    const Tensor* const of_direction = &call.weights[d * s.weights_per_direction()];
    a_x[d] = order.steps(input_gates(rows_of_x, of_direction[0], s.has_bias ? of_direction[2] : Tensor()));
    weight_hh[d] = name_weights<at_t>(p, s, of_direction[1], d);
    if (s.has_bias) bias_hh[d] = of_direction[3].contiguous();
    p.a_x[d] = step_rows(s, readable<at_t>(a_x[d]), a_x[d]);
    p.bias_hh[d] = readable<at_t>(bias_hh[d]);
    p.paired = p.paired && all_paired({a_x[d], bias_hh[d]});
  }
  p.h0 = readable<at_t>(call.h0);
  p.y = step_rows(s, writable<at_t>(call.y), call.y);
  p.h_n = writable<at_t>(call.h_n);
  p.gates = writable<at_t>(call.gates);
  const ExchangeMemory memory = kernel.exchange_memory(s, x.device());
  name_in(p, memory);
  return kernel.launch(&p, call.stream);
}

template <typename at_t>
const char* backward(const PersistentKernel& kernel, const Sequence& s, const PersistentBwd& call) {
  using scalar_t = typename Device<at_t>::scalar_t;
  const Tensor& x = call.x;
  const bool need_dweights = call.grads[0].weight_ih.defined();
  const PackedIndex index(s, x.device());
  const RowOrder order(s, x);
  auto p = common_parameters<PersistentBwdParams<scalar_t>>(s, index, call.masks, call.error);
  p.paired = all_paired({call.dy, call.dh_n, call.y, call.h0, call.gates, call.dh0});
  p.aligned = true;
  Tensor weight_hh[2], dgates[2], h_prev[2];
  for (int64_t d = 0; d < s.D; ++d) {
    weight_hh[d] = name_weights<at_t>(p, s, call.weights[d * s.weights_per_direction() + 1], d);
    dgates[d] = at::empty(s.shape({s.N, 4 * s.H}), x.options());
    const Tensor steps_of_dgates = order.steps(dgates[d]);
    p.dgates[d] = step_rows(s, writable<at_t>(dgates[d]), steps_of_dgates);
    p.paired = p.paired && is_paired(steps_of_dgates);
    if (!need_dweights) continue;
    h_prev[d] = at::empty(s.shape({s.N, s.H}), x.options());
    const Tensor steps_of_h_prev = order.steps(h_prev[d]);
    p.h_prev[d] = step_rows(s, writable<at_t>(h_prev[d]), steps_of_h_prev);
    p.paired = p.paired && is_paired(steps_of_h_prev);
  }
  const int64_t tiles = kernel.tiles(s.B);
  const Tensor dbias =
      need_dweights ? at::empty(s.shape({s.D, tiles, 4 * s.H}), x.options().dtype(at::kFloat)) : Tensor();
  if (call.dy.defined()) p.dy = step_rows(s, readable<at_t>(call.dy), call.dy);
  p.dh_n = readable<at_t>(call.dh_n);
  p.y = step_rows(s, readable<at_t>(call.y), call.y);
  p.h0 = readable<at_t>(call.h0);
  p.gates = readable<at_t>(call.gates);
  p.dh0 = writable<at_t>(call.dh0);
  p.dbias = need_dweights ? dbias.data_ptr<float>() : nullptr;
  const ExchangeMemory memory = kernel.exchange_memory(s, x.device());
  name_in(p, memory);
  const char* const error = kernel.launch(&p, call.stream);
  if (error != nullptr) return error;

  const Tensor rows_of_x = need_dweights ? order.flat(x) : Tensor();
  const Tensor rows_of_dx = call.dx.defined() && order.batch_first ? at::empty_like(call.dx) : call.dx;
  for (int64_t d = 0; d < s.D; ++d) {
    const Tensor& weight_ih = call.weights[d * s.weights_per_direction()];
    if (need_dweights) {
      add_weight_grads(s, dgates[d], rows_of_x, h_prev[d], /*reset=*/Tensor(), /*first=*/true, call.grads[d]);
      at::sum_out(call.grads[d].bias, dbias.select(-3, d), /*dim=*/-2);
    }
    if (call.dx.defined()) {
      const Tensor weight_nrz = of_each_member(s, weight_ih, [&](const Tensor& given) {
        return product_operand(at::cat({given.narrow(-2, 2 * s.H, s.H), given.narrow(-2, 0, 2 * s.H)}, -2));
      });
      add_input_grads(s, dgates[d], weight_nrz, /*first=*/d == 0, rows_of_dx);
    }
  }
  if (call.dx.defined() && order.batch_first) call.dx.view(s.shape({s.T, s.B, s.I})).copy_(order.steps(rows_of_dx));
  return nullptr;
}

}  // namespace

const char* persistent_fwd(const PersistentKernel& kernel, const Sequence& s, const PersistentFwd& call) {
  return with_type_of_kernels(call.x.scalar_type(),
                              [&](auto zero) { return forward<decltype(zero)>(kernel, s, call); });
}

const char* persistent_bwd(const PersistentKernel& kernel, const Sequence& s, PersistentBwd call) {
  call.dy = with_members_in_steps(s, call.dy);
  call.y = with_members_in_steps(s, call.y);
  return with_type_of_kernels(call.x.scalar_type(),
                              [&](auto zero) { return backward<decltype(zero)>(kernel, s, call); });
}

}  // namespace gru_ext
