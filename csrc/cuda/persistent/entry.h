// An instantiation of a persistent kernel, as its host side has it: the numbers that it was compiled with, and how it
// is launched. No headers of CUDA or torch.
#pragma once

#include <vector>

#include "cuda/device.h"
#include "cuda/params.h"

namespace gru_ext {

// What `resident` is where it is no number of clusters: the kernel is not in the code that the device runs; or there is
// no memory left to load it, which may be different later.
constexpr int kNotCompiled = -1, kNoMemoryNow = -2;

struct PersistentEntry {
  bool ieee;          // float32 on the FMA units; else the tensor core
  int rows;           // of a tile of the batch
  int (*resident)();  // how many clusters, groups or, of a streamed kernel, blocks the current device runs at a time.
                      // Asking loads all that a launch needs, and lets the kernel have it: it comes before any launch.
};

// With its launch, which returns null, or what went wrong.
template <typename Entry, typename Parameters>
struct Launched : Entry {
  const char* (*launch)(const Parameters& p, Stream stream);
};

// Of a kernel whose blocks hold all of R.
struct HeldEntry : PersistentEntry {
  int hidden;          // the largest H
  int blocks;          // of a cluster or group
  int pairs;           // of neighbouring units, of a thread
  int overflow_bytes;  // of its weights in shared memory, which a block reads for every 16 rows of a step (ieee: 8)
  int packet_bytes;    // in global memory, by which a group exchanges; 0 for a cluster
};
template <typename scalar_t>
using HeldFwdEntries = std::vector<Launched<HeldEntry, PersistentFwdParams<scalar_t>>>;
template <typename scalar_t>
using HeldBwdEntries = std::vector<Launched<HeldEntry, PersistentBwdParams<scalar_t>>>;

// Defines name(), which returns such entries.
#define GRU_ENTRIES(Entries, name, ...)           \
  const Entries& name() {                         \
    static const Entries entries = {__VA_ARGS__}; \
    return entries;                               \
  }

}  // namespace gru_ext
