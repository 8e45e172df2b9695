// Step 10 of docs/FORMAT.md section 13, and the merging of what it allows.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_tiers.h"

#include <set>
#include <string>
#include <utility>

#include "format/adapter_steps.h"
#include "format/run_merger.h"

namespace shira {
namespace {

/// Goes through a list run by run; an entry is a run of length 1.
class ListCursor {
 public:
  explicit ListCursor(const IndexList& list)
      : runs_(list.runs.data()),
        entries_(list.entries.data()),
        count_(list.is_runs() ? list.runs.size() : list.entries.size()),
        is_runs_(list.is_runs()) {
    load();
  }

  bool is_done() const { return start_ == UINT64_MAX; }
  uint64_t start() const { return start_; }  // UINT64_MAX behind the last
  uint64_t length() const { return length_; }
  uint64_t end() const { return start_ + length_; }
  void next() {
    ++i_;
    load();
  }

 private:
  void load() {
    if (i_ == count_) {
      start_ = UINT64_MAX;
    } else if (is_runs_) {
      start_ = runs_[i_].start;
      length_ = runs_[i_].length;
    } else {
      start_ = entries_[i_];
    }
  }

  const Run* runs_;
  const uint32_t* entries_;
  size_t count_;
  bool is_runs_;
  size_t i_ = 0;
  uint64_t start_ = 0;
  uint64_t length_ = 1;
};

/// Calls keep(part, start, length) for the runs of all parts, ascending.
template <typename Keep>
void walk_merged(const IndexLists& parts, Keep keep) {
  std::vector<ListCursor> cursors;
  for (const auto& part : parts) cursors.emplace_back(*part);
  while (true) {
    size_t first = 0;
    for (size_t i = 1; i < cursors.size(); ++i) {
      if (cursors[i].start() < cursors[first].start()) first = i;
    }
    if (cursors[first].is_done()) return;
    keep(first, cursors[first].start(), cursors[first].length());
    cursors[first].next();
  }
}

template <typename Value>
Result<Array<uint8_t>> merge_values_as(const IndexLists& parts,
                                       const std::vector<const uint8_t*>& values) {
  uint64_t count = 0;
  for (const auto& part : parts) count += part->entry_count;
  SHIRA_ASSIGN(Array<uint8_t> merged, Array<uint8_t>::make(count * sizeof(Value)));
  std::vector<const uint8_t*> next = values;
  uint8_t* out = merged.data();
  walk_merged(parts, [&](size_t part, uint64_t /*start*/, uint64_t length) {
    for (uint64_t i = 0; i < length; ++i) {
      __builtin_memcpy(out, next[part], sizeof(Value));
      out += sizeof(Value);
      next[part] += sizeof(Value);
    }
  });
  return merged;
}

}  // namespace

bool overlap(const IndexList& a, const IndexList& b) {
  ListCursor left(a);
  ListCursor right(b);
  while (!left.is_done() && !right.is_done()) {
    if (left.end() <= right.start()) {
      left.next();
    } else if (right.end() <= left.start()) {
      right.next();
    } else {
      return true;
    }
  }
  return false;
}

Result<IndexList> merge_positions(const IndexLists& parts) {
  RunMerger counter(nullptr);
  walk_merged(parts, [&](size_t /*part*/, uint64_t start, uint64_t length) {
    counter.append(start, length);
  });
  IndexList merged;
  merged.entry_count = counter.entry_count();
  if (counter.run_count() * sizeof(Run) < merged.entry_count * sizeof(uint32_t)) {
    SHIRA_ASSIGN(merged.runs, Array<Run>::make(counter.run_count()));
    RunMerger merger(merged.runs.data());
    walk_merged(parts, [&](size_t /*part*/, uint64_t start, uint64_t length) {
      merger.append(start, length);
    });
    return merged;
  }
  SHIRA_ASSIGN(merged.entries, Array<uint32_t>::make(merged.entry_count));
  uint64_t count = 0;
  walk_merged(parts, [&](size_t /*part*/, uint64_t start, uint64_t length) {
    for (uint64_t i = 0; i < length; ++i) {
      merged.entries[count++] = static_cast<uint32_t>(start + i);
    }
  });
  return merged;
}

Result<Array<uint8_t>> merge_values(const IndexLists& parts,
                                    const std::vector<const uint8_t*>& values, size_t value_bytes) {
  if (value_bytes == 4) return merge_values_as<uint32_t>(parts, values);
  if (value_bytes == 2) return merge_values_as<uint16_t>(parts, values);
  return merge_values_as<uint8_t>(parts, values);
}

Result<void> check_tiers(const ParsedFile& file) {
  // Adapters that share positions are compared once.
  std::set<std::pair<const IndexList*, const IndexList*>> known_apart;
  for (uint32_t number = 0; number < file.rows.size(); ++number) {
    const TensorRow& row = file.rows[number];
    if (!file.is_opened(row)) continue;
    const IndexList* list = file.positions[number].get();
    for (uint32_t lower = row.lower_row; lower != kNoRow; lower = file.rows[lower].lower_row) {
      const IndexList* lower_list = file.positions[lower].get();
      if (!known_apart.emplace(list, lower_list).second) continue;
      if (!overlap(*list, *lower_list)) continue;
      return file.record_of(row).refuse(Status::BAD_INDEX, layout::tensor::kIndexNumber,
                                        "tier " + std::to_string(row.tier) +
                                            " has a position that tier " +
                                            std::to_string(file.rows[lower].tier) + " has too");
    }
  }
  return {};
}

}  // namespace shira
