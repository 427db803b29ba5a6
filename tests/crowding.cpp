// The choice between one thread and several, for calls whose course a test says.
#include "cpu/crowding.h"

#include "cpu/wait_cost.h"

namespace {
std::optional<gru_ext::CoreTime> time_of_cores;
}

bool gru_ext::wait_cost_is_given() { return false; }
std::optional<gru_ext::CoreTime> gru_ext::core_time(const std::filesystem::path&) noexcept { return time_of_cores; }

extern "C" {

void* make_crowding() {
  return new gru_ext::Crowding([]() noexcept { return time_of_cores; });
}
// `core`: the only one of the affinity.
void set_core_time(double seconds, double left, int core) {
  time_of_cores = gru_ext::CoreTime{{}, seconds, left};
  CPU_SET(core, &time_of_cores->cores);
}
void forget_core_time() { time_of_cores.reset(); }
void drop_crowding(void* crowding) { delete static_cast<gru_ext::Crowding*>(crowding); }
bool prefers_one(void* crowding, int threads) {
  return static_cast<gru_ext::Crowding*>(crowding)->prefers_one(threads);
}
void report(void* crowding, int threads, bool one, double work, double seconds, double stolen) {
  static_cast<gru_ext::Crowding*>(crowding)->report(threads, one, work, seconds, stolen);
}
}
