// The cache of a core.
#pragma once

#include <cstdint>

namespace gru_ext {

// Bytes that a core keeps in its own cache: those of the second level, as the system has them of the processor, but
// from 1 to 4 MiB; 1 MiB where it says nothing.
int64_t cache_of_core();

// Whether weights of so many bytes are in no core's own cache when a product reads them again.
inline bool are_far(int64_t bytes) { return bytes > 4 * cache_of_core(); }

}  // namespace gru_ext
