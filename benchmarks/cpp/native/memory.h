// Memory of the benchmarks: anonymous buffers of stated page sizes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace shira::bench {

constexpr size_t kHugePageBytes = size_t{2} << 20;

/// Private anonymous memory, aligned to huge pages, with the advice that says which pages it gets.
class Buffer {
 public:
  Buffer(size_t size_bytes, bool huge_pages) : size_bytes_(size_bytes) {
    reserved_bytes_ = (size_bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    reserved_bytes_ += kHugePageBytes;
    reserved_ =
        mmap(nullptr, reserved_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved_ == MAP_FAILED) throw std::runtime_error("mmap: no memory for a buffer");
    const auto address = reinterpret_cast<uintptr_t>(reserved_);
    const uintptr_t aligned = (address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    data_ = reinterpret_cast<unsigned char*>(aligned);
    advise(huge_pages);
  }
  ~Buffer() { munmap(reserved_, reserved_bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  unsigned char* data() { return data_; }
  size_t size_bytes() const { return size_bytes_; }

  /// Says which pages the memory gets where it has none yet.
  void advise(bool huge_pages) {
    // A kernel without transparent huge pages refuses both, and then has small ones only.
    madvise(data_, size_bytes_, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }

  /// Gives the pages back: the next access to each is a page fault, as in a fresh mapping.
  void drop() { madvise(data_, size_bytes_, MADV_DONTNEED); }

 private:
  void* reserved_ = nullptr;
  size_t reserved_bytes_ = 0;
  unsigned char* data_ = nullptr;
  size_t size_bytes_ = 0;
};

/// Bits of finite, normal numbers of magnitude 2^-7 to 2^-3: element `first + j` of a weight
/// depends on nothing but the seed and its position, so that any part of it can be made again.
/// REQUIRES: `first` is a multiple of 4.
template <typename T>
void fill(T* bits, size_t count, uint64_t first, uint64_t seed, T exponent_bits, T mantissa_mask,
          T sign_bit, T exponent_step) {
  constexpr size_t kPerWord = sizeof(uint64_t) / sizeof(uint16_t);
  for (size_t j = 0; j < count; j += kPerWord) {
    // SplitMix64: each word of its own counter.
    uint64_t word = seed + (first + j) / kPerWord * 0x9E3779B97F4A7C15ULL;
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9ULL;
    word = (word ^ word >> 27) * 0x94D049BB133111EBULL;
    word ^= word >> 31;
    for (size_t k = 0; k < kPerWord && j + k < count; ++k) {
      const auto part = static_cast<uint32_t>(word >> 16 * k & 0xFFFF);
      // In float32 the lowest bits of the mantissa are zeros.
      const T mantissa = static_cast<T>(static_cast<T>(part) << (sizeof(T) == 4 ? 8 : 0));
      const T exponent = static_cast<T>(exponent_bits + exponent_step * (part >> 13 & 3));
      bits[j + k] =
          static_cast<T>((part & 0x8000 ? sign_bit : 0) | exponent | (mantissa & mantissa_mask));
    }
  }
}

}  // namespace shira::bench
