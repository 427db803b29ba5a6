// Chunks of consecutive time steps, and where the rows of a step lie.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "op/check.h"

namespace gru_ext {

struct Chunk {
  int64_t t_begin, t_end;  // steps
  int64_t offset, rows;    // rows of all these steps
};

// In the order of time, of at most `target_rows` rows where a step has no more.
inline std::vector<Chunk> chunks_of(const Sequence& s, int64_t target_rows) {
  std::vector<Chunk> chunks;
  for (int64_t t = 0; t < s.T;) {
    Chunk chunk{t, t, s.offset(t), 0};
    do {
      chunk.rows += s.rows(chunk.t_end++);
    } while (chunk.t_end < s.T && chunk.rows + s.rows(chunk.t_end) <= target_rows);
    t = chunk.t_end;
    chunks.push_back(chunk);
  }
  return chunks;
}

inline int64_t most_rows(const std::vector<Chunk>& chunks) {
  return std::max_element(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) { return a.rows < b.rows; })
      ->rows;
}

inline int64_t most_steps(const std::vector<Chunk>& chunks) {
  int64_t most = 0;
  for (const Chunk& chunk : chunks) most = std::max(most, chunk.t_end - chunk.t_begin);
  return most;
}

// Where the rows of a tensor (T, B, F) or (N, F) begin: element offset of step t, stride between the rows of a step.
struct Rows {
  bool packed;
  int64_t stride_t, stride_b;

  explicit Rows(const at::Tensor& tensor)
      : packed(tensor.dim() == 2), stride_t(packed ? 0 : tensor.stride(0)), stride_b(tensor.stride(-2)) {}
  int64_t offset(const Sequence& s, int64_t t) const { return packed ? s.offset(t) * stride_b : t * stride_t; }
  // Whether all rows are stride_b apart.
  bool uniform(const Sequence& s) const { return packed || s.T == 1 || stride_t == s.B * stride_b; }
};

}  // namespace gru_ext
