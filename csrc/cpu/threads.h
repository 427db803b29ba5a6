// How the CPU backend runs on several threads: torch's own OpenMP pool, and how a step of a
// recurrence is split between them.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>
#include <vector>

namespace gru_ext {

// Operations of which many take as long on vectors as `flops` of products with `rows` rows on the processor's tiles.
double vector_flops_of_tiles(double flops, int64_t rows);
// Likewise of `cells` cells, which beside products on tiles are no small part.
double vector_flops_of_gates(int64_t cells);
// Rows that products on tiles have in the time of one.
constexpr int64_t kTileProductRows = 32;

// What one thread takes for so many operations on vectors.
double microseconds_alone(double flops);

// Threads for `steps` steps of `flops` floating-point operations each, as on vectors: at most torch.get_num_threads()
// and the cores that the process may use, fewer where a thread's part of a step would be shorter than the wait for the
// others; 1 where all the steps together are not worth waking a thread, inside another parallel region, and in a forked
// child, whose pool did not survive the fork.
int threads_for(int64_t steps, double flops);

// The same without steps: 1 for a call of too few operations.
int threads_of_call(double flops);

// Whether a call is too short to wake threads for, if they sleep: the last parallel region is some milliseconds past,
// and no such calls came right before, of which many together are worth it.
// `flops`: of the call. `weight_bytes`: that it reads, from memory, as nothing has kept them in a cache since then.
bool lets_threads_sleep(double flops, double weight_bytes);

// The threads that go through the steps: row_groups times unit_groups. Each row group has rows of the batch of its own,
// and never waits for another one; its members share the hidden units, and wait for each other at each step.
struct Grid {
  int row_groups = 1, unit_groups = 1;
  int size() const { return row_groups * unit_groups; }
  // Of a member, how many others lie beyond its cache, which so many neighbouring threads share: the most of all.
  int members_afar(int together) const;
};

// The steps of a recurrence, as they can be split.
struct Work {
  int64_t steps;
  int64_t chunk_rows;         // least rows of all steps of a part for all threads
  bool chunk_of_group;        // whether each row group has so many, else they have them together
  int64_t row_bytes;          // of the caches, for a row of a region; 0 where it has no more rows than the least
  int64_t rows, row_block;    // of the batch; a row group has whole blocks, the last one what is left over as well
  int64_t units, unit_block;  // hidden units; a member has whole blocks
  double waits;               // of a step
  double flops;               // of a step
  double input_flops;         // of the input product of a step, which needs no wait; 0 where it is no part of the steps
  double weight_bytes;        // that a step reads
  double input_gate_bytes;    // of a step: what the input product leaves
  double gate_flops = 0;      // of a step, for its gates: on tiles, where they are no small part; else in `flops`
  int64_t rows_at_once = 1;   // that products have in the time of one row: on tiles
  // Where sequences end at different steps, the longest first: of the first so many blocks, from none to all, the rows
  // in all steps. Row groups then have about equal parts of these. Empty where all steps have all rows.
  std::vector<int64_t> rows_until_block = {};

  // First of the rows of a row group; that of the next group ends them.
  int64_t first_row(int group, int groups) const;
  // Likewise of the units of a member.
  int64_t first_unit(int member, int members) const;
  // Rows of all steps of a part for all threads, where a step has no more: several, for which parts are dear, fill
  // their caches.
  int64_t rows_of_region(Grid grid) const;
};

// How a call uses `threads` threads.
struct Plan {
  int threads = 1;            // 1, or all: the size of the parallel region
  Grid grid;                  // of the steps
  bool shares_input = false;  // whether all threads share the input product of the steps, before them
};

// The plan that takes the least time where a wait of `threads` threads for each other costs `wait` microseconds.
Plan fastest_plan(const Work& work, int threads, double wait);

// Whether work of `flops` operations, of which no thread waits for another, is worth `threads` threads.
bool pays(double flops, int threads, double wait);

// Calls body(thread, threads) on each of `threads` threads at once, or of as many as the OpenMP runtime gives.
void run_threads(int threads, c10::function_ref<void(int, int)> body);

}  // namespace gru_ext
