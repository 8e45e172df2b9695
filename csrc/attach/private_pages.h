// PrivatePages: which pages of a copy-on-write mapping have been made this process's own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attach/mapping_plan.h"
#include "base/array.h"
#include "base/result.h"
#include "runtime/positions.h"

namespace shira {

/// Remembers what it has asked the kernel for, so that a page costs a system call once and a bit
/// test afterwards. What it remembers may be out of date (the kernel takes private pages away when
/// the file is truncated): such a page is copied when it is stored to, like on kernels before Linux
/// 5.14, which cannot be asked. Calls for different pages may come at the same time.
class PrivatePages {
 public:
  /// OUT_OF_MEMORY.
  static Result<PrivatePages> make(const PageSpan& span);

  /// Copies the marked pages that are not private yet; page 0 of `pages` is the one with `data`.
  /// DETACHED when the file no longer has one of them, OUT_OF_MEMORY. REQUIRES: the pages lie in
  /// the span.
  Result<void> add(const uint8_t* data, const PageSet& pages);

  /// Forgets all of them: they were dropped.
  void clear();

 private:
  PageSpan span_;
  Array<uint64_t> words_;  // a bit for each page, and a spare word
};

}  // namespace shira
