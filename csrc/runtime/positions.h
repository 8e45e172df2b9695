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

using Bytes = Array<uint8_t>;

/// Consecutive units (entries or runs) of an IndexList: what kernels take at a time. It may begin
/// and end inside a run.
struct Slice {
  size_t first_unit = 0;
  size_t unit_count = 0;
  uint64_t first_entry = 0;
  uint64_t entry_count = 0;  // without those skipped
  uint32_t skip_front = 0;   // elements of the first run that do not belong to it; 0 for entries
  uint32_t skip_back = 0;    // of the last run
};

/// A place in an IndexList, just before one of its entries.
struct Mark {
  uint64_t position = 0;      // of that entry
  size_t unit_index = 0;      // of the entry or run that it belongs to
  uint64_t entry_offset = 0;  // how many entries lie before it
};

/// The memory pages that positions of one tensor lie on, and what is kept beside their elements, as
/// a bit set from the tensor's first page.
class PageSet {
 public:
  /// OUT_OF_MEMORY. REQUIRES: page_size_bytes is a power of two.
  static Result<PageSet> make(const IndexList& list, const TensorSpec& tensor,
                              uint64_t page_size_bytes = page_bytes());

  /// Pages in either set. OUT_OF_MEMORY. REQUIRES: both are of the same tensor.
  static Result<PageSet> unite(const PageSet& a, const PageSet& b);

  uint64_t count() const { return count_union(*this, PageSet{}); }

  /// The bits, 64 pages a word; page 0 is the one with the tensor's first byte.
  const Array<uint64_t>& words() const { return words_; }

  /// Pages in either set. REQUIRES: both are of the same tensor, or one is empty.
  static uint64_t count_union(const PageSet& a, const PageSet& b);

 private:
  void mark(uint64_t first_page, uint64_t last_page);
  void mark_all(const IndexList& list, const ElementLayout& layout, uint64_t in_page_bytes,
                unsigned page_shift);

  Array<uint64_t> words_;
};

/// Shared by the patches that touch the same positions of one tensor. Immutable apart from the
/// originals, which the first switch to one of them saves for all.
struct Positions {
  /// From one mark to the next: enough work to be worth handing to another thread.
  static constexpr uint64_t kMarkEntries = 32768;

  std::shared_ptr<const IndexList> list;
  Array<Mark> marks;  // before entry 0, kMarkEntries, ..., also in the middle of a run
  PageSet pages;
  mutable std::shared_ptr<const Bytes> originals;  // (count,) base values; guarded by the gate

  uint64_t count() const { return list->entry_count; }

  /// OUT_OF_MEMORY.
  static Result<std::shared_ptr<const Positions>> make(std::shared_ptr<const IndexList> list,
                                                       const TensorSpec& tensor);
  /// With the list's pages where they are known.
  static Result<std::shared_ptr<const Positions>> make(std::shared_ptr<const IndexList> list,
                                                       PageSet pages);
};

}  // namespace shira
