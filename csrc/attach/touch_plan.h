// Which pages of a copy-on-write mapping are made private in which way: pure arithmetic over bits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/array.h"
#include "base/result.h"

namespace shira {

/// Consecutive pages, counted from the first page of a span.
struct TouchPiece {
  uint64_t first_page = 0;
  uint64_t page_count = 0;
  bool is_huge = false;  // whole blocks, to be replaced by a copy in huge pages
};

/// Blocks of address space that one huge page can hold. None where block_pages is 0.
struct HugeBlocks {
  uint64_t block_pages = 0;
  uint64_t phase_pages = 0;        // of the span's first page inside its block
  uint64_t min_missing_pages = 0;  // a block with fewer is not worth it
  uint64_t span_pages = 0;         // blocks with the first or the last of them stay as they are
};

/// 64 bits from `first_bit` on; what lies behind the words is 0.
inline uint64_t bits_at(const Array<uint64_t>& words, uint64_t first_bit) {
  const uint64_t i = first_bit / 64;
  const unsigned shift = first_bit % 64;
  const auto word = [&](uint64_t k) {
    return k < words.size() ? __atomic_load_n(&words[k], __ATOMIC_RELAXED) : 0;
  };
  return shift == 0 ? word(i) : word(i) >> shift | word(i + 1) << (64 - shift);
}

/// The marked pages that are not private yet, in pieces as long as they come, ascending. Bit 0 of
/// `marked` is page `first_page` of the span; `known` has a bit for each page of the span that is
/// private.
class TouchPlan {
 public:
  TouchPlan(const Array<uint64_t>& marked, uint64_t first_page, const Array<uint64_t>& known,
            const HugeBlocks& blocks)
      : marked_(marked), first_page_(first_page), known_(known), blocks_(blocks) {}

  /// Calls take(piece) for each; an error ends the walk.
  template <typename Take>
  Result<void> for_each(const Take& take) const {
    TouchPiece pending;
    const auto add = [&](const TouchPiece& piece) -> Result<void> {
      if (pending.first_page + pending.page_count == piece.first_page &&
          pending.is_huge == piece.is_huge) {
        pending.page_count += piece.page_count;
        return {};
      }
      const TouchPiece whole = pending;
      pending = piece;
      return whole.page_count == 0 ? Result<void>() : take(whole);
    };
    const uint64_t end_page = first_page_ + 64 * marked_.size();
    for (uint64_t page = first_page_; page < end_page;) {
      const uint64_t block = block_begin(page);  // may wrap around below the span's first page
      const uint64_t next =
          blocks_.block_pages == 0 ? end_page : std::min(end_page, block + blocks_.block_pages);
      if (is_worth_a_huge_page(block)) {
        SHIRA_TRY(add({block, blocks_.block_pages, true}));
      } else {
        SHIRA_TRY(add_stretches(page, next, add));
      }
      page = next;
    }
    return pending.page_count == 0 ? Result<void>() : take(pending);
  }

 private:
  uint64_t block_begin(uint64_t page) const {
    return blocks_.block_pages == 0 ? 0 : page - (page + blocks_.phase_pages) % blocks_.block_pages;
  }

  uint64_t missing_at(uint64_t page) const {
    return bits_at(marked_, page - first_page_) & ~bits_at(known_, page);
  }

  bool is_worth_a_huge_page(uint64_t block) const {
    const uint64_t end = block + blocks_.block_pages;
    // The first and the last page of the span stay the file's, as a sign of whose all of it is.
    if (blocks_.block_pages == 0 || block == 0 || end < block || end >= blocks_.span_pages)
      return false;
    uint64_t missing_pages = 0;
    for (uint64_t page = std::max(block, first_page_); page < end;) {
      const uint64_t count = std::min<uint64_t>(64, end - page);
      const uint64_t in_block = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
      missing_pages += static_cast<uint64_t>(__builtin_popcountll(missing_at(page) & in_block));
      page += count;
    }
    return missing_pages >= blocks_.min_missing_pages;
  }

  template <typename Add>
  Result<void> add_stretches(uint64_t begin, uint64_t end, const Add& add) const {
    for (uint64_t word = begin; word < end; word += 64) {
      for (uint64_t missing = missing_at(word); missing != 0;) {
        const auto skipped = static_cast<unsigned>(__builtin_ctzll(missing));
        const uint64_t rest = ~(missing >> skipped);
        const unsigned length = rest == 0 ? 64 : static_cast<unsigned>(__builtin_ctzll(rest));
        if (word + skipped >= end) break;
        SHIRA_TRY(add({word + skipped, std::min<uint64_t>(length, end - word - skipped), false}));
        missing = skipped + length == 64 ? 0 : missing & ~uint64_t{0} << (skipped + length);
      }
    }
    return {};
  }

  const Array<uint64_t>& marked_;
  const uint64_t first_page_;
  const Array<uint64_t>& known_;
  const HugeBlocks blocks_;
};

}  // namespace shira
