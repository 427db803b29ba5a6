// The families of kernels. To add one is a folder and a line here.
#include "cuda/choice/family.h"
#include "cuda/one_step/one_step.h"
#include "cuda/persistent/cluster/cluster.h"
#include "cuda/persistent/group/group.h"
#include "cuda/persistent/streamed/streamed.h"
#include "cuda/stepwise/stepwise.h"

namespace gru_ext {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {&stepwise_family(), &cluster_family(), &group_family(),
                                                 &streamed_family(), &one_step_family()};
  return all;
}

}  // namespace gru_ext
