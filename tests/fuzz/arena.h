// Arena: live weights in memory where a stray store or load stops the fuzzer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"

namespace shira::fuzz {

/// Tensors side by side in one mapping. What lies between them is poisoned for the address
/// sanitizer; what lies within 2^32 elements before and behind the mapping is not accessible, so
/// that no index of 32 bits can get past it.
class Arena {
 public:
  static constexpr size_t kSizeBytes = size_t{1} << 15;

  Arena() {
    void* memory = mmap(nullptr, 2 * kGuardBytes + kSizeBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FUZZ_CHECK(memory != MAP_FAILED);
    begin_ = static_cast<uint8_t*>(memory) + kGuardBytes;
    FUZZ_CHECK(mprotect(begin_, kSizeBytes, PROT_READ | PROT_WRITE) == 0);
    // Small positive numbers, read as f32, f16 or bf16; codes of 8 bits.
    for (size_t i = 0; i < kSizeBytes; ++i) begin_[i] = static_cast<uint8_t>(0x30 + i * 7 % 11);
    pristine_.assign(begin_, begin_ + kSizeBytes);
    clear();
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Forgets all tensors and brings the pristine bytes back.
  void clear() {
    ASAN_UNPOISON_MEMORY_REGION(begin_, used_bytes_);
    if (used_bytes_ > 0) std::memcpy(begin_, pristine_.data(), used_bytes_);
    ASAN_POISON_MEMORY_REGION(begin_, kSizeBytes);
    used_bytes_ = 0;
    spans_.clear();
  }

  /// Room for a tensor with pristine bytes, or nullptr when there is none left.
  uint8_t* add(uint64_t size_bytes) {
    const size_t start = (used_bytes_ + kGapBytes + 15) / 16 * 16;
    if (start > kSizeBytes || size_bytes > kSizeBytes - start) return nullptr;
    ASAN_UNPOISON_MEMORY_REGION(begin_ + start, size_bytes);
    used_bytes_ = start + static_cast<size_t>(size_bytes);
    spans_.push_back({start, static_cast<size_t>(size_bytes)});
    return begin_ + start;
  }

  /// The bytes of all tensors, one behind the other.
  std::vector<uint8_t> live() const { return collect(begin_); }
  std::vector<uint8_t> pristine() const { return collect(pristine_.data()); }
  const uint8_t* pristine_of(const uint8_t* tensor) const {
    return pristine_.data() + (tensor - begin_);
  }

 private:
  static constexpr size_t kGuardBytes = size_t{17} << 30;
  static constexpr size_t kGapBytes = 48;

  struct Span {
    size_t start, size_bytes;
  };

  std::vector<uint8_t> collect(const uint8_t* from) const {
    std::vector<uint8_t> bytes;
    for (const Span& span : spans_) {
      bytes.insert(bytes.end(), from + span.start, from + span.start + span.size_bytes);
    }
    return bytes;
  }

  uint8_t* begin_ = nullptr;
  size_t used_bytes_ = 0;
  std::vector<uint8_t> pristine_;
  std::vector<Span> spans_;
};

}  // namespace shira::fuzz
