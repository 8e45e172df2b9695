// Huge pages for large arrays: a fault for every 2 MiB of fresh memory, not for every 4 KiB.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira {

/// From this size on memory is worth asking for them.
constexpr size_t kHugePagesFromBytes = size_t{2} << 20;

/// Linux's MADV_POPULATE_READ and MADV_POPULATE_WRITE, which older system headers lack.
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;

/// Asks the system to back the whole pages of this range by huge ones, as far as it has any. Only a
/// hint: nothing changes where it is not understood.
void advise_huge_pages(void* memory, size_t size_bytes);

/// Gives the whole pages of this range of fresh memory their frames in one system call, where a
/// fault for each would cost several times as much. Only a hint, too.
void populate_pages(void* memory, size_t size_bytes);

/// The size of the huge pages that the system gives to who asks; 0 where it gives none. `folder` is
/// the system's settings.
uint64_t huge_page_bytes(const char* folder = "/sys/kernel/mm/transparent_hugepage");

}  // namespace shira
