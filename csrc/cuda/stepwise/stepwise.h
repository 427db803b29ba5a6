// The stepwise family: a product and a launch for each time step. It can serve every call.
#pragma once

#include "cuda/choice/family.h"

namespace gru_ext {

const Kernel& stepwise_kernel();

// Of a call, by the time model; without W x, as for all families.
double stepwise_seconds(const KernelQuery& query);

double bytes_of_weights(const KernelQuery& query);  // of R of one direction; W has as many if I = H

}  // namespace gru_ext
