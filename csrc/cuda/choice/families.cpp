// The families of kernels. To add one is a folder, a line here and one in family.h.
#include "cuda/choice/family.h"

namespace gru_ext {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {&stepwise_family(), &cluster_family(), &group_family(),
                                                 &streamed_family(), &one_step_family()};
  return all;
}

}  // namespace gru_ext
