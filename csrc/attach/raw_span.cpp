// The region of caller-owned memory: what the kernel said of it when it was registered still holds.
// SPDX-License-Identifier: Apache-2.0
#include "attach/raw_span.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace shira {
namespace {

/// A stretch of the span with the same memory behind it. The areas of a map may be smaller: the
/// kernel splits and joins them as protections change.
struct Piece {
  uintptr_t end = 0;
  uint64_t device = 0;
  uint64_t inode = 0;  // 0: private anonymous memory, of which one is like another
  bool shared = false;
  uint64_t origin_bytes = 0;  // file offset minus address, which may wrap around

  bool continues(const Piece& other) const {
    return device == other.device && inode == other.inode && shared == other.shared &&
           origin_bytes == other.origin_bytes;
  }
};

Piece piece_of(const MemoryArea& area, uintptr_t span_end) {
  const uint64_t origin_bytes = area.inode == 0 ? 0 : area.file_offset_bytes - area.begin;
  return {std::min(area.end, span_end), area.device, area.inode, area.shared, origin_bytes};
}

/// Shared memory proper is mapped from /dev/shm, /dev/zero, /dev/ashmem, a memfd or System V.
/// Every other shared file mapping would carry a store into the file (law I5).
bool writes_reach_a_file(const MemoryArea& area) {
  const auto starts_with = [&area](std::string_view prefix) {
    return area.path.substr(0, prefix.size()) == prefix;
  };
  return area.shared && starts_with("/") && !starts_with("/dev/") && !starts_with("/memfd:") &&
         !starts_with("/SYSV");
}

Error refusal(Status status, std::string message) {
  return Error{status, std::move(message), {}, {}, kNoOffset};
}

/// Calls visit(area) for the areas of the span in ascending order; they are mapped and writable.
template <typename Visit>
Result<void> for_each_area(const ProcessMaps& maps, const uint8_t* data, uint64_t size_bytes,
                           Visit visit) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  uintptr_t end = 0;
  if (__builtin_add_overflow(begin, size_bytes, &end)) {
    return refusal(Status::DETACHED, "the span leaves the address space");
  }
  for (uintptr_t address = begin; address < end;) {
    const MemoryArea* area = maps.find(address);
    if (area == nullptr) {
      return refusal(Status::DETACHED,
                     "the memory was unmapped after it was attached: nothing is mapped at byte " +
                         std::to_string(address - begin) + " of " + std::to_string(size_bytes));
    }
    if (!area->readable || !area->writable) {
      return refusal(Status::READ_ONLY,
                     std::string("the memory is ") +
                         (area->readable ? "mapped read-only" : "not readable") +
                         (area->path.empty() ? "" : " from " + std::string(area->path)));
    }
    SHIRA_TRY(visit(*area, piece_of(*area, end)));
    address = area->end;
  }
  return {};
}

class RawRegion final : public Region {
 public:
  Result<void> attach(const ProcessMaps& maps, const uint8_t* data, uint64_t size_bytes) override {
    const auto remember = [this](const MemoryArea& area, const Piece& piece) -> Result<void> {
      if (writes_reach_a_file(area)) {
        return refusal(Status::READ_ONLY, "the memory is a shared mapping of " +
                                              std::string(area.path) +
                                              ": a store would change the file");
      }
      if (pieces_.empty() || !pieces_.back().continues(piece)) pieces_.push_back(piece);
      pieces_.back().end = piece.end;
      return {};
    };
    pieces_.clear();
    return for_each_area(maps, data, size_bytes, remember);
  }

  Result<void> check(const ProcessMaps& maps, const uint8_t* data,
                     uint64_t size_bytes) const override {
    auto expected = pieces_.begin();
    auto address = reinterpret_cast<uintptr_t>(data);
    const auto compare = [&](const MemoryArea& /*area*/, const Piece& piece) -> Result<void> {
      // Pieces that continue each other were joined, so that an area lies in one of them.
      if (expected == pieces_.end() || !expected->continues(piece) || piece.end > expected->end) {
        return refusal(Status::DETACHED,
                       "the memory was reused after it was attached: " +
                           std::string(piece.inode == 0 ? "anonymous memory" : "another mapping") +
                           " lies at byte " +
                           std::to_string(address - reinterpret_cast<uintptr_t>(data)) + " of " +
                           std::to_string(size_bytes) + " now");
      }
      if (piece.end == expected->end) ++expected;
      address = piece.end;
      return {};
    };
    return for_each_area(maps, data, size_bytes, compare);
  }

 private:
  std::vector<Piece> pieces_;  // ascending, without holes
};

}  // namespace

std::shared_ptr<Region> make_raw_region() { return std::make_shared<RawRegion>(); }

}  // namespace shira
