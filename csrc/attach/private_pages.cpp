// Asking the kernel for private copies of pages, one by one or in huge blocks.
// SPDX-License-Identifier: Apache-2.0
#include "attach/private_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/fault_guard.h"
#include "base/huge_pages.h"
#include "base/map_over.h"
#include "base/process_maps.h"

namespace shira {
namespace {

constexpr uint64_t kWordPages = 64;

/// Moving a block costs about as much as populating half of its pages, and takes the memory of all.
/// From this share on it is faster for at most a third more memory.
constexpr uint64_t kMovedShareNumerator = 3;
constexpr uint64_t kMovedShareDenominator = 4;

Error pages_are_gone(const std::string& why) {
  return Error{Status::DETACHED, "a page of it cannot be read from the file any more (" + why +
                                     "): the file was truncated, or its storage failed"};
}

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
  return pages_are_gone(strerror(code));
}

/// The bits of the word of `page` from it on, up to `end`.
uint64_t bits_of_word(uint64_t page, uint64_t end) {
  const uint64_t count = std::min(kWordPages - page % kWordPages, end - page);
  const uint64_t ones = count == kWordPages ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  return ones << page % kWordPages;
}

/// Calls each(word, bits) for every word with pages of [first_page, first_page + page_count).
template <typename Words, typename Each>
void for_each_word(Words* words, uint64_t first_page, uint64_t page_count, const Each& each) {
  const uint64_t end = first_page + page_count;
  for (uint64_t page = first_page; page < end; page = (page / kWordPages + 1) * kWordPages)
    each(&(*words)[page / kWordPages], bits_of_word(page, end));
}

void mark(Array<uint64_t>* words, const TouchPiece& piece) {
  for_each_word(words, piece.first_page, piece.page_count, [](uint64_t* word, uint64_t bits) {
    __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
  });
}

void unmark(Array<uint64_t>* words, const TouchPiece& piece) {
  for_each_word(words, piece.first_page, piece.page_count, [](uint64_t* word, uint64_t bits) {
    __atomic_fetch_and(word, ~bits, __ATOMIC_RELAXED);
  });
}

void clear(Array<uint64_t>* words) {
  for (size_t i = 0; i < words->size(); ++i) __atomic_store_n(&(*words)[i], 0, __ATOMIC_RELAXED);
}

uint64_t count_bits(const Array<uint64_t>& words) {
  uint64_t count = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    count +=
        static_cast<uint64_t>(__builtin_popcountll(__atomic_load_n(&words[i], __ATOMIC_RELAXED)));
  }
  return count;
}

/// Fresh anonymous memory of `size_bytes`, aligned to `alignment_bytes` and backed by huge pages as
/// far as there are any. What was not moved elsewhere goes with this object.
class HugeBuffer {
 public:
  HugeBuffer(size_t size_bytes, size_t alignment_bytes)
      : reserved_bytes_(size_bytes + alignment_bytes), size_bytes_(size_bytes) {
    // Without access first: mlockall(MCL_FUTURE) would have every page of the reserve filled.
    reserved_ = mmap(nullptr, reserved_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved_ == MAP_FAILED) return;
    munlock(reserved_, reserved_bytes_);
    const auto begin = reinterpret_cast<uintptr_t>(reserved_);
    auto* memory = reinterpret_cast<uint8_t*>((begin + alignment_bytes - 1) / alignment_bytes *
                                              alignment_bytes);
    if (mprotect(memory, size_bytes, PROT_READ | PROT_WRITE) != 0) return;
#if defined(MADV_HUGEPAGE)
    madvise(memory, size_bytes, MADV_HUGEPAGE);
#endif
    data_ = memory;
  }
  ~HugeBuffer() {
    if (reserved_ != MAP_FAILED) munmap(reserved_, reserved_bytes_);
  }
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  /// nullptr when there is no memory.
  uint8_t* data() const { return data_; }

  /// Puts this memory where `target` is, in one step for whoever reads there. False, with errno,
  /// when the system refuses.
  bool move_over(void* target) {
    return mremap(data_, size_bytes_, size_bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, target) !=
           MAP_FAILED;
  }

 private:
  const size_t reserved_bytes_;
  const size_t size_bytes_;
  void* reserved_;
  uint8_t* data_ = nullptr;
};

bool is_mapped(uintptr_t page) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(page), page_bytes(), &resident) == 0;
}

}  // namespace

Result<PrivatePages> PrivatePages::make(const File& file, const PageSpan& span,
                                        uint64_t huge_page_bytes) {
  PrivatePages pages;
  pages.file_ = &file;
  pages.span_ = span;
  pages.block_pages_ = huge_page_bytes / page_bytes();
  const auto word_count = static_cast<size_t>(span.size_bytes / page_bytes() / kWordPages + 1);
  SHIRA_ASSIGN(pages.known_, Array<uint64_t>::make(word_count));
  SHIRA_ASSIGN(pages.moved_, Array<uint64_t>::make(word_count));
  clear(&pages.known_);
  clear(&pages.moved_);
  return pages;
}

Result<void> PrivatePages::set_first_touch(FirstTouch first_touch) {
  if (first_touch == FirstTouch::huge && block_pages_ == 0) {
    return file_->error(Status::NOT_SUPPORTED, "the system has no transparent huge pages to use");
  }
  __atomic_store(&first_touch_, &first_touch, __ATOMIC_RELAXED);
  return {};
}

HugeBlocks PrivatePages::blocks(FirstTouch first_touch) const {
  HugeBlocks blocks;
  if (block_pages_ == 0 || first_touch == FirstTouch::populate) return blocks;
  blocks.block_pages = block_pages_;
  blocks.phase_pages = span_.begin / page_bytes() % block_pages_;
  blocks.min_missing_pages = first_touch == FirstTouch::huge
                                 ? 1
                                 : block_pages_ * kMovedShareNumerator / kMovedShareDenominator;
  blocks.span_pages = span_.size_bytes / page_bytes();
  return blocks;
}

uint64_t PrivatePages::page_of(const uint8_t* data) const {
  return (reinterpret_cast<uintptr_t>(data) - span_.begin) / page_bytes();
}

uintptr_t PrivatePages::address_of(uint64_t page) const {
  return span_.begin + static_cast<uintptr_t>(page * page_bytes());
}

Result<void> PrivatePages::add(const uint8_t* data, const PageSet& pages) {
  const uint64_t first_page = page_of(data);
  const auto is_known = [&](size_t i) {
    return (pages.words()[i] & ~bits_at(known_, first_page + i * kWordPages)) == 0;
  };
  size_t first_word = 0;
  while (first_word < pages.words().size() && is_known(first_word)) ++first_word;
  if (first_word == pages.words().size()) return {};

  FirstTouch first_touch{};
  __atomic_load(&first_touch_, &first_touch, __ATOMIC_RELAXED);
  if (const HugeBlocks huge = blocks(first_touch); huge.block_pages != 0) {
    const TouchPlan plan(pages.words(), first_page, known_, huge);
    SHIRA_TRY(plan.for_each([&](const TouchPiece& piece) -> Result<void> {
      return piece.is_huge ? move(piece) : Result<void>();
    }));
  }
  // And what could not be moved for want of memory.
  const TouchPlan plan(pages.words(), first_page, known_, HugeBlocks{});
  return plan.for_each([&](const TouchPiece& piece) -> Result<void> {
    SHIRA_TRY(populate(address_of(piece.first_page), piece.page_count * page_bytes()));
    mark(&known_, piece);
    return {};
  });
}

/// Success without a change where the system refuses: populating remains.
Result<void> PrivatePages::move(const TouchPiece& piece) {
  const uintptr_t begin = address_of(piece.first_page);
  const auto size_bytes = static_cast<size_t>(piece.page_count * page_bytes());
  auto* target = reinterpret_cast<uint8_t*>(begin);
  HugeBuffer copy(size_bytes, static_cast<size_t>(block_pages_ * page_bytes()));
  if (copy.data() == nullptr) return {};
  // A fault for every few pages otherwise, and a first look for pages that are gone.
  madvise(target, size_bytes, kPopulateRead);
  {
    const FaultGuard guard(target, size_bytes);
    std::memcpy(copy.data(), target, size_bytes);
    if (guard.has_faulted()) {
      map_file_again(begin, begin + size_bytes, PROT_READ | PROT_WRITE);
      return pages_are_gone("SIGBUS");
    }
  }
  if (copy.move_over(target)) {
    mark(&moved_, piece);
    __atomic_store_n(&has_moved_, true, __ATOMIC_RELAXED);
    mark(&known_, piece);
    return {};
  }
  if (is_mapped(begin)) return {};
  // The system had made room and then failed for want of memory: put back what was there.
  if (!map_over(begin, size_bytes, PROT_READ | PROT_WRITE, 0, file_->descriptor(),
                span_.file_offset_bytes + piece.first_page * page_bytes())) {
    return file_->system_error("its private mapping cannot be put back", errno);
  }
  std::memcpy(target, copy.data(), size_bytes);
  return {};
}

Result<uint64_t> PrivatePages::count_with(const std::vector<PageNeed>& needs) const {
  SHIRA_ASSIGN(Array<uint64_t> after, Array<uint64_t>::make(known_.size()));
  for (size_t i = 0; i < known_.size(); ++i)
    after[i] = __atomic_load_n(&known_[i], __ATOMIC_RELAXED);
  FirstTouch first_touch{};
  __atomic_load(&first_touch_, &first_touch, __ATOMIC_RELAXED);
  const HugeBlocks huge = blocks(first_touch);
  for (const PageNeed& need : needs) {
    const TouchPlan plan(need.pages->words(), page_of(need.data), known_, huge);
    SHIRA_TRY(plan.for_each([&](const TouchPiece& piece) -> Result<void> {
      mark(&after, piece);
      return {};
    }));
  }
  return count_bits(after);
}

uint64_t PrivatePages::count_moved() const { return count_bits(moved_); }

bool PrivatePages::is_moved(uintptr_t begin, uintptr_t end) const {
  const uint64_t first_page = (begin - span_.begin) / page_bytes();
  const uint64_t end_page = (end - 1 - span_.begin) / page_bytes() + 1;
  bool are_moved = true;
  for_each_word(&moved_, first_page, end_page - first_page,
                [&](const uint64_t* word, uint64_t bits) {
                  are_moved = are_moved && (__atomic_load_n(word, __ATOMIC_RELAXED) & bits) == bits;
                });
  return are_moved;
}

void PrivatePages::map_file_again(uintptr_t begin, uintptr_t end, int protection) const {
  begin &= ~(uintptr_t{page_bytes()} - 1);
  const Result<ProcessMaps> maps = ProcessMaps::read_near({{begin, end}});
  if (!maps.ok()) return;  // they stay, and no check takes them for the file
  for (const MemoryArea& area : maps.value().areas()) {
    const uintptr_t last = std::min(area.end, span_.end());
    if (area.inode != 0) continue;
    for (uintptr_t page = std::max(area.begin, begin); page < last; page += page_bytes()) {
      if (is_moved(page, page + page_bytes())) continue;
      map_over(page, page_bytes(), protection, 0, file_->descriptor(),
               span_.file_offset_bytes + (page - span_.begin));
    }
  }
}

Result<void> PrivatePages::map_file_over(const TouchPiece& piece) const {
  if (map_over(address_of(piece.first_page), piece.page_count * page_bytes(),
               PROT_READ | PROT_WRITE, 0, file_->descriptor(),
               span_.file_offset_bytes + piece.first_page * page_bytes()))
    return {};
  return file_->system_error("the file cannot be mapped over its copy again", errno);
}

Result<void> PrivatePages::drop(const TouchPiece& piece) const {
  void* begin = reinterpret_cast<void*>(address_of(piece.first_page));
  const auto size_bytes = static_cast<size_t>(piece.page_count * page_bytes());
  if (madvise(begin, size_bytes, MADV_DONTNEED) == 0) return {};
  // EINVAL is the kernel's answer for locked pages: the application may have locked all it has.
  if (errno == EINVAL && munlock(begin, size_bytes) == 0 &&
      madvise(begin, size_bytes, MADV_DONTNEED) == 0) {
    return {};
  }
  return file_->error(Status::NOT_SUPPORTED,
                      std::string("the private pages cannot be dropped: ") + strerror(errno));
}

Result<void> PrivatePages::drop_all() {
  clear(&known_);
  const TouchPlan moved(moved_, 0, known_, HugeBlocks{});
  SHIRA_TRY(moved.for_each([&](const TouchPiece& piece) -> Result<void> {
    SHIRA_TRY(map_file_over(piece));
    unmark(&moved_, piece);
    return {};
  }));
  __atomic_store_n(&has_moved_, false, __ATOMIC_RELAXED);
  return drop({0, span_.size_bytes / page_bytes(), false});
}

Result<uint64_t> PrivatePages::release() {
  const Array<uint64_t> none;
  const uint64_t chunk_pages = std::max(block_pages_, kWordPages);
  SHIRA_ASSIGN(Array<uint8_t> source,
               Array<uint8_t>::make(static_cast<size_t>(chunk_pages * page_bytes())));
  uint64_t released_bytes = 0;
  // Chunks end where blocks do, so that each is moved as a whole or in parts not at all.
  const TouchPlan known(known_, 0, none, HugeBlocks{});
  SHIRA_TRY(known.for_each([&](const TouchPiece& piece) -> Result<void> {
    const uint64_t end = piece.first_page + piece.page_count;
    const uint64_t phase = span_.begin / page_bytes() % chunk_pages;
    for (uint64_t page = piece.first_page; page < end;) {
      const uint64_t next = std::min(end, page + chunk_pages - (page + phase) % chunk_pages);
      SHIRA_ASSIGN(const uint64_t bytes, release({page, next - page, false}, &source));
      released_bytes += bytes;
      page = next;
    }
    return {};
  }));
  return released_bytes;
}

/// Of one chunk.
Result<uint64_t> PrivatePages::release(const TouchPiece& piece, Array<uint8_t>* source) {
  const uintptr_t begin = address_of(piece.first_page);
  const uint64_t size_bytes = piece.page_count * page_bytes();
  SHIRA_ASSIGN(const uint64_t got_bytes,
               file_->read_at(span_.file_offset_bytes + piece.first_page * page_bytes(), size_bytes,
                              source->data()));
  // The page in which the file ends goes on with zeros.
  std::memset(source->data() + got_bytes, 0, size_bytes - got_bytes);
  const FaultGuard guard(reinterpret_cast<const void*>(begin), size_bytes);
  const auto shows_file = [&](uint64_t i, uint64_t page_count) {
    return (i + page_count - 1) * page_bytes() < got_bytes &&
           std::memcmp(reinterpret_cast<const uint8_t*>(begin) + i * page_bytes(),
                       source->data() + i * page_bytes(), page_count * page_bytes()) == 0;
  };
  const bool is_copy = is_moved(begin, begin + size_bytes);
  const uint64_t step_pages = is_copy ? piece.page_count : 1;
  uint64_t released_bytes = 0;
  for (uint64_t i = 0; i < piece.page_count;) {
    uint64_t count = 0;
    while (i + count < piece.page_count && shows_file(i + count, step_pages)) count += step_pages;
    if (guard.has_faulted()) {
      map_file_again(begin, begin + size_bytes, PROT_READ | PROT_WRITE);
      return pages_are_gone("SIGBUS");
    }
    const TouchPiece same{piece.first_page + i, count, false};
    if (count > 0) {
      SHIRA_TRY(is_copy ? map_file_over(same) : drop(same));
      unmark(&known_, same);
      unmark(&moved_, same);
      released_bytes += count * page_bytes();
    }
    i += count + step_pages;  // the page that ended the stretch differs
  }
  return released_bytes;
}

}  // namespace shira
