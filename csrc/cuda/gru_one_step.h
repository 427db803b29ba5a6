// The host side of the one-step kernel: a plain layer of one time step, all directions in one launch. On the current
// device, and without waiting for it.
#pragma once

#include "../check.h"
#include "../gru.h"
#include "launchers.h"

namespace gru_ext {

// Results as gru_fwd returns them, see ../gru.h. Besides them no memory is taken, unless a weight is not contiguous.
FwdResult gru_one_step_fwd(const Sequence& s, const Layer& layer, bool save_gates, bool save_y, Stream stream);

}  // namespace gru_ext
