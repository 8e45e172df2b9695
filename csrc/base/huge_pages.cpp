// The hint of Linux; other systems choose for themselves.
// SPDX-License-Identifier: Apache-2.0
#include "base/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace shira {

void advise_huge_pages(void* memory, size_t size_bytes) {
#if defined(MADV_HUGEPAGE)
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + page_bytes - 1) / page_bytes * page_bytes;
  const uintptr_t end = (address + size_bytes) / page_bytes * page_bytes;
  // A refusal leaves small pages, which serve as well.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(memory);
  static_cast<void>(size_bytes);
#endif
}

}  // namespace shira
