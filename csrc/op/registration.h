// Whether this copy of the library is the one whose operators are registered.
#pragma once

namespace gru_ext {

// False where another copy was loaded before into this process: torch ends a process in which an operator is defined
// twice. Every block of TORCH_LIBRARY_FRAGMENT and TORCH_LIBRARY_IMPL begins with it, and none is a TORCH_LIBRARY, of
// which there may be one only.
bool is_first_copy();

// The file that the code of this copy was loaded from.
const char* loaded_from();

}  // namespace gru_ext
