// By the one advice that takes effect at once, which is that of Linux; others keep the memory.
// SPDX-License-Identifier: Apache-2.0
#include "base/spent_bytes.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace shira {
namespace {

constexpr uintptr_t kPieceBytes = 256 << 10;  // calls are few, and what waits for one is little

void release_pages(uintptr_t begin, uintptr_t end) {
#if defined(__linux__)
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  begin = (begin + page_bytes - 1) / page_bytes * page_bytes;
  end = end / page_bytes * page_bytes;
  // A refusal, as for locked memory, leaves everything as it was.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
#else
  static_cast<void>(begin);
  static_cast<void>(end);
#endif
}

}  // namespace

void SpentBytes::add(uintptr_t begin, size_t size_bytes) {
#if defined(__SANITIZE_ADDRESS__)
  // Who reads spent bytes is found out even where they are less than a page.
  __asan_poison_memory_region(reinterpret_cast<const void*>(begin), size_bytes);
#endif
  if (begin < begin_ || begin >= end_ + kUnitBytes) {
    flush();
    begin_ = given_to_ = begin;
  }
  end_ = std::max(end_, begin + size_bytes);
  const uintptr_t whole_pieces = end_ / kPieceBytes * kPieceBytes;
  if (given_to_ < whole_pieces) give_back_to(whole_pieces);
}

void SpentBytes::flush() {
  give_back_to(end_);
  begin_ = end_ = given_to_ = 0;
}

void SpentBytes::give_back_to(uintptr_t end) {
  release_pages(given_to_, end);
  given_to_ = end;
}

}  // namespace shira
