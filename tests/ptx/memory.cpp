// "Data Movement and Conversion Instructions": ld, st, cvta, mapa, cp.async, st.async; and the state spaces but global.
#include <array>

#include "machine.h"

namespace ptx {
namespace {

// ---- Shared memory

// Whether the lane knows of all that conflicts with an access.
void check_order(const Warp& w, const Instruction& i, int lane, Block& block, uint64_t offset, int size, bool write) {
  const size_t warps = block.warps.size();
  const auto complain = [&](uint64_t unit, const Epoch& e, const char* what) {
    const int warp = e.warp % w.machine->warps_of_clock;
    std::string by = "another lane of its warp";
    if (warp != w.self) {
      by = "warp " + std::to_string(static_cast<size_t>(warp) % warps) + " of block " +
           std::to_string(static_cast<size_t>(warp) / warps) + " of the cluster";
    }
    fail(&w, &i, lane, "race: ", write ? "writes" : "reads", " shared offset ", 2 * unit, ", which ", by, " has ", what,
         ", and nothing orders them");
  };
  for (uint64_t unit = offset / 2; unit < (offset + static_cast<uint64_t>(size) + 1) / 2; ++unit) {
    Epoch& writer = block.writers[unit];
    Epoch* const readers = &block.readers[unit * warps];
    if (writer.at != 0 && !w.knows(lane, writer)) complain(unit, writer, "written");
    const Epoch self = w.now(lane);
    if (write) {
      for (size_t r = 0; r < warps; ++r) {
        if (readers[r].at != 0 && !w.knows(lane, readers[r])) complain(unit, readers[r], "read");
      }
      if (!i.is_async || &block == w.block) writer = self;
    } else {
      Epoch& reader = readers[w.index];
      const bool several = reader.at == self.at && reader.lane != lane;
      reader = self;
      if (several) reader.lane = kSeveral;
    }
  }
}

// "cvta"
template <bool kToGeneric, uint64_t kWindow>
void convert_address(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t* a = w.in(i.s[0]);
  uint64_t* d = w.out(i.d[0]);
  each(mask, [&](int l) { d[l] = kToGeneric ? a[l] + kWindow : a[l] - kWindow; });
}

struct Place {
  Block* block;
  uint64_t offset;
};

// An address in .shared::cluster.
Place cluster_shared(Warp& w, const Instruction& i, int lane, uint64_t address) {
  address = static_cast<uint32_t>(address);
  const uint64_t rank = address >> kRemoteShift, offset = address & ((uint64_t{1} << kRemoteShift) - 1);
  if (offset < kSharedBase) fail(&w, &i, lane, "no shared::cluster address: ", address);
  if (rank == 0) return {w.block, offset - kSharedBase};
  if (rank > w.block->cluster->blocks.size()) {
    fail(&w, &i, lane, "there is no block ", rank - 1, " in the cluster");
  }
  return {w.block->cluster->blocks[rank - 1], offset - kSharedBase};
}

char* parameter_memory(const Warp& w, const Instruction& i, int lane, uint64_t address, int size, bool write) {
  const uint64_t offset = address - kParameterBase;
  if (write) fail(&w, &i, lane, "writes to parameters");
  if (offset % static_cast<uint64_t>(size) != 0 ||
      offset + static_cast<uint64_t>(size) > w.machine->parameters.size()) {
    fail(&w, &i, lane, "outside of the parameters: offset ", static_cast<int64_t>(offset));
  }
  return w.machine->parameters.data() + offset;
}

char* local_memory(Warp& w, const Instruction& i, int lane, uint64_t address, int size) {
  const uint64_t offset = address - kLocalBase, bytes = w.machine->kernel->local_bytes;
  if (offset % static_cast<uint64_t>(size) != 0 || offset + static_cast<uint64_t>(size) > bytes) {
    fail(&w, &i, lane, "outside of local memory: ", address);
  }
  return w.local.data() + static_cast<uint64_t>(lane) * bytes + offset;
}

template <Space space>
char* memory(Warp& w, const Instruction& i, int lane, uint64_t address, int size, bool write) {
  if constexpr (space == global) return global_memory(w, i, lane, address, size, write);
  if constexpr (space == shared) return own_shared(w, i, lane, address, size, write);
  if constexpr (space == parameter) return parameter_memory(w, i, lane, address, size, write);
  if constexpr (space == local) return local_memory(w, i, lane, address, size);
  if (address >> 56 == kGenericLocal >> 56) return local_memory(w, i, lane, address - kGenericLocal, size);
  if (address >> 56 == kGenericShared >> 56) return own_shared(w, i, lane, address - kGenericShared, size, write);
  return global_memory(w, i, lane, address, size, write);
}

// ---- ld, st. size: of an element in bytes

template <typename Signed, typename Unsigned>
uint64_t extended(const char* p, bool is_signed) {
  Unsigned x;
  std::memcpy(&x, p, sizeof x);
  return is_signed ? static_cast<uint64_t>(int64_t{static_cast<Signed>(x)}) : x;
}

template <Space space>
void load(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t* base = w.in(i.s[0]);
  const int n = static_cast<int>(i.d.size()), size = i.size;
  std::array<uint64_t*, 4> d{};
  for (int e = 0; e < n; ++e) d[e] = i.d[e].kind == Operand::reg ? w.out(i.d[e]) : nullptr;
  const auto offset = static_cast<uint64_t>(i.s[0].offset);
  each(mask, [&](int l) {
    const char* p = memory<space>(w, i, l, base[l] + offset, size * n, false);
    for (int e = 0; e < n; ++e, p += size) {
      if (d[e] == nullptr) continue;
      switch (size) {
        case 1:
          d[e][l] = extended<int8_t, uint8_t>(p, i.is_signed);
          break;
        case 2:
          d[e][l] = extended<int16_t, uint16_t>(p, i.is_signed);
          break;
        case 4:
          d[e][l] = extended<int32_t, uint32_t>(p, i.is_signed);
          break;
        default:
          std::memcpy(d[e] + l, p, 8);
          if (size == 16) std::memcpy(d[e] + kLanes + l, p + 8, 8);
      }
    }
  });
}

template <Space space>
void store(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t* base = w.in(i.s[0]);
  const int n = static_cast<int>(i.s.size()) - 1, size = i.size;
  std::array<const uint64_t*, 4> s{};
  for (int e = 0; e < n; ++e) s[e] = w.in(i.s[e + 1]);
  const auto offset = static_cast<uint64_t>(i.s[0].offset);
  w.machine->progress = w.machine->turns;
  const bool is_waited_for = i.order.release || (i.order.strong && size * n >= 8);  // a flag, or a packet
  each(mask, [&](int l) {
    if (is_waited_for && w.machine->loses_store()) return;
    char bytes[32];
    for (int e = 0; e < n; ++e) {
      std::memcpy(bytes + e * size, s[e] + l, size == 16 ? 8 : static_cast<size_t>(size));
      if (size == 16) std::memcpy(bytes + 8, s[e] + kLanes + l, 8);
    }
    w.storing = bytes;
    std::memcpy(memory<space>(w, i, l, base[l] + offset, size * n, true), bytes, static_cast<size_t>(size * n));
    w.storing = nullptr;
  });
}

// ---- "cp.async", "Asynchronous copy": the destination may not be touched until the thread has waited. What is copied
// is what the source holds at some time between.

void set_shadow(Warp& w, const PendingCopy& c, Shadow state) {
  std::memset(w.block->shadow.data() + static_cast<uint32_t>(c.to) - kSharedBase, state, static_cast<size_t>(c.size));
}

void copy_now(Warp& w, int lane, const PendingCopy& c) {
  set_shadow(w, c, written);
  char* const to = own_shared(w, *c.at, lane, c.to, c.size, true);
  if (c.from_size > 0) {
    std::memcpy(to, global_memory(w, *c.at, lane, c.from, c.size, false), static_cast<size_t>(c.from_size));
  }
  std::memset(to + c.from_size, 0, static_cast<size_t>(c.size - c.from_size));
}

void copy_async(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t *to = w.in(i.s[0]), *from = w.in(i.s[1]), *size = w.in(i.s[2]);
  const uint64_t* from_size = i.s.size() > 3 ? w.in(i.s[3]) : size;
  each(mask, [&](int l) {
    const bool done = w.machine->next_random() % 4 == 0;
    PendingCopy c{to[l] + static_cast<uint64_t>(i.s[0].offset),
                  from[l] + static_cast<uint64_t>(i.s[1].offset),
                  get<int>(size, l),
                  get<int>(from_size, l),
                  w.lanes[l].group,
                  done,
                  &i};
    const bool allowed = c.size == 16 || (i.opcode == "cp.async.ca.shared.global" && (c.size == 4 || c.size == 8));
    if (!allowed) fail(&w, &i, l, "a copy of ", c.size, " bytes");
    if (c.from_size > c.size || c.from_size < 0) fail(&w, &i, l, "a copy of more than its size");
    if (c.from % static_cast<uint64_t>(c.size) != 0) {
      fail(&w, &i, l, "misaligned: the source of a copy, global address ", c.from);
    }
    own_shared(w, i, l, c.to, c.size, true);  // nor may another copy be under way there
    copy_now(w, l, c);
    set_shadow(w, c, in_flight);
    w.lanes[l].copies.push_back(c);
  });
  w.machine->progress = w.machine->turns;
}

// Of all groups but the last `but`, and of what is in no group yet.
void finish_copies(Warp& w, int lane, int but) {
  std::vector<PendingCopy> left;
  for (const PendingCopy& c : w.lanes[lane].copies) {
    if (c.group >= w.lanes[lane].group - but) {
      left.push_back(c);
    } else if (c.done) {
      set_shadow(w, c, written);
    } else {
      copy_now(w, lane, c);
    }
  }
  w.lanes[lane].copies.swap(left);
}
// "cp.async.commit_group", "cp.async.wait_group / cp.async.wait_all"
void copy_commit(Warp& w, const Instruction&, uint32_t mask) {
  each(mask, [&](int l) { ++w.lanes[l].group; });
}
void copy_wait_all(Warp& w, const Instruction&, uint32_t mask) {
  each(mask, [&](int l) {
    ++w.lanes[l].group;
    finish_copies(w, l, 0);
  });
}
void copy_wait_group(Warp& w, const Instruction& i, uint32_t mask) {
  const uint64_t* n = w.in(i.s[0]);
  each(mask, [&](int l) { finish_copies(w, l, get<int>(n, l)); });
}

// "mapa"
void map_address(Warp& w, const Instruction& i, uint32_t mask) {
  each(mask, [&](int l) {
    const uint64_t address = static_cast<uint32_t>(w.in(i.s[0])[l]);
    const uint32_t rank = get<uint32_t>(w.in(i.s[1]), l);
    if (address < kSharedBase || address >> kRemoteShift != 0) fail(&w, &i, l, "mapa of what is no shared address");
    if (rank >= w.block->cluster->blocks.size()) {
      fail(&w, &i, l, "there is no block ", rank, " in the cluster");
    }
    w.out(i.d[0])[l] = (uint64_t{rank} + 1) << kRemoteShift | address;
  });
}

// "st.async": a weak store; then complete-tx on the mbarrier, a release of scope cluster. The destination may not be
// touched until it has arrived and the mbarrier was waited for. Of blocks that end the ISA says nothing; the CUDA
// Programming Guide does, "Distributed Shared Memory": whatever others do in a block's shared memory must be done
// before the block exits.
void store_async(Warp& w, const Instruction& i, uint32_t mask) {
  const int n = static_cast<int>(i.s.size()) - 2, size = 4 * n;
  const auto agent = static_cast<size_t>(w.machine->warps_of_clock + w.self);
  if (agent >= w.clock.size()) fail(&w, &i, __builtin_ctz(mask), "st.async in a launch without clusters");
  w.machine->progress = w.machine->turns;
  auto known = std::make_shared<Clock>(w.clock);
  (*known)[static_cast<size_t>(w.self)] = w.synced;  // the other lanes may have done less than this one
  (*known)[agent] = ++w.clock[agent];
  each(mask, [&](int l) {
    const Place to = cluster_shared(w, i, l, w.in(i.s[0])[l] + static_cast<uint64_t>(i.s[0].offset));
    const Place at = cluster_shared(w, i, l, w.in(i.s.back())[l] + static_cast<uint64_t>(i.s.back().offset));
    if (to.block != at.block) fail(&w, &i, l, "st.async to one block, its mbarrier in another");
    if (to.block->live_threads == 0) fail(&w, &i, l, "st.async to a block that has ended");
    const Mbarrier& b = mbarrier_at(&w, i, l, *at.block, at.offset);
    if (!b.fenced && to.block != w.block) {
      fail(&w, &i, l, "st.async to an mbarrier that no fence.mbarrier_init has made known");
    }
    shared_memory(w, i, l, *to.block, to.offset, size, true);
    std::memset(to.block->shadow.data() + to.offset, in_flight, static_cast<size_t>(size));
    if (w.machine->loses_store()) return;
    AsyncStore s{to.block, to.offset, at.offset, {}, size, &i, w.block, {}, known};
    s.epoch = {w.clock[agent], static_cast<uint16_t>(agent), static_cast<uint8_t>(l)};
    for (int e = 0; e < n; ++e) std::memcpy(s.bytes + 4 * e, w.in(i.s[static_cast<size_t>(e) + 1]) + l, 4);
    w.machine->stores.push_back(s);
  });
}

}  // namespace

// Of a block's shared memory, from its beginning. "mbarrier": to one that was initialized, any operation but those of
// mbarriers has undefined behaviour.
char* shared_memory(Warp& w, const Instruction& i, int lane, Block& block, uint64_t offset, int size, bool write) {
  const auto bytes = static_cast<uint64_t>(size);
  if (offset % bytes != 0) fail(&w, &i, lane, "misaligned: shared offset ", offset);
  if (offset + bytes > block.shared.size()) {
    fail(&w, &i, lane, "outside shared memory: offset ", offset, " of ", block.shared.size());
  }
  uint8_t* const shadow = block.shadow.data() + offset;
  for (uint64_t b = 0; b < bytes; ++b) {
    if (shadow[b] == is_mbarrier) fail(&w, &i, lane, "touches an mbarrier at shared offset ", offset);
  }
  if (options.races) {
    for (uint64_t b = 0; b < bytes; ++b) {
      if (shadow[b] == in_flight) {
        fail(&w, &i, lane, write ? "writes" : "reads", " shared offset ", offset + b,
             ", to where an asynchronous copy or store is under way");
      }
      if (shadow[b] == unwritten && !write) {
        fail(&w, &i, lane, "reads shared offset ", offset + b, ", which was never written");
      }
    }
    check_order(w, i, lane, block, offset, size, write);
  }
  if (write) std::memset(shadow, written, bytes);
  return block.shared.data() + offset;
}

// An address in .shared, which is of the own block.
char* own_shared(Warp& w, const Instruction& i, int lane, uint64_t address, int size, bool write) {
  address = static_cast<uint32_t>(address);
  if (address < kSharedBase || address >> kRemoteShift != 0) {
    fail(&w, &i, lane, "no shared address: ", address);
  }
  return shared_memory(w, i, lane, *w.block, address - kSharedBase, size, write);
}

Handler load_from(Space space) {
  static const Handler handlers[kSpaces] = {load<generic>, load<global>, load<shared>, load<parameter>, load<local>};
  return handlers[space];
}
Handler store_to(Space space) {
  static const Handler handlers[kSpaces] = {store<generic>, store<global>, store<shared>, store<parameter>,
                                            store<local>};
  return handlers[space];
}

// An asynchronous store arrives. Whoever waits for the mbarrier may read it.
void deliver(Machine& machine, size_t store) {
  const AsyncStore s = machine.stores[store];
  machine.stores[store] = machine.stores.back();
  machine.stores.pop_back();
  Warp& any = s.block->warps[0];
  if (s.block->live_threads == 0) fail(&any, s.at, 0, "st.async comes to a block that has ended");
  std::memcpy(s.block->shared.data() + s.to, s.bytes, static_cast<size_t>(s.size));
  std::memset(s.block->shadow.data() + s.to, written, static_cast<size_t>(s.size));
  if (options.races) {
    for (uint64_t unit = s.to / 2; unit < (s.to + static_cast<uint64_t>(s.size)) / 2; ++unit) {
      s.block->writers[unit] = s.epoch;
    }
  }
  Mbarrier& b = mbarrier_at(nullptr, *s.at, 0, *s.block, s.mbarrier);
  join(b.pending_clock, *s.clock);
  if (s.from != s.block) b.remote = s.from;
  b.bytes -= s.size;
  if (b.bytes <= -(1 << 20)) fail(&any, s.at, 0, "an mbarrier gets too many bytes");
  end_phase(machine, b);
  machine.progress = machine.turns;
}

void add_memory(Opcodes& opcodes) {
  Table& t = opcodes.alone;
  // "cvta": the window of global memory is that of generic addresses.
  t["cvta.global.u64"] = t["cvta.to.global.u64"] = convert_address<true, 0>;
  t["cvta.local.u64"] = convert_address<true, kGenericLocal>;
  t["cvta.to.local.u64"] = convert_address<false, kGenericLocal>;
  t["cvta.shared.u64"] = convert_address<true, kGenericShared>;
  t["cvta.to.shared.u64"] = convert_address<false, kGenericShared>;
  t["mapa.shared::cluster.u32"] = map_address;
  t["cp.async.ca.shared.global"] = t["cp.async.cg.shared.global"] = copy_async;
  t["cp.async.commit_group"] = copy_commit;
  t["cp.async.wait_all"] = copy_wait_all;
  t["cp.async.wait_group"] = copy_wait_group;
  for (const std::string weak : {"", ".weak"}) {
    for (const std::string vector : {".b32", ".v2.b32", ".v4.b32"}) {
      t["st.async" + weak + ".shared::cluster.mbarrier::complete_tx::bytes" + vector] = store_async;
    }
  }
}

}  // namespace ptx
