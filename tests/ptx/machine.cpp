// Blocks, warps, and the order in which they run.
#include <algorithm>
#include <climits>
#include <set>

#include "machine.h"

namespace ptx {

Options options;

void fail_in_words(const Warp* w, const Instruction* at, int lane, const std::string& words) {
  std::string text;
  if (w != nullptr) {
    text = w->machine->kernel->name + ": block " + std::to_string(w->block->index) + ", warp " +
           std::to_string(w->index) + ", lane " + std::to_string(lane) + ": ";
  }
  text += words;
  if (at != nullptr && w != nullptr) text += place_of(*w->machine->kernel, *at);
  throw Error(text);
}

namespace {

std::set<const Kernel*> kernels_that_ran;

void start(Machine& m, Cluster& cluster, int index, int rank) {
  m.blocks.push_back(std::make_unique<Block>());
  Block& b = *m.blocks.back();
  const Launch& launch = m.launch;
  b.index = index;
  b.rank = rank;
  b.cluster = &cluster;
  cluster.blocks.push_back(&b);
  const size_t bytes = m.kernel->static_shared + static_cast<size_t>(launch.shared_bytes);
  b.shared.assign(bytes, static_cast<char>(0xff));
  b.shadow.assign(bytes, unwritten);
  b.threads = b.live_threads = launch.block;
  b.warps = std::vector<Warp>(static_cast<size_t>((launch.block + kLanes - 1) / kLanes));
  if (options.races) {
    b.writers.assign(bytes / 2 + 1, {});
    b.readers.assign(b.writers.size() * b.warps.size(), {});
  }
  for (size_t i = 0; i < b.warps.size(); ++i) {
    Warp& w = b.warps[i];
    w.self = static_cast<int>(static_cast<size_t>(launch.cooperative ? index : rank) * b.warps.size() + i);
    w.clock.assign(m.clock_size, 0);
    w.acquired = w.clock;
    w.clock[static_cast<size_t>(w.self)] = 1;
    w.machine = &m;
    w.block = &b;
    w.index = static_cast<int>(i);
    const int threads = std::min(kLanes, launch.block - w.index * kLanes);
    w.existing = threads == kLanes ? kAll : (1u << threads) - 1;
    // What nobody has written is a NaN of either width, and far from every array.
    w.registers.assign(static_cast<size_t>(m.kernel->registers) * kLanes, 0xfff7dead7fbfdeadu);
    w.predicates.assign(static_cast<size_t>(m.kernel->predicates), 0);
    w.local.assign(m.kernel->local_bytes * kLanes, static_cast<char>(0xff));
    for (int l = 0; l < kLanes; ++l) {
      w.pc[l] = 0;
      const auto put = [&](Special s, int v) { w.registers[s * kLanes + l] = static_cast<uint32_t>(v); };
      put(tid_x, w.index * kLanes + l);
      put(ntid_x, launch.block);
      put(ctaid_x, index);
      put(nctaid_x, launch.grid);
      put(laneid, l);
      put(warpid, w.index);
      put(cluster_ctarank, rank);
      put(cluster_nctarank, launch.cluster);
      put(clusterid_x, index / launch.cluster);
    }
  }
}

// Lanes that take part in a collective of which those of `mask` are at.
uint32_t needed(Warp& w, const Instruction& i, uint32_t mask) {
  const uint32_t live = w.existing & ~w.exited;
  if (i.warp_aligned) return live;
  const uint64_t* members = w.in(i.s.back());
  const auto first = static_cast<uint32_t>(members[__builtin_ctz(mask)]);
  for (int l = 0; l < kLanes; ++l) {
    if ((mask >> l & 1) != 0 && static_cast<uint32_t>(members[l]) != first) {
      fail(&w, &i, l, "lanes name different members");
    }
  }
  if ((mask & ~first) != 0) fail(&w, &i, __builtin_ctz(mask & ~first), "is not among the members that it names");
  if ((first & w.existing & w.exited) != 0) {
    fail(&w, &i, __builtin_ctz(first & w.existing & w.exited), "has left, and is named as a member");
  }
  return first & w.existing;
}

void place(Warp& w, uint32_t lanes, int at) {
  for (; lanes != 0; lanes &= lanes - 1) w.pc[__builtin_ctz(lanes)] = at;
}

// The lanes that go on next, all at the same place. Those that have parted meet again where the lower address comes to
// the higher or, where lanes part, at .sync alone: the ISA promises no more.
uint32_t choose_lanes(Machine& m, const Warp& w, uint32_t active, int& pc, int& next) {
  pc = next = INT_MAX;
  if (m.parts) {
    uint64_t turn = m.next_random() % static_cast<uint64_t>(__builtin_popcount(active));
    for (int l = 0; l < kLanes; ++l) {
      if ((active >> l & 1) != 0 && turn-- == 0) pc = w.pc[l];
    }
  } else {
    each(active, [&](int l) { pc = std::min(pc, w.pc[l]); });
    each(active, [&](int l) {
      if (w.pc[l] > pc) next = std::min(next, w.pc[l]);
    });
  }
  uint32_t mask = 0;
  each(active, [&](int l) { mask |= uint32_t{w.pc[l] == pc} << l; });
  return mask;
}

[[noreturn]] void fail_apart(const Machine& m, const Warp& w) {
  std::string places;
  int lane = 0;
  each(w.waiting, [&](int l) {
    places += " " + std::to_string(l) + ":" + std::to_string(m.kernel->code[static_cast<size_t>(w.pc[l])].line);
    lane = l;
  });
  fail(&w, &m.kernel->code[static_cast<size_t>(w.pc[lane])], lane,
       "divergence: not all lanes come to a .sync instruction; those that wait, and at which line:", places);
}

// Runs a warp for up to `quantum` instructions.
void advance(Machine& m, Warp& w, int quantum) {
  const std::vector<Instruction>& code = m.kernel->code;
  w.yield = false;
  while (quantum > 0) {
    const uint32_t active = w.existing & ~w.exited & ~w.waiting;
    if (active == 0) {
      if (w.waiting != 0) fail_apart(m, w);
      w.state = Warp::done;
      m.progress = m.turns;
      return;
    }
    int pc, next;
    uint32_t mask = choose_lanes(m, w, active, pc, next);
    bool parted = false;
    int since = 0;
    while (!parted && quantum > 0) {
      const Instruction& i = code[static_cast<size_t>(pc)];
      uint32_t run = mask;
      if (i.guard >= 0) {
        const uint32_t guard = w.predicates[static_cast<size_t>(i.guard)];
        run &= i.guard_negated ? ~guard : guard;
      }
      --quantum;
      ++since;
      ++i.times;
      switch (i.kind) {
        case Instruction::plain:
          if (run != 0) i.run(w, i, run);
          ++pc;
          if (i.yields || w.yield) quantum = 0;
          break;
        case Instruction::branch:
          if (run == mask) {
            pc = i.target;
          } else if (run == 0) {
            ++pc;
          } else {
            place(w, run, i.target);
            place(w, mask & ~run, pc + 1);
            parted = true;
            continue;
          }
          break;
        case Instruction::exit:
          place(w, mask & ~run, pc + 1);
          if (run != 0) leave(w, run);
          parted = true;
          continue;
        case Instruction::collective: {
          if (run != mask) fail(&w, &i, __builtin_ctz(mask & ~run), "divergence: a guard that differs within the warp");
          uint32_t together = mask;
          for (int l = 0; l < kLanes; ++l) {
            if ((w.waiting >> l & 1) != 0 && w.pc[l] == pc) together |= 1u << l;
          }
          const uint32_t need = needed(w, i, together);
          if ((together & need) != need) {
            w.waiting |= mask;
            place(w, mask, pc);
            parted = true;
            continue;
          }
          w.waiting &= ~together;
          mask = together;
          i.run(w, i, mask);
          ++pc;
          if (w.state != Warp::ready) quantum = 0;
          break;
        }
      }
      if (pc >= next) parted = true, place(w, mask, pc);
      if (m.parts && since > 8 && m.next_random() % 8 == 0) parted = true, place(w, mask, pc);
    }
    if (!parted) place(w, mask, pc);
    m.time += static_cast<uint64_t>(since);
  }
}

std::string places_of(const Machine& m) {
  std::string text;
  int shown = 0;
  for (const auto& b : m.blocks) {
    for (const Warp& w : b->warps) {
      if (w.state == Warp::done || ++shown > 12) continue;
      const Instruction& i = w.state == Warp::ready ? m.kernel->code[static_cast<size_t>(w.pc[0])] : *w.at;
      text += "\n  block " + std::to_string(b->index) + ", warp " + std::to_string(w.index) + place_of(*m.kernel, i);
    }
  }
  return text;
}

// Nothing has happened for long: either that is wrong, or time passes, so that waits end in vain.
void wait_in_vain(Machine& m) {
  constexpr int kMostTimeOuts = 40;
  if (!options.time_out || ++m.time_outs > kMostTimeOuts) {
    throw Error(m.kernel->name + ": deadlock: nothing happens any more:" + places_of(m));
  }
  m.time += 5000000000;
  m.progress = m.turns;
}

// Runs all blocks that have been started, until they end.
void finish(Machine& m) {
  std::vector<Warp*> live, ready;
  for (auto& b : m.blocks) {
    for (Warp& w : b->warps) live.push_back(&w);
  }
  m.progress = m.turns;
  while (true) {
    live.erase(std::remove_if(live.begin(), live.end(), [](Warp* w) { return w->state == Warp::done; }), live.end());
    if (live.empty()) break;
    ready.clear();
    std::copy_if(live.begin(), live.end(), std::back_inserter(ready), [](Warp* w) { return w->state == Warp::ready; });
    if (ready.empty() && m.stores.empty()) {
      throw Error(m.kernel->name + ": deadlock: all warps wait:" + places_of(m));
    }
    // A round: each of the warps that are ready now, in any order, in some rounds not all, with stores arriving
    // between.
    const bool all = m.next_random() % 4 != 0;
    for (size_t n = 0; n < ready.size(); ++n) {
      std::swap(ready[n], ready[n + m.next_random() % (ready.size() - n)]);
      ++m.turns;
      if (!all && m.next_random() % 2 == 0) continue;
      const uint64_t most = m.next_random() % 4 != 0 ? 3000 : 30;
      advance(m, *ready[n], 1 + static_cast<int>(m.next_random() % most));
      if (!m.stores.empty() && m.next_random() % 2 == 0) {
        for (size_t k = m.stores.size() / 8 + 1; k > 0; --k) deliver(m, m.next_random() % m.stores.size());
      }
    }
    if (ready.empty()) deliver(m, m.next_random() % m.stores.size());
    if (m.turns - m.progress > 10000 + 200 * live.size()) wait_in_vain(m);
  }
  if (!m.stores.empty()) throw Error(m.kernel->name + ": stores are under way when all blocks have ended");
}

}  // namespace

void run(const Kernel& kernel, const Launch& launch) {
  constexpr int kWarpsAtOnce = 512;  // of blocks that need not run at the same time
  Machine m;
  m.kernel = &kernel;
  m.launch = launch;
  const char* const parameters = static_cast<const char*>(launch.parameters);
  m.parameters.assign(parameters, parameters + kernel.parameter_bytes);
  m.random = options.seed * 0x9E3779B97F4A7C15u + 1;
  m.parts = options.seed % 3 == 0;
  const int warps = (launch.block + kLanes - 1) / kLanes;
  const int blocks_of_clock = launch.cooperative ? launch.grid : launch.cluster;
  m.warps_of_clock = blocks_of_clock * warps;
  m.clock_size = static_cast<size_t>(launch.cluster > 1 ? 2 * m.warps_of_clock : m.warps_of_clock);
  const int at_once =
      launch.cooperative ? launch.grid : std::max(1, kWarpsAtOnce / warps / launch.cluster) * launch.cluster;
  kernels_that_ran.insert(&kernel);
  for (int first = 0; first < launch.grid; first += at_once) {
    m.clusters.clear();
    m.blocks.clear();
    for (int b = first; b < std::min(first + at_once, launch.grid); ++b) {
      if (b % launch.cluster == 0) {
        m.clusters.push_back(std::make_unique<Cluster>());
        Cluster& cluster = *m.clusters.back();
        cluster.index = b / launch.cluster;
        cluster.barrier.pending_clock.assign(m.clock_size, 0);
        cluster.barrier.ended_clock.assign(m.clock_size, 0);
      }
      start(m, *m.clusters.back(), b, b % launch.cluster);
    }
    finish(m);
  }
}

std::string coverage() {
  std::string text;
  for (const Kernel* kernel : kernels_that_ran) {
    std::map<std::string, std::pair<size_t, size_t>> of_lines;
    for (const Instruction& i : kernel->code) {
      auto& [instructions, executed] = of_lines[source_of(*kernel, i)];
      ++instructions;
      executed += i.times != 0;
    }
    for (const auto& [line, counts] : of_lines) {
      text +=
          std::to_string(counts.first) + " " + std::to_string(counts.second) + " " + line + " " + kernel->name + "\n";
    }
  }
  return text;
}

std::vector<std::string> kernels_run() {
  std::vector<std::string> names;
  for (const Kernel* kernel : kernels_that_ran) names.push_back(kernel->name);
  return names;
}

}  // namespace ptx
