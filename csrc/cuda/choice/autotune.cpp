#include "cuda/choice/autotune.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>

namespace gru_ext {
namespace {

std::mutex mutex;
bool enabled = false;
bool warned = false;
std::string file;
std::map<std::string, Timings> measured;

// A record of the file is a line: the kind of calls, a tab, then kernel=seconds, separated by blanks. False for
// anything else: half a line of a process that died, or another program's.
bool parse(const std::string& line, std::string& kind, Timings& timings) {
  const size_t tab = line.find('\t');
  if (tab == std::string::npos || tab == 0) return false;
  kind = line.substr(0, tab);
  std::istringstream words(line.substr(tab + 1));
  bool has_stepwise = false;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) return false;
    std::istringstream number(word.substr(equals + 1));
    number.imbue(std::locale::classic());
    double seconds = 0;
    if (!(number >> seconds) || !number.eof() || !(seconds > 0) || !std::isfinite(seconds)) return false;
    timings.push_back({word.substr(0, equals), seconds});
    has_stepwise = has_stepwise || timings.back().kernel == "stepwise";
  }
  return has_stepwise;
}

void sort(Timings& timings) {
  std::stable_sort(timings.begin(), timings.end(),
                   [](const Timing& a, const Timing& b) { return a.seconds < b.seconds; });
}

// A pipe or a device would be waited for, or read for ever.
bool is_file_or_absent() {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  return std::filesystem::is_regular_file(status) || status.type() == std::filesystem::file_type::not_found;
}

void read_file() {
  if (!is_file_or_absent()) return;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    std::string kind;
    Timings timings;
    if (!parse(line, kind, timings)) continue;
    sort(timings);
    measured[kind] = timings;
  }
}

void append_to_file(const std::string& kind, const Timings& timings) {
  std::ostringstream record;
  record.imbue(std::locale::classic());
  record << '\n' << kind << '\t';  // the last line may be half of one
  for (const Timing& timing : timings) record << timing.kernel << '=' << timing.seconds << ' ';
  record << '\n';
  std::ofstream stream;
  if (is_file_or_absent()) stream.open(file, std::ios::app);
  stream << record.str() << std::flush;  // in one piece, as other processes may write
  if ((stream.is_open() && stream.good()) || warned) return;
  warned = true;
  TORCH_WARN("gru: what gru_ext.autotune measures cannot be written to ", file, ", and is kept in memory alone");
}

}  // namespace

bool autotunes() {
  const std::lock_guard<std::mutex> lock(mutex);
  return enabled;
}

void autotune(bool enable, std::string path) {
  const std::lock_guard<std::mutex> lock(mutex);
  enabled = enable;
  warned = false;
  file = std::move(path);
  measured.clear();
  if (enabled && !file.empty()) read_file();
}

Timings timings_of(const std::string& kind) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto it = measured.find(kind);
  return it != measured.end() ? it->second : Timings();
}

void keep_timings(const std::string& kind, Timings timings) {
  sort(timings);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!file.empty() && std::isfinite(timings.back().seconds)) append_to_file(kind, timings);
  measured[kind] = std::move(timings);
}

}  // namespace gru_ext
