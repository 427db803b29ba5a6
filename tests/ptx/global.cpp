// Global memory: what there is of it, and in which order warps may touch it.
#include <algorithm>

#include "machine.h"

namespace ptx {

namespace {

struct Extent {
  uintptr_t begin, end;
  bool writable;
};
std::vector<Extent> extents;  // by address

bool begins_before(uintptr_t address, const Extent& extent) { return address < extent.begin; }

GlobalPage& page_of(Machine& m, uint64_t unit) {
  const uint64_t number = unit / GlobalPage::kUnits;
  if (number != m.last_page_number) {
    std::unique_ptr<GlobalPage>& page = m.pages[number];
    if (!page) page = std::make_unique<GlobalPage>();
    m.last_page = page.get();
    m.last_page_number = number;
  }
  return *m.last_page;
}

Scope scope_of(const Epoch& e) { return static_cast<Scope>(e.strength >> 5); }

// The block of a warp of this warp's clock.
const Block& block_of(const Warp& w, int warp) {
  const size_t block = static_cast<size_t>(warp) / w.block->warps.size();
  return w.machine->launch.cooperative ? *w.machine->blocks[block] : *w.block->cluster->blocks[block];
}

// "Memory Consistency Model": conflicting operations are in order by causality, or morally strong: strong, each of a
// scope that includes the other's thread, and of the same bytes.
struct Order {
  Warp& w;
  const Instruction& i;
  int lane;
  bool write, changes;  // changes: whether a write stores other bytes than are there
  uint8_t strength;

  // Whether warps of that cluster are in the clock of this one.
  bool in_clock(uint32_t cluster) const {
    return cluster == static_cast<uint32_t>(w.block->cluster->index) || w.machine->launch.cooperative;
  }
  bool known(const Epoch& e, uint32_t cluster) const { return in_clock(cluster) && w.knows(lane, e); }
  bool morally_strong(const Epoch& e, uint32_t cluster) const {
    if (strength == 0 || (e.strength & 31) != (strength & 31)) return false;
    if (!in_clock(cluster)) return scope_of(e) >= Scope::gpu && i.order.scope >= Scope::gpu;
    const Block& other = block_of(w, e.warp);
    return includes(scope_of(e), other, *w.block) && includes(i.order.scope, *w.block, other);
  }
  void require(const Epoch& e, uint32_t cluster, uint64_t unit, const char* what) const {
    if (e.at == 0 || known(e, cluster) || morally_strong(e, cluster)) return;
    std::string by = "another cluster";
    if (in_clock(cluster)) {
      by = "block " + std::to_string(block_of(w, e.warp).index) + " warp " +
           std::to_string(e.warp % w.block->warps.size());
      if (e.warp == w.self) by = "another lane of its warp";
    }
    fail(&w, &i, lane, "race: ", write ? "writes" : "reads", " global memory at ", 2 * unit, ", which ", by, " has ",
         what, ", and nothing orders them");
  }

  // Warps may write the same bytes without an order, and each may then read them as its own.
  void check_writers(uint64_t unit, Epoch& writer, uint32_t cluster) const {
    std::vector<Epoch> several;
    if (writer.at != 0 && writer.strength == kAgreed) several = w.machine->agreed[unit];
    const Epoch* const begin = several.empty() ? &writer : several.data();
    const Epoch* const end = begin + std::max<size_t>(1, several.size());
    if (write && changes) {
      for (const Epoch* e = begin; e != end; ++e) require(*e, cluster, unit, "written");
    } else if (!write) {
      if (std::none_of(begin, end, [&](const Epoch& e) { return known(e, cluster); })) {
        require(*begin, cluster, unit, "written");
      }
      const auto unfenced = [&](const Epoch& e) {
        return e.at != 0 && e.warp == w.self && e.at >= w.fenced && e.at > w.acquired[static_cast<size_t>(w.self)];
      };
      if (i.is_async && std::any_of(begin, end, unfenced)) {
        fail(&w, &i, lane, "copies asynchronously what it has stored itself, with no fence between");
      }
    }
  }

  void check(uint64_t unit) const {
    Machine& m = *w.machine;
    GlobalPage& page = page_of(m, unit);
    const size_t u = unit % GlobalPage::kUnits;
    Epoch& writer = page.writer[u];
    Epoch& reader = page.reader[u];
    check_writers(unit, writer, page.writing_cluster[u]);
    const Epoch self = w.now(lane, strength);
    const auto cluster = static_cast<uint32_t>(w.block->cluster->index);
    if (write && !changes) {
      if (writer.at == 0 || known(writer, page.writing_cluster[u])) {
        writer = self;
      } else {
        std::vector<Epoch>& all = m.agreed[unit];
        if (writer.strength != kAgreed) all = {writer};
        all.push_back(self);
        writer.strength = kAgreed;
      }
      page.writing_cluster[u] = cluster;
    } else if (write) {
      if (reader.at != 0 && reader.warp == kManyWarps) {
        const auto several = m.readers.find(unit);
        for (const Epoch& e : several->second) require(e, page.reading_cluster[u], unit, "read");
        m.readers.erase(several);
      } else {
        require(reader, page.reading_cluster[u], unit, "read");
      }
      reader = {};
      writer = self;
      page.writing_cluster[u] = cluster;
    } else if (strength == 0) {
      if (reader.at != 0 && reader.warp == kManyWarps) {
        for (Epoch& e : m.readers[unit]) {
          if (e.warp != w.self) continue;
          e = self;
          return;
        }
        m.readers[unit].push_back(self);
      } else if (reader.at != 0 && (reader.warp != w.self || page.reading_cluster[u] != cluster)) {
        m.readers[unit] = {reader, self};
        reader.warp = kManyWarps;
      } else {
        const bool several = reader.at == self.at && reader.lane != lane;
        reader = self;
        if (several) reader.lane = kSeveral;
      }
      page.reading_cluster[u] = cluster;
    }
  }
};

// "Release and Acquire Patterns".
void note_release(Warp& w, const Instruction& i, int lane, uint64_t address) {
  Machine& m = *w.machine;
  if (i.order.release) {
    m.released[address] = {w.known_to(lane), w.block, i.order.scope};
    ++w.clock[w.self];
  } else if (i.order.strong && w.fence.clock) {
    m.released[address] = {w.fence.clock, w.block, std::min(w.fence.scope, i.order.scope)};
  } else if (!m.released.empty()) {
    m.released.erase(address);
  }
}
void note_acquire(Warp& w, const Instruction& i, int lane, uint64_t address) {
  const auto found = w.machine->released.find(address);
  if (found == w.machine->released.end()) return;
  const Release& r = found->second;
  if (!i.order.acquire) {
    if (w.seen.empty() || w.seen.back().clock != r.clock)
      w.seen.push_back({r.clock, r.block, std::min(r.scope, i.order.scope)});
    return;
  }
  if (!includes(r.scope, *r.block, *w.block) || !includes(i.order.scope, *w.block, *r.block)) {
    fail(&w, &i, lane, "acquires what block ", r.block->index,
         " has released, and the scope of one of them does not include the other");
  }
  join(w.clock, *r.clock);
  join(w.acquired, *r.clock);
}

}  // namespace

void adopt(const void* p, size_t bytes, bool writable) {
  if (bytes == 0) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  extents.insert(std::upper_bound(extents.begin(), extents.end(), begin, begins_before),
                 {begin, begin + bytes, writable});
}

void forget(const void* p) {
  const auto after = std::upper_bound(extents.begin(), extents.end(), reinterpret_cast<uintptr_t>(p), begins_before);
  if (after != extents.begin() && (after - 1)->begin == reinterpret_cast<uintptr_t>(p)) extents.erase(after - 1);
}

void forget_all() { extents.clear(); }

bool includes(Scope scope, const Block& by, const Block& other) {
  return scope >= Scope::gpu || &by == &other || (scope == Scope::cluster && by.cluster == other.cluster);
}

// Checks the access, and notes it for those to come. `size`: of all elements.
char* global_memory(Warp& w, const Instruction& i, int lane, uint64_t address, int size, bool write) {
  if (i.extent >= extents.size() || address < extents[i.extent].begin || address + size > extents[i.extent].end) {
    const auto after = std::upper_bound(extents.begin(), extents.end(), address, begins_before);
    auto found = after;  // arrays may be parts of others
    while (found != extents.begin() && address + size > (found - 1)->end) --found;
    if (found == extents.begin()) {
      std::string near;
      if (after != extents.begin()) {
        near = ", " + std::to_string(address - (after - 1)->begin) + " bytes after the start of an array of " +
               std::to_string((after - 1)->end - (after - 1)->begin);
      }
      fail(&w, &i, lane, "outside global memory: ", address, near);
    }
    i.extent = static_cast<size_t>(found - 1 - extents.begin());
  }
  if (address % size != 0) fail(&w, &i, lane, "misaligned: global address ", address);
  if (write && !extents[i.extent].writable) fail(&w, &i, lane, "writes to an input");
  if (!extents[i.extent].writable) return reinterpret_cast<char*>(address);
  if (options.races) {
    const auto strength = static_cast<uint8_t>(i.order.strong ? static_cast<int>(i.order.scope) << 5 | i.size : 0);
    const bool changes = w.storing == nullptr ||
                         std::memcmp(w.storing, reinterpret_cast<const void*>(address), static_cast<size_t>(size)) != 0;
    const Order order{w, i, lane, write, changes, strength};
    for (uint64_t unit = address / 2; unit < (address + size + 1) / 2; ++unit) order.check(unit);
  }
  if (write) {
    w.lanes[lane].wrote = w.clock[w.self];
    note_release(w, i, lane, address);
  } else if (i.order.strong) {
    note_acquire(w, i, lane, address);
  }
  return reinterpret_cast<char*>(address);
}

}  // namespace ptx
