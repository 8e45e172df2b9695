// Which pages of this process show a program's constants: pure arithmetic over a map and a file's
// tables. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attach/mapped_file.h"
#include "attach/program_file.h"
#include "base/process_maps.h"
#include "base/result.h"

namespace shira {

/// A file as /proc/self/maps names it. On overlay and some other file systems this is not what
/// stat() says.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;

  bool is_of(const MemoryArea& area) const {
    return area.inode == inode && area.device == device && inode != 0;
  }
};

/// Whole pages of address space that show consecutive pages of the file.
struct PageSpan {
  uintptr_t begin = 0;
  uint64_t size_bytes = 0;
  uint64_t file_offset_bytes = 0;

  uintptr_t end() const { return begin + static_cast<uintptr_t>(size_bytes); }
};

struct PlannedTensor {
  size_t tensor_index = 0;  // into ProgramFile::tensors
  size_t span_index = 0;    // into MappingPlan::spans
  uintptr_t address = 0;
};

struct MappingPlan {
  std::vector<PageSpan> spans;  // ascending, disjoint
  std::vector<PlannedTensor> tensors;
};

/// The pages that a loader maps for `range`. REQUIRES: page_bytes is a power of two.
FileRange whole_pages(const FileRange& range, uint64_t page_bytes);

/// Plans what attach_mapped_file() documents; its errors that concern mappings come from here.
Result<MappingPlan> plan_mappings(const ProgramFile& file, const std::vector<Anchor>& anchors,
                                  const ProcessMaps& maps, const FileIdentity& identity,
                                  uint64_t page_bytes);

}  // namespace shira
