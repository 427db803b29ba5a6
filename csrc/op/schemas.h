// The operators' schemas, and the functions of these schemas, which gather the arguments into the structs of layer.h.
//
// What varies of the recurrence comes last and has defaults. A new variant is a member of `Variant`, and here a place
// in each of the three lists of it.
#pragma once

#include <torch/library.h>

#include "op/layer.h"

#define GRU_LAYER_SCHEMA "Tensor x, Tensor? hx, Tensor[] weights, Tensor? batch_sizes, bool bidirectional"
#define GRU_LAYER_PARAMETERS                                                                                \
  const at::Tensor &x, const OptionalTensor &hx, at::TensorList weights, const OptionalTensor &batch_sizes, \
      bool bidirectional

#define GRU_VARIANT_SCHEMA                                                                         \
  "Tensor? zoneout_mask=None, Tensor? recurrent_mask=None, Tensor? candidate_mask=None, "          \
  "float zoneout=0, float recurrent_dropout=0, float candidate_dropout=0, bool reset_after=True, " \
  "int layer_norm=0"
#define GRU_VARIANT_PARAMETERS                                                                                    \
  const OptionalTensor &zoneout_mask, const OptionalTensor &recurrent_mask, const OptionalTensor &candidate_mask, \
      double zoneout, double recurrent_dropout, double candidate_dropout, bool reset_after, int64_t layer_norm
#define GRU_VARIANT \
  {zoneout_mask, recurrent_mask, candidate_mask, zoneout, recurrent_dropout, candidate_dropout, reset_after, layer_norm}

#define GRU_SCHEMA                                                                        \
  "gru(" GRU_LAYER_SCHEMA ", bool save_y=True, bool save_gates=True, " GRU_VARIANT_SCHEMA \
  ") -> "                                                                                 \
  "(Tensor y, Tensor h_n)"
#define GRU_FWD_SCHEMA                                                                   \
  "gru_fwd(" GRU_LAYER_SCHEMA ", bool save_gates, bool save_y=True, " GRU_VARIANT_SCHEMA \
  ") -> (Tensor y, Tensor h_n, Tensor gates)"
// Of members, or of blocks; backward, of a layer too.
#define GRU_FWD_MEMBERS_SCHEMA(name) \
  name "(" GRU_LAYER_SCHEMA ", bool save_gates=True, " GRU_VARIANT_SCHEMA ") -> (Tensor y, Tensor h_n, Tensor gates)"
#define GRU_BWD_SCHEMA(name)                                                                            \
  name "(Tensor? dy, Tensor? dh_n, " GRU_LAYER_SCHEMA                                                   \
       ", Tensor y, Tensor gates, bool need_dx, bool need_dhx, bool need_dweights, " GRU_VARIANT_SCHEMA \
       ") -> (Tensor dx, Tensor dhx, Tensor[] dweights)"

namespace gru_ext {

// Those that every backend implements.
inline void define_operators(torch::Library& m) {
  m.def(GRU_FWD_SCHEMA);
  m.def(GRU_BWD_SCHEMA("gru_bwd"));
  m.def(GRU_FWD_MEMBERS_SCHEMA("gru_fwd_members"));
  m.def(GRU_BWD_SCHEMA("gru_bwd_members"));
}

template <auto function>
std::tuple<at::Tensor, at::Tensor> gru_operator(GRU_LAYER_PARAMETERS, bool save_y, bool save_gates,
                                                GRU_VARIANT_PARAMETERS) {
  return function({x, hx, weights, batch_sizes, bidirectional, GRU_VARIANT}, save_y, save_gates);
}

template <auto function>
FwdResult gru_fwd_operator(GRU_LAYER_PARAMETERS, bool save_gates, bool save_y, GRU_VARIANT_PARAMETERS) {
  return function({x, hx, weights, batch_sizes, bidirectional, GRU_VARIANT}, save_gates, save_y);
}

template <auto function>
FwdResult gru_fwd_members_operator(GRU_LAYER_PARAMETERS, bool save_gates, GRU_VARIANT_PARAMETERS) {
  return function({x, hx, weights, batch_sizes, bidirectional, GRU_VARIANT}, save_gates);
}

template <auto function>
BwdResult gru_bwd_operator(const OptionalTensor& dy, const OptionalTensor& dh_n, GRU_LAYER_PARAMETERS,
                           const at::Tensor& y, const at::Tensor& gates, bool need_dx, bool need_dhx,
                           bool need_dweights, GRU_VARIANT_PARAMETERS) {
  const Layer layer{x, hx, weights, batch_sizes, bidirectional, GRU_VARIANT};
  return function({dy, dh_n, layer, y, gates, {need_dx, need_dhx, need_dweights}});
}

}  // namespace gru_ext
