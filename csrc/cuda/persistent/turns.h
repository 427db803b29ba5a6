// Launches of more clusters or groups than the device runs at a time.
#pragma once

#include <algorithm>

namespace gru_ext {

// How many clusters or groups a call needs, one for each tile of so many rows.
template <typename Parameters>
int clusters_of(const Parameters& p, int rows) {
  return p.E * p.D * ((p.B + rows - 1) / rows);
}

// Launches of as many groups at a time as the device runs: launch(parameters, groups) returns null, or what went wrong.
template <typename Parameters, typename Launch>
const char* launch_in_turns(const Parameters& p, int rows, const Launch& launch) {
  const int groups = clusters_of(p, rows);
  const char* error = nullptr;
  auto part = p;
  for (part.first_group = 0; part.first_group < groups && error == nullptr; part.first_group += p.groups_at_a_time) {
    error = launch(part, std::min(p.groups_at_a_time, groups - part.first_group));
  }
  return error;
}

}  // namespace gru_ext
