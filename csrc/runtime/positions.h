// Positions: an IndexList with what every switch needs to know about it, worked out once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "base/array.h"
#include "base/process_maps.h"
#include "base/result.h"
#include "format/index_list.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// Consecutive units (entries or runs) of an IndexList: the piece of work that one thread takes. It
/// may begin and end inside a run.
struct Slice {
  size_t first_unit = 0;
  size_t unit_count = 0;
  uint64_t first_entry = 0;
  uint64_t entry_count = 0;  // without those skipped
  uint32_t skip_front = 0;   // elements of the first run that do not belong to it; 0 for entries
  uint32_t skip_back = 0;    // of the last run
};

/// The memory pages that positions of one tensor lie on, as a bit set from the tensor's first page.
class PageSet {
 public:
  /// OUT_OF_MEMORY. REQUIRES: page_size_bytes is a power of two.
  static Result<PageSet> make(const IndexList& list, const TensorSpec& tensor,
                              uint64_t page_size_bytes = page_bytes());

  uint64_t count() const { return count_union(*this, PageSet{}); }

  /// The bits, 64 pages a word; page 0 is the one with the tensor's first byte.
  const Array<uint64_t>& words() const { return words_; }

  /// Pages in either set. REQUIRES: both are of the same tensor, or one is empty.
  static uint64_t count_union(const PageSet& a, const PageSet& b);

 private:
  void mark(uint64_t first_page, uint64_t last_page);

  Array<uint64_t> words_;
};

/// Immutable, shared by the patches that touch the same positions of one tensor.
struct Positions {
  std::shared_ptr<const IndexList> list;
  Array<Slice> slices;  // cover the list in order
  PageSet pages;

  uint64_t count() const { return list->entry_count; }

  static Result<std::shared_ptr<const Positions>> make(std::shared_ptr<const IndexList> list,
                                                       const TensorSpec& tensor);
};

}  // namespace shira
