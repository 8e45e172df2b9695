// What the kernel tests share: every implementation by name, and arrays that notice what is touched
// around them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace shira::kernels {

/// One run of a test for each implementation.
class KernelsTest : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (!implementations()[GetParam()].supported)
      GTEST_SKIP() << "this CPU cannot run " << table().isa;
  }
  const KernelTable& table() const { return implementations()[GetParam()].table; }
};

inline std::string isa_name(const ::testing::TestParamInfo<size_t>& info) {
  return implementations()[info.param].table.isa;
}

inline ::testing::internal::ParamGenerator<size_t> every_implementation() {
  return ::testing::Range(size_t{0}, implementations().size());
}

/// Memory with an unreadable page on both sides; kept for the next one of the same size.
class Fenced {
 public:
  explicit Fenced(size_t least_bytes) {
    const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_bytes_ = (least_bytes / page_bytes + 1) * page_bytes;
    std::vector<uint8_t*>& kept = kept_[size_bytes_];
    if (kept.empty()) {
      void* memory = mmap(nullptr, size_bytes_ + 2 * page_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) std::abort();
      kept.push_back(static_cast<uint8_t*>(memory) + page_bytes);
      if (mprotect(kept.back(), size_bytes_, PROT_READ | PROT_WRITE) != 0) std::abort();
    }
    begin_ = kept.back();
    kept.pop_back();
  }
  ~Fenced() { kept_[size_bytes_].push_back(begin_); }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;

  uint8_t* begin() { return begin_; }
  uint8_t* end() { return begin_ + size_bytes_; }

 private:
  static inline std::map<size_t, std::vector<uint8_t*>> kept_;
  uint8_t* begin_;
  size_t size_bytes_;
};

/// `count` elements that end `shift` elements before an unreadable page, between guard bytes.
template <typename T>
class Guarded {
 public:
  Guarded(size_t count, size_t shift)
      : count_(count), memory_(kGuardBytes + (count + shift) * sizeof(T)) {
    data_ = memory_.end() - (count + shift) * sizeof(T);
    std::memset(first_guard(), kGuardByte, static_cast<size_t>(memory_.end() - first_guard()));
  }
  Guarded(const std::vector<T>& elements, size_t shift) : Guarded(elements.size(), shift) {
    if (count_ > 0) std::memcpy(data_, elements.data(), count_ * sizeof(T));
  }

  T* data() { return reinterpret_cast<T*>(data_); }
  std::vector<T> elements() { return std::vector<T>(data(), data() + count_); }

  bool guards_intact() {
    const uint8_t* behind = data_ + count_ * sizeof(T);
    for (const uint8_t* byte = first_guard(); byte < data_; ++byte)
      if (*byte != kGuardByte) return false;
    for (const uint8_t* byte = behind; byte < memory_.end(); ++byte)
      if (*byte != kGuardByte) return false;
    return true;
  }

 private:
  static constexpr uint8_t kGuardByte = 0x55;
  static constexpr size_t kGuardBytes = 128;
  uint8_t* first_guard() { return data_ - kGuardBytes; }

  size_t count_;
  Fenced memory_;
  uint8_t* data_;
};

inline uint32_t random_u32() {
  static std::mt19937 source(20261121);
  return static_cast<uint32_t>(source());
}

template <typename T>
std::vector<T> random_bits(size_t count) {
  std::vector<T> bits(count);
  for (T& element : bits) element = static_cast<T>(random_u32());
  return bits;
}

}  // namespace shira::kernels
