// Looking at /proc/self/maps for what attaching has put there.
// SPDX-License-Identifier: Apache-2.0
#include "attach/attachment.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/huge_pages.h"

namespace shira {

Result<std::shared_ptr<Attachment>> Attachment::make(File file, const FileIdentity& identity,
                                                     const FileState& state,
                                                     const std::vector<PageSpan>& spans,
                                                     std::shared_ptr<const void> mapping) {
  std::shared_ptr<Attachment> attachment(
      new Attachment(std::move(file), identity, state, std::move(mapping)));
  const uint64_t huge_bytes = huge_page_bytes();
  for (const PageSpan& span : spans) {
    SHIRA_ASSIGN(PrivatePages pages, PrivatePages::make(attachment->file_, span, huge_bytes));
    attachment->pages_.push_back(std::move(pages));
  }
  return attachment;
}

Attachment::~Attachment() {
  if (!owns_mappings_) return;
  const Result<ProcessMaps> maps = ProcessMaps::read();
  if (!maps.ok()) return;
  for (const PrivatePages& pages : pages_) {
    const PageSpan& span = pages.span();
    if (!check_pages(maps.value(), pages, span.begin, span.end()).ok()) continue;
    mprotect(reinterpret_cast<void*>(span.begin), static_cast<size_t>(span.size_bytes), PROT_READ);
  }
}

Result<void> Attachment::check_unchanged() const {
  SHIRA_ASSIGN(const FileState now, file_.state());
  if (now == state_) return {};
  return file_.error(Status::DETACHED, "the file was modified on disk after it was attached");
}

Result<void> Attachment::check_pages(const ProcessMaps& maps, const PrivatePages& pages,
                                     uintptr_t begin, uintptr_t end) const {
  const PageSpan& span = pages.span();
  bool are_ends_known = false;
  for (uintptr_t address = begin; address < end;) {
    const MemoryArea* area = maps.find(address);
    const uint64_t offset_bytes = span.file_offset_bytes + (address - span.begin);
    if (area == nullptr) return detached(offset_bytes, nullptr);
    const uintptr_t last = std::min(area->end, end);
    const bool is_copy = area->inode == 0 && !area->shared && pages.is_moved(address, last);
    if (!is_copy && !shows_file(*area, span, address)) return detached(offset_bytes, area);
    // Anonymous memory looks like any other. Unloading unmaps the span as a whole: then its ends
    // are not the file's any more.
    if (is_copy && !are_ends_known && !has_both_ends(maps, span)) {
      return detached(offset_bytes, area);
    }
    are_ends_known = are_ends_known || is_copy;
    if (!area->readable || !area->writable) {
      return Error{Status::READ_ONLY,
                   "the mapping was made read-only after it was attached",
                   file_.path(),
                   {},
                   offset_bytes};
    }
    address = area->end;
  }
  return {};
}

void Attachment::add_watched(const PrivatePages& pages, uintptr_t begin, uintptr_t end,
                             std::vector<AddressRange>* ranges) {
  ranges->push_back({begin, end});
  if (!pages.has_moved()) return;
  ranges->push_back({pages.span().begin, pages.span().begin + 1});
  ranges->push_back({pages.span().end() - 1, pages.span().end()});
}

bool Attachment::shows_file(const MemoryArea& area, const PageSpan& span, uintptr_t address) const {
  return identity_.is_of(area) && !area.shared &&
         area.file_offset_bytes + (address - area.begin) ==
             span.file_offset_bytes + (address - span.begin);
}

bool Attachment::has_both_ends(const ProcessMaps& maps, const PageSpan& span) const {
  const uintptr_t last = span.end() - 1;
  const MemoryArea* first_area = maps.find(span.begin);
  const MemoryArea* last_area = maps.find(last);
  return first_area != nullptr && shows_file(*first_area, span, span.begin) &&
         last_area != nullptr && shows_file(*last_area, span, last);
}

Error Attachment::detached(uint64_t offset_bytes, const MemoryArea* area) const {
  std::string message = "its program was unloaded: nothing is mapped there now";
  if (area != nullptr) {
    const std::string other = area->inode == 0     ? "anonymous memory"
                              : area->path.empty() ? "another mapping"
                                                   : std::string(area->path);
    message =
        "its memory was reused after the program was unloaded: " + other + " is mapped there now";
  }
  return Error{Status::DETACHED, std::move(message), file_.path(), {}, offset_bytes};
}

}  // namespace shira
