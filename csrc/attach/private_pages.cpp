// Asking the kernel for private copies of whole stretches of pages.
// SPDX-License-Identifier: Apache-2.0
#include "attach/private_pages.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/process_maps.h"

namespace shira {
namespace {

constexpr uint64_t kWordPages = 64;
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older system headers lack

/// Private copies of [begin, begin + size_bytes). Where the kernel cannot be asked this does
/// nothing.
Result<void> populate(uintptr_t begin, uint64_t size_bytes) {
  int code = 0;
  do {
    code = madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(size_bytes),
                   kPopulateWrite) == 0
               ? 0
               : errno;
  } while (code == EINTR || code == EAGAIN);
  if (code == 0 || code == EINVAL) return {};
  if (code == ENOMEM) {
    return Error{Status::OUT_OF_MEMORY, "there is no memory for private copies of its pages"};
  }
  return Error{Status::DETACHED,
               std::string("a page of it cannot be read from the file any more (") +
                   strerror(code) + "): the file was truncated, or its storage failed"};
}

}  // namespace

Result<PrivatePages> PrivatePages::make(const PageSpan& span) {
  PrivatePages pages;
  pages.span_ = span;
  const uint64_t page_count = span.size_bytes / page_bytes();
  SHIRA_ASSIGN(pages.words_,
               Array<uint64_t>::make(static_cast<size_t>(page_count / kWordPages + 2)));
  pages.clear();
  return pages;
}

Result<void> PrivatePages::add(const uint8_t* data, const PageSet& pages) {
  const uint64_t first_page = (reinterpret_cast<uintptr_t>(data) - span_.begin) / page_bytes();
  const uint64_t shift = first_page % kWordPages;
  uint64_t* const known = words_.data() + first_page / kWordPages;
  const auto load = [](const uint64_t* word) { return __atomic_load_n(word, __ATOMIC_RELAXED); };
  // [begin_page, end_page) is the stretch at hand, counted like the bits of `pages`.
  uint64_t begin_page = 0;
  uint64_t end_page = 0;
  const auto finish = [&]() -> Result<void> {
    if (begin_page == end_page) return {};
    SHIRA_TRY(populate(span_.begin + (first_page + begin_page) * page_bytes(),
                       (end_page - begin_page) * page_bytes()));
    for (uint64_t page = begin_page + shift; page < end_page + shift; ++page) {
      __atomic_fetch_or(known + page / kWordPages, uint64_t{1} << page % kWordPages,
                        __ATOMIC_RELAXED);
    }
    return {};
  };
  for (size_t i = 0; i < pages.words().size(); ++i) {
    uint64_t known_here = load(known + i) >> shift;
    if (shift != 0) known_here |= load(known + i + 1) << (kWordPages - shift);
    for (uint64_t missing = pages.words()[i] & ~known_here; missing != 0; missing &= missing - 1) {
      const uint64_t page = i * kWordPages + static_cast<unsigned>(__builtin_ctzll(missing));
      if (page != end_page) {
        SHIRA_TRY(finish());
        begin_page = page;
      }
      end_page = page + 1;
    }
  }
  return finish();
}

void PrivatePages::clear() {
  for (size_t i = 0; i < words_.size(); ++i) __atomic_store_n(&words_[i], 0, __ATOMIC_RELAXED);
}

}  // namespace shira
