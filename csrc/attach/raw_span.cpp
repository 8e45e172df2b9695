// The region of caller-owned memory: nothing is known about it but what the kernel says.
// SPDX-License-Identifier: Apache-2.0
#include "attach/raw_span.h"

#include <string>
#include <string_view>

namespace shira {
namespace {

/// Shared memory proper is mapped from /dev/shm, /dev/zero, /dev/ashmem, a memfd or System V.
/// Every other shared file mapping would carry a store into the file (law I5). A map without paths
/// cannot tell; the one that a tensor is registered with has them.
bool writes_reach_a_file(const MemoryArea& area) {
  const auto starts_with = [&area](std::string_view prefix) {
    return area.path.substr(0, prefix.size()) == prefix;
  };
  return area.shared && starts_with("/") && !starts_with("/dev/") && !starts_with("/memfd:") &&
         !starts_with("/SYSV");
}

class RawRegion final : public Region {
 public:
  Result<void> check(const ProcessMaps& maps, const uint8_t* data,
                     uint64_t size_bytes) const override {
    auto address = reinterpret_cast<uintptr_t>(data);
    uintptr_t end = 0;
    if (__builtin_add_overflow(address, size_bytes, &end)) {
      return Error{Status::DETACHED, "the span leaves the address space", {}, {}, kNoOffset};
    }
    while (address < end) {
      const MemoryArea* area = maps.find(address);
      if (area == nullptr) {
        return Error{Status::DETACHED,
                     "the memory was unmapped after it was attached: nothing is mapped at byte " +
                         std::to_string(address - reinterpret_cast<uintptr_t>(data)) + " of " +
                         std::to_string(size_bytes),
                     {},
                     {},
                     kNoOffset};
      }
      if (!area->readable || !area->writable) {
        return Error{Status::READ_ONLY,
                     std::string("the memory is ") +
                         (area->readable ? "mapped read-only" : "not readable") +
                         (area->path.empty() ? "" : " from " + std::string(area->path)),
                     {},
                     {},
                     kNoOffset};
      }
      if (writes_reach_a_file(*area)) {
        return Error{Status::READ_ONLY,
                     "the memory is a shared mapping of " + std::string(area->path) +
                         ": a store would change the file",
                     {},
                     {},
                     kNoOffset};
      }
      address = area->end;
    }
    return {};
  }
};

}  // namespace

std::shared_ptr<Region> make_raw_region() { return std::make_shared<RawRegion>(); }

}  // namespace shira
