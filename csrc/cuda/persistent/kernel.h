// A persistent kernel as the choice knows it: what families of them have in common, and what they differ in.
//
// Its blocks keep the recurrent weights where they need them, in one launch for all time steps, and share out a tile of
// rows of the batch: a cluster or a group of blocks, for each tile of each direction of each member. `at a time` is how
// many of these the device runs.
#pragma once

#include "cuda/choice/family.h"
#include "cuda/persistent/entry.h"

namespace gru_ext {

// How many groups a launch has, and what they exchange by and stream from, for as long as this lives; nothing for
// clusters.
struct ExchangeMemory {
  int groups_at_a_time = 0;
  StreamedShare streamed{};
  void* packets = nullptr;
  at::Tensor zeros, weights;
};

class PersistentKernel : public Kernel {
 public:
  PersistentKernel(const Family& family, Pass pass, const PersistentEntry& entry)
      : family_(family), pass_(pass), entry_(entry) {}

  const Family& family() const override { return family_; }

  std::optional<FwdResult> run(const FwdCall& call, const char*& error) const override;
  std::optional<BwdResult> run(const BwdCall& call, const char*& error) const override;
  // Masks are those of a layer.
  bool takes_members() const override { return !is_for_masks(); }
  bool is_tested_first() const override { return true; }
  TestSize test_size() const override;
  std::string how(const KernelQuery& query, const Candidate& candidate) const override;

  Pass pass() const { return pass_; }
  const PersistentEntry& entry() const { return entry_; }
  int64_t tiles(int64_t B) const { return (B + entry_.rows - 1) / entry_.rows; }
  // Clusters or groups of a call: of every member, direction and tile.
  int64_t clusters(const KernelQuery& query) const { return query.members * query.D * tiles(query.B); }
  // How often the device works through as many of them as it runs at a time.
  int64_t rounds(const KernelQuery& query, int at_a_time) const {
    return (clusters(query) + at_a_time - 1) / at_a_time;
  }

  // The largest H that the kernel was compiled for.
  virtual int64_t most_hidden() const = 0;
  virtual bool is_for_masks() const { return false; }
  // Of a cluster or group.
  virtual int64_t blocks(int64_t H) const = 0;
  // Of what PersistentEntry::resident says.
  virtual int at_a_time(int resident, int64_t) const { return resident; }
  virtual bool has_shared_memory(int64_t) const { return true; }
  virtual double seconds(const KernelQuery& query, int at_a_time, double clock_rate) const = 0;
  // The largest H to be tested with.
  virtual int64_t most_tested() const { return most_hidden(); }

  virtual ExchangeMemory exchange_memory(const Sequence& s, const at::Device& device) const = 0;
  // `parameters`: of the kernel's pass and dtype. Returns null, or what went wrong.
  virtual const char* launch(const void* parameters, Stream stream) const = 0;

 private:
  const Family& family_;
  const Pass pass_;
  const PersistentEntry& entry_;
};

}  // namespace gru_ext
