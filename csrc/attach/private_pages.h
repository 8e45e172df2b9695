// PrivatePages: which pages of a copy-on-write mapping have been made this process's own, and how.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "attach/mapping_plan.h"
#include "attach/touch_plan.h"
#include "base/array.h"
#include "base/file.h"
#include "base/result.h"
#include "runtime/positions.h"
#include "runtime/region.h"

namespace shira {

/// Remembers what it has asked the kernel for, so that a page costs a system call once and a bit
/// test afterwards. What it remembers may be out of date (the kernel takes private pages away when
/// the file is truncated): such a page is copied when it is stored to, like on kernels before Linux
/// 5.14, which cannot be asked. Calls for different pages may come at the same time.
///
/// There are two ways. *Populating* has the kernel copy each page where it lies: it stays a page of
/// the private mapping of the file, and dropping it shows the file again. *Moving* fills a block of
/// anonymous memory in huge pages and moves it over the mapping in one step: a fault for every
/// block instead of one for every page, but the memory is no longer mapped from the file, takes
/// every page of the block, and shows the file again only when the file is mapped over it. The
/// first and the last page of the span are never moved: as long as they are the file's, what lies
/// between them has not been unmapped with them.
class PrivatePages {
 public:
  /// For a private, writable mapping of `file` at `span`; both outlive this. `huge_page_bytes` as
  /// huge_page_bytes() has it. OUT_OF_MEMORY.
  static Result<PrivatePages> make(const File& file, const PageSpan& span,
                                   uint64_t huge_page_bytes);

  const PageSpan& span() const { return span_; }

  /// Makes the marked pages private; page 0 of `pages` is the one with `data`. DETACHED when the
  /// file no longer has one of them, OUT_OF_MEMORY. REQUIRES: the pages lie in the span.
  Result<void> add(const uint8_t* data, const PageSet& pages);

  /// NOT_SUPPORTED for huge pages where the system has none.
  Result<void> set_first_touch(FirstTouch first_touch);

  /// How many pages would be private after add() for all of these. OUT_OF_MEMORY.
  Result<uint64_t> count_with(const std::vector<PageNeed>& needs) const;

  uint64_t count_moved() const;
  bool has_moved() const { return __atomic_load_n(&has_moved_, __ATOMIC_RELAXED); }

  /// True when every page of [begin, end) has been moved. REQUIRES: they lie in the span.
  bool is_moved(uintptr_t begin, uintptr_t end) const;

  /// Maps the file over the pages of [begin, end) that are anonymous, but have not been moved: what
  /// a FaultGuard has put there. They then show what is left of the file.
  void map_file_again(uintptr_t begin, uintptr_t end, int protection) const;

  /// Gives back the pages that show the file's bytes anyway, of those that it knows to be private;
  /// moved ones by the block. Returns how many bytes. DETACHED, IO_ERROR, OUT_OF_MEMORY. REQUIRES:
  /// the whole span is still what was attached, and nobody stores meanwhile.
  Result<uint64_t> release();

  /// Shows the file everywhere again. NOT_SUPPORTED, OUT_OF_MEMORY: some pages may then have been
  /// dropped. REQUIRES: the whole span is still what was attached.
  Result<void> drop_all();

 private:
  HugeBlocks blocks(FirstTouch first_touch) const;
  Result<void> move(const TouchPiece& piece);
  Result<void> map_file_over(const TouchPiece& piece) const;
  Result<void> drop(const TouchPiece& piece) const;
  Result<uint64_t> release(const TouchPiece& piece, Array<uint8_t>* source);
  uint64_t page_of(const uint8_t* data) const;
  uintptr_t address_of(uint64_t page) const;

  const File* file_ = nullptr;
  PageSpan span_;
  Array<uint64_t> known_;  // a bit for each page
  Array<uint64_t> moved_;  // of these
  uint64_t block_pages_ = 0;
  FirstTouch first_touch_ = FirstTouch::automatic;
  bool has_moved_ = false;
};

}  // namespace shira
