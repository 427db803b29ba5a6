// What the forward and the backward of a layer share: how threads go through its directions and chunks of time steps.
//
// A pass is one direction of a layer. It is run stretch by stretch, each of one chunk or more: `begin` prepares a
// stretch, then come its phases, each of which is a part of the work for all threads, or for one.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "cpu/arranged.h"
#include "cpu/crew.h"
#include "cpu/crowding.h"
#include "cpu/isa.h"
#include "cpu/kernels/kernels.h"
#include "cpu/results.h"
#include "cpu/step_barrier.h"
#include "cpu/threads.h"
#include "cpu/wait_cost.h"
#include "op/check.h"
#include "op/chunks.h"
#include "op/dispatch.h"
#include "op/float32_products.h"

namespace gru_ext {

// `tensor`, or a copy of it whose rows are contiguous.
inline at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  return tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

// The threads that a layer may have: `flops` of it, weights of `bytes` a value.
inline int threads_of_layer(const Sequence& s, double flops, int64_t bytes) {
  const int threads = threads_of_call(flops);
  // With layer norm the bits depend on the number of threads, which then follows no clock.
  if (threads == 1 || s.has_gains) return threads;
  return lets_threads_sleep(flops, 3.0 * s.D * s.H * (s.H + s.I) * bytes) ? 1 : threads;
}

// Microseconds that a wait of `threads` threads for each other costs a call.
inline double cost_of_waits(const Sequence& s, int threads) {
  if (threads == 1) return 0;
  // With layer norm the bits depend on the number of threads, which then follows no measurement.
  return s.has_gains ? usual_wait_cost() : wait_cost(threads);
}

// Whether the rows of a packed batch are split. Then steps of a row group may have few rows, whose products sum in one
// chain, and so in the order of those of many. In smaller batches more steps have few rows, which several make faster.
inline bool splits_packed_rows(const Sequence& s) { return s.is_packed() && s.B >= 2 * kRowBlock; }

// Work::rows_until_block of the steps from t_begin on, before t_end.
inline std::vector<int64_t> rows_until_blocks(const Sequence& s, int64_t row_block, int64_t t_begin, int64_t t_end) {
  const int64_t blocks = s.B / row_block;
  if (!s.is_packed() || blocks < 2) return {};
  // Steps with so many whole blocks of rows, and their rows beyond these.
  std::vector<int64_t> steps(blocks + 1), rest(blocks + 1), until{0};
  int64_t rows = 0;
  for (int64_t t = t_begin; t < t_end; ++t) {
    const int64_t whole = std::min(blocks, s.rows(t) / row_block);
    ++steps[whole];
    rest[whole] += s.rows(t) - whole * row_block;
    rows += s.rows(t);
  }
  int64_t with_block = t_end - t_begin;
  for (int64_t block = 0; block < blocks; ++block) {
    with_block -= steps[block];
    until.push_back(until.back() + with_block * row_block + rest[block]);
  }
  until.back() = rows;  // the last block has what is left over as well
  return until;
}

// The threads of a pass in its steps, and their barriers. A row group goes through a chunk that has only its rows.
class Team {
 public:
  // As fastest_plan has it.
  Team(Work work, int threads, double wait) : work_(std::move(work)), plan_(fastest_plan(work_, threads, wait)) {
    const Grid& grid = plan_.grid;
    if (grid.size() == 1) return;
    barriers_.reserve(grid.row_groups);
    for (int group = 0; group < grid.row_groups; ++group) barriers_.emplace_back(grid.unit_groups);
  }
  // Has the region all threads, for work besides the steps.
  void use_all(int threads) { plan_.threads = threads; }

  const Plan& plan() const { return plan_; }
  int row_groups() const { return plan_.grid.row_groups; }
  // The rows of a group, or all.
  int64_t first_row(int group) const { return group == kAllRows ? 0 : work_.first_row(group, row_groups()); }
  int64_t last_row(int group) const { return group == kAllRows ? work_.rows : first_row(group + 1); }
  int64_t first_unit(int member, int members) const { return work_.first_unit(member, members); }
  int64_t rows_of_region() const { return work_.rows_of_region(plan_.grid); }
  // Has the row groups share the rows of a packed batch in these steps, from now on. No thread is in the steps.
  void share_rows(const Sequence& s, int64_t t_begin, int64_t t_end) {
    if (row_groups() > 1) work_.rows_until_block = rows_until_blocks(s, work_.row_block, t_begin, t_end);
  }
  // Steps of all threads for `take_rows`, where a chunk has `count`.
  int64_t steps_of_threads(int64_t count) const { return row_groups() == 1 ? 0 : plan_.grid.size() * count; }

  // Calls steps(group, member, members, barrier) as one of `team` threads: of no group, so for all rows, where there
  // are fewer than were planned. A thread that has no part in the steps does nothing.
  template <typename Steps>
  void run(int thread, int team, const Steps& steps) {
    const int members = plan_.grid.unit_groups;
    if (team < plan_.threads || plan_.grid.size() == 1) {
      if (thread == 0) steps(kAllRows, 0, 1, alone_);
    } else if (thread < plan_.grid.size()) {
      const int group = thread / members;
      steps(row_groups() == 1 ? kAllRows : group, thread % members, members, barriers_[group]);
    }
  }

  // StepBarrier::crowded of any row group; never where the user says that the cores are free, by saying what a wait
  // costs.
  bool crowded(std::chrono::nanoseconds elapsed) {
    if (wait_cost_is_given()) return false;
    bool any = false;
    for (StepBarrier& barrier : barriers_) any |= barrier.crowded(elapsed);
    return any;
  }

  // Lets every wait pass, until the next thread says what it has finished.
  void open() {
    for (StepBarrier& barrier : barriers_) {
      for (int member = 0; member < plan_.grid.unit_groups; ++member) barrier.finished(member, int64_t{1} << 30);
    }
  }

  static constexpr int kAllRows = -1;

 private:
  Work work_;
  Plan plan_;
  std::vector<StepBarrier> barriers_;
  StepBarrier alone_{1};
};

// Sets the steps of a chunk to those with the rows [first, last) of each alone. `stride`: elements between rows, as
// Step::offset counts them. `target`: the thread's own, for no thread may ask for memory in a parallel region.
template <typename Chunk>
void take_rows(Chunk& chunk, int64_t first, int64_t last, int64_t stride, Step* target) {
  for (int64_t i = 0; i < chunk.step_count; ++i) {
    const Step& step = chunk.steps[i];
    const int64_t rows = std::clamp<int64_t>(step.rows - first, 0, last - first);
    target[i] = {step.row + first, rows, step.packed_row + first, step.offset + first * stride};
  }
  chunk.steps = target;
}

// Runs `steps` as Team::run does, on `threads` of the crew; sets these to 1 where it has fewer, or where they mostly
// waited for cores that other programs hold.
template <typename Steps>
void run_steps(Crew& crew, int& threads, Team& team, const Steps& steps) {
  if (crew.size() < threads) threads = 1;
  if (threads == 1) return team.run(0, 1, steps);
  const auto start = std::chrono::steady_clock::now();
  crew.run([&](int thread, int count) { team.run(thread, count, steps); });
  if (team.crowded(std::chrono::steady_clock::now() - start)) threads = 1;
}

// Runs passes at the same time, each on an equal share of `threads` threads, or all on one. Of two passes each takes
// part in a phase with all of its threads, whatever its `threads_of` says, where the other one has the phase.
template <typename Pass>
void run_together(c10::ArrayRef<Pass*> passes, int threads) {
  const int count = static_cast<int>(passes.size());
  // Calls `part` with each pass on each of its threads. Where OpenMP gives fewer than were asked for, none of them is
  // used: the threads of a pass are either as many as were planned, or one.
  const auto run_all = [&](Crew& crew, const auto& part) {
    if (crew.size() < std::max(threads, count)) threads = 1;
    if (threads == 1) {
      for (Pass* pass : passes) part(*pass, 0, 1);
      return;
    }
    const int members = threads / count;
    int given = threads;
    crew.run([&](int thread, int size) {
      if (thread == 0) given = size;
      if (size < std::max(threads, count)) {
        for (int i = 0; i < count && thread == 0; ++i) part(*passes[i], 0, 1);
      } else if (thread < members * count) {
        part(*passes[thread / members], thread % members, members);
      }
    });
    if (given < threads) threads = 1;
  };
  const auto run_phases = [&](Crew& crew) {
    for (int phase = 0; phase < Pass::kPhases; ++phase) {
      int most = 0;
      for (Pass* pass : passes) most = std::max(most, pass->threads_of(phase));
      if (most == 0) continue;
      const auto part = [phase](Pass& pass, int thread, int team) { pass.run(phase, thread, team); };
      if (most == 1 && count == 1) {
        part(*passes[0], 0, 1);
        continue;
      }
      const auto start = std::chrono::steady_clock::now();
      run_all(crew, part);
      const auto elapsed = std::chrono::steady_clock::now() - start;
      for (Pass* pass : passes) {
        if (pass->team().crowded(elapsed) && !pass->sums_across_threads()) threads = 1;
      }
    }
  };
  const auto prepare = [&](Crew& crew) {
    run_all(crew, [](Pass& pass, int thread, int team) { pass.prepare(thread, team); });
  };
  const auto begin = [&](size_t stretch) {
    for (Pass* pass : passes) pass->begin(stretch);
  };
  const size_t stretches = passes[0]->stretches();
  if (passes[0]->begins_with_a_call()) {
    if (passes[0]->prepares()) lead_threads(threads, prepare);
    for (size_t stretch = 0; stretch < stretches; ++stretch) {
      begin(stretch);
      lead_threads(threads, run_phases);
    }
  } else {
    const auto run_stretches = [&](Crew& crew) {
      if (passes[0]->prepares()) prepare(crew);
      for (size_t stretch = 0; stretch < stretches; ++stretch) {
        begin(stretch);
        run_phases(crew);
      }
    };
    lead_threads(threads, run_stretches, /*few_parts=*/stretches == 1 && !passes[0]->prepares());
  }
  for (Pass* pass : passes) pass->finish();
}

// Whether the directions of a layer run at the same time: where one alone would leave threads idle, or have them wait
// for each other in every step although its weights fit into the cache of one core. `flops`: of a step of one
// direction.
inline bool runs_side_by_side(const Sequence& s, double flops) {
  const bool pays = s.D == 2 && threads_for(/*steps=*/1, 2.0 * s.T * flops) > 1;
  return pays && (threads_for(s.T, flops) == 1 || 3 * s.H * (s.H + s.I) * 4 <= kUsualCache);
}

template <typename operand_t>
bool on_tiles() {
  return std::is_base_of_v<c10::BFloat16, operand_t> && has_tiles();
}
// Operations on vectors that take as long as `flops` of products with `rows` rows, and the gates of `cells` cells.
template <typename operand_t>
double vector_flops(double flops, int64_t rows, int64_t cells) {
  return on_tiles<operand_t>() ? vector_flops_of_tiles(flops, rows) + vector_flops_of_gates(cells) : flops;
}
// Those of a step's input product, which is one with those of other steps.
template <typename operand_t>
double input_vector_flops(const Sequence& s) {
  return vector_flops<operand_t>(s.T * input_flops(s), s.T * s.B, /*cells=*/0) / std::max<int64_t>(s.T, 1);
}

// Runs a pass in its order, each thread's part by itself, so often; of each part the fastest time counts. Of 64 parts,
// each timed once, the longest is the one that was disturbed most. Each run begins with another thread: the first one
// finds code and weights cold, which a core of its own has had before.
constexpr int kRehearsals = 5;
template <typename Pass, typename Tensors>
void rehearse(const Sequence& s, const Tensors& tensors, Rehearsal& rehearsal) {
  std::vector<std::vector<double>> fastest;  // of each part, of each of its threads
  std::optional<Pass> pass;
  for (int run = 0; run < kRehearsals; ++run) {
    size_t part = 0;
    const auto time = [&](int threads, const auto& body) {
      if (part == fastest.size()) fastest.emplace_back(threads, std::numeric_limits<double>::infinity());
      for (int i = 0; i < threads; ++i) {
        const int thread = (i + run * threads / kRehearsals) % threads;
        if (pass.has_value()) pass->team().open();
        const auto start = std::chrono::steady_clock::now();
        body(thread, threads);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        fastest[part][thread] = std::min(fastest[part][thread], taken.count());
      }
      ++part;
    };
    pass.reset();
    time(1, [&](int, int) { pass.emplace(s, tensors, /*direction=*/0, rehearsal.threads, rehearsal.wait); });
    const int all = pass->team().plan().threads;
    if (pass->prepares()) time(all, [&](int thread, int team) { pass->prepare(thread, team); });
    for (size_t stretch = 0; stretch < pass->stretches(); ++stretch) {
      time(1, [&](int, int) { pass->begin(stretch); });
      for (int phase = 0; phase < Pass::kPhases; ++phase) {
        const int threads = std::min(all, pass->threads_of(phase));
        if (threads > 0) time(threads, [&](int thread, int team) { pass->run(phase, thread, team); });
      }
    }
    time(1, [&](int, int) { pass->finish(); });
  }
  for (const std::vector<double>& threads : fastest) {
    const double longest = *std::max_element(threads.begin(), threads.end());
    if (threads.size() == 1) {
      rehearsal.serial += longest;
      continue;
    }
    rehearsal.longest += longest;
    rehearsal.average += std::accumulate(threads.begin(), threads.end(), 0.0) / threads.size();
    ++rehearsal.parts;
  }
  rehearsal.row_groups = pass->team().plan().grid.row_groups;
  rehearsal.members = pass->team().plan().grid.unit_groups;
  rehearsal.read = pass->bytes_from_afar(rehearsal.together);
}

// Runs the passes of all directions of a layer. `flops`: of a step of one direction. `all_flops`: of a direction, with
// what is no step.
template <typename Pass, typename Tensors>
void run_layer(const Sequence& s, const Tensors& tensors, double flops, double all_flops, Rehearsal* rehearsal) {
  if (rehearsal != nullptr) return rehearse<Pass>(s, tensors, *rehearsal);
  const int allowed = threads_of_layer(s, s.D * s.T * flops, tensors.x.element_size());
  // With layer norm the bits depend on the number of threads, which then follows no clock.
  WatchedCall call(s.has_gains ? 1 : allowed, microseconds_alone(s.D * all_flops));
  const int most = s.has_gains ? allowed : call.threads();
  const double wait = cost_of_waits(s, most);
  // The directions wait for each other at the end alone.
  if (runs_side_by_side(s, flops)) {
    const int threads = s.has_gains || pays(2 * s.T * flops, 2, wait) ? most : 1;
    const int of_pass = std::max(1, threads / 2);
    Pass first(s, tensors, 0, of_pass, wait), second(s, tensors, 1, of_pass, wait);
    call.use(threads);
    return run_together<Pass>({&first, &second}, threads);
  }
  for (int64_t d = 0; d < s.D; ++d) {
    Pass pass(s, tensors, d, most, wait);
    call.use(pass.team().plan().threads);
    run_together<Pass>({&pass}, pass.team().plan().threads);
  }
}

// A layer's masks, contiguous.
class LayerMasks {
 public:
  explicit LayerMasks(const Variant& variant) : variant_(variant) {
    for (OptionalTensor* mask : variant_.masks()) {
      *mask = part_of(*mask, [](const at::Tensor& given) { return given.contiguous(); });
    }
  }

  template <typename acc_t>
  DirectionMasks<acc_t> of(const Sequence& s, int64_t direction) const {
    const auto part = [&](const OptionalTensor& mask, int64_t rows) {
      return mask.has_value() ? mask->const_data_ptr<bool>() + direction * rows * s.H : nullptr;
    };
    return {variant_.has_masks(),
            part(variant_.zoneout_mask, s.N),
            part(variant_.candidate_mask, s.N),
            part(variant_.recurrent_mask, s.B),
            static_cast<acc_t>(variant_.zoneout),
            static_cast<acc_t>(1 / (1 - variant_.candidate_dropout)),
            static_cast<acc_t>(1 / (1 - variant_.recurrent_dropout))};
  }

 private:
  Variant variant_;
};

// What `body` returns for values of the types that hold tensors of `dtype` and the operands of their products.
template <typename Body>
auto with_scalar_and_operand_type(at::ScalarType dtype, const Body& body) {
  return with_scalar_type(dtype, [&](auto zero) {
    using scalar_t = decltype(zero);
#if defined(__x86_64__)
    if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
      if (multiplies_bf16()) return body(zero, c10::BFloat16{});
    }
#endif
    return body(zero, acc_type<scalar_t>{});
  });
}

// Of how many parts (kernels/parts.h) torch's switch lets the float32 of a call be in products; 0 where they stay as
// they are. Tiles take the products of two parts for as long as fused multiply-adds take two rows: measured on Emerald
// Rapids, 16 columns of 32 values of K are 3 * 9.5 cycles for one row or eight, and 16.5 cycles a row.
inline int parts_of_float32(const Sequence& s) {
  if (!has_tiles()) return 0;
  const Float32Products allowed = float32_products(at::kCPU);
  if (allowed == Float32Products::bf16) return 1;
  return allowed == Float32Products::tf32 && s.B > 1 ? 2 : 0;
}

// As above. `parts`: those of float32.
template <typename Body>
auto with_scalar_and_operand_type(at::ScalarType dtype, int parts, const Body& body) {
#if defined(__x86_64__)
  if (dtype == at::kFloat && parts == 1) return body(float{}, c10::BFloat16{});
  if (dtype == at::kFloat && parts == 2) return body(float{}, Part<2>{});
#endif
  return with_scalar_and_operand_type(dtype, body);
}

}  // namespace gru_ext
