// Array<T>: a heap array sized by a file or a model, whose allocation fails without throwing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "base/huge_pages.h"
#include "base/result.h"

namespace shira {

// Sizes are computed in 64 bits and handed to make() as they are: a narrower size_t would cut them
// short, and what was allocated would be smaller than what is stored.
static_assert(sizeof(size_t) == sizeof(uint64_t), "shira-runtime needs a 64-bit system");

/// Move-only owner of `size()` trivially copyable elements, uninitialised after make().
template <typename T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Array() = default;
  Array(Array&& other) noexcept
      : elements_(std::move(other.elements_)), size_(std::exchange(other.size_, 0)) {}
  Array& operator=(Array&& other) noexcept {
    elements_ = std::move(other.elements_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  /// Allocates `count` elements. Fails with OUT_OF_MEMORY (also when count * sizeof(T) overflows),
  /// never throws.
  static Result<Array> make(size_t count) {
    Array array;
    if (count > SIZE_MAX / sizeof(T)) {
      return Error{Status::OUT_OF_MEMORY, "array size overflows", {}, {}, kNoOffset};
    }
    array.elements_.reset(new (std::nothrow) T[count == 0 ? 1 : count]);
    if (!array.elements_) {
      return Error{Status::OUT_OF_MEMORY,
                   std::to_string(count * sizeof(T)) + " bytes could not be allocated",
                   {},
                   {},
                   kNoOffset};
    }
    const size_t size_bytes = count * sizeof(T);
    if (size_bytes >= kHugePagesFromBytes) advise_huge_pages(array.elements_.get(), size_bytes);
    array.size_ = count;
    return array;
  }

  /// `count` elements from byte `offset_bytes` of `memory` on, which lives as long as any of its
  /// parts. REQUIRES: they lie inside it, are aligned, and no other part has them.
  static Array part_of(std::shared_ptr<Array<uint8_t>> memory, size_t offset_bytes, size_t count) {
    Array array;
    auto* elements = reinterpret_cast<T*>(memory->data() + offset_bytes);
    array.elements_ = Elements(elements, Release{std::move(memory)});
    array.size_ = count;
    return array;
  }

  T* data() { return elements_.get(); }
  const T* data() const { return elements_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return elements_[i]; }
  const T& operator[](size_t i) const { return elements_[i]; }

  /// Keeps the first `count` elements (capacity is not returned). REQUIRES: count <= size().
  void truncate(size_t count) { size_ = count; }

 private:
  /// Lets go of the memory that the elements are a part of; without one they are its own.
  struct Release {
    std::shared_ptr<Array<uint8_t>> memory;
    void operator()(T* elements) const {
      if (!memory) delete[] elements;
    }
  };
  using Elements = std::unique_ptr<T[], Release>;

  Elements elements_;
  size_t size_ = 0;
};

}  // namespace shira
