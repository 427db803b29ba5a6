// Several threads or one, while other programs hold cores: which is faster is tried out, as no count of programs tells.
// But where several are two, they are seldom tried again while the system says that others hold all cores but one.
#pragma once

#include <optional>

#include "cpu/cores.h"

namespace gru_ext {

// What is known of the calls of this process that may have several threads. Times are in seconds that calls took, as
// what lies between calls says nothing of them.
class Crowding {
 public:
  using AskCoreTime = std::optional<CoreTime> (*)() noexcept;
  // `core_time`: as the function of this name tells it now.
  explicit Crowding(AskCoreTime core_time) : core_time_(core_time) {}
  // Whether a call that may have `threads` threads should have one.
  bool prefers_one(int threads);
  // What became of a call of so much work, which may have `threads` threads: with all or with one. `stolen`: what one
  // of them lost to other programs.
  void report(int threads, bool one, double work, double seconds, double stolen);

 private:
  struct Rate {
    double work = 0, seconds = 0;
  };
  Rate& rate(bool one) { return one ? one_ : several_; }
  // From now on calls have one thread, or several: for a trial, or because they have won.
  void choose(bool one, bool tries);
  // Whether others are known to have held all cores but one since one thread was last chosen, or stayed.
  bool one_core_is_left(const std::optional<CoreTime>& now) const;

  const AskCoreTime core_time_;
  std::optional<CoreTime> since_;   // when one thread was last chosen, or stayed
  int stays_ = 0;                   // times in a row that several were not tried
  bool crowded_ = false;            // whether other programs have held cores lately
  bool one_now_ = false;            // what calls have now
  bool tries_ = false;              // whether that is tried, or has won
  bool one_won_ = false;            // the last time
  double period_ = 0;               // of what has won, until the other is tried again
  double window_ = 0, stolen_ = 0;  // seconds of several threads lately, and what one of them lost of these
  Rate one_, several_;              // since they were last chosen, or the window began
};

// A call that may have `threads` threads, for as long as this object lives. Short calls are not watched: that threads
// wait for cores shows in what waits cost (wait_cost.h). A call within a call is a part of it.
class WatchedCall {
 public:
  // `microseconds`: that the call takes one thread, by its operations. Where the environment says what waits cost,
  // nothing is watched.
  WatchedCall(int threads, double microseconds);
  ~WatchedCall();
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;

  // All of them, or one.
  int threads() const { return prefers_one_ ? 1 : threads_; }
  // Of these the call uses so many, from now on.
  void use(int threads);
  // Whether this thread's call is watched; then to be told, of each of its parallel regions, what the thread lost that
  // lost most.
  static bool watches();
  static void add_stolen(double seconds);

 private:
  const int threads_;
  const double work_;
  const bool watched_;
  const int exceptions_;
  bool prefers_one_ = false;
  int used_ = 0;  // 0: it has not begun
  double start_ = 0, stolen_ = 0;
};

}  // namespace gru_ext
