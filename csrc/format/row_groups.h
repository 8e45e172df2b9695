// Groups of rows: how the streams of a file are dealt out to threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"

namespace shira {

/// Rows [begin, end) of a table, for one task.
struct RowGroup {
  size_t begin = 0;
  size_t end = 0;
};

/// All rows of a table in groups of consecutive ones, which do not depend on the number of threads.
class RowGroups {
 public:
  /// Of `least_bytes` or more each, where bytes_of(row) is the size of a row's stream: small
  /// streams are worth a task only together.
  template <typename BytesOf>
  RowGroups(size_t row_count, uint64_t least_bytes, const BytesOf& bytes_of) {
    uint64_t group_bytes = least_bytes;
    for (size_t row = 0; row < row_count; ++row) {
      if (group_bytes >= least_bytes) {
        groups_.push_back({row, row});
        group_bytes = 0;
      }
      groups_.back().end = row + 1;
      group_bytes += bytes_of(row);
      all_bytes_ += bytes_of(row);
    }
  }

  size_t size() const { return groups_.size(); }
  const RowGroup& operator[](size_t i) const { return groups_[i]; }

  /// Runs task(i) -> Result<void> for each group; the error is that of the lowest failing one.
  template <typename Task>
  Result<void> run(ThreadPool* pool, const Task& task) const {
    return pool->run(groups_.size(), all_bytes_, task);
  }

 private:
  std::vector<RowGroup> groups_;
  uint64_t all_bytes_ = 0;
};

}  // namespace shira
