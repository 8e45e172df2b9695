// RunMerger: collects ascending runs and makes one run of those that touch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/run.h"

namespace shira {

class RunMerger {
 public:
  /// `runs` holds as many runs as append() will be called; null only counts them.
  explicit RunMerger(Run* runs) : runs_(runs) {}

  /// REQUIRES: length >= 1, and `start` is at or behind the end of the run before.
  void append(uint64_t start, uint64_t length) {
    const bool touches = run_count_ > 0 && start == end_;
    if (!touches) ++run_count_;
    if (runs_ != nullptr && touches) {
      runs_[run_count_ - 1].length += static_cast<uint32_t>(length);
    } else if (runs_ != nullptr) {
      runs_[run_count_ - 1] = {static_cast<uint32_t>(start), static_cast<uint32_t>(length)};
    }
    end_ = start + length;
    entry_count_ += length;
  }

  size_t run_count() const { return run_count_; }
  uint64_t entry_count() const { return entry_count_; }

 private:
  Run* runs_;
  size_t run_count_ = 0;
  uint64_t end_ = 0;  // of the newest run
  uint64_t entry_count_ = 0;
};

}  // namespace shira
