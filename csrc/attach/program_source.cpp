// Opening a program's files, and the index of their named data.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "attach/program_schema.h"
#include "attach/program_tables.h"
#include "base/checked_math.h"

namespace shira {

Result<std::unique_ptr<ProgramSource>> ProgramSource::open(const std::string& path) {
  SHIRA_ASSIGN(File file, File::open(path));
  SHIRA_ASSIGN(ProgramTables tables, load_program_tables(file));
  std::unique_ptr<ProgramSource> source(new ProgramSource(path, std::move(file)));
  source->head_ = tables.head;
  source->file_bytes_ = tables.file_bytes;
  source->owned_ = std::move(tables.flatbuffer);
  SHIRA_TRY(source->read_root(ByteReader(source->owned_.data(), source->owned_.size())));
  return source;
}

Result<std::unique_ptr<ProgramSource>> ProgramSource::over(const ByteReader& bytes,
                                                           const std::string& label) {
  std::unique_ptr<ProgramSource> source(new ProgramSource(label, std::nullopt));
  SHIRA_ASSIGN(source->head_, parse_program_head(bytes, bytes.size(), label));
  source->file_bytes_ = bytes.size();
  source->bytes_ = bytes;
  SHIRA_TRY(source->read_root(bytes.slice(0, source->head_.flatbuffer_end_bytes)));
  return source;
}

Result<void> ProgramSource::read_root(const ByteReader& flatbuffer) {
  buffer_ = Flatbuffer(flatbuffer.data(), flatbuffer.size());
  root_ = FlatTable::root(&buffer_);
  // The one schema version there has been.
  static_assert(kProgramVersion == kFlatTensorVersion);
  if (const auto version = root_.scalar<uint32_t>(kProgramVersion); version != 0) {
    buffer_.fail(root_.position(), "schema version " + std::to_string(version) + ", expected 0");
  }
  SHIRA_ASSIGN(segments_, read_segments(head_, root_, path_, file_bytes_, &buffer_));
  return check();
}

Result<Array<uint8_t>> ProgramSource::read(const FileRange& range) const {
  if (!range_fits(range.offset_bytes, range.size_bytes, file_bytes_)) {
    return truncated_program_file(path_, range.end_bytes(), file_bytes_);
  }
  if (file_) SHIRA_TRY(file_->check_fits_memory(range.size_bytes));
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(static_cast<size_t>(range.size_bytes)));
  if (!file_) {
    const ByteReader part = bytes_.slice(range.offset_bytes, range.size_bytes);
    if (part.size() != 0) memcpy(bytes.data(), part.data(), part.size());
    return bytes;
  }
  SHIRA_ASSIGN(const uint64_t got,
               file_->read_at(range.offset_bytes, range.size_bytes, bytes.data()));
  if (got != range.size_bytes) {
    return truncated_program_file(path_, range.end_bytes(), range.offset_bytes + got);
  }
  return bytes;
}

Result<void> ProgramSource::check() const {
  if (buffer_.ok()) return {};
  return bad_program_file(path_, buffer_.problem_offset_bytes(), buffer_.problem());
}

Result<std::vector<ProgramTensor>> ProgramSource::constants() const {
  ProgramFile file;
  file.path = path_;
  file.file_bytes = file_bytes_;
  SHIRA_TRY(read_program_tables(head_, file_ ? owned_.data() : bytes_.data(), &file));
  return std::move(file.tensors);
}

void NamedData::add(uint32_t file_index, ProgramSource* source) {
  Flatbuffer& buffer = source->buffer();
  const FlatVector items = source->root().vector(
      source->is_ptd() ? kFlatTensorNamedData : kProgramNamedData, sizeof(uint32_t));
  for (uint32_t i = 0; i < items.count && buffer.ok(); ++i) {
    const FlatTable item = source->root().item(items, i);
    const auto segment_index = item.scalar<uint32_t>(kNamedDataSegmentIndex);
    if (segment_index >= source->segments().size()) {
      return buffer.fail(item.position(), "there is no segment " + std::to_string(segment_index));
    }
    Entry entry;
    entry.key = item.string(kNamedDataKey);
    entry.bytes = {file_index, source->segments()[segment_index]};
    if (source->is_ptd()) entry.layout = item.table(kNamedDataTensorLayout);
    if (entries_.size() >= kMaxDescriptions) {
      return buffer.fail(item.position(),
                         "more than " + std::to_string(kMaxDescriptions) + " named data");
    }
    entries_.push_back(entry);
  }
}

void NamedData::sort() {
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.key < b.key; });
}

const NamedData::Entry* NamedData::find(std::string_view key) const {
  const auto found = std::lower_bound(
      entries_.begin(), entries_.end(), key,
      [](const Entry& entry, std::string_view wanted) { return entry.key < wanted; });
  return found == entries_.end() || found->key != key ? nullptr : &*found;
}

}  // namespace shira
