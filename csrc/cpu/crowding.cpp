#include "cpu/crowding.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>

#include "cpu/wait_cost.h"

namespace gru_ext {
namespace {

// Seconds of several threads of which a part is stolen. One thread can only be faster where nearly all of the gain of
// several is lost: by this part or more, for the threads of a call.
constexpr double kWindow = 0.05;
double part_stolen(int threads) { return 1 - 1.5 / threads; }
// How long one thread or several are tried; for how long the faster has the calls before the other is tried again, at
// first and at most; and how many times as long as the trial at least, which is a call of many threads on one perhaps.
constexpr double kTrial = 0.02, kFirstPeriod = 0.1, kLongestPeriod = 1, kPeriodOfTrial = 20;
// Others hold all cores but one where this process could have had from so many to so many. With fewer its one thread
// has no core of its own, and several may get more of the cores than it does.
constexpr double kLeastOfOne = 0.9, kMostOfOne = 1.5;
// Where calls took less than this part of the time, others may have held the cores only between them.
constexpr double kLeastPart = 0.5;
// After so many periods in a row several are tried all the same: a program that takes only what is idle looks like one
// that does not yield.
constexpr int kMostStays = 20;

// Of a call that is watched; to watch it takes some 2 us.
constexpr double kLeastMicroseconds = 200;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::mutex mutex;
Crowding crowding([]() noexcept { return core_time("/"); });
thread_local WatchedCall* call_here = nullptr;

}  // namespace

bool Crowding::prefers_one(int threads) {
  if (!crowded_) return false;
  if (tries_ || rate(one_now_).seconds < period_) return one_now_;
  // Two threads gain nothing beside a program on one of two cores. More may, beside one on each core but one.
  if (one_now_ && threads == 2 && stays_ < kMostStays) {
    const std::optional<CoreTime> now = core_time_();
    if (one_core_is_left(now)) {
      ++stays_;
      one_ = {};
      since_ = now;
      period_ = std::min(2 * period_, kLongestPeriod);
      return true;
    }
  }
  choose(!one_now_, /*tries=*/true);
  return one_now_;
}

bool Crowding::one_core_is_left(const std::optional<CoreTime>& now) const {
  if (!now.has_value() || !since_.has_value() || !CPU_EQUAL(&now->cores, &since_->cores)) return false;
  const double left = now->left - since_->left, seconds = now->seconds - since_->seconds;
  if (one_.seconds < kLeastPart * seconds) return false;
  return kLeastOfOne * seconds <= left && left < kMostOfOne * seconds;
}

void Crowding::choose(bool one, bool tries) {
  one_now_ = one;
  tries_ = tries;
  rate(one) = {};
  stays_ = 0;
  if (one) since_ = core_time_();
}

void Crowding::report(int threads, bool one, double work, double seconds, double stolen) {
  rate(one).work += work;
  rate(one).seconds += seconds;
  if (!one) {
    window_ += seconds;
    stolen_ += stolen;
  }
  if (window_ >= kWindow) {
    const bool disturbed = stolen_ > part_stolen(threads) * window_;
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
  if (one_wins != one) period_ = std::max(period_, kPeriodOfTrial * rate(one).seconds);
  choose(one_wins, /*tries=*/false);
}

WatchedCall::WatchedCall(int threads, double microseconds)
    : threads_(threads),
      work_(microseconds),
      watched_(call_here == nullptr && threads > 1 && microseconds >= kLeastMicroseconds && !wait_cost_is_given()),
      exceptions_(std::uncaught_exceptions()) {
  if (watched_) {
    const std::lock_guard lock(mutex);
    prefers_one_ = crowding.prefers_one(threads);
    call_here = this;
  } else if (call_here != nullptr) {
    prefers_one_ = call_here->prefers_one_;
  }
}

void WatchedCall::use(int threads) {
  used_ = std::max(used_, threads);
  if (watched_ && start_ == 0) start_ = now();
}

WatchedCall::~WatchedCall() {
  if (!watched_) return;
  call_here = nullptr;
  // A call that failed, or had no use for several threads, says nothing of them.
  const bool failed = std::uncaught_exceptions() > exceptions_;
  if (failed || used_ == 0 || (used_ == 1 && !prefers_one_)) return;
  const double seconds = now() - start_;
  const std::lock_guard lock(mutex);
  crowding.report(threads_, prefers_one_, work_, seconds, stolen_);
}

bool WatchedCall::watches() { return call_here != nullptr; }
void WatchedCall::add_stolen(double seconds) { call_here->stolen_ += seconds; }

}  // namespace gru_ext
