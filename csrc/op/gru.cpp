// The operators, whatever backend implements them: each registers itself, in an op_*.cpp of its folder.
#include "op/layer.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "op/registration.h"
#include "op/schemas.h"

namespace gru_ext {

using at::Tensor;

FwdResult gru_fwd(const Layer& l, bool save_gates, bool save_y) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gru_ext::gru_fwd", "")
                             .typed<decltype(gru_fwd_operator<gru_fwd>)>();
  const Variant& v = l.variant;
  return op.call(l.x, l.hx, l.weights, l.batch_sizes, l.bidirectional, save_gates, save_y, v.zoneout_mask,
                 v.recurrent_mask, v.candidate_mask, v.zoneout, v.recurrent_dropout, v.candidate_dropout, v.reset_after,
                 v.layer_norm);
}

namespace {

using BwdOperator = c10::TypedOperatorHandle<decltype(gru_bwd_operator<gru_bwd>)>;

BwdOperator bwd_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<decltype(gru_bwd_operator<gru_bwd>)>();
}

BwdResult call_bwd(const BwdOperator& op, const Backward& call) {
  const Layer& l = call.layer;
  const Variant& v = l.variant;
  const Need need = call.need;
  return op.call(call.dy, call.dh_n, l.x, l.hx, l.weights, l.batch_sizes, l.bidirectional, call.y, call.gates, need.dx,
                 need.dhx, need.dweights, v.zoneout_mask, v.recurrent_mask, v.candidate_mask, v.zoneout,
                 v.recurrent_dropout, v.candidate_dropout, v.reset_after, v.layer_norm);
}

}  // namespace

BwdResult gru_bwd(const Backward& call) {
  static const auto op = bwd_operator("gru_ext::gru_bwd");
  return call_bwd(op, call);
}

BwdResult gru_bwd_by_reference(const Backward& call) {
  static const auto op = bwd_operator("gru_ext::gru_bwd_by_reference");
  return call_bwd(op, call);
}

}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.set_python_module("gru_ext.tracing");
  m.def(GRU_SCHEMA);
  gru_ext::define_operators(m);
  m.def(GRU_FWD_MEMBERS_SCHEMA("gru_fwd_blocks"));
  m.def(GRU_BWD_SCHEMA("gru_bwd_blocks"));
  m.def(GRU_BWD_SCHEMA("gru_bwd_by_reference"));
}

TORCH_LIBRARY_IMPL(gru_ext, CompositeImplicitAutograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru", gru_ext::gru_operator<gru_ext::gru>);
}
