// A forked child: the threads of torch's pool did not survive the fork, and who gives them work waits for ever.
#pragma once

namespace gru_ext {

// Whether this process is one.
bool in_forked_child();

// Keeps what torch computes for the calling thread on this thread, in a forked child.
class OneThreadInForkedChild {
 public:
  OneThreadInForkedChild();
  ~OneThreadInForkedChild();
  OneThreadInForkedChild(const OneThreadInForkedChild&) = delete;
  OneThreadInForkedChild& operator=(const OneThreadInForkedChild&) = delete;

 private:
  const int threads_before_;
};

}  // namespace gru_ext
