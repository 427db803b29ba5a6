#include "cpu/quota.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <fstream>
#include <limits>

namespace gru_ext {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();

// Of one group, of version 2 or 1 of Linux's control groups: microseconds in each period of so many.
double quota_of(const std::string& folder) {
  double quota = 0, period = 0;
  if (std::ifstream(folder + "/cpu.max") >> quota >> period) return quota / period;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return quota > 0 && period > 0 ? quota / period : kNone;
}

}  // namespace

double cpu_quota(const std::string& root) {
  double quota = kNone;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:path, without controllers in version 2
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string mounted = root + "/sys/fs/cgroup/" + controllers;
    // The groups around it limit it too. In a container the path may be one that only the host sees.
    std::string path = line.substr(second + 1);
    quota = std::min(quota, quota_of(mounted + path));
    while (!path.empty()) {
      path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
      quota = std::min(quota, quota_of(mounted + path));
    }
  }
  return quota;
}

int threads_of_quota() {
  using Clock = std::chrono::steady_clock;
  static std::atomic<int> threads{0};
  static std::atomic<Clock::rep> known_until{0};
  const Clock::time_point now = Clock::now();
  if (threads.load() == 0 || now.time_since_epoch().count() >= known_until.load()) {
    threads.store(static_cast<int>(std::clamp<double>(cpu_quota(""), 1, INT_MAX)));
    known_until.store((now + std::chrono::seconds(1)).time_since_epoch().count());
  }
  return threads.load();
}

}  // namespace gru_ext
