// Builds files as ExecuTorch's packed cache writes them, and damages them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shira::test {

struct CacheEntryInput {
  std::string name;
  uint64_t offset_bytes;
  uint64_t size_bytes;
  uint32_t seed = 7;
};

/// The fields of a cache file; those of the trailer may be set to anything.
struct CacheInput {
  uint64_t data_bytes = 4096;
  std::vector<CacheEntryInput> entries = {{"b", 0, 100}, {"ab", 1024, 512}, {"abc", 2048, 2048}};
  uint64_t index_start = UINT64_MAX;  // UINT64_MAX: where it is
  int64_t extra_entry_count = 0;
  uint32_t magic = 0x58505743;
  uint32_t version = 2;
  std::vector<uint8_t> gap;  // between the last entry and the trailer
};

inline std::vector<uint8_t> build_cache(const CacheInput& input) {
  std::vector<uint8_t> file(input.data_bytes, 0x5A);
  const auto append = [&](uint64_t value, unsigned size_bytes) {
    for (unsigned i = 0; i < size_bytes; ++i)
      file.push_back(static_cast<uint8_t>(value >> (8 * i)));
  };
  for (const CacheEntryInput& entry : input.entries) {
    append(entry.name.size(), 4);
    file.insert(file.end(), entry.name.begin(), entry.name.end());
    append(entry.offset_bytes, 8);
    append(entry.size_bytes, 8);
    append(entry.seed, 4);
  }
  file.insert(file.end(), input.gap.begin(), input.gap.end());
  append(input.index_start == UINT64_MAX ? input.data_bytes : input.index_start, 8);
  append(input.entries.size() + static_cast<uint64_t>(input.extra_entry_count), 4);
  append(input.magic, 4);
  append(input.version, 4);
  return file;
}

}  // namespace shira::test
