// What the parts of the interpreter share: decoded instructions, and the state of warps, blocks and memory.
#pragma once

#include <cstring>
#include <memory>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "ptx.h"

namespace ptx {

constexpr int kLanes = 32;
constexpr uint32_t kAll = 0xffffffffu;

struct Warp;
struct Block;
struct Cluster;
struct Machine;

// ---- Code

// A register, a constant, a predicate, or nothing ("_").
struct Operand {
  enum Kind : uint8_t { none, reg, constant, pred, sink } kind = none;
  bool negated = false;             // of a predicate
  int index = -1;                   // of a register or predicate
  int64_t offset = 0;               // of an address
  const uint64_t* lanes = nullptr;  // of a constant: the same for each lane
};

enum class Scope : uint8_t { none, cta, cluster, gpu, sys };

// "Memory Consistency Model", "Operation types".
struct Ordering {
  bool strong = false, acquire = false, release = false;
  Scope scope = Scope::none;
};

struct Instruction;
using Handler = void (*)(Warp&, const Instruction&, uint32_t mask);

struct Instruction {
  Handler run = nullptr;
  int guard = -1;  // predicate
  bool guard_negated = false;
  enum Kind : uint8_t { plain, branch, exit, collective } kind = plain;
  bool warp_aligned = false;  // a collective of all threads of the warp; else of those that the last operand names
  bool yields = false;        // others should run now
  std::vector<Operand> d, s;  // destinations, sources; vectors are spread out
  int size = 0;               // bytes of an element, or bits of a part
  bool is_signed = false;
  bool is_async = false;  // done by nobody's thread, some time later
  uint32_t variant = 0;   // of the handler
  Ordering order;
  int target = -1;              // of a branch
  int line = 0;                 // of the PTX
  int file = 0, file_line = 0;  // of the source, where nvcc was asked for -lineinfo
  std::string opcode, text;
  mutable uint64_t times = 0;  // executed
  mutable size_t extent = 0;   // of global memory, where it was found last time
};

struct Kernel : Requirements {
  std::string name;
  std::map<std::string, std::pair<size_t, size_t>> parameters;  // offset, size
  std::vector<std::pair<size_t, size_t>> parameter_places;      // in their order
  int registers = 0, predicates = 0;
  std::vector<Instruction> code;
  std::map<int, std::string> files;
  std::vector<std::unique_ptr<uint64_t[]>> constants;
};

// "Special Registers" are the first registers of a warp.
enum Special {
  tid_x,
  ntid_x,
  ctaid_x,
  nctaid_x,
  laneid,
  warpid,
  cluster_ctarank,
  cluster_nctarank,
  clusterid_x,
  kSpecials
};

// Where the windows of the state spaces are.
constexpr uint64_t kParameterBase = 0x1000;
constexpr uint64_t kSharedBase = 0x400;  // of a block's own shared memory
constexpr uint64_t kRemoteShift = 24;    // shared::cluster: (rank + 1) << 24 | address within the block
constexpr uint64_t kLocalBase = 0x2000;
// The same among generic addresses, "Addresses as Operands".
constexpr uint64_t kGenericLocal = 0x4c00000000000000, kGenericShared = 0x5300000000000000;

// ---- Order of events, by vector clocks

// Of the warps of a cluster or, of a cooperative launch, of the grid: what is known to have happened. In a cluster of
// several blocks a second half counts their asynchronous stores, which are in no order with what the warp does later.
using Clock = std::vector<uint32_t>;
using Snapshot = std::shared_ptr<const Clock>;

inline void join(Clock& to, const Clock& from) {
  for (size_t i = 0; i < from.size(); ++i) to[i] = to[i] < from[i] ? from[i] : to[i];
}

// An access: by which lane of which warp (of the clock's), and when by its clock; 0: never.
struct Epoch {
  uint32_t at = 0;
  uint16_t warp = 0;
  uint8_t lane = 0;      // kSeveral: of several
  uint8_t strength = 0;  // scope << 5 | bytes of an element, where the access was strong
};
constexpr uint8_t kSeveral = 0xff;
constexpr uint8_t kAgreed = 0xff;        // in the place of a strength: see Machine::agreed
constexpr uint16_t kManyWarps = 0xffff;  // in the place of a warp: see Machine::readers

// What a release, or a fence and a strong store after it, has made known to whoever acquires it.
struct Release {
  Snapshot clock;
  const Block* block = nullptr;  // by which
  Scope scope = Scope::none;
};

// ---- State

struct PendingCopy {
  uint64_t to, from;
  int size, from_size;
  int group;
  bool done;  // it only has to be waited for
  const Instruction* at;
};

struct Lane {
  std::vector<PendingCopy> copies;  // cp.async
  int group = 0;                    // that is being filled
  uint32_t wrote = 0;               // the warp's clock at its last store to global memory
};

struct Warp {
  int self;                   // its place in clocks
  Clock clock;                // what has happened before what it does now
  Clock acquired;             // what it learned by acquiring from other blocks, or at barriers from warps that did
  uint32_t synced = 0;        // own clock at the last barrier of all its lanes: what each of them knows of the others
  uint32_t fenced = 0;        // own clock at its last fence
  Release fence;              // what was known then
  std::vector<Release> seen;  // releases that relaxed loads have met, which become known at the next fence
  Machine* machine;
  Block* block;
  int index;  // of the block
  std::vector<uint64_t> registers;
  std::vector<uint32_t> predicates;
  std::vector<char> local;  // of each lane
  int pc[kLanes];
  uint32_t existing = 0, exited = 0, waiting = 0;  // waiting: at a collective, for other lanes
  enum State : uint8_t { ready, at_barrier, at_cluster_barrier, done } state = ready;
  uint32_t barrier_mask = 0;
  const Instruction* at = nullptr;  // where a warp waits
  uint64_t cluster_phase = 0;       // that it arrived in
  bool cluster_arrived = false;
  bool yield = false;
  const char* storing = nullptr;  // the bytes that the present store has for the present lane
  Lane lanes[kLanes];

  const uint64_t* in(const Operand& o) const {
    return o.kind == Operand::constant ? o.lanes : registers.data() + static_cast<size_t>(o.index) * kLanes;
  }
  uint64_t* out(const Operand& o) { return registers.data() + static_cast<size_t>(o.index) * kLanes; }
  uint32_t pred(const Operand& o) const {
    if (o.kind == Operand::constant) return o.lanes[0] ? kAll : 0;
    return o.negated ? ~predicates[o.index] : predicates[o.index];
  }
  void set_pred(const Operand& o, uint32_t mask, uint32_t value) {
    if (o.kind == Operand::pred) predicates[o.index] = (predicates[o.index] & ~mask) | (value & mask);
  }
  // What the others learn of this warp by something that `lane` alone does: all that the lane knows.
  Snapshot known_to(int lane) const {
    auto known = std::make_shared<Clock>(clock);
    if (lanes[lane].wrote <= synced) (*known)[self] = synced;
    return known;
  }
  // An access that `lane` makes now.
  Epoch now(int lane, uint8_t strength = 0) const {
    return {clock[self], static_cast<uint16_t>(self), static_cast<uint8_t>(lane), strength};
  }
  // Whether `lane` knows of an access: its own, or what a barrier, an mbarrier or a release has made known to it.
  bool knows(int lane, const Epoch& e) const {
    if (e.warp == self) return e.at <= synced || (e.lane == lane && e.lane != kSeveral);
    return e.at <= clock[e.warp];
  }
  // All its lanes have met: each now knows what the others did, and what comes is later than that.
  void meet() { synced = clock[self]++; }
};

struct Barrier {
  int arrived = 0, expected = 0;  // threads; -1: all of the block
  bool vote_or = false, vote_and = true;
  std::vector<Warp*> waiting;
};

struct Mbarrier {
  uint32_t count, pending;
  int64_t bytes;
  uint64_t phase;
  Epoch made;
  bool fenced;                          // by fence.mbarrier_init
  Clock pending_clock, ended_clock;     // of what has come in this phase; in those that have ended
  const Block* remote = nullptr;        // another block, from which something came in this phase,
  const Block* ended_remote = nullptr;  // and in those that have ended
};

struct ClusterBarrier {
  int arrived = 0;
  uint64_t phase = 0;
  Clock pending_clock, ended_clock;
};

struct Cluster {
  int index;
  std::vector<Block*> blocks;
  ClusterBarrier barrier;
};

// Of every byte of shared memory.
enum Shadow : uint8_t { unwritten, written, in_flight, is_mbarrier };

// Shared memory is watched in units of two bytes, the least that kernels access.
struct Block {
  int index, rank;
  Cluster* cluster;
  std::vector<char> shared;
  std::vector<uint8_t> shadow;
  std::vector<Epoch> writers;  // of a unit
  std::vector<Epoch> readers;  // of a unit by each warp of the block: (units, warps)
  std::unordered_map<uint64_t, Mbarrier> mbarriers;
  Barrier barriers[16];
  std::vector<Warp> warps;
  int threads, live_threads;
};

// A store that arrives some time later: st.async.
struct AsyncStore {
  Block* block;
  uint64_t to, mbarrier;
  char bytes[16];
  int size;
  const Instruction* at;
  const Block* from;
  Epoch epoch;  // among the asynchronous stores of its warp
  Snapshot clock;
};

// Of the units of two bytes of a page of global memory that may be written to.
struct GlobalPage {
  static constexpr int kUnits = 2048;
  Epoch writer[kUnits];
  Epoch reader[kUnits];  // the last, where there was only one
  uint32_t writing_cluster[kUnits] = {};
  uint32_t reading_cluster[kUnits] = {};  // the last
};

struct Machine {
  std::unordered_map<uint64_t, std::unique_ptr<GlobalPage>> pages;  // by address
  GlobalPage* last_page = nullptr;
  uint64_t last_page_number = ~uint64_t{0};
  std::unordered_map<uint64_t, std::vector<Epoch>> readers;  // of a unit, where there are several
  std::unordered_map<uint64_t, std::vector<Epoch>> agreed;   // writers of a unit, in no order, of the same bytes
  std::unordered_map<uint64_t, Release> released;            // by address: of the release that stored what is there
  const Kernel* kernel;
  Launch launch;
  int warps_of_clock = 0;
  size_t clock_size = 0;
  std::vector<char> parameters;
  std::vector<std::unique_ptr<Cluster>> clusters;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<AsyncStore> stores;
  uint64_t time = 1000, turns = 0, progress = 0, random;
  int time_outs = 0;
  int64_t stores_begun = 0;  // for which other blocks wait
  bool parts;                // whether lanes that have parted meet again at .sync alone

  uint64_t next_random() {  // xorshift64
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
  // Whether the store for which other blocks wait that begins now is the one that is to be lost.
  bool loses_store() { return stores_begun++ == options.lost_store; }
};

[[noreturn]] void fail_in_words(const Warp* warp, const Instruction* at, int lane, const std::string& words);
// The words may be numbers.
template <typename... Words>
[[noreturn]] void fail(const Warp* warp, const Instruction* at, int lane, const Words&... words) {
  std::ostringstream text;
  (text << ... << words);
  fail_in_words(warp, at, lane, text.str());
}
// The line of source that `at` comes from, below the folder of the sources; "-" where nvcc does not say.
std::string source_of(const Kernel& kernel, const Instruction& at);
// The kernel's error: it says where in the text and in the source `at` is.
std::string place_of(const Kernel& kernel, const Instruction& at);

// Whether an operation of this scope, by a thread of `by`, is one to threads of `other`.
bool includes(Scope scope, const Block& by, const Block& other);

// ---- Parts

// allocate.cpp
void compact_registers(Kernel& kernel);

// decode.cpp: `run` and what belongs to it from the opcode; throws Error for what it does not know.
void select(Instruction& instruction, const std::vector<std::string>& modifiers);

using Table = std::map<std::string, Handler>;  // by opcode

// What opcodes do; of `together`, which the lanes of a warp do at once.
struct Opcodes {
  Table alone, together;
};
void add_arithmetic(Opcodes& opcodes);       // arithmetic.cpp
void add_conversions(Opcodes& opcodes);      // conversions.cpp
void add_memory(Opcodes& opcodes);           // memory.cpp
void add_synchronisation(Opcodes& opcodes);  // synchronisation.cpp
void add_warps(Opcodes& opcodes);            // warps.cpp

// global.cpp
char* global_memory(Warp& w, const Instruction& i, int lane, uint64_t address, int size, bool write);

// memory.cpp
enum Space { generic, global, shared, parameter, local, kSpaces };
Handler load_from(Space space);
Handler store_to(Space space);
char* own_shared(Warp& w, const Instruction& i, int lane, uint64_t address, int size, bool write);
char* shared_memory(Warp& w, const Instruction& i, int lane, Block& block, uint64_t offset, int size, bool write);
void deliver(Machine& machine, size_t store);

// synchronisation.cpp
void leave(Warp& warp, uint32_t mask);
// Null: by nobody's thread, else by one that must know of it.
Mbarrier& mbarrier_at(const Warp* w, const Instruction& i, int lane, Block& block, uint64_t offset);
void end_phase(Machine& machine, Mbarrier& b);

// ---- What handlers are written with

template <typename F>
inline void each(uint32_t mask, const F& f) {
  if (mask == kAll) {
    for (int l = 0; l < kLanes; ++l) f(l);
  } else {
    for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
  }
}

template <typename T>
inline T get(const uint64_t* lanes, int l) {
  T x;
  std::memcpy(&x, lanes + l, sizeof x);
  return x;
}
template <typename T>
inline void set(uint64_t* lanes, int l, T x) {
  uint64_t v = 0;
  std::memcpy(&v, &x, sizeof x);
  lanes[l] = v;
}
template <typename To, typename From>
inline To bits_to(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof x);
  return y;
}

// What a function computes of each lane, from as many operands as it has, of the types that it has.
template <auto f, typename = std::remove_pointer_t<decltype(f)>>
struct Lanewise;
template <auto f, typename Result, typename... T>
struct Lanewise<f, Result(T...)> {
  static void run(Warp& w, const Instruction& i, uint32_t mask) { run(w, i, mask, std::index_sequence_for<T...>()); }

 private:
  template <size_t... n>
  static void run(Warp& w, const Instruction& i, uint32_t mask, std::index_sequence<n...>) {
    const uint64_t* const s[] = {w.in(i.s[n])...};
    uint64_t* const d = w.out(i.d[0]);
    each(mask, [&](int l) { set(d, l, f(get<T>(s[n], l)...)); });
  }
};
template <auto f>
constexpr Handler lanewise = Lanewise<f>::run;

// Opcodes whose names end in the width of a type: of "add.u" and uint32_t, add.u32.
template <template <typename> class F, typename... T>
void add(Table& t, const std::string& name) {
  ((t[name + std::to_string(8 * sizeof(T))] = lanewise<F<T>::f>), ...);
}

}  // namespace ptx
