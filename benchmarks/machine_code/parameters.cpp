// The parameters of a persistent kernel as the driver puts them into constant memory: one tile of a full batch, one
// direction, all sequences of the same length, pairs and rows aligned; training: gates are saved, every gradient is
// asked for.
//
//     parameters fwd|bwd steps rows H          writes the bytes of the struct
//
// No address is ever followed; each tensor has 4 GB to itself.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/params.h"

namespace gru_ext {
namespace {

// Pointers of a struct do not depend on what they point to.
using scalar_t = float;

template <typename T>
void place(T*& pointer) {
  static uintptr_t next = 0;
  next += uintptr_t{1} << 32;
  pointer = reinterpret_cast<T*>(next);
}

template <typename T>
void place(StepRows<T>& tensor, int64_t values, int64_t rows) {
  place(tensor.data);
  tensor.row_stride = values;
  tensor.step_stride = values * rows;
}

template <typename Parameters>
void place_common(Parameters& p, int steps, int rows, int H) {
  p.T = steps, p.B = rows, p.H = H, p.D = p.E = 1;
  p.N = int64_t{steps} * rows;
  p.paired = p.aligned = true;
  place(p.weight_hh[0]);
  place(p.h0);
  place(p.y, H, rows);
  place(p.gates);
  place(p.packets);
  place(p.error);
  p.wait_limit = 1 << 20;
}

void write(int steps, int rows, int H, PersistentFwdParams<scalar_t>& p) {
  place_common(p, steps, rows, H);
  place(p.a_x[0], 3 * H, rows);
  place(p.bias_hh[0]);
  place(p.h_n);
}

void write(int steps, int rows, int H, PersistentBwdParams<scalar_t>& p) {
  place_common(p, steps, rows, H);
  place(p.dy, H, rows);
  place(p.dh_n);
  place(p.dgates[0], 4 * H, rows);
  place(p.dh0);
  place(p.dbias);
  place(p.h_prev[0], H, rows);
}

template <typename Parameters>
int print(int steps, int rows, int H) {
  Parameters p = {};
  write(steps, rows, H, p);
  return std::fwrite(&p, sizeof p, 1, stdout) == 1 ? 0 : 1;
}

}  // namespace
}  // namespace gru_ext

int main(int count, char** arguments) {
  using namespace gru_ext;
  if (count != 5) return 2;
  const int steps = std::atoi(arguments[2]), rows = std::atoi(arguments[3]), H = std::atoi(arguments[4]);
  return std::strcmp(arguments[1], "fwd") == 0 ? print<PersistentFwdParams<scalar_t>>(steps, rows, H)
                                               : print<PersistentBwdParams<scalar_t>>(steps, rows, H);
}
