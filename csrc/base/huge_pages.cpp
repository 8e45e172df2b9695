// The hint of Linux; other systems choose for themselves.
// SPDX-License-Identifier: Apache-2.0
#include "base/huge_pages.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace shira {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A refusal leaves the pages as they are, which serve as well.
[[maybe_unused]] void advise_whole_pages(void* memory, size_t size_bytes, int advice) {
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + page_bytes - 1) / page_bytes * page_bytes;
  const uintptr_t end = (address + size_bytes) / page_bytes * page_bytes;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

void advise_huge_pages(void* memory, size_t size_bytes) {
#if defined(MADV_HUGEPAGE)
  advise_whole_pages(memory, size_bytes, MADV_HUGEPAGE);
#else
  static_cast<void>(memory);
  static_cast<void>(size_bytes);
#endif
}

void populate_pages(void* memory, size_t size_bytes) {
#if defined(__linux__)
  advise_whole_pages(memory, size_bytes, kPopulateWrite);
#else
  static_cast<void>(memory);
  static_cast<void>(size_bytes);
#endif
}

uint64_t huge_page_bytes(const char* folder) {
#if defined(MADV_HUGEPAGE) && defined(PR_GET_THP_DISABLE)
  const std::string enabled = first_line(std::string(folder) + "/enabled");
  const std::string size = first_line(std::string(folder) + "/hpage_pmd_size");
  const uint64_t bytes = std::strtoull(size.c_str(), nullptr, 10);
  const auto small = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const bool is_given = enabled.find("[always]") != std::string::npos ||
                        enabled.find("[madvise]") != std::string::npos;
  const bool is_power_of_two = (bytes & (bytes - 1)) == 0;
  if (!is_given || !is_power_of_two || bytes <= small) return 0;
  return prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 ? bytes : 0;
#else
  static_cast<void>(folder);
  return 0;
#endif
}

}  // namespace shira
