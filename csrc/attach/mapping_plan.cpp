// Choosing between the mappings of one file.
// SPDX-License-Identifier: Apache-2.0
#include "attach/mapping_plan.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "base/checked_math.h"

namespace shira {
namespace {

bool covers(const FileRange& outer, const FileRange& inner) {
  return outer.offset_bytes <= inner.offset_bytes && inner.end_bytes() <= outer.end_bytes();
}

class Planner {
 public:
  Planner(const ProgramFile& file, const ProcessMaps& maps, const FileIdentity& identity,
          uint64_t page_bytes)
      : file_(file), maps_(maps), page_bytes_(page_bytes) {
    uintptr_t covered_until = 0;  // from the last run on without a hole
    for (const MemoryArea& area : maps.areas()) {
      if (!area.readable) continue;
      if (area.inode == 0 && !area.writable && area.begin == covered_until) {
        // Huge pages that an earlier attachment has moved over a part of the mapping, perhaps.
        covered_until = area.end;
        continue;
      }
      if (!identity.is_of(area)) continue;
      is_mapped_ = true;
      // Private and writable is what attaching leaves behind.
      if (area.writable && !area.shared) {
        is_attached_ = true;
        continue;
      }
      if (runs_.empty() || covered_until != area.begin ||
          runs_.back().file_offset_bytes + (area.begin - runs_.back().begin) !=
              area.file_offset_bytes) {
        runs_.push_back({area.begin, 0, area.file_offset_bytes});
      }
      runs_.back().size_bytes = area.end - runs_.back().begin;
      covered_until = area.end;
    }
    for (const FileRange& load : file.loads) {
      if (load.size_bytes != 0) loads_.push_back(whole_pages(load, page_bytes));
    }
    std::sort(loads_.begin(), loads_.end(), begins_before);
    // A file may have very many loads, so that what is asked of all of them is worked out once.
    uint64_t furthest_bytes = 0;
    uint64_t second_bytes = 0;
    for (const FileRange& load : loads_) {
      second_bytes = std::max(second_bytes, std::min(furthest_bytes, load.end_bytes()));
      furthest_bytes = std::max(furthest_bytes, load.end_bytes());
      second_furthest_bytes_.push_back(second_bytes);
    }
  }

  bool is_mapped() const { return is_mapped_; }

  /// The pages of the tensor's load around the address that the program gave.
  Result<PageSpan> at_anchor(const ProgramTensor& tensor, uintptr_t address) const {
    const FileRange pages = whole_pages(tensor.load, page_bytes_);
    for (const PageSpan& run : runs_) {
      if (address < run.begin || address >= run.end()) continue;
      const uint64_t offset_bytes = run.file_offset_bytes + (address - run.begin);
      if (offset_bytes != tensor.offset_bytes) {
        return error(Status::DETACHED, tensor,
                     "the program has it at byte " + std::to_string(offset_bytes) +
                         " of the file, the file's tables at byte " +
                         std::to_string(tensor.offset_bytes));
      }
      if (!covers({run.file_offset_bytes, run.size_bytes}, pages)) {
        return error(Status::DETACHED, tensor,
                     "the mapping at its address does not hold the whole of what the loader maps");
      }
      return place(run, pages);
    }
    if (is_attached_) {
      return error(Status::NOT_SUPPORTED, tensor,
                   "its mapping is private and writable: the program is attached already");
    }
    return error(Status::DETACHED, tensor, "its address lies in no mapping of the file");
  }

  /// The one place that can only be the tensor's load.
  Result<PageSpan> by_extent(const ProgramTensor& tensor) const {
    const FileRange pages = whole_pages(tensor.load, page_bytes_);
    // Another load of these pages or more may be mistaken for it. Then the extent must be exact,
    // and no other may have the same.
    const auto same = std::equal_range(loads_.begin(), loads_.end(), pages, begins_before);
    const auto same_loads = static_cast<size_t>(same.second - same.first);
    const auto begins_behind = std::upper_bound(
        loads_.begin(), loads_.end(), pages.offset_bytes,
        [](uint64_t offset, const FileRange& load) { return offset < load.offset_bytes; });
    const auto begins_here_count = static_cast<size_t>(begins_behind - loads_.begin());
    const bool is_covered_twice =
        begins_here_count > 0 && second_furthest_bytes_[begins_here_count - 1] >= pages.end_bytes();
    std::vector<PageSpan> places;
    for (const PageSpan& run : runs_) {
      if (!covers({run.file_offset_bytes, run.size_bytes}, pages)) continue;
      const PageSpan span = place(run, pages);
      if (!is_covered_twice || is_exact(span)) places.push_back(span);
    }
    if (places.empty()) {
      return is_attached_
                 ? error(Status::NOT_SUPPORTED, tensor,
                         "its mapping is private and writable: the program is attached already")
                 : error(Status::NOT_MAPPED, tensor,
                         "no mapping of the file has the extent of its load; the program may not "
                         "have been loaded far enough");
    }
    if (places.size() > 1 || same_loads > 1) {
      return error(Status::AMBIGUOUS, tensor,
                   std::to_string(std::max(places.size(), same_loads)) +
                       " mappings of the file could be the program's: pass the addresses of its "
                       "constants");
    }
    return places.front();
  }

 private:
  static bool begins_before(const FileRange& a, const FileRange& b) {
    return std::tie(a.offset_bytes, a.size_bytes) < std::tie(b.offset_bytes, b.size_bytes);
  }

  static PageSpan place(const PageSpan& run, const FileRange& pages) {
    return {run.begin + static_cast<uintptr_t>(pages.offset_bytes - run.file_offset_bytes),
            pages.size_bytes, pages.offset_bytes};
  }

  bool is_exact(const PageSpan& span) const {
    return maps_.find(span.begin)->begin == span.begin &&
           maps_.find(span.end() - 1)->end == span.end();
  }

  Error error(Status status, const ProgramTensor& tensor, std::string message) const {
    return Error{status, std::move(message), file_.path, tensor.name, tensor.offset_bytes};
  }

  const ProgramFile& file_;
  const ProcessMaps& maps_;
  const uint64_t page_bytes_;
  /// Areas joined where address and file offset go on: locking splits the mapping of one load, and
  /// so do huge pages. What they show is compared with the file before anything is replaced.
  std::vector<PageSpan> runs_;
  std::vector<FileRange> loads_;  // whole pages, sorted
  /// Of loads_ up to each: the second largest end. Two loads that begin by then reach that far.
  std::vector<uint64_t> second_furthest_bytes_;
  bool is_mapped_ = false;
  bool is_attached_ = false;
};

/// Sorts the spans, joins those that overlap (an unusual loader may map pages of two loads as one)
/// and points each tensor at its span.
void assign_spans(std::vector<PageSpan> spans, MappingPlan* plan) {
  std::sort(spans.begin(), spans.end(),
            [](const PageSpan& a, const PageSpan& b) { return a.begin < b.begin; });
  for (const PageSpan& span : spans) {
    if (plan->spans.empty() || plan->spans.back().end() <= span.begin) {
      plan->spans.push_back(span);
    } else if (PageSpan& last = plan->spans.back(); last.end() < span.end()) {
      last.size_bytes = span.end() - last.begin;
    }
  }
  for (PlannedTensor& tensor : plan->tensors) {
    const auto after = std::upper_bound(
        plan->spans.begin(), plan->spans.end(), tensor.address,
        [](uintptr_t address, const PageSpan& span) { return address < span.begin; });
    tensor.span_index = static_cast<size_t>(after - plan->spans.begin()) - 1;
  }
}

/// (tensor index, address) of each constant to attach; address 0 where the extent has to decide.
Result<std::vector<std::pair<size_t, uintptr_t>>> select(const ProgramFile& file,
                                                         const std::vector<Anchor>& anchors) {
  std::vector<std::pair<size_t, uintptr_t>> selected;
  for (const Anchor& anchor : anchors) {
    const auto tensor = std::lower_bound(
        file.tensors.begin(), file.tensors.end(), anchor.name,
        [](const ProgramTensor& t, const std::string& name) { return t.name < name; });
    if (tensor == file.tensors.end() || tensor->name != anchor.name) {
      return Error{Status::UNKNOWN_TENSOR, "the file names no such constant", file.path,
                   anchor.name, kNoOffset};
    }
    if (anchor.address == 0) {
      return Error{Status::INVALID_ARGUMENT, "its address is null", file.path, anchor.name,
                   kNoOffset};
    }
    if (tensor->patchable) selected.emplace_back(tensor - file.tensors.begin(), anchor.address);
  }
  if (anchors.empty()) {
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      if (file.tensors[i].patchable) selected.emplace_back(i, 0);
    }
  }
  std::sort(selected.begin(), selected.end());
  selected.erase(std::unique(selected.begin(), selected.end()), selected.end());
  for (size_t i = 1; i < selected.size(); ++i) {
    if (selected[i].first == selected[i - 1].first) {
      return Error{Status::INVALID_ARGUMENT, "two addresses are given for it", file.path,
                   file.tensors[selected[i].first].name, kNoOffset};
    }
  }
  if (selected.empty()) {
    return Error{Status::NOT_SUPPORTED,
                 "none of the constants that the file names can be patched; export the program "
                 "with named constants in f32, f16 or bf16",
                 file.path,
                 {},
                 kNoOffset};
  }
  return selected;
}

}  // namespace

FileRange whole_pages(const FileRange& range, uint64_t page_bytes) {
  const uint64_t begin = range.offset_bytes & ~(page_bytes - 1);
  return {begin, align_up(range.end_bytes(), page_bytes) - begin};
}

Result<MappingPlan> plan_mappings(const ProgramFile& file, const std::vector<Anchor>& anchors,
                                  const ProcessMaps& maps, const FileIdentity& identity,
                                  uint64_t page_bytes) {
  const Planner planner(file, maps, identity, page_bytes);
  if (!planner.is_mapped()) {
    return Error{Status::NOT_MAPPED,
                 "nothing in this process maps the file: the program is not loaded, or its loader "
                 "copied it into the heap",
                 file.path,
                 {},
                 kNoOffset};
  }
  SHIRA_ASSIGN(const auto selected, select(file, anchors));
  MappingPlan plan;
  std::vector<PageSpan> spans;
  for (const auto& [tensor_index, address] : selected) {
    const ProgramTensor& tensor = file.tensors[tensor_index];
    // Tensors of one load (all of a .pte) share the answer to the search.
    const bool as_before = address == 0 && !plan.tensors.empty() &&
                           tensor.load == file.tensors[plan.tensors.back().tensor_index].load;
    if (!as_before) {
      SHIRA_ASSIGN(const PageSpan span,
                   address == 0 ? planner.by_extent(tensor) : planner.at_anchor(tensor, address));
      spans.push_back(span);
    }
    const PageSpan& span = spans.back();
    plan.tensors.push_back(
        {tensor_index, 0,
         span.begin + static_cast<uintptr_t>(tensor.offset_bytes - span.file_offset_bytes)});
  }
  assign_spans(std::move(spans), &plan);
  return plan;
}

}  // namespace shira
