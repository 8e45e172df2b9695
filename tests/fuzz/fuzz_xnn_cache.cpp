// Fuzz target: the index of a packed cache. Whatever it says, every entry lies in the file, alone.
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "check.h"
#include "memory_meter.h"
#include "packed/cache_index.h"

namespace shira::fuzz {
namespace {

void check_entries(const PackedCacheIndex& index, uint64_t file_bytes) {
  uint64_t total_bytes = 0;
  for (size_t i = 0; i < index.entries().size(); ++i) {
    const PackedCacheEntry& entry = index.entries()[i];
    FUZZ_CHECK(entry.size_bytes > 0 && entry.offset_bytes <= file_bytes &&
               entry.size_bytes <= file_bytes - entry.offset_bytes);
    FUZZ_CHECK(i == 0 || index.entries()[i - 1].name < entry.name);
    FUZZ_CHECK(index.find(entry.name) == &entry);
    const auto [first, end] = index.starting_with(entry.name);
    FUZZ_CHECK(first == i && end > i && end <= index.entries().size());
    total_bytes += entry.size_bytes;
  }
  FUZZ_CHECK(total_bytes <= file_bytes);
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  std::vector<uint8_t> bytes(data, data + size_bytes);
  // Another kind of file would be refused at once.
  if (bytes.size() >= 20) {
    const uint8_t magic_and_version[] = {'C', 'W', 'P', 'X', 2, 0, 0, 0};
    std::copy(magic_and_version, magic_and_version + 8, bytes.end() - 8);
  }
  const shira::fuzz::MemoryMeter meter;
  const auto index = shira::PackedCacheIndex::read(bytes.data(), bytes.size(), "fuzz");
  FUZZ_CHECK(meter.peak_bytes() <= 64 * 1024 + 64 * bytes.size());
  if (index.ok()) {
    shira::fuzz::check_entries(index.value(), bytes.size());
  } else {
    FUZZ_CHECK(index.error().offset_bytes <= bytes.size());
  }
  return 0;
}
