#include "op/recompute.h"

#include <ATen/ATen.h>

#include <vector>

namespace gru_ext {
namespace {

using at::Tensor;

// Copies rows of one tensor into another: those that follow each other in both at once, the last by `flush`.
class RowCopies {
 public:
  RowCopies(const Tensor& target, const Tensor& source) : target_(target), source_(source) {}
  void add(int64_t to, int64_t from, int64_t count) {
    if (count == 0) return;
    if (to != to_ + count_ || from != from_ + count_) {
      flush();
      to_ = to;
      from_ = from;
      count_ = 0;
    }
    count_ += count;
  }

  void flush() {
    if (count_ == 0) return;
    const Tensor rows = target_.narrow(0, to_, count_);
    source_.defined() ? rows.copy_(source_.narrow(0, from_, count_)) : rows.zero_();
  }

 private:
  const Tensor target_, source_;  // source undefined for zero
  int64_t to_ = 0, from_ = 0, count_ = 0;
};

}  // namespace

Tensor input_of(const Sequence& s, const Tensor& x, const Chunk& chunk) {
  const Tensor part =
      x.dim() == 2 ? x.narrow(0, chunk.offset, chunk.rows) : x.narrow(0, chunk.t_begin, chunk.t_end - chunk.t_begin);
  return part.reshape({1, chunk.rows, s.I});
}

void copy_states_before(const Sequence& s, const Chunk& chunk, bool reverse, const Tensor& y, const Tensor& h0,
                        const Tensor& states) {
  RowCopies from_y(states, y.dim() == 2 ? y : y.flatten(0, 1)), from_h0(states, h0);
  for (int64_t t = chunk.t_begin; t < chunk.t_end; ++t) {
    const int64_t t_prev = reverse ? t + 1 : t - 1;
    const int64_t row = s.offset(t) - chunk.offset;
    const int64_t continued = t_prev >= 0 && t_prev < s.T ? std::min(s.rows(t), s.rows(t_prev)) : 0;
    if (continued > 0) from_y.add(row, s.offset(t_prev), continued);
    from_h0.add(row + continued, continued, s.rows(t) - continued);
  }
  from_y.flush();
  from_h0.flush();
}

Tensor mask_of_rows(const Sequence& s, const Chunk& chunk, const Tensor& mask) {
  std::vector<Tensor> parts;
  for (int64_t t = chunk.t_begin; t < chunk.t_end;) {
    const int64_t first = t, rows = s.rows(t);
    while (t < chunk.t_end && s.rows(t) == rows) ++t;
    parts.push_back(mask.narrow(0, 0, rows).expand({t - first, rows, s.H}).reshape({(t - first) * rows, s.H}));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

Variant variant_of_gates(const Sequence& s, const Chunk& chunk, int64_t direction, const Variant& variant) {
  Variant result = variant;
  // These come after the gates.
  result.zoneout_mask = result.candidate_mask = std::nullopt;
  result.zoneout = result.candidate_dropout = 0;
  if (variant.recurrent_mask.has_value()) {
    result.recurrent_mask = mask_of_rows(s, chunk, variant.recurrent_mask->select(0, direction)).unsqueeze(0);
  }
  return result;
}

}  // namespace gru_ext
