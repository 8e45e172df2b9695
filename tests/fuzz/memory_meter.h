// MemoryMeter: how much the heap grew at most while something ran.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sanitizer/allocator_interface.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace shira::fuzz {

/// Counts this process's allocations, of all threads, from its creation on. One at a time.
class MemoryMeter {
 public:
  MemoryMeter() {
    static const int hooks = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    static_cast<void>(hooks);
    current_bytes_ = 0;
    peak_bytes_ = 0;
  }

  uint64_t peak_bytes() const { return static_cast<uint64_t>(peak_bytes_.load()); }

 private:
  static void on_malloc(const volatile void* /*memory*/, size_t size_bytes) {
    const int64_t now_bytes = current_bytes_.fetch_add(static_cast<int64_t>(size_bytes)) +
                              static_cast<int64_t>(size_bytes);
    int64_t peak_bytes = peak_bytes_;
    while (peak_bytes < now_bytes && !peak_bytes_.compare_exchange_weak(peak_bytes, now_bytes)) {
    }
  }
  static void on_free(const volatile void* memory) {
    // A deallocation of nullptr is reported too.
    const void* block = const_cast<const void*>(memory);
    if (block != nullptr) {
      current_bytes_ -= static_cast<int64_t>(__sanitizer_get_allocated_size(block));
    }
  }

  static inline std::atomic<int64_t> current_bytes_{0};
  static inline std::atomic<int64_t> peak_bytes_{0};
};

}  // namespace shira::fuzz
