// The operators of the CPU backend; meaning as in op/layer.h, op/members.h, op/blocks.h and op/int8.h.
#pragma once

#include "op/int8.h"
#include "op/layer.h"

namespace gru_ext {

FwdResult gru_fwd_cpu(const Layer& layer, bool save_gates, bool save_y);
BwdResult gru_bwd_cpu(const Backward& call);

FwdResult gru_fwd_members_cpu(const Layer& layer, bool save_gates);
BwdResult gru_bwd_members_cpu(const Backward& call);

FwdResult gru_fwd_blocks_cpu(const Layer& layer, bool save_gates);
BwdResult gru_bwd_blocks_cpu(const Backward& call);

// Returns y, h_n.
std::tuple<at::Tensor, at::Tensor> gru_int8_cpu(const at::Tensor& x, const std::optional<at::Tensor>& hx,
                                                at::TensorList weights, const std::optional<at::Tensor>& batch_sizes,
                                                bool bidirectional, int64_t blocks);

// Meaning as in op/prepared.cpp.
at::Tensor prepare_cpu(at::TensorList weights, int64_t num_layers, bool bidirectional, bool bias, double zoneout,
                       bool reset_after, int64_t layer_norm);
std::tuple<at::Tensor, at::Tensor> gru_prepared_cpu(const at::Tensor& x, const std::optional<at::Tensor>& hx,
                                                    at::TensorList weights, const at::Tensor& prepared,
                                                    bool batch_first);

// Seconds of one thread for all, of the longest threads, and of all threads by their number; parts that all have; row
// groups and their members; bytes read from other caches: of a layer with one direction on `threads` threads, each of
// which runs by itself (results.h).
std::vector<double> rehearse_cpu(const at::Tensor& x, at::TensorList weights, int64_t threads, int64_t together,
                                 double wait, bool backward, const OptionalTensor& batch_sizes);

}  // namespace gru_ext
