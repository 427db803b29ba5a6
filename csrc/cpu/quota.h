// The share of the processors' time that the process may take, where a container or a service limits it.
#pragma once

#include <string>

namespace gru_ext {

// What the control groups of the process allow, in cores; infinity without a limit. `root`: of the file system, "" but in
// tests.
double cpu_quota(const std::string& root);

// Threads that a quota lets run all the time: the cores of it that are whole, at least one. Looked up once a second.
int threads_of_quota();

}  // namespace gru_ext
