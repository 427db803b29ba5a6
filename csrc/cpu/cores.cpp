#include "cpu/cores.h"

#include <c10/util/Exception.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace gru_ext {
namespace {

namespace fs = std::filesystem;

constexpr double kNoQuota = std::numeric_limits<double>::infinity();
constexpr int kMostCores = 1 << 16;

// Two numbers, of which the first may be a word or below 0 where there is no limit.
double quota_of_period(const std::string& quota, const std::string& period) {
  const double time = std::atof(quota.c_str()), of = std::atof(period.c_str());
  return time > 0 && of > 0 ? time / of : kNoQuota;
}

std::string first_line(const fs::path& file) {
  std::string line;
  std::getline(std::ifstream(file), line);
  return line;
}

double quota_of_group(const fs::path& group) {
  std::string quota, period;
  std::istringstream(first_line(group / "cpu.max")) >> quota >> period;
  const std::string older = first_line(group / "cpu.cfs_quota_us");
  return std::min(quota_of_period(quota, period), quota_of_period(older, first_line(group / "cpu.cfs_period_us")));
}

// Where the control groups of a line of /proc/self/cgroup lie, "5:cpu,cpuacct:/a/b" or of version 2 "0::/a/b"; empty
// where they have no quota of time.
fs::path groups_of(const std::string& controllers) {
  if (controllers.empty()) return "sys/fs/cgroup";
  const bool limits_time = ("," + controllers + ",").find(",cpu,") != std::string::npos;
  return limits_time ? "sys/fs/cgroup/" + controllers : "";
}

// GRU_EXT_CPU_CORES, if it is set.
std::optional<int> read_cores() {
  const char* given = std::getenv("GRU_EXT_CPU_CORES");
  if (given == nullptr || *given == '\0') return std::nullopt;
  char* end = nullptr;
  const long count = std::strtol(given, &end, 10);
  TORCH_CHECK_VALUE(*end == '\0' && count >= 1 && count <= kMostCores,
                    "gru_ext: expected the environment variable GRU_EXT_CPU_CORES to be a number of cores from 1 to ",
                    kMostCores, ", got ", given);
  return static_cast<int>(count);
}

int found_cores() {
  static const double quota = cores_of_quota("/");
  return std::max(1, static_cast<int>(std::min<double>(omp_get_num_procs(), quota)));
}

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Seconds that the cores of a set have computed, or waited for their host, together; nothing where one is not listed.
std::optional<double> busy_seconds(const fs::path& root, const cpu_set_t& cores) {
  std::ifstream lines(root / "proc/stat");
  double ticks = 0;
  int listed = 0;
  for (std::string line; std::getline(lines, line) && line.compare(0, 3, "cpu") == 0;) {
    if (line[3] == ' ') continue;  // the sum of all cores
    std::istringstream words(line.substr(3));
    int core = -1;
    double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
    if (!(words >> core >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal)) continue;
    if (core < 0 || core >= CPU_SETSIZE || !CPU_ISSET(core, &cores)) continue;
    ticks += user + nice + system + irq + softirq + steal;
    ++listed;
  }
  if (listed == 0 || listed < CPU_COUNT(&cores)) return std::nullopt;
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

std::optional<CoreTime> core_time(const fs::path& root) noexcept {
  CoreTime time{};
  if (sched_getaffinity(0, sizeof time.cores, &time.cores) != 0) return std::nullopt;
  try {
    const std::optional<double> busy = busy_seconds(root, time.cores);
    if (!busy.has_value()) return std::nullopt;
    time.seconds = seconds_of(CLOCK_MONOTONIC);
    const double by_others = *busy - seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    time.left = CPU_COUNT(&time.cores) * time.seconds - by_others;
    return time;
  } catch (...) {  // no memory
    return std::nullopt;
  }
}

double cores_of_quota(const fs::path& root) {
  double least = kNoQuota;
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string number, controllers, path;
       std::getline(lines, number, ':') && std::getline(lines, controllers, ':') && std::getline(lines, path);) {
    fs::path groups = groups_of(controllers);
    // Some systems list "cpuacct,cpu" where the folder is "cpu,cpuacct"; each has a name of its own too.
    std::error_code unreadable;
    if (!groups.empty() && !fs::exists(root / groups, unreadable)) groups = "sys/fs/cgroup/cpu";
    if (groups.empty()) continue;
    // In a container, the group that is named may lie outside of what can be seen, whose root is then its own.
    fs::path group = root / groups;
    least = std::min(least, quota_of_group(group));
    for (const fs::path& name : fs::path(path).relative_path()) {
      group /= name;
      least = std::min(least, quota_of_group(group));
    }
  }
  return least;
}

int cores() {
  static const std::optional<int> given = read_cores();
  if (given.has_value()) return *given;
  thread_local const int found = found_cores();
  return found;
}

}  // namespace gru_ext
