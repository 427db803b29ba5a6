// A layer by kernels of one family, already chosen: memory for the results, then products and launches. On the current
// device; `stream` is the current one.
#pragma once

#include <optional>

#include "../check.h"
#include "../gru.h"
#include "launchers.h"

namespace gru_ext {

// By a cluster kernel, or, where that is null, by the stepwise kernels. Results as the operators return them, see
// ../gru.h; none if the cluster kernel could not be launched: `error` then tells why. Cluster kernels know no variant.
std::optional<FwdResult> layer_fwd(const ClusterKernel* kernel, const Sequence& s, const Layer& layer, bool save_gates,
                                   bool save_y, Stream stream, const char*& error);
std::optional<BwdResult> layer_bwd(const ClusterKernel* kernel, const Sequence& s, const std::optional<at::Tensor>& dy,
                                   const std::optional<at::Tensor>& dh_n, const Layer& layer, const at::Tensor& y,
                                   const at::Tensor& gates, Need need, Stream stream, const char*& error);

}  // namespace gru_ext
