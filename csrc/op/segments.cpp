// The operator `segments`: how padded sequences, cut where their state is reset, become a packed batch.
//
// A segment is the steps of a sequence from its first, or from one with a reset, to the next such or its end. Segments
// are sequences of their own: they are packed by length, the longest first, those of one length in the order of their
// rows and then of time.
//
//   lengths      (B) integers, any device: steps of each sequence, 0 to T; none where each has T
//   resets       (T, B) bool, or (B, T) with batch_first, any device; none where there are none
//   rows         (N) the place of each packed row among the T * B rows of the padded batch, as that is laid out
//   batch_sizes  (longest segment) on the CPU: rows of each step of the packed batch
//   starts       (2, S) for each direction and segment: b where it starts from the initial state of sequence b, B + b
//                where from the state that a reset leaves
//   ends         (2, B) for each direction and sequence: the segment whose last state is the sequence's; S + b where
//                the sequence is empty
//
// All results are int64, on `device` but for batch_sizes. Arguments of another device are waited for.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "op/forked_child.h"
#include "op/registration.h"

namespace gru_ext {
namespace {

using at::Tensor;

struct Segment {
  int64_t row, first_step, length;
};

std::vector<int64_t> read_lengths(const std::optional<Tensor>& lengths, int64_t T, int64_t B) {
  if (!lengths.has_value()) return std::vector<int64_t>(B, T);
  TORCH_CHECK(lengths->dim() == 1 && lengths->size(0) == B && at::isIntegralType(lengths->scalar_type(), false),
              "gru: expected lengths of shape (B) = (", B, "), integers, got shape ", lengths->sizes(), ", ",
              lengths->scalar_type());
  const Tensor on_cpu = lengths->to(at::kCPU, at::kLong).contiguous();
  const int64_t* data = on_cpu.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b) {
    TORCH_CHECK(0 <= data[b] && data[b] <= T, "gru: expected lengths from 0 to T = ", T, ", got ", data[b],
                " at entry ", b);
  }
  return {data, data + B};
}

// The resets on the CPU: element (t, b), false everywhere where none were given.
class Resets {
 public:
  Resets(const std::optional<Tensor>& resets, int64_t T, int64_t B, bool batch_first) {
    if (!resets.has_value()) return;
    const int64_t rows = batch_first ? B : T, columns = batch_first ? T : B;
    TORCH_CHECK(resets->dim() == 2 && resets->size(0) == rows && resets->size(1) == columns &&
                    resets->scalar_type() == at::kBool,
                "gru: expected resets of shape ", batch_first ? "(B, T)" : "(T, B)", " = (", rows, ", ", columns,
                "), bool, got shape ", resets->sizes(), ", ", resets->scalar_type());
    on_cpu_ = resets->to(at::kCPU);
    data_ = on_cpu_.const_data_ptr<bool>();
    step_stride_ = on_cpu_.stride(batch_first ? 1 : 0);
    row_stride_ = on_cpu_.stride(batch_first ? 0 : 1);
  }
  bool any() const { return data_ != nullptr; }
  bool at(int64_t t, int64_t b) const { return any() && data_[t * step_stride_ + b * row_stride_]; }

 private:
  Tensor on_cpu_;
  const bool* data_ = nullptr;
  int64_t step_stride_ = 0, row_stride_ = 0;
};

// In the order of rows, then of time.
std::vector<Segment> cut(const std::vector<int64_t>& lengths, const Resets& resets) {
  std::vector<Segment> segments;
  for (int64_t b = 0; b < static_cast<int64_t>(lengths.size()); ++b) {
    int64_t first = 0;
    for (int64_t t = 1; resets.any() && t < lengths[b]; ++t) {
      if (!resets.at(t, b)) continue;
      segments.push_back({b, first, t - first});
      first = t;
    }
    if (lengths[b] > 0) segments.push_back({b, first, lengths[b] - first});
  }
  return segments;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> segments(const std::optional<Tensor>& lengths,
                                                    const std::optional<Tensor>& resets, int64_t T, int64_t B,
                                                    bool batch_first, at::Device device) {
  const OneThreadInForkedChild one_thread;
  const std::vector<int64_t> row_lengths = read_lengths(lengths, T, B);
  const Resets reset(resets, T, B, batch_first);
  const std::vector<Segment> found = cut(row_lengths, reset);
  const auto S = static_cast<int64_t>(found.size());

  // longer[l]: segments of more than l steps. It is both the batch_sizes and where those of length l begin.
  std::vector<int64_t> longer(T + 2, 0);
  for (const Segment& segment : found) ++longer[segment.length - 1];
  for (int64_t length = T - 1; length >= 0; --length) longer[length] += longer[length + 1];
  const int64_t longest = std::find(longer.begin(), longer.end(), 0) - longer.begin();
  const auto options = at::TensorOptions(at::kLong);
  const Tensor batch_sizes = at::empty({longest}, options);
  std::copy_n(longer.begin(), longest, batch_sizes.mutable_data_ptr<int64_t>());
  std::vector<int64_t> offsets(longest + 1, 0);  // first packed row of each step
  std::partial_sum(longer.begin(), longer.begin() + longest, offsets.begin() + 1);

  const Tensor rows = at::empty({offsets[longest]}, options);
  const Tensor starts = at::empty({2, S}, options);
  const Tensor ends = at::empty({2, B}, options);
  int64_t* const place = rows.mutable_data_ptr<int64_t>();
  int64_t* const start = starts.mutable_data_ptr<int64_t>();
  int64_t* const end = ends.mutable_data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b) end[b] = end[B + b] = S + b;
  const int64_t step_stride = batch_first ? 1 : B, row_stride = batch_first ? T : 1;
  for (const Segment& segment : found) {
    const int64_t rank = longer[segment.length]++;
    for (int64_t step = 0; step < segment.length; ++step) {
      place[offsets[step] + rank] = (segment.first_step + step) * step_stride + segment.row * row_stride;
    }
    const int64_t b = segment.row;
    const bool first = segment.first_step == 0;
    const bool last = segment.first_step + segment.length == row_lengths[b];
    start[rank] = first && !reset.at(0, b) ? b : B + b;
    start[S + rank] = last ? b : B + b;
    if (last) end[b] = rank;
    if (first) end[B + b] = rank;
  }
  return {rows.to(device), batch_sizes, starts.to(device), ends.to(device)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> segments_like(const std::optional<Tensor>& lengths,
                                                         const std::optional<Tensor>& resets, int64_t T, int64_t B,
                                                         bool batch_first, const Tensor& like) {
  return segments(lengths, resets, T, B, batch_first, like.device());
}

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.set_python_module("gru_ext.tracing");
  m.def(
      "segments(Tensor? lengths, Tensor? resets, SymInt steps, SymInt batch, bool batch_first, Device device)"
      " -> (Tensor rows, Tensor batch_sizes, Tensor starts, Tensor ends)");
  // On the device of a tensor: torch.jit.trace records no devices.
  m.def(
      "segments.like(Tensor? lengths, Tensor? resets, SymInt steps, SymInt batch, bool batch_first, Tensor like)"
      " -> (Tensor rows, Tensor batch_sizes, Tensor starts, Tensor ends)");
}

TORCH_LIBRARY_IMPL(gru_ext, CompositeExplicitAutograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("segments", gru_ext::segments);
  m.impl("segments.like", gru_ext::segments_like);
}
