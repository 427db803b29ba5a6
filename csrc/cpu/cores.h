// How many cores this process may keep busy. Threads beyond them only wait for each other: torch counts the cores that
// the process had when it began, and no quota.
#pragma once

#include <sched.h>

#include <filesystem>
#include <optional>

namespace gru_ext {

// Of the cores of a thread's affinity, at one moment; only differences tell something.
struct CoreTime {
  cpu_set_t cores;
  double seconds;  // of the clock
  double left;     // seconds of one core that other programs have left, as if all of this process ran on these cores
};

// Of the calling thread, from six figures of each core that are whole steps of 10 ms; nothing where the system does not
// tell. `root`: of the file system, so that a test can have one of its own.
std::optional<CoreTime> core_time(const std::filesystem::path& root) noexcept;

// Cores' worth of time that the quotas of this process's control groups leave it, of version 1 or 2, those around them
// included; infinity where there is none. `root` as above.
double cores_of_quota(const std::filesystem::path& root);

// The cores of the calling thread's affinity, and of these no more than the quotas leave whole, but one at least. Asked
// at a thread's first call. GRU_EXT_CPU_CORES takes the place of it.
int cores();

}  // namespace gru_ext
