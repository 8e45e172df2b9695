// The trailer, then entry by entry, every field checked.
// SPDX-License-Identifier: Apache-2.0
#include "packed/cache_index.h"

#include <algorithm>

#include "base/byte_reader.h"
#include "base/checked_math.h"

namespace shira {
namespace {

constexpr uint64_t kTrailerBytes = 20;
constexpr uint64_t kEntryBytes = 24;  // without the name
constexpr uint32_t kMagic = 0x58505743;
constexpr uint32_t kVersion = 2;
constexpr uint32_t kMaxNameBytes = 4096;
// ExecuTorch aligns to pages; XNNPACK's kernels rely on this much.
constexpr uint64_t kAlignment = 64;

/// One reading of a file; the first problem ends it.
class IndexReader {
 public:
  IndexReader(ByteReader file, const std::string& path) : file_(file), path_(path) {}

  Result<std::vector<PackedCacheEntry>> read() {
    if (file_.size() == 0) return std::vector<PackedCacheEntry>();
    if (file_.size() < kTrailerBytes) {
      return error(Status::TRUNCATED, 0,
                   "a packed cache ends with " + std::to_string(kTrailerBytes) +
                       " bytes that describe it, and the file has " + std::to_string(file_.size()));
    }
    const uint64_t trailer = file_.size() - kTrailerBytes;
    SHIRA_TRY(check_trailer(trailer));
    end_ = trailer;
    uint64_t at = data_end_ = file_.u64(trailer);
    const uint32_t entry_count = file_.u32(trailer + 8);
    if (entry_count > (end_ - at) / kEntryBytes) {
      return error(Status::BAD_COUNT, trailer + 8,
                   std::to_string(entry_count) + " entries do not fit into an index of " +
                       std::to_string(end_ - at) + " bytes");
    }
    std::vector<PackedCacheEntry> entries;
    entries.reserve(entry_count);
    for (uint32_t i = 0; i < entry_count; ++i) {
      SHIRA_ASSIGN(PackedCacheEntry entry, read_entry(&at));
      entries.push_back(std::move(entry));
    }
    if (at != end_) {
      return error(Status::TRAILING_BYTES, at,
                   std::to_string(end_ - at) + " bytes follow the last of " +
                       std::to_string(entry_count) + " entries");
    }
    SHIRA_TRY(check_overlap(&entries));
    return sorted_by_name(std::move(entries));
  }

 private:
  Result<void> check_trailer(uint64_t trailer) const {
    if (file_.u32(trailer + 12) != kMagic) {
      return error(Status::BAD_MAGIC, trailer + 12, "the file does not end as a packed cache does");
    }
    if (const uint32_t version = file_.u32(trailer + 16); version != kVersion) {
      return error(Status::UNSUPPORTED_VERSION, trailer + 16,
                   "the packed cache has version " + std::to_string(version) + ", not " +
                       std::to_string(kVersion));
    }
    if (const uint64_t start = file_.u64(trailer); start > trailer) {
      return error(Status::BAD_LAYOUT, trailer,
                   "the index begins at byte " + std::to_string(start) + ", behind its end at " +
                       std::to_string(trailer));
    }
    return {};
  }

  Result<PackedCacheEntry> read_entry(uint64_t* at) const {
    const uint64_t begin = *at;
    if (end_ - begin < kEntryBytes) return too_short(begin, kEntryBytes);
    const uint32_t name_bytes = file_.u32(begin);
    if (name_bytes == 0 || name_bytes > kMaxNameBytes) {
      return error(Status::BAD_NAME, begin,
                   "a name has " + std::to_string(name_bytes) + " bytes, not 1 to " +
                       std::to_string(kMaxNameBytes));
    }
    if (end_ - begin < kEntryBytes + name_bytes) return too_short(begin, kEntryBytes + name_bytes);
    PackedCacheEntry entry;
    const uint8_t* name = file_.data() + begin + 4;
    const auto* bad = std::find_if(name, name + name_bytes,
                                   [](uint8_t byte) { return byte <= 0x20 || byte >= 0x7F; });
    if (bad != name + name_bytes) {
      return error(
          Status::BAD_NAME, begin + 4 + static_cast<uint64_t>(bad - name),
          "a name has the byte " + std::to_string(*bad) + ", which is no printable character");
    }
    entry.name.assign(name, name + name_bytes);
    const uint64_t numbers = begin + 4 + name_bytes;
    entry.offset_bytes = file_.u64(numbers);
    entry.size_bytes = file_.u64(numbers + 8);
    entry.seed = file_.u32(numbers + 16);
    if (entry.offset_bytes % kAlignment != 0) {
      return error(Status::BAD_LAYOUT, numbers,
                   "entry " + entry.name + " begins at byte " + std::to_string(entry.offset_bytes) +
                       ", which is no multiple of " + std::to_string(kAlignment));
    }
    if (entry.size_bytes == 0 || !range_fits(entry.offset_bytes, entry.size_bytes, data_end_)) {
      return error(Status::BAD_LAYOUT, numbers,
                   "entry " + entry.name + " has " + std::to_string(entry.size_bytes) +
                       " bytes from byte " + std::to_string(entry.offset_bytes) +
                       " on, and the weights end at " + std::to_string(data_end_));
    }
    *at = numbers + 20;
    return entry;
  }

  Result<void> check_overlap(std::vector<PackedCacheEntry>* entries) const {
    std::sort(entries->begin(), entries->end(),
              [](const auto& a, const auto& b) { return a.offset_bytes < b.offset_bytes; });
    for (size_t i = 1; i < entries->size(); ++i) {
      const PackedCacheEntry& before = (*entries)[i - 1];
      const PackedCacheEntry& entry = (*entries)[i];
      if (entry.offset_bytes - before.offset_bytes < before.size_bytes) {
        return error(Status::BAD_LAYOUT, entry.offset_bytes,
                     "entries " + before.name + " and " + entry.name + " overlap");
      }
    }
    return {};
  }

  Result<std::vector<PackedCacheEntry>> sorted_by_name(
      std::vector<PackedCacheEntry> entries) const {
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    for (size_t i = 1; i < entries.size(); ++i) {
      if (entries[i - 1].name == entries[i].name) {
        return error(Status::BAD_NAME, data_end_, "two entries are named " + entries[i].name);
      }
    }
    return entries;
  }

  Error too_short(uint64_t offset_bytes, uint64_t needed_bytes) const {
    return error(Status::TRUNCATED, offset_bytes,
                 "an entry needs " + std::to_string(needed_bytes) + " bytes, and the index has " +
                     std::to_string(end_ - offset_bytes) + " left");
  }

  Error error(Status status, uint64_t offset_bytes, std::string message) const {
    return Error{status, std::move(message), path_, {}, offset_bytes};
  }

  const ByteReader file_;
  const std::string& path_;
  uint64_t data_end_ = 0;  // where the index begins
  uint64_t end_ = 0;       // of the index
};

}  // namespace

Result<PackedCacheIndex> PackedCacheIndex::read(const uint8_t* bytes, uint64_t size_bytes,
                                                const std::string& path) {
  PackedCacheIndex index;
  SHIRA_ASSIGN(index.entries_, IndexReader(ByteReader(bytes, size_bytes), path).read());
  return index;
}

const PackedCacheEntry* PackedCacheIndex::find(const std::string& name) const {
  const auto [first, end] = starting_with(name);
  return first != end && entries_[first].name == name ? &entries_[first] : nullptr;
}

std::pair<size_t, size_t> PackedCacheIndex::starting_with(const std::string& prefix) const {
  const auto less = [&](const PackedCacheEntry& entry, const std::string& name) {
    return entry.name.compare(0, prefix.size(), name) < 0;
  };
  const auto greater = [&](const std::string& name, const PackedCacheEntry& entry) {
    return name.compare(0, std::string::npos, entry.name, 0, prefix.size()) < 0;
  };
  const auto first = std::lower_bound(entries_.begin(), entries_.end(), prefix, less);
  const auto end = std::upper_bound(first, entries_.end(), prefix, greater);
  return {static_cast<size_t>(first - entries_.begin()),
          static_cast<size_t>(end - entries_.begin())};
}

}  // namespace shira
