// The kernels' table, once. Each kernels_*.cpp selects an instruction set, defines GRU_VECTOR_BYTES and
// GRU_VECTOR_REGISTERS of its vectors and GRU_KERNELS (the name of its table), and includes this file last.

#include "pack_body.h"
#include "recurrence_body.h"

namespace gru_ext {

template <typename scalar_t>
Kernels<scalar_t> GRU_KERNELS() {
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  constexpr int columns = kPanelVectors * lanes;
  return {lanes, columns, pack_gates<acc_t>, pack_columns<acc_t, columns>, fwd_chunk<scalar_t>, bwd_chunk<scalar_t>};
}
template Kernels<float> GRU_KERNELS();
template Kernels<double> GRU_KERNELS();
template Kernels<c10::BFloat16> GRU_KERNELS();
template Kernels<c10::Half> GRU_KERNELS();

}  // namespace gru_ext
