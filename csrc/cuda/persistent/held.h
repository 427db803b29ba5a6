// Kernels whose blocks hold all of R, in a cluster or a group, as the choice knows them.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "cuda/persistent/device_facts.h"
#include "cuda/persistent/held_time.h"
#include "cuda/persistent/persistent.h"

namespace gru_ext {

template <typename Parameters>
class HeldKernel final : public PersistentKernel {
 public:
  using Entry = Launched<HeldEntry, Parameters>;
  HeldKernel(const Family& family, Pass pass, const Entry& entry)
      : PersistentKernel(family, pass, entry), entry_(entry) {}

  std::string name() const override {
    return words("%s_H%d_C%d_rows%d%s", family().name(), entry_.hidden, entry_.blocks, entry_.rows,
                 entry_.ieee ? "_ieee" : "");
  }
  int64_t most_hidden() const override { return entry_.hidden; }
  int64_t blocks(int64_t) const override { return entry_.blocks; }

  double seconds(const KernelQuery& query, int at_a_time, double clock_rate) const override {
    const auto steps = static_cast<double>(rounds(query, at_a_time) * query.T);
    return kClusterSeconds + steps * step_cycles(entry_, pass(), query.dtype == at::kFloat) / clock_rate;
  }

  ExchangeMemory exchange_memory(const Sequence& s, const at::Device& device) const override {
    ExchangeMemory memory;
    if (entry_.packet_bytes == 0) return memory;
    memory.groups_at_a_time = resident_of(entry_);
    memory.zeros =
        at::zeros({s.layers() * tiles(s.B) * entry_.packet_bytes}, at::TensorOptions(device).dtype(at::kByte));
    memory.packets = memory.zeros.data_ptr();
    return memory;
  }

  const char* launch(const void* parameters, Stream stream) const override {
    return entry_.launch(*static_cast<const Parameters*>(parameters), stream);
  }

 private:
  const Entry& entry_;
};

class HeldFamily : public PersistentFamily {
 public:
  using PersistentFamily::PersistentFamily;

 protected:
  template <typename scalar_t>
  void add(at::ScalarType dtype, const HeldFwdEntries<scalar_t>& fwd, const HeldBwdEntries<scalar_t>& bwd) {
    add_kernels<HeldKernel<PersistentFwdParams<scalar_t>>>(Pass::forward, dtype, fwd);
    add_kernels<HeldKernel<PersistentBwdParams<scalar_t>>>(Pass::backward, dtype, bwd);
  }
};

}  // namespace gru_ext
