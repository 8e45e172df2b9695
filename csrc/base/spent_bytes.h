// SpentBytes: gives memory back to the system behind the one who reads it for the last time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira {

/// Follows a reader through heap memory in pieces, so that what is read and what is made of it need
/// not be there at once. Only whole pages that lie inside what was spent are touched.
class SpentBytes {
 public:
  explicit SpentBytes(bool gives_back = false) : gives_back_(gives_back) {}

  /// What others still need begins and ends on multiples of this from what is spent, so that less
  /// than so much between two ranges is padding.
  static constexpr size_t kUnitBytes = 8;

  /// Nobody reads [begin, end) again: its bytes may be anything from now on, and those of padding
  /// between it and the range before.
  void spend(const uint8_t* begin, const uint8_t* end) {
    if (gives_back_ && begin < end) add(reinterpret_cast<uintptr_t>(begin), end - begin);
  }

  /// Gives back the rest, which is less than a piece. The next range starts anew.
  void flush();

  /// One for another place of the same memory.
  SpentBytes another() const { return SpentBytes(gives_back_); }

 private:
  void add(uintptr_t begin, size_t size_bytes);
  void give_back_to(uintptr_t end);

  bool gives_back_;
  uintptr_t begin_ = 0;  // [begin_, end_) was spent
  uintptr_t end_ = 0;
  uintptr_t given_to_ = 0;  // of which [begin_, given_to_) is given back
};

}  // namespace shira
