// Takes .shb files apart and puts them together again, following docs/FORMAT.md sections 3 to 10.
// SPDX-License-Identifier: Apache-2.0
#include "shb_parts.h"

#include <algorithm>
#include <utility>

#include "base/byte_reader.h"
#include "base/hash.h"
#include "format/index_codec.h"
#include "format/layout.h"
#include "format/value_codec.h"

namespace shira::fuzz {
namespace {

constexpr uint64_t kMaxStreamBytes = 1 << 16;

template <typename T>
void put(Bytes* bytes, size_t offset, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    (*bytes)[offset + i] = static_cast<uint8_t>(uint64_t{value} >> (8 * i));
  }
}

ByteReader reader(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }
Bytes copy(const ByteReader& bytes) { return Bytes(bytes.data(), bytes.data() + bytes.size()); }

void append(Bytes* bytes, const Bytes& more, size_t alignment) {
  while (bytes->size() % alignment != 0) bytes->push_back(0);
  bytes->insert(bytes->end(), more.begin(), more.end());
}

uint64_t row_bytes(uint32_t kind) {
  switch (kind) {
    case layout::kAdapters:
      return layout::kAdapterRowBytes;
    case layout::kTensors:
      return layout::kTensorRowBytes;
    case layout::kIndex:
      return layout::kIndexRowBytes;
    default:
      return 0;
  }
}

Section take_section(const ByteReader& file, uint64_t row) {
  Section section;
  section.kind = file.u32(row + layout::section::kKind);
  section.tier = file.u32(row + layout::section::kTier);
  section.row = copy(file.slice(row, layout::kSectionRowBytes));
  const ByteReader body =
      file.slice(file.u64(row + layout::section::kOffset), file.u64(row + layout::section::kSize));
  const uint64_t width = row_bytes(section.kind);
  if (width == 0) {
    section.body = copy(body);
    return section;
  }
  uint64_t count = body.size() / width;
  if (section.kind == layout::kIndex) {
    count = std::min<uint64_t>(count, reader(section.row).u32(layout::section::kIndexCount));
  }
  for (uint64_t i = 0; i < count; ++i) {
    Row item;
    item.fields = copy(body.slice(i * width, width));
    if (section.kind == layout::kIndex) {
      const ByteReader fields = reader(item.fields);
      item.stream =
          copy(body.slice(fields.u64(layout::index::kOffset), fields.u64(layout::index::kSize)));
    }
    section.rows.push_back(std::move(item));
  }
  return section;
}

/// The body of a section that is kept as rows.
Bytes lay_out_rows(Section* section) {
  Bytes body;
  const uint64_t width = row_bytes(section->kind);
  if (section->kind == layout::kIndex) {
    put(&section->row, layout::section::kIndexCount, static_cast<uint32_t>(section->rows.size()));
    Bytes streams(section->rows.size() * width);
    for (Row& row : section->rows) {
      while (streams.size() % layout::kStreamAlignment != 0) streams.push_back(0);
      put(&row.fields, layout::index::kOffset, uint64_t{streams.size()});
      put(&row.fields, layout::index::kSize, uint64_t{row.stream.size()});
      append(&streams, row.stream, 1);
    }
    body = std::move(streams);
  }
  body.resize(std::max<size_t>(body.size(), section->rows.size() * width));
  for (size_t i = 0; i < section->rows.size(); ++i) {
    std::copy(section->rows[i].fields.begin(), section->rows[i].fields.end(),
              body.begin() + static_cast<std::ptrdiff_t>(i * width));
  }
  return body;
}

/// The VALUES section of a tier: the streams of its rows.
Bytes lay_out_values(std::vector<Row>* tensors, uint32_t tier) {
  Bytes body;
  for (Row& row : *tensors) {
    if (row.fields[layout::tensor::kTier] != tier) continue;
    while (body.size() % layout::kStreamAlignment != 0) body.push_back(0);
    put(&row.fields, layout::tensor::kValueOffset, uint64_t{body.size()});
    put(&row.fields, layout::tensor::kValueBytes, uint64_t{row.stream.size()});
    append(&body, row.stream, 1);
  }
  return body;
}

void agree_on_positions(Row* row) {
  const ByteReader fields = reader(row->fields);
  const uint64_t unit_count = fields.u32(layout::index::kUnitCount);
  const uint8_t codec = fields.u8(layout::index::kCodec);
  if (is_index_codec(codec) && static_cast<IndexCodec>(codec) != IndexCodec::runs &&
      static_cast<IndexCodec>(codec) != IndexCodec::structured &&
      static_cast<IndexCodec>(codec) != IndexCodec::top_magnitude) {
    put(&row->fields, layout::index::kNnz, unit_count * fields.u32(layout::index::kBlockLength));
  }
}

void agree_on_entries(Row* tensor, Row* index) {
  const ByteReader fields = reader(tensor->fields);
  const uint64_t nnz = reader(index->fields).u64(layout::index::kNnz);
  put(&tensor->fields, layout::tensor::kNnz, nnz);
  uint64_t numel = 1;
  for (uint32_t i = 0; i < 8 && i < fields.u8(layout::tensor::kRank); ++i) {
    numel *= fields.u32(layout::tensor::kDims + 4 * i);
  }
  put(&index->fields, layout::index::kElementCount, numel);
  const uint8_t codec = fields.u8(layout::tensor::kValueCodec);
  const uint32_t group = fields.u32(layout::tensor::kValueGroup);
  if (!is_value_codec(codec) || nnz > kMaxStreamBytes) return;
  if (is_scaled(static_cast<ValueCodec>(codec)) && group == 0) return;
  tensor->stream.resize(value_stream_bytes(static_cast<ValueCodec>(codec), nnz, group));
}

}  // namespace

std::vector<Row>* ShbParts::rows(uint32_t kind, uint32_t tier) {
  for (Section& section : sections) {
    if (section.kind == kind && section.tier == tier) return &section.rows;
  }
  return nullptr;
}

std::string ShbParts::name_of(const Row& row) const {
  for (const Section& section : sections) {
    if (section.kind != layout::kNames) continue;
    const ByteReader name = reader(section.body)
                                .slice(reader(row.fields).u32(layout::name::kOffset),
                                       reader(row.fields).u32(layout::name::kSize));
    return std::string(name.data(), name.data() + name.size());
  }
  return {};
}

std::optional<ShbParts> take_apart(const uint8_t* data, size_t size_bytes) {
  const ByteReader file(data, size_bytes);
  const uint64_t section_count = file.u32(layout::header::kSectionCount);
  if (section_count == 0 || section_count > layout::kMaxSectionCount ||
      !file.contains(layout::kHeaderBytes, layout::kSectionRowBytes * section_count)) {
    return std::nullopt;
  }
  ShbParts parts;
  parts.header = copy(file.slice(0, layout::kHeaderBytes));
  for (uint32_t i = 0; i < section_count; ++i) {
    parts.sections.push_back(take_section(file, layout::section_row(i)));
  }
  std::vector<Row>* tensors = parts.rows(layout::kTensors);
  if (tensors == nullptr) return parts;
  for (Row& row : *tensors) {
    const ByteReader fields = reader(row.fields);
    for (const Section& section : parts.sections) {
      if (section.kind != layout::kValues || section.tier != fields.u8(layout::tensor::kTier)) {
        continue;
      }
      row.stream = copy(reader(section.body)
                            .slice(fields.u64(layout::tensor::kValueOffset),
                                   fields.u64(layout::tensor::kValueBytes)));
    }
  }
  return parts;
}

void make_agree(ShbParts* parts) {
  for (Section& section : parts->sections) {
    if (section.kind != layout::kIndex) continue;
    for (Row& row : section.rows) agree_on_positions(&row);
  }
  std::vector<Row>* tensors = parts->rows(layout::kTensors);
  if (tensors == nullptr) return;
  for (Row& tensor : *tensors) {
    std::vector<Row>* index = parts->rows(layout::kIndex, tensor.fields[layout::tensor::kTier]);
    const uint32_t number = reader(tensor.fields).u32(layout::tensor::kIndexNumber);
    if (index != nullptr && number < index->size()) agree_on_entries(&tensor, &(*index)[number]);
  }
  put(&parts->header, layout::header::kTensorCount, static_cast<uint32_t>(tensors->size()));
}

Bytes put_together(ShbParts parts) {
  std::vector<Row>* tensors = parts.rows(layout::kTensors);
  for (Section& section : parts.sections) {
    if (section.kind == layout::kValues && tensors != nullptr) {
      section.body = lay_out_values(tensors, section.tier);
    }
  }
  for (Section& section : parts.sections) {
    if (row_bytes(section.kind) != 0) section.body = lay_out_rows(&section);
  }
  const auto section_count = static_cast<uint32_t>(parts.sections.size());
  Bytes file = parts.header;
  file.resize(layout::section_row(section_count));
  for (uint32_t i = 0; i < section_count; ++i) {
    Section& section = parts.sections[i];
    while (file.size() % layout::kSectionAlignment != 0) file.push_back(0);
    put(&section.row, layout::section::kOffset, uint64_t{file.size()});
    put(&section.row, layout::section::kSize, uint64_t{section.body.size()});
    std::copy(section.row.begin(), section.row.end(),
              file.begin() + static_cast<std::ptrdiff_t>(layout::section_row(i)));
    append(&file, section.body, 1);
  }
  put(&file, layout::header::kFileBytes, uint64_t{file.size()});
  put(&file, layout::header::kSectionCount, section_count);
  seal(file.data(), file.size());
  return file;
}

void seal(uint8_t* data, size_t size_bytes) {
  const ByteReader file(data, size_bytes);
  const uint64_t section_count = file.u32(layout::header::kSectionCount);
  const uint64_t table_bytes = layout::kSectionRowBytes * section_count;
  if (section_count > layout::kMaxSectionCount ||
      !file.contains(layout::kHeaderBytes, table_bytes)) {
    return;
  }
  const auto put_crc = [data](uint64_t field, const uint8_t* bytes, uint64_t count) {
    const uint32_t crc = crc32c(bytes, static_cast<size_t>(count));
    for (int i = 0; i < 4; ++i) data[field + i] = static_cast<uint8_t>(crc >> (8 * i));
  };
  for (uint32_t i = 0; i < section_count; ++i) {
    const uint64_t row = layout::section_row(i);
    const ByteReader body = file.slice(file.u64(row + layout::section::kOffset),
                                       file.u64(row + layout::section::kSize));
    put_crc(row + layout::section::kCrc, body.data(), body.size());
  }
  put_crc(layout::header::kSectionTableCrc, data + layout::kHeaderBytes, table_bytes);
  put_crc(layout::header::kHeaderCrc, data, layout::header::kHeaderCrc);
}

}  // namespace shira::fuzz
