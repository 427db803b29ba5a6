// "Parallel Synchronization and Communication Instructions", but for those within a warp: bar, barrier.cluster, fence,
// mbarrier. And what the end of threads means to those that wait.
#include "machine.h"

namespace ptx {
namespace {

// ---- "bar / barrier": synchronises, and orders memory, among the threads that take part

void release(Barrier& b) {
  Clock all(b.waiting[0]->clock.size(), 0), acquired = all;
  for (const Warp* w : b.waiting) {
    join(all, w->clock);
    join(acquired, w->acquired);
  }
  for (Warp* w : b.waiting) {
    w->clock = all;
    w->acquired = acquired;
    w->meet();
    const Instruction& i = *w->at;
    if (!i.d.empty())
      w->set_pred(i.d[0], w->barrier_mask,
                  (i.opcode.find(".or.") != std::string::npos ? b.vote_or : b.vote_and) ? kAll : 0);
    w->state = Warp::ready;
  }
  b = Barrier();
}

// Of a barrier that all threads of the block take part in: those that have left do not.
void release_if_all(const Block& block, Barrier& b) {
  if (b.expected == -1 && !b.waiting.empty() && b.arrived >= block.live_threads) release(b);
}

// Sources: barrier {, threads} {, predicate}.
void block_barrier(Warp& w, const Instruction& i, uint32_t mask) {
  const int lane = __builtin_ctz(mask);
  const uint32_t id = get<uint32_t>(w.in(i.s[0]), lane);
  each(mask, [&](int l) {
    if (get<uint32_t>(w.in(i.s[0]), l) != id) fail(&w, &i, l, "threads of a warp name several barriers");
  });
  if (id > 15) fail(&w, &i, lane, "there is no barrier ", id);
  const bool votes = !i.d.empty();
  int expected = -1;
  if (i.s.size() > (votes ? 2u : 1u)) {
    expected = get<int>(w.in(i.s[1]), lane);
    if (expected <= 0 || expected % kLanes != 0) {
      fail(&w, &i, lane, "a barrier of ", expected, " threads, which are no whole warps");
    }
  }
  Barrier& b = w.block->barriers[id];
  if (!b.waiting.empty() && b.expected != expected) {
    fail(&w, &i, lane, "warps differ in how many threads meet at barrier ", id);
  }
  b.expected = expected;
  b.arrived += expected < 0 ? __builtin_popcount(mask) : kLanes;  // a warp counts as a whole
  if (votes) {
    const uint32_t vote = w.pred(i.s.back()) & mask;
    b.vote_or |= vote != 0;
    b.vote_and &= vote == mask;
  }
  w.state = Warp::at_barrier;
  w.at = &i;
  w.barrier_mask = mask;
  b.waiting.push_back(&w);
  w.machine->progress = w.machine->turns;
  if (expected < 0) {
    release_if_all(*w.block, b);
  } else if (b.arrived == expected) {
    release(b);
  } else if (b.arrived > expected) {
    fail(&w, &i, lane, "too many threads at barrier ", id);
  }
}

// "bar.warp.sync": orders memory among the lanes that take part.
void warp_barrier(Warp& w, const Instruction&, uint32_t mask) {
  if ((w.existing & ~w.exited & ~mask) == 0) w.meet();
}

// ---- "barrier.cluster": .arrive releases, .wait acquires

int live_threads(const Cluster& c) {
  int threads = 0;
  for (const Block* block : c.blocks) threads += block->live_threads;
  return threads;
}

void pass(Warp& w) {
  join(w.clock, w.block->cluster->barrier.ended_clock);
  join(w.acquired, w.block->cluster->barrier.ended_clock);
  w.meet();
  w.cluster_arrived = false;
  w.state = Warp::ready;
}

void release_cluster_if_all(Machine& machine, Cluster& c) {
  if (c.barrier.arrived == 0 || c.barrier.arrived < live_threads(c)) return;
  c.barrier.arrived = 0;
  ++c.barrier.phase;
  join(c.barrier.ended_clock, c.barrier.pending_clock);
  machine.progress = machine.turns;
  for (Block* block : c.blocks) {
    for (Warp& w : block->warps) {
      if (w.state == Warp::at_cluster_barrier) pass(w);
    }
  }
}

void cluster_arrive(Warp& w, const Instruction& i, uint32_t mask) {
  if (w.cluster_arrived) {
    fail(&w, &i, __builtin_ctz(mask), "arrives at the cluster's barrier a second time, without a wait between");
  }
  ClusterBarrier& b = w.block->cluster->barrier;
  w.cluster_arrived = true;
  w.cluster_phase = b.phase;
  b.arrived += __builtin_popcount(mask);
  if (i.order.release) {
    join(b.pending_clock, w.clock);
    ++w.clock[static_cast<size_t>(w.self)];
  }
  release_cluster_if_all(*w.machine, *w.block->cluster);
}
void cluster_wait(Warp& w, const Instruction& i, uint32_t mask) {
  if (!w.cluster_arrived) fail(&w, &i, __builtin_ctz(mask), "waits at the cluster's barrier, where it has not arrived");
  if (w.block->cluster->barrier.phase > w.cluster_phase) {
    pass(w);
  } else {
    w.state = Warp::at_cluster_barrier;
    w.at = &i;
  }
}

// ---- "mbarrier"

uint64_t own_offset(Warp& w, const Instruction& i, int lane, const Operand& o) {
  const uint64_t address = static_cast<uint32_t>(w.in(o)[lane] + static_cast<uint64_t>(o.offset));
  if (address < kSharedBase || address >> kRemoteShift != 0) fail(&w, &i, lane, "no shared address of an mbarrier");
  return address - kSharedBase;
}

void mbarrier_init(Warp& w, const Instruction& i, uint32_t mask) {
  each(mask, [&](int l) {
    const uint64_t offset = own_offset(w, i, l, i.s[0]);
    const uint32_t count = get<uint32_t>(w.in(i.s[1]), l);
    if (offset % 8 != 0 || offset + 8 > w.block->shared.size()) {
      fail(&w, &i, l, "an mbarrier misaligned or outside shared memory: offset ", offset);
    }
    if (count == 0 || count >= 1u << 20) fail(&w, &i, l, "an mbarrier of ", count, " arrivals");
    if (w.block->mbarriers.count(offset) != 0) fail(&w, &i, l, "makes an mbarrier where one is");
    std::memset(w.block->shadow.data() + offset, is_mbarrier, 8);
    const Clock none(w.clock.size(), 0);
    w.block->mbarriers[offset] = {count, count, 0, 0, w.now(l), false, none, none};
  });
  w.machine->progress = w.machine->turns;
}
void mbarrier_arrive_expect(Warp& w, const Instruction& i, uint32_t mask) {
  each(mask, [&](int l) {
    Mbarrier& b = mbarrier_at(&w, i, l, *w.block, own_offset(w, i, l, i.s[0]));
    b.bytes += get<uint32_t>(w.in(i.s[1]), l);
    if (b.bytes >= 1 << 20) fail(&w, &i, l, "an mbarrier expects too many bytes");
    if (b.pending == 0) fail(&w, &i, l, "one arrival too many at an mbarrier");
    --b.pending;
    if (i.order.release) join(b.pending_clock, *w.known_to(l));
    ++w.clock[static_cast<size_t>(w.self)];
    end_phase(*w.machine, b);
  });
  w.machine->progress = w.machine->turns;
}
void mbarrier_try_wait_parity(Warp& w, const Instruction& i, uint32_t mask) {
  uint32_t result = 0;
  each(mask, [&](int l) {
    const Mbarrier& b = mbarrier_at(&w, i, l, *w.block, own_offset(w, i, l, i.s[0]));
    const uint32_t parity = get<uint32_t>(w.in(i.s[1]), l);
    if (parity > 1) fail(&w, &i, l, "the parity of a phase is ", parity);
    const bool ended = (b.phase & 1) != parity;  // the present phase is not over; the one before is
    result |= uint32_t{ended} << l;
    if (!ended || !i.order.acquire) return;
    if (b.ended_remote != nullptr && !includes(i.order.scope, *w.block, *b.ended_remote)) {
      fail(&w, &i, l, "acquires, by a scope that does not include it, what block ", b.ended_remote->index,
           " has released");
    }
    join(w.clock, b.ended_clock);
    join(w.acquired, b.ended_clock);
  });
  w.set_pred(i.d[0], mask, result);
  if (result != mask) w.yield = true;
}

// "membar / fence": .mbarrier_init
void fence_mbarrier_init(Warp& w, const Instruction&, uint32_t mask) {
  for (auto& [offset, b] : w.block->mbarriers) {
    if (b.made.warp == w.self && (mask >> b.made.lane & 1) != 0) b.fenced = true;
  }
}

// "membar / fence": what relaxed loads met before is known from now on, and what is known now goes with the strong
// stores after.
void fence(Warp& w, const Instruction& i, uint32_t) {
  for (const Release& r : w.seen) {
    if (!includes(r.scope, *r.block, *w.block) || !includes(i.order.scope, *w.block, *r.block)) continue;
    join(w.clock, *r.clock);
    join(w.acquired, *r.clock);
  }
  w.seen.clear();
  w.fence = {std::make_shared<Clock>(w.clock), w.block, i.order.scope};
  w.fenced = ++w.clock[static_cast<size_t>(w.self)];
}

// "Miscellaneous Instructions: trap"
void trap(Warp& w, const Instruction& i, uint32_t mask) { fail(&w, &i, __builtin_ctz(mask), "trap"); }

}  // namespace

Mbarrier& mbarrier_at(const Warp* w, const Instruction& i, int lane, Block& block, uint64_t offset) {
  const auto found = block.mbarriers.find(offset);
  if (found == block.mbarriers.end()) fail(w, &i, lane, "no mbarrier at shared offset ", offset);
  const Epoch& made = found->second.made;
  if (w != nullptr && options.races &&
      (made.warp == w->self ? made.at > w->synced && made.lane != lane : made.at > w->clock[made.warp])) {
    fail(w, &i, lane, "race: uses the mbarrier at shared offset ", offset,
         ", and nothing has made known to it that there is one");
  }
  return found->second;
}

void end_phase(Machine& machine, Mbarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  ++b.phase;
  b.pending = b.count;
  join(b.ended_clock, b.pending_clock);
  if (b.remote != nullptr) b.ended_remote = b.remote;
  machine.progress = machine.turns;
}

void leave(Warp& w, uint32_t mask) {
  each(mask, [&](int l) {
    if (!w.lanes[l].copies.empty()) {
      fail(&w, w.lanes[l].copies[0].at, l, "leaves without having waited for its asynchronous copies");
    }
  });
  w.exited |= mask;
  w.block->live_threads -= __builtin_popcount(mask);
  for (Barrier& b : w.block->barriers) release_if_all(*w.block, b);
  release_cluster_if_all(*w.machine, *w.block->cluster);
}

void add_synchronisation(Opcodes& opcodes) {
  Table& alone = opcodes.alone;
  alone["mbarrier.init.shared::cta.b64"] = mbarrier_init;
  alone["mbarrier.arrive.expect_tx.shared::cta.b64"] = mbarrier_arrive_expect;
  for (const std::string order : {"", ".acquire.cta", ".acquire.cluster", ".relaxed.cta", ".relaxed.cluster"}) {
    alone["mbarrier.try_wait.parity" + order + ".shared::cta.b64"] = mbarrier_try_wait_parity;
  }
  alone["fence.mbarrier_init.release.cluster"] = fence_mbarrier_init;
  for (const std::string scope : {".cta", ".cluster", ".gpu", ".sys"}) {
    alone["fence.acq_rel" + scope] = alone["fence.sc" + scope] = fence;
  }
  alone["trap"] = trap;
  Table& together = opcodes.together;
  for (const std::string name : {"bar", "bar.cta", "barrier", "barrier.cta"}) {
    for (const std::string aligned : {"", ".aligned"}) {
      together[name + ".sync" + aligned] = block_barrier;
      together[name + ".red.or.pred" + aligned] = together[name + ".red.and.pred" + aligned] = block_barrier;
    }
  }
  together["bar.warp.sync"] = warp_barrier;
  for (const std::string order : {"", ".release", ".relaxed"}) {
    together["barrier.cluster.arrive" + order + ".aligned"] = cluster_arrive;
  }
  for (const std::string order : {"", ".acquire"}) together["barrier.cluster.wait" + order + ".aligned"] = cluster_wait;
}

}  // namespace ptx
