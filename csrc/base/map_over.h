// map_over: replacing pages that other threads may be using at that moment.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace shira {

/// mmap with MAP_PRIVATE | MAP_FIXED | `flags` as the bare system call: libc's is not promised to
/// be async-signal-safe, and the thread sanitizer takes that for a store to every byte, though the
/// kernel exchanges pages in one step. Sets errno when it fails.
inline bool map_over(uintptr_t begin, size_t size_bytes, int protection, int flags, int descriptor,
                     uint64_t offset_bytes) {
  return syscall(SYS_mmap, begin, size_bytes, protection, MAP_PRIVATE | MAP_FIXED | flags,
                 descriptor, offset_bytes) != -1;
}

}  // namespace shira
