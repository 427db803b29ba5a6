// A layer by kernels of one family, already chosen: memory for the results, then products and launches. On the current
// device; `stream` is the current one.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "../check.h"
#include "launchers.h"

namespace gru_ext {

// As the operators return them, see ../gru.h.
struct FwdResults {
  at::Tensor y, h_n, gates;
};
struct BwdResults {
  at::Tensor dx, dhx;
  std::vector<at::Tensor> dweights;
};
struct Needs {
  bool dx, dhx, dweights;
};

// By a cluster kernel, or, where that is null, by the stepwise kernels. None if the cluster kernel could not be
// launched: `error` then tells why.
std::optional<FwdResults> layer_fwd(const ClusterKernel* kernel, const Sequence& s, const at::Tensor& x,
                                    const std::optional<at::Tensor>& hx, at::TensorList weights, bool save_gates,
                                    Stream stream, const char*& error);
std::optional<BwdResults> layer_bwd(const ClusterKernel* kernel, const Sequence& s, const std::optional<at::Tensor>& dy,
                                    const std::optional<at::Tensor>& dh_n, const at::Tensor& x,
                                    const std::optional<at::Tensor>& hx, at::TensorList weights, const at::Tensor& y,
                                    const at::Tensor& gates, Needs need, Stream stream, const char*& error);

}  // namespace gru_ext
