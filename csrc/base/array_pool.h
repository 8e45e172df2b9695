// ArrayPool: one large allocation that many arrays are cut from, so that they share its huge pages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "base/array.h"
#include "base/checked_math.h"
#include "base/huge_pages.h"

namespace shira {

/// Its memory lives until the pool and all arrays from it are gone.
class ArrayPool {
 public:
  /// Gives every array an allocation of its own.
  ArrayPool() = default;

  /// With room for arrays of so many bytes_of() together. What is too small for huge pages is too
  /// small for a pool, and what no address space holds is left to the arrays to refuse.
  /// OUT_OF_MEMORY.
  static Result<ArrayPool> make(uint64_t size_bytes) {
    ArrayPool pool;
    if (size_bytes < kHugePagesFromBytes || size_bytes > SIZE_MAX) return pool;
    SHIRA_ASSIGN(Array<uint8_t> memory, Array<uint8_t>::make(static_cast<size_t>(size_bytes)));
    pool.memory_.reset(new (std::nothrow) Array<uint8_t>(std::move(memory)));
    if (!pool.memory_) return Error{Status::OUT_OF_MEMORY, "no memory for an array pool"};
    pool.end_bytes_ = pool.memory_->size();
    return pool;
  }

  /// A pool of its own with the next `size_bytes` of this one's room, or what there is, for another
  /// thread to take arrays from.
  ArrayPool cut(uint64_t size_bytes) {
    ArrayPool part;
    part.memory_ = memory_;
    part.used_bytes_ = used_bytes_;
    used_bytes_ += static_cast<size_t>(std::min<uint64_t>(size_bytes, end_bytes_ - used_bytes_));
    part.end_bytes_ = used_bytes_;
    return part;
  }

  /// What an array of `count` elements takes. REQUIRES: no overflow.
  template <typename T>
  static uint64_t bytes_of(uint64_t count) {
    return align_up(count * sizeof(T), kAlignment);
  }

  /// The next array, of its own memory where the pool has no room. OUT_OF_MEMORY.
  template <typename T>
  Result<Array<T>> take(size_t count) {
    const size_t room_bytes = end_bytes_ - used_bytes_;
    if (count > room_bytes / sizeof(T)) return Array<T>::make(count);
    const size_t begin = used_bytes_;
    used_bytes_ += static_cast<size_t>(std::min<uint64_t>(bytes_of<T>(count), room_bytes));
    return Array<T>::part_of(memory_, begin, count);
  }

 private:
  static constexpr size_t kAlignment = 64;  // of the arrays to each other: no shared cache line

  std::shared_ptr<Array<uint8_t>> memory_;
  size_t used_bytes_ = 0;  // up to here arrays were cut from the memory
  size_t end_bytes_ = 0;   // where this pool's room ends
};

}  // namespace shira
