// Whether this process may multiply with the tiles of Intel AMX.
#pragma once

#include <string>

namespace gru_ext {

// Empty, or why not. The first call asks Linux for permission, which holds for all threads of the process until it ends
// and for its forked children, and then tries every instruction that the kernels use; where one does not do what it
// should, it warns. From the permission on, Linux refuses alternate signal stacks that have no room for tiles, of some
// 12 KB.
const std::string& why_no_tiles();

}  // namespace gru_ext
