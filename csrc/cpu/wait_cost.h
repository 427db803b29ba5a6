// What it costs that threads wait for each other, on this machine and now.
#pragma once

namespace gru_ext {

// Microseconds from one step to the next of `threads` threads that only exchange a state and wait: 0.7 where two cores
// share a cache, several times that where they do not, thousands while other programs hold a core. Measured, in less
// than a millisecond where cores are free, and again when what is known is a second old. The environment variable
// GRU_EXT_CPU_WAIT takes the place of it.
double wait_cost(int threads);

// The environment variable's, or what was measured between two cores that share a cache: for results whose bits depend
// on the number of threads, which must not follow a measurement.
double usual_wait_cost();

// Whether the environment variable says it.
bool wait_cost_is_given();

}  // namespace gru_ext
