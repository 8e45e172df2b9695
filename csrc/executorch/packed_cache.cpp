// Making the file, and reading the index that the delegate keeps at its end.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/packed_cache.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/array.h"
#include "base/byte_reader.h"
#include "base/checked_math.h"

namespace shira {
namespace {

// The file ends with: u64 start of the index, u32 entries, u32 magic, u32 version. The index is,
// for each entry: u32 length of the name, the name, u64 offset, u64 size, u32 seed.
constexpr uint64_t kFooterBytes = 20;
constexpr uint32_t kMagic = 0x58505743;  // "XPWC"
constexpr uint32_t kVersion = 2;

Error malformed(const char* what, uint64_t offset_bytes) {
  return Error{Status::BAD_PROGRAM_FILE,
               std::string("XNNPACK's index of packed weights cannot be read: ") + what,
               {},
               {},
               offset_bytes};
}

}  // namespace

Result<PackedCache> PackedCache::make() {
  const int descriptor = memfd_create("shira-packed-weights", MFD_CLOEXEC);
  if (descriptor < 0) {
    const int code = errno;
    return Error{code == ENOSYS ? Status::NOT_SUPPORTED : Status::OUT_OF_MEMORY,
                 "no file in memory for packed weights can be made: " +
                     std::generic_category().message(code)};
  }
  return PackedCache(descriptor, "/proc/self/fd/" + std::to_string(descriptor));
}

PackedCache::~PackedCache() {
  if (descriptor_ >= 0) close(descriptor_);
}

PackedCache::PackedCache(PackedCache&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

Result<std::vector<PackedEntry>> PackedCache::read_index() const {
  std::vector<PackedEntry> entries;
  struct stat status{};
  if (fstat(descriptor_, &status) != 0) return malformed("it cannot be examined", 0);
  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  if (file_bytes == 0) return entries;
  if (file_bytes < kFooterBytes) return malformed("the file is shorter than its footer", 0);

  const auto read = [&](uint64_t offset_bytes, uint64_t size_bytes) -> Result<Array<uint8_t>> {
    SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(static_cast<size_t>(size_bytes)));
    if (pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes)) !=
        static_cast<ssize_t>(bytes.size())) {
      return malformed("it cannot be read", offset_bytes);
    }
    return bytes;
  };
  const uint64_t footer_offset = file_bytes - kFooterBytes;
  SHIRA_ASSIGN(const Array<uint8_t> footer_bytes, read(footer_offset, kFooterBytes));
  const ByteReader footer(footer_bytes.data(), footer_bytes.size());
  const uint64_t index_offset = footer.u64(0);
  const uint32_t entry_count = footer.u32(8);
  if (footer.u32(12) != kMagic) return malformed("the magic is missing", footer_offset + 12);
  if (footer.u32(16) != kVersion) return malformed("it has another version", footer_offset + 16);
  if (index_offset > footer_offset) return malformed("it begins outside", footer_offset);

  SHIRA_ASSIGN(const Array<uint8_t> index_bytes, read(index_offset, footer_offset - index_offset));
  const ByteReader index(index_bytes.data(), index_bytes.size());
  constexpr uint64_t kFixedBytes = 4 + 8 + 8 + 4;
  uint64_t at = 0;
  for (uint32_t i = 0; i < entry_count; ++i) {
    const uint64_t name_bytes = index.u32(at);
    if (!index.contains(at, kFixedBytes + name_bytes))
      return malformed("it is cut", index_offset + at);
    PackedEntry entry;
    entry.name.assign(reinterpret_cast<const char*>(index.data() + at + 4),
                      static_cast<size_t>(name_bytes));
    entry.offset_bytes = index.u64(at + 4 + name_bytes);
    entry.size_bytes = index.u64(at + 12 + name_bytes);
    entry.seed = index.u32(at + 20 + name_bytes);
    if (!range_fits(entry.offset_bytes, entry.size_bytes, index_offset))
      return malformed("a weight lies outside", index_offset + at);
    at += kFixedBytes + name_bytes;
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace shira
