// The parameters of a persistent kernel as the driver puts them into constant memory: one tile of a full batch, one
// direction, all sequences of the same length, pairs and rows aligned; training: gates are saved, every gradient is
// asked for. Members have weights and an input of their own.
//
//     parameters fwd|bwd steps rows H members                      writes the bytes of the struct
//     parameters fwd|bwd steps rows H members 16BIT|TF32 X...      the same, of the streamed kernel with these numbers
//                                                                  of configs.h
//
// No address is ever followed; each tensor has 4 GB to itself.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/params.h"
#include "cuda/persistent/streamed/configs.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"

namespace gru_ext {
namespace {

constexpr int kMostSharedBytes = 227 * 1024;  // of a block, on sm_90

// Pointers of a struct do not depend on what they point to.
using scalar_t = float;

struct Call {
  int steps, rows, H, members;
  StreamedShape shape;  // of a streamed kernel; else of no blocks
};

template <typename T>
void place(T*& pointer) {
  static uintptr_t next = 0;
  next += uintptr_t{1} << 32;
  pointer = reinterpret_cast<T*>(next);
}

template <typename T>
void place(StepRows<T>& tensor, const Call& call, int64_t values) {
  place(tensor.data);
  tensor.row_stride = values;
  tensor.step_stride = values * call.rows;
  tensor.member_steps = call.members > 1 ? call.steps : 0;
}

template <typename Parameters>
void place_common(Parameters& p, const Call& call) {
  p.T = call.steps, p.B = call.rows, p.H = call.H, p.D = 1, p.E = call.members;
  p.N = int64_t{call.steps} * call.rows;
  p.paired = p.aligned = true;
  place(p.weight_hh[0]);
  p.weight_stride[0] = call.members > 1 ? int64_t{3} * call.H * call.H : 0;
  place(p.h0);
  place(p.y, call, call.H);
  place(p.gates);
  place(p.packets);
  place(p.error);
  p.wait_limit = 1 << 20;
  if (call.shape.blocks == 0) return;
  p.streamed.blocks = call.shape.blocks;
  p.streamed.slabs = call.shape.slabs;
  p.streamed.shared_slabs = call.shape.shared_slabs;
  place(p.streamed.flags);
  place(p.streamed.operand);
  place(p.streamed.weights);
}

void write(const Call& call, PersistentFwdParams<scalar_t>& p) {
  place_common(p, call);
  place(p.a_x[0], call, 3 * call.H);
  place(p.bias_hh[0]);
  place(p.h_n);
}

void write(const Call& call, PersistentBwdParams<scalar_t>& p) {
  place_common(p, call);
  place(p.dy, call, call.H);
  place(p.dh_n);
  place(p.dgates[0], call, 4 * call.H);
  place(p.dh0);
  place(p.dbias);
  place(p.h_prev[0], call, call.H);
}

template <typename Parameters>
int print(const Call& call) {
  Parameters p = {};
  write(call, p);
  return std::fwrite(&p, sizeof p, 1, stdout) == 1 ? 0 : 1;
}

// Of the streamed kernel of that pass and list with these numbers; of no blocks where there is none, or too little
// shared memory.
StreamedShape shape_of(bool forward, bool is_float, const std::vector<int>& numbers, int H) {
  StreamedShape found{};
#define GRU_SHAPE(Traits, Name, ...)                                                                            \
  if (numbers == std::vector<int>{__VA_ARGS__}) {                                                               \
    const StreamedShape shape = device::streamed_shape<device::Traits<Name, __VA_ARGS__>>(H, kMostSharedBytes); \
    if (shape.shared_bytes > 0) found = shape;                                                                  \
  }
#define GRU_FWD_16BIT(...) GRU_SHAPE(GruStreamedFwdTraits, device::bfloat16, __VA_ARGS__)
#define GRU_BWD_16BIT(...) GRU_SHAPE(GruStreamedBwdTraits, device::bfloat16, __VA_ARGS__)
#define GRU_FWD_TF32(...) GRU_SHAPE(GruStreamedFwdTraits, float, __VA_ARGS__)
#define GRU_BWD_TF32(...) GRU_SHAPE(GruStreamedBwdTraits, float, __VA_ARGS__)
  if (forward && !is_float) {
    GRU_STREAMED_FWD_16BIT(GRU_FWD_16BIT)
  } else if (!forward && !is_float) {
    GRU_STREAMED_BWD_16BIT(GRU_BWD_16BIT)
  } else if (forward) {
    GRU_STREAMED_FWD_TF32(GRU_FWD_TF32)
  } else {
    GRU_STREAMED_BWD_TF32(GRU_BWD_TF32)
  }
  return found;
}

}  // namespace
}  // namespace gru_ext

int main(int count, char** arguments) {
  using namespace gru_ext;
  if (count < 6) return 2;
  const bool forward = std::strcmp(arguments[1], "fwd") == 0;
  Call call{std::atoi(arguments[2]), std::atoi(arguments[3]), std::atoi(arguments[4]), std::atoi(arguments[5]), {}};
  if (count > 6) {
    std::vector<int> numbers;
    for (int i = 7; i < count; ++i) numbers.push_back(std::atoi(arguments[i]));
    call.shape = shape_of(forward, std::strcmp(arguments[6], "TF32") == 0, numbers, call.H);
    if (call.shape.blocks == 0) {
      std::fprintf(stderr, "no streamed kernel of these numbers for H = %d\n", call.H);
      return 1;
    }
  }
  return forward ? print<PersistentFwdParams<scalar_t>>(call) : print<PersistentBwdParams<scalar_t>>(call);
}
