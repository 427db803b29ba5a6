// The machine: threads, warps, blocks, clusters, their memory and barriers, and the schedule.
#include "cuda/primitives.cuh"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "fiber.h"
#include "race.h"
#include "runner.h"

namespace gru_ext::emulator {

Options options;
Here* here;

namespace {

constexpr int kLanes = 32;
constexpr int kNamedBarriers = 16;
constexpr int kMbarriersOfBlock = 8;
constexpr int kMaxExpectedBytes = (1 << 20) - 1;
constexpr size_t kGuardBytes = 4096;  // around the shared memory of a block

struct Block;
struct Buffer;
struct Cluster;
struct Warp;

// What a thread is doing. From `barrier` on: all lanes of its warp have to do it together.
enum class Doing {
  running,
  mbarrier_wait,
  packet_wait,
  flag_wait,
  left,
  barrier,
  cluster_barrier,
  warp_barrier,
  shuffle,
  mma,
  ldmatrix
};

const char* name_of(Doing doing) {
  constexpr const char* names[] = {"running",           "mbarrier_wait",
                                   "wait_for_packets",  "wait_for_flag",
                                   "out of the kernel", "block or named barrier",
                                   "cluster_barrier",   "warp_barrier",
                                   "shuffle",           "mma",
                                   "ldmatrix"};
  return names[static_cast<int>(doing)];
}

// An asynchronous copy: its bytes arrive when the thread waits for it, not sooner.
struct Copy {
  char* to;
  int group;
  char value[16];
  const void* exchanged;  // where it reads, if others may write there
};

struct Thread : Here {
  Fiber fiber;
  Block* home;
  Warp* warp;
  int lane;
  Doing doing = Doing::running;
  int line = 0, step = -1;
  bool answer = false;                       // of the vote, or the wait, that ended last
  std::vector<Copy> copies;                  // under way
  int copy_groups = 0;                       // that have been committed
  std::unordered_set<const void*> unfenced;  // 16 bytes each of global memory that it has stored since its last fence
  const Clock* known = nullptr;
  uint32_t actor, epoch = 1;  // actor: index within the cluster

  Access access() const { return {actor, epoch, static_cast<int16_t>(step), static_cast<uint16_t>(line)}; }
  Moment now() const { return {known, actor, epoch}; }
  Moment release() { return {known, actor, epoch++}; }
};

// A collective of the lanes of a warp: those who have come wait for the others.
struct Warp {
  Block* block;
  int index;
  Thread* lanes[kLanes];
  uint8_t ready[kLanes];  // lanes that may run, in no order
  int ready_count = 0;
  int place = -1;  // in Machine::ready
  int met = 0;     // lanes at the collective or barrier
  int left = 0;    // lanes out of the kernel
  Doing doing = Doing::running;
  int line = 0, id = 0;
  bool vote = false;
  Gathering gathering;
  uint32_t value[kLanes];
  int source[kLanes];
  float* d[kLanes];
  const uint32_t* a[kLanes];
  const uint32_t* b[kLanes];
  uint32_t* words[kLanes];
  const char* rows[kLanes];
};

struct Barrier {
  int expected = 0;
  bool vote = false;
  std::vector<Thread*> waiting;
  Gathering gathering;
};

struct Mbarrier {
  uint64_t* address;
  uint32_t actor;  // of the asynchronous stores that report to it
  int arrivals, pending;
  long bytes = 0;  // expected and not yet there; negative if they came first
  uint32_t phase = 0;
  bool fenced = false;
  Access made;
  Gathering gathering;
  const Clock* ended = nullptr;  // what is known after the last phase
  std::vector<Thread*> waiting;
};

struct Block {
  int index, rank, alive;
  size_t shared_bytes;
  std::unique_ptr<char[]> memory;
  char* shared;
  Cluster* cluster;
  std::vector<Warp> warps;
  Barrier barriers[kNamedBarriers];
  std::vector<Mbarrier> mbarriers;
  std::unique_ptr<AccessHistory> history;

  size_t offset(const void* p) const { return static_cast<const char*>(p) - shared; }
};

struct Cluster {
  int threads;
  std::vector<Block*> blocks;
  Barrier barrier;
  uint32_t actors, next_actor;
  std::map<const Buffer*, AccessHistory> exchanged;  // of global memory
};

struct Store {
  Block* target;
  size_t offset;
  uint64_t* barrier;  // in the target
  device::u32x4 value;
  Moment begun;
  int step, line;
};

// A packet, or the value of a flag, on its way to global memory.
struct PacketStore {
  void* to;
  size_t bytes;
  char value[16];
  const Clock* known;  // to who raised the flag; null for a packet, and where races are not looked for
};

struct Buffer {
  std::string name;
  const char* begin;
  size_t bytes;
  bool writable;
};

std::vector<Buffer> buffers;

struct Machine {
  Shape shape;
  const std::function<void()>* kernel;
  std::vector<Cluster> clusters;
  std::vector<Block> blocks;
  std::vector<Thread> threads;
  std::vector<Warp*> ready;                                              // warps with a lane that may run
  std::vector<Store> stores;                                             // under way
  std::vector<PacketStore> packets;                                      // likewise, to global memory
  std::unordered_set<const void*> packet_places;                         // where they go
  std::unordered_map<const void*, std::vector<Thread*>> packet_waiters;  // and those for flags
  std::unordered_map<const void*, const Clock*> raised;                  // what who has waited for the flag knows
  long store_count = 0;                                                  // of both
  int alive;
  std::unique_ptr<Failure> failure;
  Clocks clocks;
  uint64_t random_state;
  // The adversary: for some time it stops a block, a warp, or the delivery of stores.
  int frozen_block = -1;
  Warp* frozen_warp = nullptr;
  uint32_t delivery = 0;  // of 256 turns, how many deliver a store
  long turns_left = 0;

  uint32_t random() {  // xorshift64
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<uint32_t>(random_state >> 16);
  }
  uint32_t random(uint32_t below) { return random() % below; }
};

Machine* machine;

Thread* self() { return static_cast<Thread*>(here); }

std::string format(const char* text, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* text, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, text);
  vsnprintf(buffer, sizeof buffer, text, arguments);
  va_end(arguments);
  return buffer;
}

std::string place_of(int block, int thread, int step, int line) {
  return format("block %d, warp %d, lane %d, step %d, line %d", block, thread / kLanes, thread % kLanes, step, line);
}
std::string place_of(const Thread& t) { return place_of(t.block, t.thread, t.step, t.line); }

[[noreturn]] void fail(const std::string& what) { throw Failure{std::string(machine->shape.kernel) + ": " + what}; }
[[noreturn]] void fail_here(const std::string& what) { fail(what + "; at " + place_of(*self())); }

// This thread, which is at a line of the kernel's source from now on.
Thread* self_at(int line) {
  self()->line = line;
  return self();
}
[[noreturn]] void fail_at(int line, const std::string& what) {
  self_at(line);
  fail_here(what);
}

// ---- Schedule

void make_ready(Thread* t) {
  Warp* w = t->warp;
  t->doing = Doing::running;
  w->ready[w->ready_count++] = static_cast<uint8_t>(t->lane);
  if (w->ready_count == 1) {
    w->place = static_cast<int>(machine->ready.size());
    machine->ready.push_back(w);
  }
}

Thread* take_ready(Warp* w) {
  const uint32_t i = machine->random(w->ready_count);
  Thread* t = w->lanes[w->ready[i]];
  w->ready[i] = w->ready[--w->ready_count];
  if (w->ready_count == 0) {
    machine->ready[w->place] = machine->ready.back();
    machine->ready[w->place]->place = w->place;
    machine->ready.pop_back();
  }
  return t;
}

// Lets others run until somebody makes this thread ready.
void pause(Doing doing) {
  Thread* t = self();
  t->doing = doing;
  Fiber::pause();
}

void pass_turn() {
  make_ready(self());
  Fiber::pause();
}

// Has those go on that wait, and tells them whether it was in vain.
void wake(std::vector<Thread*>& waiting, bool answer) {
  for (Thread* t : waiting) {
    t->answer = answer;
    make_ready(t);
  }
  waiting.clear();
}

void choose_adversary() {
  Machine& m = *machine;
  m.turns_left = 1 + m.random(200) * 8;
  m.frozen_block = m.random(4) ? static_cast<int>(m.random(m.blocks.size())) : -1;
  m.frozen_warp = m.random(2) ? m.ready[m.random(m.ready.size())] : nullptr;
  constexpr uint32_t kDelivery[] = {0, 2, 64, 255};
  m.delivery = kDelivery[m.random(4)];
}

Warp* pick_warp() {
  Machine& m = *machine;
  if (m.ready.empty()) return nullptr;
  if (m.turns_left-- <= 0) choose_adversary();
  const size_t first = m.random(m.ready.size());
  for (size_t i = 0; i < m.ready.size(); ++i) {
    Warp* w = m.ready[(first + i) % m.ready.size()];
    if (w != m.frozen_warp && w->block->index != m.frozen_block) return w;
  }
  return m.ready[first];
}

// ---- Collectives

// Joins the collective that the lanes of this warp meet at. Whether this thread came last.
bool meet(Doing doing, int id, int line) {
  Warp* w = self_at(line)->warp;
  if (w->met == 0) {
    w->doing = doing;
    w->line = line;
    w->id = id;
  } else if (w->doing != doing || w->line != line || w->id != id) {
    fail_here(format("divergence: %d lanes of this warp are at %s in line %d, this one at %s in line %d", w->met,
                     name_of(w->doing), w->line, name_of(doing), line));
  }
  for (int i = 0; w->left > 0 && i < kLanes; ++i) {
    const Thread* other = w->lanes[i];
    if (other->doing == Doing::left) {
      fail_here(format("divergence: lane %d has left the kernel, this one is at %s", other->lane, name_of(doing)));
    }
  }
  return ++w->met == kLanes;
}

// Joins it too; the last lane of the warp ends it, by `work` for all of them.
template <typename Work>
void do_together(Doing doing, int id, int line, const Work& work) {
  if (!meet(doing, id, line)) return pause(doing);
  work();
  Warp* w = self()->warp;
  w->met = 0;
  for (Thread* t : w->lanes) {
    if (t != self()) make_ready(t);
  }
}

void learn(Thread* t, const Clock* clock) {
  if (options.races) t->known = clock;
}

// All who wait know what all knew, and get the result of the vote.
void open(Barrier& b) {
  const Clock* clock = options.races ? machine->clocks.keep(b.gathering.take()) : nullptr;
  std::vector<Thread*> waiting = std::move(b.waiting);
  b.waiting.clear();
  for (Thread* t : waiting) {
    learn(t, clock);
    t->answer = b.vote;
    t->warp->met = 0;
    if (t != self()) make_ready(t);
  }
  b.vote = false;
  pass_turn();
}

void wait_at(Barrier& b, Doing doing, int expected, bool vote) {
  Thread* t = self();
  b.vote |= vote;
  if (options.races) b.gathering.add(t->release());
  b.waiting.push_back(t);
  if (static_cast<int>(b.waiting.size()) == expected) {
    open(b);
  } else {
    pause(doing);
  }
}

// ---- Memory

void check_alignment(const void* p, size_t bytes, int line) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail_at(line, format("misaligned access of %zu bytes", bytes));
}

// The offset in the block's shared memory, all of `bytes` within it.
size_t shared_offset(const void* p, size_t bytes, int line) {
  const Block& home = *self()->home;
  const size_t offset = home.offset(p);
  if (offset > home.shared_bytes || bytes > home.shared_bytes - offset) {
    fail_at(line, format("access of %zu bytes out of the bounds of shared memory: at %td of %zu bytes", bytes,
                         static_cast<ptrdiff_t>(offset), home.shared_bytes));
  }
  return offset;
}

std::string describe(const Access& access, const Cluster& cluster) {
  if (access.actor >= static_cast<uint32_t>(cluster.threads)) {
    return format("asynchronous store begun in step %d, line %d", access.step, access.line);
  }
  const int per_block = cluster.blocks[0]->warps.size() * kLanes;
  const int actor = static_cast<int>(access.actor);
  return place_of(cluster.blocks[actor / per_block]->index, actor % per_block, access.step, access.line);
}

// `memory`: whose byte the report names.
void judge(const AccessHistory::Report& report, const Cluster& cluster, const std::string& memory,
           const std::string& access) {
  using Finding = AccessHistory::Finding;
  const std::string byte = format("byte %zu of ", report.byte) + memory;
  switch (report.finding) {
    case Finding::none:
      return;
    case Finding::never_written:
      fail(byte + " is read but was never written; " + access);
    case Finding::race_with_read:
    case Finding::race_with_write:
      fail("race on " + byte + ": " + access + " after a " +
           (report.finding == Finding::race_with_read ? "read" : "write") + " that nothing orders before it, by " +
           describe(report.other, cluster));
  }
}

// `user` returns the words for who accesses it, which a report needs.
template <typename User>
void judge_shared(const AccessHistory::Report& report, const Block& block, const User& user) {
  if (report.finding == AccessHistory::Finding::none) return;
  judge(report, *block.cluster, format("the shared memory of block %d", block.index), user());
}

// An access of this thread.
AccessHistory::Report noted(AccessHistory& history, size_t offset, size_t bytes, bool write) {
  const Thread& t = *self();
  return write ? history.write(offset, bytes, t.access(), t.now()) : history.read(offset, bytes, t.access(), t.now());
}
std::string words_for_access(bool write) { return (write ? "write by " : "read by ") + place_of(*self()); }

// ---- mbarriers

// `user` as above.
template <typename User>
Mbarrier& mbarrier_at(Block& block, uint64_t* address, const Moment& moment, const User& user) {
  for (Mbarrier& b : block.mbarriers) {
    if (b.address != address) continue;
    if (options.races && !b.made.is_known_at(moment)) {
      fail(format("mbarrier at shared byte %zu of block %d is used by one who cannot know that it has been made; ",
                  block.offset(address), block.index) +
           user());
    }
    return b;
  }
  fail(format("no mbarrier was made at shared byte %td of block %d; ", static_cast<ptrdiff_t>(block.offset(address)),
              block.index) +
       user());
}

void end_phase_if_complete(Mbarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  b.pending = b.arrivals;
  ++b.phase;
  if (options.races) b.ended = machine->clocks.keep(b.gathering.take());
  wake(b.waiting, true);
}

void deliver(size_t i) {
  Machine& m = *machine;
  const Store store = m.stores[i];
  m.stores[i] = m.stores.back();
  m.stores.pop_back();
  Block& target = *store.target;
  const auto access = [&] {
    return format("asynchronous store to block %d begun in step %d, line %d", target.index, store.step, store.line);
  };
  if (target.alive == 0) fail(access() + " arrives when the block has left the kernel");
  Mbarrier& b = mbarrier_at(target, store.barrier, store.begun, access);
  if (!b.fenced) fail(access() + " reports to an mbarrier without mbarrier_init_fence");
  if (options.races) {
    const Access by{b.actor, b.phase + 1, static_cast<int16_t>(store.step), static_cast<uint16_t>(store.line)};
    judge_shared(target.history->write(store.offset, sizeof store.value, by, store.begun), target, access);
    b.gathering.add(store.begun);
    b.gathering.add(b.actor, b.phase + 1, target.cluster->actors);
  }
  std::memcpy(target.shared + store.offset, &store.value, sizeof store.value);
  b.bytes -= static_cast<long>(sizeof store.value);
  end_phase_if_complete(b);
}

// ---- Packets

// Whoever waits for a packet there looks again.
void deliver_packet(size_t i) {
  Machine& m = *machine;
  const PacketStore packet = m.packets[i];
  m.packets[i] = m.packets.back();
  m.packets.pop_back();
  m.packet_places.erase(packet.to);
  std::memcpy(packet.to, packet.value, packet.bytes);
  if (packet.known) m.raised[packet.to] = packet.known;
  const auto waiters = m.packet_waiters.find(packet.to);
  if (waiters == m.packet_waiters.end()) return;
  wake(waiters->second, true);
  m.packet_waiters.erase(waiters);
}

// Some store that is under way, if there is one.
bool deliver_any() {
  Machine& m = *machine;
  const size_t count = m.stores.size() + m.packets.size();
  if (count == 0) return false;
  const size_t i = m.random(static_cast<uint32_t>(count));
  i < m.stores.size() ? deliver(i) : deliver_packet(i - m.stores.size());
  return true;
}

// ---- A launch

void enter_kernel() {
  Machine& m = *machine;
  try {
    (*m.kernel)();
    Thread* t = self();
    t->line = 0;
    t->doing = Doing::left;
    --m.alive;
    --t->home->alive;
    ++t->warp->left;
    if (!t->copies.empty()) {
      fail_here("this thread leaves the kernel without having waited for its asynchronous copies");
    }
    if (t->warp->met > 0) {
      fail_here(format("divergence: this thread leaves the kernel, others of its warp wait at %s in line %d",
                       name_of(t->warp->doing), t->warp->line));
    }
    if (const Barrier& of_block = t->home->barriers[0]; !of_block.waiting.empty()) {
      fail_here(format("divergence: this thread leaves the kernel, others wait for it at the block barrier in line %d",
                       of_block.waiting[0]->line));
    }
    if (!t->home->cluster->barrier.waiting.empty()) {
      fail_here("divergence: this thread leaves the kernel, others wait for it at the cluster barrier");
    }
  } catch (const Failure& failure) {
    if (!m.failure) m.failure = std::make_unique<Failure>(failure);
  }
  Fiber::pause();
  std::abort();
}

std::string what_threads_do() {
  std::string text;
  int lines = 0;
  for (const Block& block : machine->blocks) {
    for (const Warp& w : block.warps) {
      for (int lane = 0; lane < kLanes;) {
        const Thread& t = *w.lanes[lane];
        int end = lane + 1;
        while (end < kLanes && w.lanes[end]->doing == t.doing && w.lanes[end]->line == t.line) ++end;
        if (t.doing != Doing::left && ++lines <= 24) {
          text += format("\n  block %d, warp %d, lanes %d to %d: %s, step %d, line %d", block.index, w.index, lane,
                         end - 1, name_of(t.doing), t.step, t.line);
        }
        lane = end;
      }
    }
    for (const Mbarrier& b : block.mbarriers) {
      if (!b.waiting.empty()) {
        text += format("\n  block %d, mbarrier at shared byte %zu: phase %u lacks %d arrivals and %ld bytes",
                       block.index, block.offset(b.address), b.phase, b.pending, b.bytes);
      }
    }
  }
  return lines > 24 ? text + format("\n  and %d more", lines - 24) : text;
}

// Ends the waits for mbarriers, packets and flags in vain; false if there are none.
bool time_out() {
  bool any = !machine->packet_waiters.empty();
  for (auto& waiters : machine->packet_waiters) wake(waiters.second, false);
  machine->packet_waiters.clear();
  for (Block& block : machine->blocks) {
    for (Mbarrier& b : block.mbarriers) {
      any |= !b.waiting.empty();
      wake(b.waiting, false);
    }
  }
  return any;
}

void run() {
  Machine& m = *machine;
  while (m.alive > 0) {
    if (m.random(256) < m.delivery) deliver_any();
    Warp* w = pick_warp();
    if (!w) {
      if (!deliver_any() && (!options.time_out || !time_out())) {
        fail("deadlock: no thread can go on and no store is under way" + what_threads_do());
      }
      continue;
    }
    for (uint32_t burst = 1 + m.random(64); burst > 0 && w->ready_count > 0; --burst) {
      Thread* t = take_ready(w);
      here = t;
      t->fiber.resume();
      here = nullptr;
      if (m.failure) throw *m.failure;
    }
  }
  while (deliver_any()) {
  }
  for (Block& block : m.blocks) {
    for (Mbarrier& b : block.mbarriers) {
      if (b.bytes < 0) {
        fail(format("the mbarrier at shared byte %zu of block %d has got %ld bytes more than it was told to expect",
                    block.offset(b.address), block.index, -b.bytes));
      }
    }
  }
}

// Stacks are kept for the next launch.
char* stack_of(size_t thread) {
  static std::vector<char*> stacks;
  while (stacks.size() <= thread) {
    void* p =
        mmap(nullptr, Fiber::kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("no memory for the stacks of the fibers");
    stacks.push_back(static_cast<char*>(p));
  }
  return stacks[thread];
}

void build(Machine& m) {
  const Shape& s = m.shape;
  if (s.blocks < 1 || s.cluster < 1 || s.blocks % s.cluster) fail("a grid must be whole clusters");
  if (s.threads < kLanes || s.threads % kLanes || s.threads > 1024) fail("a block must be 1 to 32 whole warps");
  m.alive = s.blocks * s.threads;
  m.random_state = options.seed * 0x9e3779b97f4a7c15ull + 1;
  for (int i = 0; i < 8; ++i) m.random();
  m.clusters.resize(s.blocks / s.cluster);
  m.blocks.resize(s.blocks);
  m.threads.resize(m.alive);
  for (Cluster& c : m.clusters) {
    c.threads = s.cluster * s.threads;
    c.next_actor = c.threads;
    c.actors = c.threads + s.cluster * kMbarriersOfBlock;
  }
  const Clock* nothing = m.clocks.keep(Clock(options.races ? m.clusters[0].actors : 0));
  for (int index = 0; index < s.blocks; ++index) {
    Block& b = m.blocks[index];
    b.index = index;
    b.rank = index % s.cluster;
    b.alive = s.threads;
    b.shared_bytes = s.shared_bytes;
    b.memory.reset(new char[s.shared_bytes + 2 * kGuardBytes]);
    std::memset(b.memory.get(), 0xff, s.shared_bytes + 2 * kGuardBytes);  // NaN in every format
    const uintptr_t guarded = reinterpret_cast<uintptr_t>(b.memory.get()) + kGuardBytes / 2;
    b.shared = reinterpret_cast<char*>((guarded + 127) / 128 * 128);
    b.cluster = &m.clusters[index / s.cluster];
    b.cluster->blocks.push_back(&b);
    b.mbarriers.reserve(kMbarriersOfBlock);
    if (options.races) b.history = std::make_unique<AccessHistory>(s.shared_bytes);
    b.warps.resize(s.threads / kLanes);
    for (int i = 0; i < s.threads; ++i) {
      const size_t number = static_cast<size_t>(index) * s.threads + i;
      Thread& t = m.threads[number];
      static_cast<Here&>(t) = {i, index, s.threads, s.blocks, b.rank, b.shared};
      t.home = &b;
      t.warp = &b.warps[i / kLanes];
      t.lane = i % kLanes;
      t.actor = static_cast<uint32_t>(b.rank * s.threads + i);
      t.known = nothing;
      t.warp->block = &b;
      t.warp->index = i / kLanes;
      t.warp->lanes[t.lane] = &t;
      t.fiber.start(stack_of(number), enter_kernel);
    }
  }
  for (Thread& t : m.threads) make_ready(&t);
}

}  // namespace

void launch(const Shape& shape, const std::function<void()>& kernel) {
  Machine m;
  m.shape = shape;
  m.kernel = &kernel;
  machine = &m;
  build(m);
  run();
}

// Throws where none has this name.
static Fault fault_named(const std::string& name) {
  int number = 0;
#define GRU_NAME_FAULT(fault)                            \
  if (name == #fault) return static_cast<Fault>(number); \
  ++number;
#include "faults.h"
#undef GRU_NAME_FAULT
  throw Failure{"no fault is called " + name};
}

void begin(uint64_t seed, bool races, bool time_out, int lost_store, const std::string& fault) {
  options = {seed, races, time_out, lost_store, fault_named(fault)};
}

void name_buffer(const std::string& name, const void* p, size_t bytes, bool writable) {
  buffers.push_back({name, static_cast<const char*>(p), bytes, writable});
}
void forget_buffers() { buffers.clear(); }

void at_step(int step) { self()->step = step; }

// The buffer that the access is in.
static const Buffer& buffer_of(const void* p, size_t bytes, bool write, int line) {
  check_alignment(p, bytes, line);
  const char* begin = static_cast<const char*>(p);
  const Buffer* nearest = nullptr;
  for (const Buffer& b : buffers) {
    if (begin >= b.begin && begin - b.begin < static_cast<ptrdiff_t>(b.bytes)) {
      nearest = &b;
      if (bytes > b.bytes - (begin - b.begin)) break;
      if (!write || b.writable) return b;
      fail_at(line, "store to the buffer " + b.name + ", which this kernel may only read");
    }
    // Else the buffer below it: the likeliest that was meant.
    if (b.begin <= begin && (!nearest || b.begin > nearest->begin)) nearest = &b;
  }
  fail_at(line, format("global %s of %zu bytes out of the bounds of every buffer", write ? "store" : "load", bytes) +
                    (nearest ? format(": %td bytes from the start of %s, which has %zu", begin - nearest->begin,
                                      nearest->name.c_str(), nearest->bytes)
                             : std::string()));
}

void check_global(const void* p, size_t bytes, bool write, int line) { buffer_of(p, bytes, write, line); }

void check_exchanged(const void* p, size_t bytes, bool write, int line) {
  const Buffer& buffer = buffer_of(p, bytes, write, line);
  if (!options.races) return;
  Cluster& cluster = *self_at(line)->home->cluster;
  AccessHistory& history = cluster.exchanged.try_emplace(&buffer, buffer.bytes).first->second;
  const auto report = noted(history, static_cast<const char*>(p) - buffer.begin, bytes, write);
  // What no block has written is what the host has put there.
  using Finding = AccessHistory::Finding;
  if (report.finding != Finding::none && report.finding != Finding::never_written) {
    judge(report, cluster, "the buffer " + buffer.name, words_for_access(write));
  }
}

void check_shared(const void* p, size_t bytes, bool write, int line) {
  check_alignment(p, bytes, line);
  Thread* t = self();
  const size_t offset = shared_offset(p, bytes, line);
  Block& block = *t->home;
  for (const Mbarrier& b : block.mbarriers) {
    const size_t at = block.offset(b.address);
    if (offset < at + sizeof(uint64_t) && at < offset + bytes) {
      fail_at(line, "ordinary access to the bytes of an mbarrier");
    }
  }
  if (!options.races) return;
  t->line = line;
  const char* const begin = static_cast<const char*>(p);
  for (const Copy& copy : t->copies) {
    if (begin < copy.to + sizeof copy.value && copy.to < begin + bytes) {
      fail_here("access to bytes of an asynchronous copy that this thread has not waited for");
    }
  }
  judge_shared(noted(*block.history, offset, bytes, write), block, [&] { return words_for_access(write); });
}

void note_store(const void* p) { self()->unfenced.insert(p); }

void global_fence() { self()->unfenced.clear(); }

void copy_async(void* to, const void* from, bool exists, int line) {
  constexpr size_t bytes = sizeof Copy::value;
  if (exists) check_global(from, bytes, false, line);
  if (exists && self()->unfenced.count(from)) {
    fail_at(line, "asynchronous copy of what this thread has stored, without a fence between");
  }
  check_shared(to, bytes, true, line);
  Copy copy{static_cast<char*>(to), self()->copy_groups, {}, nullptr};
  if (exists) std::memcpy(copy.value, from, bytes);
  std::memset(to, 0xff, bytes);
  self()->copies.push_back(copy);
}

// The machine reads at some time until the copy is waited for.
void copy_exchanged_async(void* to, const void* exchanged, int line) {
  check_exchanged(exchanged, sizeof Copy::value, false, line);
  copy_async(to, exchanged, true, line);
  self()->copies.back().exchanged = exchanged;
}

void copy_async_commit() { ++self()->copy_groups; }

// For all of the thread's copies if groups_left < 0, else for all but the last so many groups.
void copy_async_wait(int groups_left, int line) {
  Thread* t = self();
  const auto is_left = [&](const Copy& c) { return groups_left >= 0 && c.group >= t->copy_groups - groups_left; };
  const auto first_left = std::stable_partition(t->copies.begin(), t->copies.end(), std::not_fn(is_left));
  const std::vector<Copy> done(t->copies.begin(), first_left);
  t->copies.erase(t->copies.begin(), first_left);
  for (const Copy& copy : done) {
    if (copy.exchanged) check_exchanged(copy.exchanged, sizeof copy.value, false, line);
    check_shared(copy.to, sizeof copy.value, true, line);
    std::memcpy(copy.to, copy.value, sizeof copy.value);
  }
}

bool barrier(int id, int threads, bool vote, int line) {
  Thread* t = self_at(line);
  Block& block = *t->home;
  if (id < 0 || id >= kNamedBarriers) fail_here(format("barrier %d: there are %d", id, kNamedBarriers));
  if (threads % kLanes || threads < kLanes || threads > t->threads) {
    fail_here(
        format("barrier %d for %d threads, of which a block has %d: whole warps are needed", id, threads, t->threads));
  }
  Barrier& b = block.barriers[id];
  if (b.waiting.empty()) {
    b.expected = threads;
  } else if (b.expected != threads) {
    fail_here(format("barrier %d: called for %d threads and for %d", id, b.expected, threads));
  }
  meet(Doing::barrier, id, line);
  if (id == 0 && block.alive < threads) {
    fail_here(format("divergence: %d threads of the block have left the kernel, this one is at the block barrier",
                     threads - block.alive));
  }
  wait_at(b, Doing::barrier, threads, vote);
  return t->answer;
}

void cluster_barrier(int line) {
  Thread* t = self();
  meet(Doing::cluster_barrier, 0, line);
  for (const Block* block : t->home->cluster->blocks) {
    if (block->alive < t->threads) {
      fail_here(format("divergence: threads of block %d have left the kernel, this one is at the cluster barrier",
                       block->index));
    }
  }
  wait_at(t->home->cluster->barrier, Doing::cluster_barrier, t->home->cluster->threads, false);
}

bool warp_barrier(bool vote, int line) {
  Thread* t = self();
  Warp* w = t->warp;
  w->vote |= vote;
  if (options.races) w->gathering.add(t->release());
  do_together(Doing::warp_barrier, 0, line, [&] {
    const Clock* clock = options.races ? machine->clocks.keep(w->gathering.take()) : nullptr;
    for (Thread* lane : w->lanes) {
      learn(lane, clock);
      lane->answer = w->vote;
    }
    w->vote = false;
  });
  return t->answer;
}

uint32_t shuffle(uint32_t value, int source, int line) {
  Thread* t = self();
  Warp* w = t->warp;
  w->value[t->lane] = value;
  w->source[t->lane] = source % kLanes;
  do_together(Doing::shuffle, 0, line, [&] {
    uint32_t result[kLanes];
    for (int i = 0; i < kLanes; ++i) result[i] = w->value[w->source[i]];
    std::copy(result, result + kLanes, w->value);
  });
  return w->value[t->lane];
}

void mma(Operand type, float* d, const uint32_t* a, const uint32_t* b, int line) {
  Thread* t = self();
  Warp* w = t->warp;
  w->d[t->lane] = d;
  w->a[t->lane] = a;
  w->b[t->lane] = b;
  do_together(Doing::mma, static_cast<int>(type), line, [&] { multiply_tiles(type, w->d, w->a, w->b); });
}

void ldmatrix_x4(uint32_t* words, const void* row, bool transposed, int line) {
  Thread* t = self();
  Warp* w = t->warp;
  check_shared(row, 16, false, line);
  w->words[t->lane] = words;
  w->rows[t->lane] = static_cast<const char*>(row);
  do_together(Doing::ldmatrix, transposed, line, [&] {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t values[2];
        for (int i = 0; i < 2; ++i) {
          const int far = lane / 4, near = lane % 4 * 2 + i;
          const int from = transposed ? near : far, column = transposed ? far : near;
          std::memcpy(values + i, w->rows[matrix * 8 + from] + column * 2, 2);
        }
        std::memcpy(w->words[lane] + matrix, values, 4);
      }
    }
  });
}

void mbarrier_init(uint64_t* address, int arrivals, int line) {
  check_shared(address, sizeof *address, true, line);
  Thread* t = self();
  Block& block = *t->home;
  if (block.mbarriers.size() == kMbarriersOfBlock) fail_here(format("more than %d mbarriers", kMbarriersOfBlock));
  Mbarrier b;
  b.address = address;
  b.actor = block.cluster->next_actor++;
  b.arrivals = b.pending = arrivals;
  b.made = t->access();
  block.mbarriers.push_back(std::move(b));
}

void mbarrier_init_fence() {
  for (Mbarrier& b : self()->home->mbarriers) {
    if (b.made.actor == self()->actor) b.fenced = true;
  }
}

void mbarrier_arrive_expect(uint64_t* address, int bytes, int line) {
  Thread* t = self_at(line);
  Mbarrier& b = mbarrier_at(*t->home, address, t->now(), [&] { return place_of(*t); });
  if (b.pending == 0) {
    fail_here(format("one arrival too many at the mbarrier at shared byte %zu: phase %u is for %d",
                     t->home->offset(address), b.phase, b.arrivals));
  }
  if (bytes < 0 || b.bytes + bytes > kMaxExpectedBytes) {
    fail_here(format("mbarrier told to expect %d bytes, %ld in all: out of its range", bytes, b.bytes + bytes));
  }
  if (options.races) b.gathering.add(t->release());
  b.bytes += bytes;
  --b.pending;
  end_phase_if_complete(b);
}

// How long a wait may take is not emulated, only that there is a limit.
static void check_limit(uint32_t limit) {
  if (limit == 0) fail_here("a wait that may take no time");
}

bool mbarrier_wait(uint64_t* address, int parity, uint32_t limit, int line) {
  Thread* t = self_at(line);
  check_limit(limit);
  Mbarrier& b = mbarrier_at(*t->home, address, t->now(), [&] { return place_of(*t); });
  if (parity != 0 && parity != 1) fail_here(format("mbarrier: parity %d", parity));
  if (static_cast<int>(b.phase & 1) == parity) {
    b.waiting.push_back(t);
    pause(Doing::mbarrier_wait);
    if (!t->answer) return false;
  }
  if (options.races && b.ended) t->known = machine->clocks.joined(t->known, b.ended);
  return true;
}

void store_async(void* p, uint64_t* barrier, int rank, device::u32x4 value, int line) {
  Thread* t = self();
  Machine& m = *machine;
  check_alignment(p, sizeof value, line);
  const size_t offset = shared_offset(p, sizeof value, line);
  const size_t barrier_offset = shared_offset(barrier, sizeof *barrier, line);
  t->line = line;
  const Cluster& cluster = *t->home->cluster;
  if (rank < 0 || rank >= static_cast<int>(cluster.blocks.size())) {
    fail_here(format("asynchronous store to rank %d of a cluster of %zu blocks", rank, cluster.blocks.size()));
  }
  if (m.store_count++ == options.lost_store) return;
  Block* target = cluster.blocks[rank];
  auto* const target_barrier = reinterpret_cast<uint64_t*>(target->shared + barrier_offset);
  m.stores.push_back({target, offset, target_barrier, value, t->release(), t->step, line});
}

// `overtakes`: what is wrong where another store goes to the same place.
static void send(void* to, const void* value, size_t bytes, const Clock* known, const char* overtakes) {
  Machine& m = *machine;
  if (m.store_count++ == options.lost_store) return;
  // Nobody can have read that one, and everybody should have.
  if (!m.packet_places.insert(to).second) fail_here(overtakes);
  PacketStore store{to, bytes, {}, known};
  std::memcpy(store.value, value, bytes);
  m.packets.push_back(store);
}

// Whether it has not been in vain to wait until `seen()` is true of what is at a place.
template <typename Seen>
static bool wait_for(const void* place, Doing doing, uint32_t limit, const Seen& seen) {
  check_limit(limit);
  while (!seen()) {
    machine->packet_waiters[place].push_back(self());
    pause(doing);
    if (!self()->answer) return false;
  }
  return true;
}

void store_packet(void* packet, const void* value, size_t bytes, int line) {
  check_global(packet, bytes, true, line);
  self_at(line);
  send(packet, value, bytes, nullptr, "store of a packet where one has not arrived yet");
}

bool wait_for_packet(const void* packet, uint32_t tag, void* value, size_t bytes, uint32_t limit, int line) {
  check_global(packet, bytes, false, line);
  self_at(line);
  const bool found = wait_for(packet, Doing::packet_wait, limit, [&] {
    uint32_t last;
    std::memcpy(&last, static_cast<const char*>(packet) + bytes - sizeof last, sizeof last);
    return last == tag;
  });
  if (found) std::memcpy(value, packet, bytes);
  return found;
}

void raise_flag(uint32_t* flag, uint32_t value, int line) {
  check_global(flag, sizeof *flag, true, line);
  Thread* t = self_at(line);
  const Clock* known = nullptr;
  if (options.races) {
    Gathering gathering;
    gathering.add(t->release());
    known = machine->clocks.keep(gathering.take());
  }
  send(flag, &value, sizeof value, known, "a flag is raised before it has been seen to be");
}

bool wait_for_flag(const uint32_t* flag, uint32_t value, uint32_t limit, int line) {
  check_global(flag, sizeof *flag, false, line);
  Thread* t = self_at(line);
  const auto is_raised = [&] { return *static_cast<const volatile uint32_t*>(flag) >= value; };
  if (!wait_for(flag, Doing::flag_wait, limit, is_raised)) return false;
  const auto raised = machine->raised.find(flag);
  if (raised != machine->raised.end()) t->known = machine->clocks.joined(t->known, raised->second);
  return true;
}

}  // namespace gru_ext::emulator
