// Prints what kernel_tables.py cannot know: of every instantiation of the persistent kernels, a line with its pass,
// whether it is a group, operand, H, C, rows, warps, tiles in registers, bytes of shared memory and of weights there,
// and microseconds of a step by the time model. Of the streamed kernels: pass, "streamed", operand, the numbers of the
// instantiation, and for some H of which an H200 runs the blocks, H, streamed bytes and microseconds of a step.
//
// Called with a device's multiprocessors and the shared memory that a block may have there, in bytes, it prints instead
// a line for each streamed kernel: pass, operand, and the largest H that the device can serve, or 0.
#include <cstdio>
#include <cstdlib>

#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/cluster/configs.h"
#include "cuda/persistent/group/configs.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "cuda/persistent/held_entry.h"
#include "cuda/persistent/held_time.h"
#include "cuda/persistent/streamed/configs.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"
#include "cuda/persistent/streamed/streamed_time.h"

namespace {

using namespace gru_ext;
using namespace gru_ext::device;

int device_multiprocessors = 0, device_shared_bytes = 0;  // 0: not called with a device

template <typename Traits>
void print(Pass pass, const char* operand) {
  if (device_multiprocessors > 0) return;
  int packet_bytes = 0;
  if constexpr (Traits::kExchange == Exchange::packets) packet_bytes = Traits::kPacketBytes;
  const bool is_float = sizeof(typename Traits::T) == 4;
  const HeldEntry entry = held_entry<Traits>(packet_bytes, /*resident=*/nullptr);
  std::printf("%s %s %s %d %d %d %d %d %d %d %.9f\n", pass == Pass::forward ? "fwd" : "bwd",
              packet_bytes > 0 ? "group" : "cluster", operand, entry.hidden, entry.blocks, entry.rows, Traits::kWarps,
              Traits::kRegisterTiles, Traits::kSharedBytes, entry.overflow_bytes,
              1e6 * step_cycles(entry, pass, is_float) / kAssumedClockRate);
}

template <typename Traits>
void print_largest(Pass pass, const char* operand) {
  int H = device_multiprocessors * Traits::kUnits;
  while (H > 0 && streamed_shape<Traits>(H, device_shared_bytes).shared_bytes == 0) H -= Traits::kUnits;
  std::printf("%s %s %d\n", pass == Pass::forward ? "fwd" : "bwd", operand, H);
}

template <typename Traits>
void print_streamed(Pass pass, const char* operand) {
  if (device_multiprocessors > 0) return print_largest<Traits>(pass, operand);
  constexpr int kMultiprocessors = 132, kMostSharedBytes = 227 * 1024;  // of an H200
  constexpr bool is_float = sizeof(typename Traits::T) == 4;
  std::printf("%s streamed %s %d %d %d %d %d %d %d %d", pass == Pass::forward ? "fwd" : "bwd", operand, Traits::kUnits,
              Traits::kRows, Traits::kSlices, Traits::kParts, Traits::kRegisterSlabs, Traits::kWeightStages,
              Traits::kOperandStages, Traits::kGates);
  for (const int H : {1024, 2048, 2816, 4096}) {
    const StreamedShape shape = streamed_shape<Traits>(H, kMostSharedBytes);
    if (shape.blocks > kMultiprocessors) continue;
    std::printf(" %d %lld %.9f", H, static_cast<long long>(shape.weight_bytes),
                1e6 * streamed_step_seconds(Traits::kUnits, Traits::kRows, shape, H, pass, is_float, /*directions=*/1,
                                            kAssumedClockRate));
  }
  std::printf("\n");
}

}  // namespace

#define STREAMED_FWD(...) print_streamed<GruStreamedFwdTraits<Name, __VA_ARGS__>>(Pass::forward, name);
#define STREAMED_BWD(...) print_streamed<GruStreamedBwdTraits<Name, __VA_ARGS__>>(Pass::backward, name);
#define CLUSTER_FWD(...) print<GruClusterFwdTraits<Name, __VA_ARGS__>>(Pass::forward, name);
#define CLUSTER_BWD(...) print<GruClusterBwdTraits<Name, __VA_ARGS__>>(Pass::backward, name);
#define GROUP_FWD(...) print<GruClusterFwdTraits<Name, __VA_ARGS__, Exchange::packets>>(Pass::forward, name);
#define GROUP_BWD(...) print<GruGroupBwdTraits<Name, __VA_ARGS__>>(Pass::backward, name);
#define HELD(kind)                                                                                        \
  GRU_CLUSTER_FWD_##kind(CLUSTER_FWD) GRU_GROUP_FWD_##kind(GROUP_FWD) GRU_CLUSTER_BWD_##kind(CLUSTER_BWD) \
      GRU_GROUP_BWD_##kind(GROUP_BWD)
#define STREAMED(kind) GRU_STREAMED_FWD_##kind(STREAMED_FWD) GRU_STREAMED_BWD_##kind(STREAMED_BWD)
#define OF_OPERAND(operand, kernels)   \
  {                                    \
    using Name = operand;              \
    const char* const name = #operand; \
    kernels                            \
  }

int main(int argc, char** argv) {
  if (argc == 3) {
    device_multiprocessors = std::atoi(argv[1]);
    device_shared_bytes = std::atoi(argv[2]);
  }
  OF_OPERAND(bfloat16, HELD(16BIT) STREAMED(16BIT))
  OF_OPERAND(float, HELD(TF32) STREAMED(TF32))
  OF_OPERAND(ieee, HELD(IEEE))
}
