// The streamed family: persistent kernels whose weights need not fit on the multiprocessors; those that do not are read
// again every step.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "cuda/persistent/device_facts.h"
#include "cuda/persistent/persistent.h"
#include "cuda/persistent/streamed/streamed_time.h"
#include "cuda/stepwise/stepwise.h"

namespace gru_ext {
namespace {

// The largest H that is tested, if there is the shared memory for it. The emulated tests make it small.
#if defined(GRU_EXT_SELF_TEST_UNITS)
constexpr int64_t kMostTestedUnits = GRU_EXT_SELF_TEST_UNITS;
#else
constexpr int64_t kMostTestedUnits = 2048;
#endif

template <typename Parameters>
class StreamedKernel final : public PersistentKernel {
 public:
  using Entry = Launched<StreamedEntry, Parameters>;
  StreamedKernel(const Family& family, Pass pass, const Entry& entry)
      : PersistentKernel(family, pass, entry), entry_(entry) {}

  std::string name() const override {
    return words("streamed_U%d_rows%d%s", entry_.units, entry_.rows, entry_.masks ? "_masked" : "");
  }
  int64_t most_hidden() const override { return std::numeric_limits<int>::max(); }  // the device sets it
  bool is_for_masks() const override { return entry_.masks; }
  int64_t blocks(int64_t H) const override { return (H + entry_.units - 1) / entry_.units; }
  int at_a_time(int resident, int64_t H) const override { return static_cast<int>(resident / blocks(H)); }
  bool has_shared_memory(int64_t H) const override { return shape(H).shared_bytes > 0; }

  double seconds(const KernelQuery& query, int at_a_time, double clock_rate) const override {
    const int64_t groups = clusters(query);
    const int directions = static_cast<int>(std::min<int64_t>({query.members * query.D, groups, at_a_time}));
    const double of_step =
        streamed_step_seconds(entry_.units, entry_.rows, shape(query.H), static_cast<double>(query.H), pass(),
                              query.dtype == at::kFloat, directions, clock_rate);
    return kClusterSeconds + static_cast<double>(rounds(query, at_a_time)) *
                                 (directions * bytes_of_weights(query) / kLoadBytes + query.T * of_step);
  }

  int64_t most_tested() const override {
    int64_t most = std::min(kMostTestedUnits, int64_t{resident_of(entry_)} * entry_.units);
    while (most > entry_.units && !has_shared_memory(most)) most -= entry_.units;
    return most;
  }

  ExchangeMemory exchange_memory(const Sequence& s, const at::Device& device) const override {
    const auto options = at::TensorOptions(device).dtype(at::kByte);
    const StreamedShape of_group = shape(s.H);
    const int64_t groups = s.layers() * tiles(s.B);
    const int64_t groups_at_a_time = std::min<int64_t>(groups, resident_of(entry_) / of_group.blocks);
    const int64_t operand_bytes = groups_at_a_time * of_group.operand_bytes;
    const int64_t flag_bytes = groups * of_group.blocks * static_cast<int64_t>(sizeof(uint32_t));
    ExchangeMemory memory;
    memory.groups_at_a_time = static_cast<int>(groups_at_a_time);
    memory.zeros = at::zeros({operand_bytes + flag_bytes}, options);
    memory.weights = at::empty({s.layers() * of_group.weight_bytes}, options);
    uint8_t* const operand = memory.zeros.data_ptr<uint8_t>();
    memory.streamed.blocks = of_group.blocks;
    memory.streamed.slabs = of_group.slabs;
    memory.streamed.shared_slabs = of_group.shared_slabs;
    memory.streamed.flags = reinterpret_cast<uint32_t*>(operand + operand_bytes);
    memory.streamed.operand = reinterpret_cast<device::u32x4*>(operand);
    memory.streamed.weights = reinterpret_cast<device::u32x4*>(memory.weights.data_ptr<uint8_t>());
    return memory;
  }

  const char* launch(const void* parameters, Stream stream) const override {
    return entry_.launch(*static_cast<const Parameters*>(parameters), stream);
  }

 private:
  StreamedShape shape(int64_t H) const { return entry_.shape(static_cast<int>(H)); }

  const Entry& entry_;
};

class StreamedFamily final : public PersistentFamily {
 public:
  StreamedFamily() : PersistentFamily("streamed") {
    add_all<device::bfloat16>(at::kBFloat16);
    add_all<device::float16>(at::kHalf);
    add_all<float>(at::kFloat);
  }

 private:
  template <typename scalar_t>
  void add_all(at::ScalarType dtype) {
    add_kernels<StreamedKernel<PersistentFwdParams<scalar_t>>>(Pass::forward, dtype, streamed_fwd_entries<scalar_t>());
    add_kernels<StreamedKernel<PersistentBwdParams<scalar_t>>>(Pass::backward, dtype, streamed_bwd_entries<scalar_t>());
  }
};

}  // namespace

const Family& streamed_family() {
  static const StreamedFamily family;
  return family;
}

}  // namespace gru_ext
