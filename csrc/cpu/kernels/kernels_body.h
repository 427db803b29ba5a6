// The tables of kernels, once. Each kernels_*.cpp selects an instruction set, defines GRU_VECTOR_BYTES and
// GRU_VECTOR_REGISTERS of its vectors (and GRU_MULTIPLIES_BF16 where it does), includes this file last, and
// instantiates the tables it provides with GRU_KERNELS.

#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/recurrence_body.h"

namespace gru_ext {
namespace {

template <typename scalar_t, typename operand_t>
constexpr auto words_of_rows() -> decltype(FwdKernels<scalar_t, operand_t>::to_words) {
  if constexpr (kTakesWords<scalar_t, operand_t>) return to_words;
  return nullptr;
}

template <typename scalar_t, typename operand_t>
FwdKernels<scalar_t, operand_t> make_fwd_kernels() {
  using acc_t = acc_type<scalar_t>;
  return {VectorMath<acc_t>::lanes,
          pack_units<acc_t, scalar_t, operand_t>,
          to_operands<acc_t, scalar_t, operand_t>,
          to_operands<acc_t, acc_t, operand_t>,
          words_of_rows<scalar_t, operand_t>(),
          multiply_input_share<scalar_t, operand_t>,
          fwd_chunk<scalar_t, operand_t, false>,
          fwd_chunk<scalar_t, operand_t, true>};
}

template <typename scalar_t, typename operand_t>
BwdKernels<scalar_t, operand_t> make_bwd_kernels() {
  using acc_t = acc_type<scalar_t>;
  return {kPanelColumns<acc_t>,           PackedColumns<acc_t, operand_t>::kMost, pack_columns<scalar_t, operand_t>,
          pack_rows<scalar_t, operand_t>, bwd_chunk<scalar_t, operand_t, false>,  bwd_chunk<scalar_t, operand_t, true>,
          products<scalar_t, operand_t>,  gradients<scalar_t, operand_t>};
}

}  // namespace
}  // namespace gru_ext

#define GRU_KERNELS_OF(isa, scalar_t, operand_t)        \
  template <>                                           \
  FwdKernels<scalar_t, operand_t> fwd_kernels_##isa() { \
    return make_fwd_kernels<scalar_t, operand_t>();     \
  }                                                     \
  template <>                                           \
  BwdKernels<scalar_t, operand_t> bwd_kernels_##isa() { \
    return make_bwd_kernels<scalar_t, operand_t>();     \
  }
#define GRU_KERNELS(isa)                    \
  namespace gru_ext {                       \
  GRU_KERNELS_OF(isa, float, float)         \
  GRU_KERNELS_OF(isa, double, double)       \
  GRU_KERNELS_OF(isa, c10::BFloat16, float) \
  GRU_KERNELS_OF(isa, c10::Half, float)     \
  }
// Those whose products run on tiles.
#define GRU_KERNELS_ON_TILES(isa)                   \
  namespace gru_ext {                               \
  GRU_KERNELS_OF(isa, c10::BFloat16, c10::BFloat16) \
  GRU_KERNELS_OF(isa, float, c10::BFloat16)         \
  GRU_KERNELS_OF(isa, float, Part<2>)               \
  }
