// Stopwatch: wall-clock time of the stages of one piece of work.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>

namespace shira {

/// Runs from when it is made.
class Stopwatch {
 public:
  /// Nanoseconds since the last lap.
  uint64_t lap() {
    const auto now = std::chrono::steady_clock::now();
    const auto elapsed = now - std::exchange(last_, now);
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace shira
