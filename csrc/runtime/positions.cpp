// Positions: marking places and pages of a list.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/positions.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/index_set.h"

namespace shira {
namespace {

Result<Array<Mark>> mark_places(const IndexList& list) {
  constexpr uint64_t kStep = Positions::kMarkEntries;
  SHIRA_ASSIGN(Array<Mark> marks, Array<Mark>::make((list.entry_count + kStep - 1) / kStep));
  size_t mark_count = 0;
  uint64_t entry_offset = 0;
  for (size_t i = 0; i < list.runs.size(); entry_offset += list.runs[i++].length) {
    const uint64_t end_offset = entry_offset + list.runs[i].length;
    for (uint64_t next = mark_count * kStep; next < end_offset; next += kStep) {
      marks[mark_count++] = Mark{list.runs[i].start + (next - entry_offset), i, next};
    }
  }
  for (size_t i = 0; i < list.entries.size(); i += kStep) {
    marks[mark_count++] = Mark{list.entries[i], i, i};
  }
  return marks;
}

}  // namespace

Result<PageSet> PageSet::make(const IndexList& list, const TensorSpec& tensor,
                              uint64_t page_size_bytes) {
  const auto shift = static_cast<unsigned>(__builtin_ctzll(page_size_bytes));
  const size_t element_bytes = dtype_bytes(tensor.dtype);
  const uint64_t in_page_bytes = reinterpret_cast<uintptr_t>(tensor.data) & (page_size_bytes - 1);
  const auto page_of = [&](uint64_t index) {
    return (in_page_bytes + index * element_bytes) >> shift;
  };

  PageSet pages;
  const uint64_t last_index = list.is_runs() ? list.runs[list.runs.size() - 1].start +
                                                   list.runs[list.runs.size() - 1].length - 1
                              : list.entries.empty() ? 0
                                                     : list.entries[list.entries.size() - 1];
  const uint64_t last_page = tensor.layout
                                 ? (in_page_bytes + tensor.layout->size_bytes() - 1) >> shift
                                 : page_of(last_index);
  const size_t word_count = last_page / 64 + 1;
  SHIRA_ASSIGN(pages.words_, Array<uint64_t>::make(word_count));
  std::memset(pages.words_.data(), 0, word_count * sizeof(uint64_t));
  if (tensor.layout) {
    pages.mark_all(list, *tensor.layout, in_page_bytes, shift);
    return pages;
  }
  for (size_t i = 0; i < list.runs.size(); ++i) {
    const Run run = list.runs[i];
    pages.mark(page_of(run.start), page_of(uint64_t{run.start} + run.length - 1));
  }
  for (size_t i = 0; i < list.entries.size(); ++i)
    pages.mark(page_of(list.entries[i]), page_of(list.entries[i]));
  return pages;
}

Result<PageSet> PageSet::unite(const PageSet& a, const PageSet& b) {
  const PageSet& longer = a.words_.size() < b.words_.size() ? b : a;
  const PageSet& shorter = &longer == &a ? b : a;
  PageSet both;
  SHIRA_ASSIGN(both.words_, Array<uint64_t>::make(longer.words_.size()));
  std::copy_n(longer.words_.data(), longer.words_.size(), both.words_.data());
  for (size_t i = 0; i < shorter.words_.size(); ++i) both.words_[i] |= shorter.words_[i];
  return both;
}

uint64_t PageSet::count_union(const PageSet& a, const PageSet& b) {
  uint64_t page_count = 0;
  for (size_t i = 0; i < std::max(a.words_.size(), b.words_.size()); ++i) {
    const uint64_t word =
        (i < a.words_.size() ? a.words_[i] : 0) | (i < b.words_.size() ? b.words_[i] : 0);
    page_count += static_cast<uint64_t>(__builtin_popcountll(word));
  }
  return page_count;
}

void PageSet::mark(uint64_t first_page, uint64_t last_page) {
  for (uint64_t page = first_page; page <= last_page; ++page)
    words_[page / 64] |= uint64_t{1} << (page % 64);
}

void PageSet::mark_all(const IndexList& list, const ElementLayout& layout, uint64_t in_page_bytes,
                       unsigned page_shift) {
  const auto mark_one = [&](uint32_t index) {
    const ElementPlace place = layout.place_of(index);
    for (const uint64_t offset : {place.element_offset_bytes, place.sum_offset_bytes}) {
      const uint64_t page = (in_page_bytes + offset) >> page_shift;
      mark(page, page);
    }
  };
  for (size_t i = 0; i < list.runs.size(); ++i) {
    for (uint32_t j = 0; j < list.runs[i].length; ++j) mark_one(list.runs[i].start + j);
  }
  for (size_t i = 0; i < list.entries.size(); ++i) mark_one(list.entries[i]);
}

Result<std::shared_ptr<const Positions>> Positions::make(std::shared_ptr<const IndexList> list,
                                                         const TensorSpec& tensor) {
  SHIRA_ASSIGN(PageSet pages, PageSet::make(*list, tensor));
  return make(std::move(list), std::move(pages));
}

Result<std::shared_ptr<const Positions>> Positions::make(std::shared_ptr<const IndexList> list,
                                                         PageSet pages) {
  auto positions = std::make_shared<Positions>();
  SHIRA_ASSIGN(positions->marks, mark_places(*list));
  positions->pages = std::move(pages);
  positions->list = std::move(list);
  return std::shared_ptr<const Positions>(std::move(positions));
}

}  // namespace shira
