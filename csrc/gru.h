// The operators of gru_ext, one layer each: `gru_fwd` and `gru_bwd` (a kernel per backend), and `gru`, which calls
// `gru_fwd` and, where a gradient is asked for, records `gru_bwd`.
//
// Letters: T steps, B batch, I input, H hidden, D directions (1 or 2), N = rows of all steps (T * B, or the sum of
// batch_sizes). Gate order in weights and biases is r, z, n, as in torch.nn.GRU.
//
//   x            (T, B, I), any strides; or (N, I) with batch_sizes
//   hx           (D, B, H) initial state; none for zero
//   weights      for each direction: weight_ih (3H, I), weight_hh (3H, H), and, with biases, bias_ih (3H), bias_hh (3H)
//   batch_sizes  (T) int64 on the CPU, not increasing: rows of each step of a packed batch; none where x is (T, B, I)
//   y            (T, B, D*H), or (N, D*H): the state after every step; the reverse direction in the second H columns
//   h_n          (D, B, H) state after each sequence's last step
//   gates        (D, N, 4, H): r, z, n and q = R_n h + b_hn of every step; (0) where they were not saved
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace gru_ext {

// Differentiable. Returns y, h_n.
std::tuple<at::Tensor, at::Tensor> gru(const at::Tensor& x, const std::optional<at::Tensor>& hx, at::TensorList weights,
                                       const std::optional<at::Tensor>& batch_sizes, bool bidirectional);

// Returns y, h_n, gates.
std::tuple<at::Tensor, at::Tensor, at::Tensor> gru_fwd(const at::Tensor& x, const std::optional<at::Tensor>& hx,
                                                       at::TensorList weights,
                                                       const std::optional<at::Tensor>& batch_sizes, bool bidirectional,
                                                       bool save_gates);

// dy and dh_n are the gradients of y and h_n; none for zero. Returns dx, dhx and the gradients of the weights, each in
// the shape of what it is a gradient of; what is not needed comes back as a tensor of shape (0), for the weights as an
// empty list.
std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> gru_bwd(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n, const at::Tensor& x,
    const std::optional<at::Tensor>& hx, at::TensorList weights, const std::optional<at::Tensor>& batch_sizes,
    bool bidirectional, const at::Tensor& y, const at::Tensor& gates, bool need_dx, bool need_dhx, bool need_dweights);

// The backends; signatures and meaning as above.
std::tuple<at::Tensor, at::Tensor, at::Tensor> gru_fwd_cpu(const at::Tensor& x, const std::optional<at::Tensor>& hx,
                                                           at::TensorList weights,
                                                           const std::optional<at::Tensor>& batch_sizes,
                                                           bool bidirectional, bool save_gates);
std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> gru_bwd_cpu(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n, const at::Tensor& x,
    const std::optional<at::Tensor>& hx, at::TensorList weights, const std::optional<at::Tensor>& batch_sizes,
    bool bidirectional, const at::Tensor& y, const at::Tensor& gates, bool need_dx, bool need_dhx, bool need_dweights);

#if defined(GRU_EXT_WITH_CUDA)
std::tuple<at::Tensor, at::Tensor, at::Tensor> gru_fwd_cuda(const at::Tensor& x, const std::optional<at::Tensor>& hx,
                                                            at::TensorList weights,
                                                            const std::optional<at::Tensor>& batch_sizes,
                                                            bool bidirectional, bool save_gates);
std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> gru_bwd_cuda(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n, const at::Tensor& x,
    const std::optional<at::Tensor>& hx, at::TensorList weights, const std::optional<at::Tensor>& batch_sizes,
    bool bidirectional, const at::Tensor& y, const at::Tensor& gates, bool need_dx, bool need_dhx, bool need_dweights);
#endif

}  // namespace gru_ext
