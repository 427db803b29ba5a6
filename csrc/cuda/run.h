// The operators of the CUDA backend; meaning as in op/layer.h and op/members.h.
#pragma once

#include "op/layer.h"

namespace gru_ext {

FwdResult gru_fwd_cuda(const Layer& layer, bool save_gates, bool save_y);
BwdResult gru_bwd_cuda(const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n, const Layer& layer,
                       const at::Tensor& y, const at::Tensor& gates, Need need);
FwdResult gru_fwd_members_cuda(const Layer& layer, bool save_gates);
BwdResult gru_bwd_members_cuda(const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
                               const Layer& layer, const at::Tensor& y, const at::Tensor& gates, Need need);

}  // namespace gru_ext
