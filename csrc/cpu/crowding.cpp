#include "cpu/crowding.h"

#include <algorithm>
#include <chrono>
#include <mutex>

namespace gru_ext {
namespace {

// Of so many seconds of several threads, a part that is stolen: less is the system's own work, which on a quiet machine
// takes a millisecond now and then.
constexpr double kWindow = 0.05, kPartStolen = 0.1;
// How long one thread or several are tried; and for how long the faster has the calls before the other is tried again,
// at first and at most.
constexpr double kTrial = 0.02, kFirstPeriod = 0.04, kLongestPeriod = 1;

// Of a call that is watched.
constexpr double kLeastMicroseconds = 1000;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::mutex mutex;
Crowding crowding;
thread_local bool watched_here = false;
thread_local double stolen_here = 0;

}  // namespace

bool Crowding::prefers_one(double now) {
  if (!crowded_) return false;
  if (!tries_ && now >= until_) choose(!one_now_, /*tries=*/true);
  return one_now_;
}

void Crowding::choose(bool one, bool tries) {
  one_now_ = one;
  tries_ = tries;
  rate(one) = {};
}

void Crowding::report(bool one, double work, double seconds, double stolen, double now) {
  rate(one).work += work;
  rate(one).seconds += seconds;
  if (!one) {
    window_ += seconds;
    stolen_ += stolen;
  }
  if (window_ >= kWindow) {
    const bool disturbed = stolen_ > kPartStolen * window_;
    window_ = stolen_ = 0;
    if (!disturbed) {
      crowded_ = false;
      several_ = {};
    } else if (!crowded_) {
      crowded_ = true;
      one_won_ = false;
      period_ = kFirstPeriod;
      return choose(/*one=*/true, /*tries=*/true);
    }
  }
  if (!crowded_ || !tries_ || one != one_now_ || rate(one).seconds < kTrial) return;
  const bool one_wins = one_.work * several_.seconds > several_.work * one_.seconds;
  period_ = one_wins == one_won_ ? std::min(2 * period_, kLongestPeriod) : kFirstPeriod;
  one_won_ = one_wins;
  until_ = now + period_;
  choose(one_wins, /*tries=*/false);
}

WatchedCall::WatchedCall(int threads, double microseconds)
    : threads_(threads), work_(microseconds), start_(threads > 1 && microseconds >= kLeastMicroseconds ? now() : 0) {
  watched_here = start_ > 0;
  stolen_here = 0;
  if (!watched_here) return;
  const std::lock_guard lock(mutex);
  prefers_one_ = crowding.prefers_one(start_);
}

WatchedCall::~WatchedCall() {
  watched_here = false;
  // A call that had no use for several threads says nothing of them.
  if (start_ == 0 || (used_ == 1 && !prefers_one_)) return;
  const double end = now();
  const std::lock_guard lock(mutex);
  crowding.report(prefers_one_, work_, end - start_, stolen_here, end);
}

bool WatchedCall::watches() { return watched_here; }
void WatchedCall::add_stolen(double seconds) { stolen_here += seconds; }

}  // namespace gru_ext
