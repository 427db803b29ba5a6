// The choice between one thread and several, for calls whose course a test says.
#include "cpu/crowding.h"

#include "cpu/wait_cost.h"

bool gru_ext::wait_cost_is_given() { return false; }

extern "C" {

void* make_crowding() { return new gru_ext::Crowding; }
void drop_crowding(void* crowding) { delete static_cast<gru_ext::Crowding*>(crowding); }
bool prefers_one(void* crowding) { return static_cast<gru_ext::Crowding*>(crowding)->prefers_one(); }
void report(void* crowding, int threads, bool one, double work, double seconds, double stolen) {
  static_cast<gru_ext::Crowding*>(crowding)->report(threads, one, work, seconds, stolen);
}
}
