// Region: where a tensor's live bytes come from, and whether they are still there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/process_maps.h"
#include "base/result.h"

namespace shira {

class PageSet;

/// How the pages of a copy-on-write mapping become private before they are stored to. Only time and
/// memory depend on it, and how hard_revert() gets rid of them.
enum class FirstTouch : uint8_t {
  automatic,  // huge pages where nearly every page will be stored to, else populate
  populate,   // the kernel copies the pages that will be stored to, and only these
  huge        // wherever one of the pages that a huge page can hold will be stored to
};

/// The pages that one tensor's stores need; page 0 of `pages` is the one with `data`.
struct PageNeed {
  const uint8_t* data = nullptr;
  const PageSet* pages = nullptr;
};

/// What a region costs.
struct RegionMemory {
  uint64_t mapped_bytes = 0;   // of address space; 0 where nothing is copied on write
  uint64_t private_bytes = 0;  // of it, copies that are this process's own, swapped ones too
  uint64_t huge_bytes = 0;     // of it, replaced by copies in huge pages
};

/// The memory behind one or more tensors. Implemented by csrc/attach (raw spans, mapped files).
class Region {
 public:
  virtual ~Region() = default;

  /// Asked once for every tensor when it is registered: may [data, data + size_bytes) be patched? A
  /// region may remember what `maps` (with paths) says of it. The errors of check().
  virtual Result<void> attach(const ProcessMaps& maps, const uint8_t* data, uint64_t size_bytes) {
    return check(maps, data, size_bytes);
  }

  /// Asked for every touched tensor before the first store of a switch: is [data, data +
  /// size_bytes) still the memory that was attached, and writable? DETACHED or READ_ONLY otherwise.
  /// `maps` is one fresh snapshot shared by all questions; it may lack the paths.
  virtual Result<void> check(const ProcessMaps& maps, const uint8_t* data,
                             uint64_t size_bytes) const = 0;

  /// The memory that check() looks at for a tensor at [data, data + size_bytes): `maps` has these
  /// areas. Appends.
  virtual void add_watched(const uint8_t* data, uint64_t size_bytes,
                           std::vector<AddressRange>* ranges) const {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    ranges->push_back({begin, begin + static_cast<uintptr_t>(size_bytes)});
  }

  /// From now on. NOT_SUPPORTED where the system has no huge pages to use.
  virtual Result<void> set_first_touch(FirstTouch /*first_touch*/) { return {}; }

  /// The bytes that stores have made private so far, as far as the region has made them so, and
  /// would if these were made too. 0 where nothing is copied on write. OUT_OF_MEMORY.
  virtual Result<uint64_t> private_bytes_with(const std::vector<PageNeed>& /*needs*/) const {
    return uint64_t{0};
  }

  /// Asks the kernel, page by page: for reports, not for switches. IO_ERROR, OUT_OF_MEMORY.
  virtual Result<RegionMemory> memory() const { return RegionMemory{}; }

  /// Asked after check() and before the first store of a switch, perhaps for several tensors at a
  /// time: makes sure that the marked pages of the tensor at `data` can be stored to, so that lack
  /// of memory or a file truncated since check() shows here and not between two stores. DETACHED,
  /// OUT_OF_MEMORY.
  virtual Result<void> prepare_stores(const uint8_t* /*data*/, const PageSet& /*pages*/) {
    return {};
  }

  /// Told when a FaultGuard has put empty pages into [data, data + size_bytes): a region that can
  /// takes them away again, so that nobody reads zeros for weights.
  virtual void take_empty_pages_away(const uint8_t* /*data*/, uint64_t /*size_bytes*/) {}

  /// True when the pristine bytes can be read back from a file (verify_base) and private pages can
  /// be dropped (hard revert).
  virtual bool has_source() const { return false; }

  /// Reads `size_bytes` pristine bytes belonging to `data` into `out`. A tensor with a layout asks
  /// through it (ElementLayout::read_source), which says what bytes these are. NOT_SUPPORTED
  /// without a source; IO_ERROR or DETACHED when the file changed its identity.
  virtual Result<void> read_source(const uint8_t* /*data*/, uint64_t /*size_bytes*/,
                                   uint8_t* /*out*/) const {
    return Error{Status::NOT_SUPPORTED, "this memory has no source file to read the base from"};
  }

  /// How many of these bytes reading the source would have to fetch from storage.
  virtual uint64_t cold_source_bytes(const uint8_t* /*data*/, uint64_t /*size_bytes*/) const {
    return 0;
  }

  /// Gives private pages back that show what the source shows anyway; returns how many bytes. No
  /// byte of the memory changes. DETACHED, READ_ONLY, IO_ERROR, OUT_OF_MEMORY. REQUIRES: nobody
  /// stores meanwhile.
  virtual Result<uint64_t> release_pages() { return uint64_t{0}; }

  /// Drops every private page of the region, so that the memory shows the file again. Only for
  /// file-backed private maps whose device, inode and size still match, else NOT_SUPPORTED or
  /// DETACHED. REQUIRES: check() passed under the same gate.
  virtual Result<void> hard_revert() {
    return Error{Status::NOT_SUPPORTED, "this memory has no source file to revert to"};
  }
};

}  // namespace shira
