// The cache of a core.
#pragma once

#include <cstdint>

namespace gru_ext {

// A usual size, for what decides about bits: they must not follow from the machine's cache.
constexpr int64_t kUsualCache = int64_t{1} << 20;

// Bytes that a core keeps in its own cache: those of the second level, as the system has them of the processor, but
// from 1 to 4 MiB; 1 MiB where it says nothing. For what changes no bit, but that the members of a layer with
// layer_norm, whose bits follow from their number, may be more or fewer.
int64_t cache_of_core();

// Whether weights of so many bytes are in no core's own cache when a product reads them again.
constexpr bool are_far(int64_t bytes) { return bytes > 4 * kUsualCache; }

}  // namespace gru_ext
