// The CPU backend for weights of int8: one layer, forward. Blocks run at the same time, a thread each.
//
// Time is cut into chunks as in forward.cpp: a chunk is a part of the work, in which each thread multiplies the
// chunk's input with the weights of its own hidden units, then goes through the steps (int8_body.h).
#include <ATen/ATen.h>

#include "cpu/call.h"
#include "cpu/int8/int8_kernels.h"
#include "cpu/members.h"
#include "cpu/op_cpu.h"
#include "cpu/pass.h"
#include "cpu/step_barrier.h"
#include "cpu/threads.h"
#include "op/blocks.h"
#include "op/check.h"
#include "op/chunks.h"
#include "op/int8.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

// Rows of a chunk: few enough for its gates to stay in the cache.
constexpr int64_t kInt8ChunkRows = 128;
// How many operations on int8 take the time of one floating-point operation: of vectors, and of tiles.
constexpr double kOperationsPerFlop = 4, kOperationsPerTileFlop = 2;

// The products of a step, as operations on vectors. The input product is one with those of other steps.
double product_flops(const Sequence& s) {
  if (!has_tiles()) return (input_flops(s) + recurrent_flops(s)) / kOperationsPerFlop;
  const double of_input = vector_flops_of_tiles(s.T * input_flops(s), s.T * s.B) / std::max<int64_t>(s.T, 1);
  return (of_input + vector_flops_of_tiles(recurrent_flops(s), s.B)) / kOperationsPerTileFlop;
}
// Its gates, where they are no small part.
double gate_flops(const Sequence& s) { return has_tiles() ? vector_flops_of_gates(s.B * s.H) : 0; }

// All steps of one direction: writes its columns of y, and h_n (B, H).
void run_direction(const Sequence& s, const Tensor& x, const float* h0, const Tensor* weights, const Tensor& y,
                   bool reverse, float* h_n) {
  const Int8Kernel kernel = int8_kernel();
  const std::vector<Chunk> chunks = chunks_of(s, kInt8ChunkRows);
  const double flops = product_flops(s) + gate_flops(s);
  WatchedCall call(threads_of_layer(s, s.T * flops, /*bytes=*/1), microseconds_alone(s.T * flops));
  int threads = call.threads();
  const double wait = cost_of_waits(s, threads);
  const Work work{s.T,
                  kInt8ChunkRows,
                  /*chunk_of_group=*/false,
                  /*row_bytes=*/0,
                  s.B,
                  kRowBlock,  // of packed batches too: sums are exact
                  s.H,
                  kInt8Units,
                  /*waits=*/1,
                  product_flops(s),
                  /*input_flops=*/0,
                  static_cast<double>(3 * s.H * s.H),
                  /*input_gate_bytes=*/0,
                  gate_flops(s),
                  has_tiles() ? kTileProductRows : 1,
                  rows_until_blocks(s, kRowBlock, 0, s.T)};
  Team team(work, threads, wait);
  threads = team.plan().threads;
  call.use(threads);
  const int64_t rows = most_rows(chunks);
  const int64_t groups = (s.H + kInt8Units - 1) / kInt8Units;
  const Tensor bytes =
      at::empty({rows * int8_stride(s.I) + threads * s.B * int8_stride(s.H)}, x.options().dtype(at::kByte));
  const Tensor floats = at::empty({groups * rows * 3 * kInt8Units + rows + threads * s.B}, x.options());

  const Rows rows_of_x(x), rows_of_y(y);
  Int8Chunk p;
  p.I = s.I;
  p.H = s.H;
  p.B = s.B;
  p.first_round = 0;
  p.all_rows = true;
  p.x = x.const_data_ptr<float>();
  p.x_stride = rows_of_x.stride_b;
  p.weight_ih = weights[0].const_data_ptr<int32_t>();
  p.weight_hh = weights[1].const_data_ptr<int32_t>();
  p.scale_ih = weights[2].const_data_ptr<float>();
  p.scale_hh = weights[3].const_data_ptr<float>();
  p.bias_ih = s.has_bias ? weights[4].const_data_ptr<float>() : nullptr;
  p.bias_hh = s.has_bias ? weights[5].const_data_ptr<float>() : nullptr;
  p.h0 = h0;
  p.y = y.data_ptr<float>() + (reverse ? s.all_H : 0);
  p.y_stride = rows_of_y.stride_b;
  p.h_n = h_n;
  p.x_bytes = bytes.data_ptr<uint8_t>();
  p.x_bytes_stride = int8_stride(s.I);
  p.h_bytes = p.x_bytes + rows * p.x_bytes_stride;
  p.h_bytes_stride = int8_stride(s.H);
  p.input_gates = floats.data_ptr<float>();
  p.x_scale = p.input_gates + groups * rows * 3 * kInt8Units;
  p.h_scale = p.x_scale + rows;

  std::vector<Int8Step> steps;
  std::vector<Int8Chunk> row_groups(team.row_groups());
  std::vector<std::vector<Int8Step>> steps_of_groups(team.row_groups());
  const auto run_chunk = [&](Crew& crew, const Chunk& chunk) {
    const int64_t count = chunk.t_end - chunk.t_begin;
    team.share_rows(s, chunk.t_begin, chunk.t_end);
    steps.clear();
    for (int64_t step = 0; step < count; ++step) {
      const int64_t t = reverse ? chunk.t_end - 1 - step : chunk.t_begin + step;
      const int64_t t_prev = reverse ? t + 1 : t - 1, t_next = reverse ? t - 1 : t + 1;
      const bool has_prev = t_prev >= 0 && t_prev < s.T, has_next = t_next >= 0 && t_next < s.T;
      steps.push_back({s.offset(t) - chunk.offset, s.rows(t), rows_of_x.offset(s, t), rows_of_y.offset(s, t),
                       has_prev ? rows_of_y.offset(s, t_prev) : 0, has_prev ? std::min(s.rows(t), s.rows(t_prev)) : 0,
                       has_next ? std::min(s.rows(t), s.rows(t_next)) : 0});
    }
    p.steps = steps.data();
    p.step_count = count;
    p.rows = chunk.rows;
    for (int group = 0; group < team.row_groups(); ++group) {
      const int64_t first = team.first_row(group), rows_of_group = team.last_row(group) - first;
      Int8Chunk& part = row_groups[group] = p;
      if (team.row_groups() == 1) break;
      steps_of_groups[group] = steps;
      for (Int8Step& step : steps_of_groups[group]) {
        const auto of_group = [&](int64_t rows) { return std::clamp<int64_t>(rows - first, 0, rows_of_group); };
        step.row += first;
        step.rows = of_group(step.rows);
        step.x_offset += first * p.x_stride;
        step.y_offset += first * p.y_stride;
        step.prev_offset += first * p.y_stride;
        step.prev_rows = of_group(step.prev_rows);
        step.last_rows = of_group(step.last_rows);
      }
      part.steps = steps_of_groups[group].data();
      part.all_rows = false;
      if (part.h0 != nullptr) part.h0 += first * s.H;
      part.h_n += first * s.H;
      part.h_bytes += group * team.plan().grid.unit_groups * s.B * p.h_bytes_stride;
      part.h_scale += group * team.plan().grid.unit_groups * s.B;
    }
    run_steps(crew, threads, team, [&](int group, int member, int members, StepBarrier& barrier) {
      kernel(group == Team::kAllRows ? p : row_groups[group], member, members, barrier);
    });
    p.first_round += 1 + count;
  };
  const auto run_chunks = [&](Crew& crew) {
    for (size_t i = 0; i < chunks.size(); ++i) run_chunk(crew, chunks[reverse ? chunks.size() - 1 - i : i]);
  };
  lead_threads(threads, run_chunks, /*few_parts=*/chunks.size() == 1);
}

// The tensors of a block, contiguous: of packed weights its groups of units, of vectors (3H) its units of each gate.
std::vector<Tensor> weights_of(const Block& block, int64_t blocks, TensorList weights) {
  std::vector<Tensor> own;
  for (const Tensor& weight : weights) {
    const int64_t groups = weight.size(0) / blocks;
    const Tensor part = weight.dim() == 1 ? block.rows(weight).flatten() : weight.narrow(0, block.g * groups, groups);
    own.push_back(part.contiguous());
  }
  return own;
}

}  // namespace

std::tuple<Tensor, Tensor> gru_int8_cpu(const Tensor& x, const std::optional<Tensor>& hx, TensorList weights,
                                        const std::optional<Tensor>& batch_sizes, bool bidirectional, int64_t blocks) {
  return call_on_cpu([&] {
    const Sequence s = check_int8(x, hx, weights, batch_sizes, bidirectional, blocks);
    const Tensor y = batch_sizes.has_value() ? at::empty({s.N, s.D * s.all_H}, x.options())
                                             : at::empty({s.T, s.B, s.D * s.all_H}, x.options());
    const Tensor h_n = at::empty({s.D, s.B, s.all_H}, x.options());
    if (s.N == 0) return std::make_tuple(y, h_n);
    const Tensor rows_of_x = s.I == 1 || x.stride(-1) == 1 ? x : x.contiguous();
    const int64_t per_direction = static_cast<int64_t>(weights.size()) / s.D;
    const auto run_block = [&](int64_t g) {
      const Block block{g, s.H};
      const Tensor h0 = hx.has_value() ? block.units(*hx).contiguous() : Tensor();
      const Tensor own_h_n = blocks == 1 ? h_n : at::empty({s.D, s.B, s.H}, x.options());
      const std::vector<Tensor> own_weights = weights_of(block, blocks, weights);
      for (int64_t d = 0; d < s.D; ++d) {
        run_direction(s, rows_of_x, h0.defined() ? h0.const_data_ptr<float>() + d * s.B * s.H : nullptr,
                      own_weights.data() + d * per_direction, block.from_first_unit(y), /*reverse=*/d == 1,
                      own_h_n.data_ptr<float>() + d * s.B * s.H);
      }
      if (blocks > 1) block.units(h_n).copy_(own_h_n);
    };
    if (blocks == 1) {
      run_block(0);
    } else {
      for_each_member(blocks, s, product_flops(s) + gate_flops(s), run_block);
    }
    return std::make_tuple(y, h_n);
  });
}

}  // namespace gru_ext
