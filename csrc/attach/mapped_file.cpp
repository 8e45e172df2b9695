// The copy-on-write remap of a loaded program, and the region that watches over it.
// SPDX-License-Identifier: Apache-2.0
#include "attach/mapped_file.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "attach/attachment.h"
#include "attach/mapping_plan.h"
#include "attach/private_pages.h"
#include "attach/program_file.h"
#include "base/array.h"
#include "base/fault_guard.h"
#include "base/file.h"
#include "base/map_over.h"
#include "base/private_memory.h"

namespace shira {
namespace {

/// Asks the kernel by mapping a page: what it shows in /proc/self/maps need not be stat's answer.
Result<FileIdentity> identity_of(const File& file) {
  void* probe = mmap(nullptr, page_bytes(), PROT_NONE, MAP_PRIVATE, file.descriptor(), 0);
  if (probe == MAP_FAILED) return file.system_error("the file cannot be mapped", errno);
  Result<ProcessMaps> maps = ProcessMaps::read();
  munmap(probe, page_bytes());
  if (!maps.ok()) return maps.error();
  const MemoryArea* area = maps.value().find(reinterpret_cast<uintptr_t>(probe));
  if (area == nullptr)
    return file.error(Status::IO_ERROR, "a new mapping of the file does not show");
  return FileIdentity{area->device, area->inode};
}

/// One remapped span.
class MappedRegion final : public Region {
 public:
  MappedRegion(std::shared_ptr<Attachment> attachment, size_t span_index)
      : attachment_(std::move(attachment)),
        file_(attachment_->file()),
        pages_(attachment_->pages(span_index)),
        span_(pages_.span()) {}

  void add_watched(const uint8_t* data, uint64_t size_bytes,
                   std::vector<AddressRange>* ranges) const override {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    Attachment::add_watched(pages_, begin, begin + static_cast<uintptr_t>(size_bytes), ranges);
  }

  Result<void> check(const ProcessMaps& maps, const uint8_t* data,
                     uint64_t size_bytes) const override {
    SHIRA_ASSIGN(const uint64_t offset_bytes, file_offset(data, size_bytes));
    SHIRA_ASSIGN(const FileState now, file_.state());
    if (now.size_bytes < offset_bytes + size_bytes) {
      return Error{Status::DETACHED,
                   "the file was truncated to " + std::to_string(now.size_bytes) +
                       " bytes after it was attached; the tensor ends at byte " +
                       std::to_string(offset_bytes + size_bytes),
                   file_.path(),
                   {},
                   offset_bytes};
    }
    const auto begin = reinterpret_cast<uintptr_t>(data);
    return attachment_->check_pages(maps, pages_, begin,
                                    begin + static_cast<uintptr_t>(size_bytes));
  }

  Result<void> set_first_touch(FirstTouch first_touch) override {
    return pages_.set_first_touch(first_touch);
  }

  Result<uint64_t> private_bytes_with(const std::vector<PageNeed>& needs) const override {
    SHIRA_ASSIGN(const uint64_t page_count, pages_.count_with(needs));
    return page_count * page_bytes();
  }

  Result<RegionMemory> memory() const override {
    RegionMemory memory;
    memory.mapped_bytes = span_.size_bytes;
    SHIRA_ASSIGN(memory.private_bytes, count_private_bytes({span_.begin, span_.end()}));
    memory.huge_bytes = pages_.count_moved() * page_bytes();
    return memory;
  }

  Result<void> prepare_stores(const uint8_t* data, const PageSet& pages) override {
    Result<void> added = pages_.add(data, pages);
    if (!added.ok()) added.error().file = file_.path();
    return added;
  }

  void take_empty_pages_away(const uint8_t* data, uint64_t size_bytes) override {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    pages_.map_file_again(begin, begin + static_cast<uintptr_t>(size_bytes),
                          PROT_READ | PROT_WRITE);
  }

  bool has_source() const override { return true; }

  Result<void> read_source(const uint8_t* data, uint64_t size_bytes, uint8_t* out) const override {
    SHIRA_ASSIGN(const uint64_t offset_bytes, file_offset(data, size_bytes));
    SHIRA_TRY(attachment_->check_unchanged());
    SHIRA_ASSIGN(const uint64_t done_bytes, file_.read_at(offset_bytes, size_bytes, out));
    if (done_bytes == size_bytes) return {};
    return file_.error(Status::DETACHED, "the file was truncated while it was read");
  }

  uint64_t cold_source_bytes(const uint8_t* data, uint64_t size_bytes) const override {
    const Result<uint64_t> offset_bytes = file_offset(data, size_bytes);
    return offset_bytes.ok() ? file_.count_cold_bytes(offset_bytes.value(), size_bytes) : 0;
  }

  Result<uint64_t> release_pages() override {
    SHIRA_TRY(check_span());
    return pages_.release();
  }

  Result<void> hard_revert() override {
    SHIRA_TRY(check_span());
    return pages_.drop_all();
  }

 private:
  // Dropping pages of memory that belongs to somebody else by now would destroy it, so that the
  // whole span is looked at, not just the tensors that the caller has checked.
  Result<void> check_span() const {
    SHIRA_TRY(attachment_->check_unchanged());
    SHIRA_ASSIGN(const ProcessMaps maps, ProcessMaps::read_near({{span_.begin, span_.end()}}));
    return attachment_->check_pages(maps, pages_, span_.begin, span_.end());
  }

  Result<uint64_t> file_offset(const uint8_t* data, uint64_t size_bytes) const {
    const auto address = reinterpret_cast<uintptr_t>(data);
    if (address < span_.begin || address > span_.end() || size_bytes > span_.end() - address) {
      return file_.error(Status::INVALID_ARGUMENT, "the bytes lie outside the attached mapping");
    }
    return span_.file_offset_bytes + (address - span_.begin);
  }

  const std::shared_ptr<Attachment> attachment_;
  const File& file_;
  PrivatePages& pages_;
  const PageSpan span_;
};

/// NOT_MAPPED is misleading when the program was loaded from a file that has since been replaced:
/// then the kernel shows the path of the old one.
Error explain_not_mapped(Error error, const ProcessMaps& maps) {
  char resolved[PATH_MAX];
  if (error.status != Status::NOT_MAPPED || realpath(error.file.c_str(), resolved) == nullptr) {
    return error;
  }
  const std::string deleted = std::string(resolved) + " (deleted)";
  const bool was_replaced = std::any_of(
      maps.areas().begin(), maps.areas().end(),
      [&](const MemoryArea& area) { return area.path == resolved || area.path == deleted; });
  if (was_replaced) {
    error.status = Status::DETACHED;
    error.message = "the file was replaced by another one after the program was loaded from it";
  }
  return error;
}

/// Maps the file over the pages of [begin, end), a part of `span`, in whose place a FaultGuard has
/// put empty ones: they then show what is left of the file.
void map_file_again(const File& file, const PageSpan& span, uintptr_t begin, uintptr_t end) {
  const Result<ProcessMaps> maps = ProcessMaps::read_near({{begin, end}});
  if (!maps.ok()) return;  // they stay, and no check takes them for the file
  for (const MemoryArea& area : maps.value().areas()) {
    const uintptr_t first = std::max(area.begin, begin);
    const uintptr_t last = std::min(area.end, end);
    if (area.inode != 0 || first >= last) continue;
    map_over(first, last - first, PROT_READ, 0, file.descriptor(),
             span.file_offset_bytes + (first - span.begin));
  }
}

/// The bytes at [begin, end), a part of `span`, must be the file's, as far as the file goes.
Result<void> compare_with_file(const File& file, const PageSpan& span, uintptr_t begin,
                               uintptr_t end) {
  constexpr uint64_t kChunkBytes = uint64_t{1} << 20;
  SHIRA_ASSIGN(
      Array<uint8_t> chunk,
      Array<uint8_t>::make(static_cast<size_t>(std::min<uint64_t>(kChunkBytes, end - begin))));
  const FaultGuard guard(reinterpret_cast<const void*>(begin), end - begin);
  for (uintptr_t address = begin; address < end; address += chunk.size()) {
    const uint64_t wanted_bytes = std::min<uint64_t>(chunk.size(), end - address);
    const uint64_t offset_bytes = span.file_offset_bytes + (address - span.begin);
    SHIRA_ASSIGN(const uint64_t got_bytes, file.read_at(offset_bytes, wanted_bytes, chunk.data()));
    const uint8_t* chunk_begin = chunk.data();
    const uint8_t* chunk_end = chunk_begin + got_bytes;
    const uint8_t* difference =
        std::mismatch(chunk_begin, chunk_end, reinterpret_cast<const uint8_t*>(address)).first;
    if (guard.has_faulted()) {
      map_file_again(file, span, begin, end);
      return file.error(Status::DETACHED, "the file was truncated while it was attached");
    }
    if (difference == chunk_end) continue;
    Error error = file.error(
        Status::BASE_MODIFIED,
        "the program's memory differs from the file, as when it was attached before and let go "
        "with an adapter active: load the program again");
    error.offset_bytes = offset_bytes + static_cast<uint64_t>(difference - chunk_begin);
    return error;
  }
  return {};
}

/// Replacing a mapping must not change what it shows. A shared read-only one shows the file; a
/// private one may hold stores. REQUIRES: the span is mapped and readable according to `maps`.
Result<void> check_shows_file(const ProcessMaps& maps, const PageSpan& span, const File& file) {
  for (uintptr_t address = span.begin; address < span.end();) {
    const MemoryArea* area = maps.find(address);
    const uintptr_t end = std::min(area->end, span.end());
    if (!area->shared) SHIRA_TRY(compare_with_file(file, span, address, end));
    address = end;
  }
  return {};
}

/// Private mappings of the spans at addresses of their own. They take their places one by one, and
/// what has not taken its place yet is unmapped with this object.
class Staging {
 public:
  explicit Staging(const File& file) : file_(file) {}
  ~Staging() {
    for (const Staged& staged : staged_) munmap(staged.memory, staged.size_bytes());
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Whatever can fail for want of memory fails here, before the program's mapping is touched.
  Result<void> add(const PageSpan& span) {
    const auto size_bytes = static_cast<size_t>(span.size_bytes);
    // mlockall(MCL_FUTURE) locks the new mapping, and pages that may be written would be copied
    // into memory at once. Without access none is, and unlocked before access is given, none ever.
    void* memory = mmap(nullptr, size_bytes, PROT_NONE, MAP_PRIVATE, file_.descriptor(),
                        static_cast<off_t>(span.file_offset_bytes));
    if (memory == MAP_FAILED) return cannot_map();
    staged_.push_back({memory, span});
    munlock(memory, size_bytes);
    if (mprotect(memory, size_bytes, PROT_READ | PROT_WRITE) != 0) return cannot_map();
    return {};
  }

  /// Moves each mapping over the program's own. One move is one step for readers: a forward pass
  /// meanwhile sees the old pages or the new ones, and both show the file.
  Result<void> commit() {
    size_t moved = 0;
    for (; moved < staged_.size(); ++moved) {
      const Staged& staged = staged_[moved];
      void* target = reinterpret_cast<void*>(staged.span.begin);
      if (mremap(staged.memory, staged.size_bytes(), staged.size_bytes(),
                 MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED) {
        break;
      }
    }
    if (moved == staged_.size()) {
      staged_.clear();
      return {};
    }
    const Error error = cannot_map();
    // The failed move may have unmapped its target: give that back as well.
    for (size_t i = 0; i <= moved; ++i) {
      static_cast<void>(mmap(reinterpret_cast<void*>(staged_[i].span.begin),
                             staged_[i].size_bytes(), PROT_READ, MAP_SHARED | MAP_FIXED,
                             file_.descriptor(),
                             static_cast<off_t>(staged_[i].span.file_offset_bytes)));
    }
    staged_.erase(staged_.begin(), staged_.begin() + static_cast<std::ptrdiff_t>(moved));
    return error;
  }

 private:
  struct Staged {
    void* memory;
    PageSpan span;
    size_t size_bytes() const { return static_cast<size_t>(span.size_bytes); }
  };

  Error cannot_map() const {
    return file_.system_error("a copy-on-write mapping of the file cannot be made", errno);
  }

  const File& file_;
  std::vector<Staged> staged_;
};

}  // namespace

Result<std::vector<TensorSpec>> attach_mapped_file(const std::string& path,
                                                   const std::vector<Anchor>& anchors) {
  SHIRA_ASSIGN(File source, File::open(path));
  SHIRA_ASSIGN(const FileState state, source.state());
  SHIRA_ASSIGN(const ProgramFile file, read_program_file(source));
  SHIRA_ASSIGN(const FileIdentity identity, identity_of(source));
  SHIRA_ASSIGN(const ProcessMaps maps, ProcessMaps::read());
  Result<MappingPlan> plan = plan_mappings(file, anchors, maps, identity, page_bytes());
  if (!plan.ok()) return explain_not_mapped(std::move(plan.error()), maps);

  for (const PageSpan& span : plan.value().spans) SHIRA_TRY(check_shows_file(maps, span, source));

  SHIRA_ASSIGN(const std::shared_ptr<Attachment> attachment,
               Attachment::make(std::move(source), identity, state, plan.value().spans));
  Staging staging(attachment->file());
  for (const PageSpan& span : plan.value().spans) SHIRA_TRY(staging.add(span));
  std::vector<std::shared_ptr<Region>> regions;
  for (size_t i = 0; i < plan.value().spans.size(); ++i)
    regions.push_back(std::make_shared<MappedRegion>(attachment, i));
  std::vector<TensorSpec> specs;
  for (const PlannedTensor& planned : plan.value().tensors) {
    const ProgramTensor& tensor = file.tensors[planned.tensor_index];
    specs.push_back({tensor.name, tensor.dtype, tensor.dims,
                     reinterpret_cast<uint8_t*>(planned.address), regions[planned.span_index],
                     tensor.shares_storage_with});
  }
  SHIRA_TRY(staging.commit());
  attachment->own_mappings();
  return specs;
}

Result<std::shared_ptr<Region>> attach_own_mapping(const std::string& path,
                                                   const std::shared_ptr<uint8_t>& mapping) {
  SHIRA_ASSIGN(File source, File::open(path));
  SHIRA_ASSIGN(const FileState state, source.state());
  SHIRA_ASSIGN(const FileIdentity identity, identity_of(source));
  SHIRA_ASSIGN(const ProcessMaps maps, ProcessMaps::read());
  const auto begin = reinterpret_cast<uintptr_t>(mapping.get());
  const PageSpan span{begin, whole_pages({0, state.size_bytes}, page_bytes()).size_bytes, 0};
  SHIRA_ASSIGN(const std::shared_ptr<Attachment> attachment,
               Attachment::make(std::move(source), identity, state, {span}, mapping));
  SHIRA_TRY(attachment->check_pages(maps, attachment->pages(0), span.begin, span.end()));
  return std::shared_ptr<Region>(std::make_shared<MappedRegion>(attachment, 0));
}

}  // namespace shira
