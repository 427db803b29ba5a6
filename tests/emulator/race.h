// Which accesses to shared memory are ordered by barriers, by vector clocks.
//
// An actor is a thread of a cluster, or the asynchronous stores that report to one of its mbarriers. Its time is cut
// into epochs; a thread begins a new one whenever it lets others know what it did: at a barrier, an arrival, or as it
// starts an asynchronous store. A Clock says for every actor up to which epoch its accesses are known. Passing a
// barrier is to know what all knew who arrived. Two accesses to the same byte race when one is a write, and whoever
// makes the later one does not know of the earlier one. Flanagan and Freund, "FastTrack: efficient and precise dynamic
// race detection", PLDI 2009.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

namespace gru_ext::emulator {

using Clock = std::vector<uint32_t>;  // by actor; 0 for nothing

constexpr uint32_t kNobody = ~0u;

// What an actor knows at some time: `known`, and itself up to `epoch`.
struct Moment {
  const Clock* known;
  uint32_t actor, epoch;
};

struct Access {
  uint32_t actor = kNobody, epoch = 0;
  int16_t step = 0;  // of long sequences too little: it is for reports alone
  uint16_t line = 0;

  bool is_known_at(const Moment& moment) const {
    return actor == kNobody || (actor == moment.actor ? epoch <= moment.epoch : epoch <= (*moment.known)[actor]);
  }
};

// What arrived at a barrier so far.
class Gathering {
 public:
  void add(const Moment& moment);
  void add(uint32_t actor, uint32_t epoch, size_t actors);
  Clock take();  // and forgets

 private:
  Clock sum_;
  const Clock* last_ = nullptr;  // the clock added last: most who meet at a barrier come with the same
};

// The clocks of a launch; they live as long as it does.
class Clocks {
 public:
  const Clock* keep(Clock clock);
  const Clock* joined(const Clock* a, const Clock* b);

 private:
  std::deque<Clock> kept_;
  std::map<std::pair<const Clock*, const Clock*>, const Clock*> joined_;
};

// The accesses that matter to the shared memory of a block: of every cell the last write, and the reads since then. A
// cell is as many bytes as every access so far has had all or nothing of, but two at least.
class AccessHistory {
 public:
  explicit AccessHistory(size_t bytes) : cells_((bytes + kMostBytes - 1) / kMostBytes) {}

  enum class Finding { none, race_with_read, race_with_write, never_written };
  struct Report {
    Finding finding = Finding::none;
    size_t byte = 0;
    Access other;
  };
  Report read(size_t begin, size_t bytes, const Access& access, const Moment& moment);
  // `access` may be of another actor than `moment`: an asynchronous store, and who starts it.
  Report write(size_t begin, size_t bytes, const Access& access, const Moment& moment);

 private:
  static constexpr size_t kMostBytes = 16, kLeastBytes = 2;
  struct Cell {
    Access write;
    Access read;        // the last one
    uint32_t more = 0;  // in more_reads_: others that are not known to it; 0 for none
  };
  void halve_cells();

  size_t cell_bytes_ = kMostBytes;
  std::vector<Cell> cells_;  // as small as they come: there are 100,000 of a block, and what they take is cache misses
  std::vector<std::vector<Access>> more_reads_ = {{}};
};

}  // namespace gru_ext::emulator
