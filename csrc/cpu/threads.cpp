#include "cpu/threads.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "cpu/cache.h"
#include "cpu/cores.h"
#include "cpu/isa.h"
#include "cpu/kernels/kernels.h"
#include "op/forked_child.h"

namespace gru_ext {
namespace {

// 0.5 us of a core at 100 GFLOP/s: some times the 0.05 to 0.1 us that a wait for another thread costs.
constexpr double kStepFlopsPerThread = 5e4;
// 5 us: some times what it costs to wake a thread that has not gone to sleep yet. Of one row's step that is a megabyte
// of float weights: more than a core's own cache holds, so that a second core's pays.
constexpr double kFlopsPerCall = 5e5;
// To hand out a part within a region takes less; to reckon with as much keeps short parts on one thread.
constexpr double kMicrosecondsOfRegion = 5;
// libgomp's threads spin for about so long before they sleep; to wake one takes a futex and a core that has halted.
constexpr std::chrono::milliseconds kSpinsFor{5};
constexpr double kMicrosecondsToWake = 50;
// Calls in a row that one thread computed for so long are worth it together: on a busy host it takes milliseconds.
constexpr double kMicrosecondsInARow = 10 * kMicrosecondsToWake;
// Waits count so many times: what is gained must be more than the noise of what they were measured to cost.
constexpr double kWaitsCountAs = 3;
// A wait for each further thread beyond the second, in waits for one.
constexpr double kFurtherThread = 1.0 / 8;
// A microsecond of one core reads so many bytes from the cache that cores share; and of what another core wrote, as if
// it shared none, which is assumed.
constexpr double kSharedCacheRate = 3e4, kOtherCoreRate = 1e4;
// A row of a group of fewer than kRowBlock rows takes so many times as long: each vector of weights that is loaded
// meets fewer rows.
constexpr double kOfFewRows = 1.3;
// On tiles, products with up to kTileProductRows rows take as long as with one row on vectors, and a cell as long as so
// many operations on vectors. Measured on Emerald Rapids: at H = 256, products of a step with R take 3.2 us for one
// row, 3.4 for 8 and 4.1 for 16, at H = 512 15.8 for 32, where one row on vectors has 3.9 and 15.7 at 100 GFLOP/s; 16
// cells 30 to 60 cycles.
constexpr double kFlopsOfCell = 90;
// More threads than that gain nothing worth having.
constexpr double kLeastGain = 0.97;

// What a core computes of small products.
double flops_per_microsecond() {
  if (cpu_isa() >= CpuIsa::avx512) return 1e5;
  return cpu_isa() >= CpuIsa::avx2 ? 5e4 : 2.5e4;
}

int64_t blocks_of_rows(const Work& work) { return std::max<int64_t>(1, work.rows / work.row_block); }
int64_t blocks_of_units(const Work& work) { return (work.units + work.unit_block - 1) / work.unit_block; }

// What a chunk, as a part of the work for all threads, adds to each of its steps.
double region_of_step(const Work& work, Grid grid, double wait) {
  const int64_t steps = std::clamp<int64_t>(work.rows_of_region(grid) / work.rows, 1, work.steps);
  return (kMicrosecondsOfRegion + kWaitsCountAs * wait) / static_cast<double>(steps);
}

// What the row group that takes longest, of so many, has of a step's operations: of its products, by their time, and of
// its gates.
struct GroupShare {
  double products, gates;
  int row_groups;
};

GroupShare longest_share(const Work& work, int row_groups) {
  const auto tiles = [&](int64_t rows) { return (rows + work.rows_at_once - 1) / work.rows_at_once; };
  // `part`: of all rows of all steps.
  const auto share_of = [&](int64_t rows, double part) {
    const double few_rows = work.rows_at_once == 1 && rows < std::min(work.rows, kRowBlock) ? kOfFewRows : 1;
    const double left = part * work.rows / rows;  // of its rows, in the average step
    return GroupShare{few_rows * left * tiles(rows) / tiles(work.rows), part, row_groups};
  };
  if (work.rows_until_block.empty()) {  // the last group has the most
    const int64_t rows = work.rows - work.first_row(row_groups - 1, row_groups);
    return share_of(rows, static_cast<double>(rows) / work.rows);
  }
  GroupShare longest{0, 0, row_groups};
  for (int64_t group = 0, first = 0, next; group < row_groups; ++group, first = next) {
    next = work.first_row(group + 1, row_groups);
    if (next == first) continue;
    const auto until = [&](int64_t row) {
      return row == work.rows ? work.rows_until_block.back() : work.rows_until_block[row / work.row_block];
    };
    const double part = static_cast<double>(until(next) - until(first)) / static_cast<double>(work.steps * work.rows);
    const GroupShare share = share_of(next - first, part);
    longest.products = std::max(longest.products, share.products);
    longest.gates = std::max(longest.gates, share.gates);
  }
  return longest;
}

// Microseconds of the longest thread for a step of `flops` operations. `share`: longest_share of the row groups;
// `wait`: of `threads` threads.
double step_time(const Work& work, Grid grid, GroupShare share, double flops, int threads, double wait) {
  // The last member has the most.
  const int64_t units =
      std::min(work.units, (blocks_of_units(work) + grid.unit_groups - 1) / grid.unit_groups * work.unit_block);
  const double part_of_units = static_cast<double>(units) / work.units;
  const double bytes = work.weight_bytes * part_of_units;
  // Half of a core's cache is for what is no weights.
  const double reading = bytes > cache_of_core() / 2 ? bytes / kSharedCacheRate : 0;
  double time = reading + microseconds_alone(part_of_units * (flops * share.products + work.gate_flops * share.gates));
  const auto relative = [](int members) { return 1 + kFurtherThread * (members - 2); };
  if (grid.unit_groups > 1) {
    time += kWaitsCountAs * work.waits * wait * relative(grid.unit_groups) / relative(threads);
  }
  return grid.size() > 1 ? time + region_of_step(work, grid, wait) : time;
}

// longest_share of one row group up to as many as `threads` can be. Of many groups of a packed batch, each of which has
// to be looked at, not every number is tried.
std::vector<GroupShare> longest_shares(const Work& work, int threads) {
  const int most = static_cast<int>(std::min<int64_t>(threads, blocks_of_rows(work)));
  std::vector<GroupShare> shares;
  for (int groups = 1; groups < most; groups += work.rows_until_block.empty() ? 1 : std::max(1, groups / 4)) {
    shares.push_back(longest_share(work, groups));
  }
  shares.push_back(longest_share(work, most));
  return shares;
}

// Sets `plan` and `best` to the fastest grid for steps of `flops` operations, on top of `before`.
void choose_grid(const Work& work, const std::vector<GroupShare>& shares, double flops, double before, int threads,
                 double wait, bool shares_input, Plan& plan, double& best) {
  for (const GroupShare& share : shares) {
    const int row_groups = share.row_groups;
    const int most_units = static_cast<int>(std::min<int64_t>(threads / row_groups, blocks_of_units(work)));
    for (int unit_groups = 1; unit_groups <= most_units; ++unit_groups) {
      const Grid grid{row_groups, unit_groups};
      const double time = before + step_time(work, grid, share, flops, threads, wait);
      if (time >= best * (grid.size() > plan.grid.size() ? kLeastGain : 1)) continue;
      best = time;
      plan = {grid.size() > 1 || shares_input ? threads : 1, grid, shares_input};
    }
  }
}

using Clock = std::chrono::steady_clock;

// In the clock's own unit: when the last parallel region ended; when the last call came for which threads sleep on.
std::atomic<Clock::rep> last_region{0}, last_alone{0};
// Microseconds that such calls took in a row.
std::atomic<double> alone_in_a_row{0};

}  // namespace

double vector_flops_of_tiles(double flops, int64_t rows) {
  if (rows == 0) return 0;
  return flops / rows * ((rows + kTileProductRows - 1) / kTileProductRows);
}

double microseconds_alone(double flops) { return flops / flops_per_microsecond(); }

double vector_flops_of_gates(int64_t cells) { return kFlopsOfCell * cells; }

int Grid::members_afar(int together) const {
  int most = 0;
  for (int thread = 0; thread < size(); ++thread) {
    const int group = thread / unit_groups * unit_groups, cache = thread / together * together;
    const int near = std::min(group + unit_groups, cache + together) - std::max(group, cache);
    most = std::max(most, unit_groups - near);
  }
  return most;
}

int64_t Work::first_row(int group, int groups) const {
  if (group == groups) return rows;
  if (rows_until_block.empty()) return share(blocks_of_rows(*this), group, groups) * row_block;
  // The block that begins next to where the group's part does.
  const int64_t begin = share(rows_until_block.back(), group, groups);
  const auto after = std::upper_bound(rows_until_block.begin(), rows_until_block.end() - 1, begin);
  const int64_t block = after - rows_until_block.begin() - (begin - after[-1] <= *after - begin);
  return std::min(block, blocks_of_rows(*this) - 1) * row_block;
}

int64_t Work::first_unit(int member, int members) const {
  return std::min(units, share(blocks_of_units(*this), member, members) * unit_block);
}

int64_t Work::rows_of_region(Grid grid) const {
  const int64_t least = chunk_rows * (chunk_of_group ? grid.row_groups : 1);
  if (grid.size() == 1 || row_bytes == 0) return least;
  return std::max(least, grid.size() * cache_of_core() / row_bytes);
}

int threads_of_call(double flops) {
  if (flops < kFlopsPerCall || omp_in_parallel() || at::in_parallel_region() || in_forked_child()) return 1;
  return std::min({at::get_num_threads(), cores(), omp_get_thread_limit()});
}

bool lets_threads_sleep(double flops, double weight_bytes) {
  const double alone = std::max(microseconds_alone(flops), weight_bytes / kSharedCacheRate);
  // A second thread saves half of that at most.
  if (alone > 2 * kMicrosecondsToWake) return false;
  const Clock::duration now = Clock::now().time_since_epoch();
  if (now - Clock::duration(last_region.load()) <= kSpinsFor) return false;
  const Clock::duration before(last_alone.exchange(now.count()));
  const double in_a_row = (now - before > kSpinsFor ? 0 : alone_in_a_row.load()) + alone;
  alone_in_a_row.store(in_a_row);
  return in_a_row < kMicrosecondsInARow;
}

int threads_for(int64_t steps, double flops) {
  const double most = threads_of_call(steps * flops);
  return static_cast<int>(std::min(most, std::max(1.0, flops / kStepFlopsPerThread)));
}

bool pays(double flops, int threads, double wait) {
  if (threads == 1) return false;
  const double saved = microseconds_alone(flops) * (threads - 1) / threads;
  return saved > kMicrosecondsOfRegion + kWaitsCountAs * wait;
}

Plan fastest_plan(const Work& work, int threads, double wait) {
  Plan plan;
  const double flops = work.flops + work.input_flops;
  const std::vector<GroupShare> shares = longest_shares(work, threads);
  double best = step_time(work, {}, shares[0], flops, threads, wait);
  choose_grid(work, shares, flops, /*before=*/0, threads, wait, /*shares_input=*/false, plan, best);
  if (work.input_flops > 0 && plan.grid.size() < threads) {
    const double input = work.input_flops / flops_per_microsecond() / threads + region_of_step(work, {}, wait) +
                         work.input_gate_bytes / kOtherCoreRate;
    choose_grid(work, shares, work.flops, input, threads, wait, /*shares_input=*/true, plan, best);
  }
  return plan;
}

void run_threads(int threads, c10::function_ref<void(int, int)> body) {
  if (threads == 1) {
    body(0, 1);
    return;
  }
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
  last_region.store(Clock::now().time_since_epoch().count());
}

}  // namespace gru_ext
