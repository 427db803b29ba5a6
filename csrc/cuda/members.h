// A call by a kernel, whether that takes members (op/members.h) or not: it then runs them one after another.
#pragma once

#include <optional>

#include "cuda/choice/family.h"
#include "op/members.h"

namespace gru_ext {

template <typename Call>
bool runs_as_one(const Kernel& kernel, const Call& call) {
  return call.s.members == 0 || kernel.takes_members();
}

inline Sequence of_one_member(const Sequence& s) {
  Sequence one = s;
  one.members = 0;
  return one;
}

// As Kernel::run.
inline std::optional<FwdResult> run_with_members(const Kernel& kernel, const FwdCall& call, const char*& error) {
  if (runs_as_one(kernel, call)) return kernel.run(call, error);
  const Sequence s = of_one_member(call.s);
  return each_member_fwd(call.layer, [&](const Layer& member) {
    return kernel.run(FwdCall{s, member, call.save_gates, call.save_y, call.stream, call.error}, error);
  });
}

inline std::optional<BwdResult> run_with_members(const Kernel& kernel, const BwdCall& call, const char*& error) {
  if (runs_as_one(kernel, call)) return kernel.run(call, error);
  const Sequence s = of_one_member(call.s);
  return each_member_bwd(call.layer, [&](const Layer& member, int64_t e) {
    const OfMember of{e};
    const OptionalTensor dy = part_of(call.dy, of), dh_n = part_of(call.dh_n, of);
    const Backward of_member{dy, dh_n, member, of(call.y), of(call.gates), call.need};
    return kernel.run(BwdCall{of_member, s, call.stream, call.error}, error);
  });
}

}  // namespace gru_ext
