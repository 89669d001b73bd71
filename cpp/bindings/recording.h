// Records an operator's GPU launches: inside a recording, a bound operator of this thread checks
// its arguments as usual and then stores its launches here instead of running.
#pragma once

#include "cuda/plans/launches.h"

namespace transnext::bindings {

struct Recording {
  explicit Recording(int architecture_) : architecture(architecture_) { current() = this; }
  ~Recording() { current() = nullptr; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // The recording of this thread, or nullptr.
  static Recording*& current() {
    static thread_local Recording* recording = nullptr;
    return recording;
  }

  int architecture;
  Launches launches;
};

}  // namespace transnext::bindings
