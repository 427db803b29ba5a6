// The choice between one thread and several, for calls whose course a test says.
#include "cpu/crowding.h"

extern "C" {

void* make_crowding() { return new gru_ext::Crowding; }
void drop_crowding(void* crowding) { delete static_cast<gru_ext::Crowding*>(crowding); }
bool prefers_one(void* crowding, double now) { return static_cast<gru_ext::Crowding*>(crowding)->prefers_one(now); }
void report(void* crowding, bool one, double work, double seconds, double stolen, double now) {
  static_cast<gru_ext::Crowding*>(crowding)->report(one, work, seconds, stolen, now);
}
}
