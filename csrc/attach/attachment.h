// Attachment: the private mappings of one file that attaching has put in place, and whether they
// are still there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "attach/mapping_plan.h"
#include "attach/private_pages.h"
#include "base/file.h"
#include "base/process_maps.h"
#include "base/result.h"

namespace shira {

/// What the regions of one attach have in common.
class Attachment {
 public:
  /// Of `spans`, which need not be in place yet. `mapping`: what the regions keep alive, or null
  /// where the program itself does. OUT_OF_MEMORY.
  static Result<std::shared_ptr<Attachment>> make(File file, const FileIdentity& identity,
                                                  const FileState& state,
                                                  const std::vector<PageSpan>& spans,
                                                  std::shared_ptr<const void> mapping = nullptr);
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  /// With nobody left to store into them, the mappings that are still there become read-only again,
  /// showing what they show. That is also what tells a later attach that they are free.
  ~Attachment();

  const File& file() const { return file_; }
  PrivatePages& pages(size_t span_index) { return pages_[span_index]; }

  /// From now on the mappings are in place, and nobody's but the program's.
  void own_mappings() { owns_mappings_ = true; }

  /// DETACHED when the file was modified after it was attached.
  Result<void> check_unchanged() const;

  /// Every area of [begin, end), a part of the span of `pages`, must still be the private, writable
  /// view of the same file bytes, or one of the copies that were moved over it. DETACHED,
  /// READ_ONLY. REQUIRES: `maps` has the areas with add_watched().
  Result<void> check_pages(const ProcessMaps& maps, const PrivatePages& pages, uintptr_t begin,
                           uintptr_t end) const;

  /// Appends what check_pages() looks at.
  static void add_watched(const PrivatePages& pages, uintptr_t begin, uintptr_t end,
                          std::vector<AddressRange>* ranges);

 private:
  Attachment(File file, const FileIdentity& identity, const FileState& state,
             std::shared_ptr<const void> mapping)
      : file_(std::move(file)), identity_(identity), state_(state), mapping_(std::move(mapping)) {}

  bool shows_file(const MemoryArea& area, const PageSpan& span, uintptr_t address) const;
  bool has_both_ends(const ProcessMaps& maps, const PageSpan& span) const;
  Error detached(uint64_t offset_bytes, const MemoryArea* area) const;

  const File file_;
  const FileIdentity identity_;
  const FileState state_;
  const std::shared_ptr<const void> mapping_;
  std::vector<PrivatePages> pages_;  // of each span
  bool owns_mappings_ = false;
};

}  // namespace shira
