// Step 4 of docs/FORMAT.md section 13: rows of TENSORS.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/checked_math.h"
#include "format/adapter_steps.h"
#include "format/message.h"

namespace shira {
namespace {

using namespace layout::tensor;

/// A tier's streams and index rows, as far as the rows have named them.
struct TierProgress {
  uint64_t value_end_bytes = 0;  // in VALUES
  uint32_t index_count = 0;
};

/// Goes through the rows of one file. Each function checks the fields that it is named after, in
/// the order of their offsets, and is called in that order.
class TensorRowParser {
 public:
  explicit TensorRowParser(ParsedFile* file) : file_(*file) {}

  Result<void> parse_all();

 private:
  Result<void> parse_row(const AdapterRow& adapter, uint32_t number);
  Result<void> parse_types(const Record& record, TensorRow* row);
  Result<void> parse_kind_and_flags(const Record& record, bool is_bound, TensorRow* row);
  Result<void> parse_counts(const Record& record, TensorRow* row);
  Result<void> parse_value_stream(const Record& record, TensorRow* row);
  Result<void> parse_shape(const Record& record, TensorRow* row);
  Result<void> check_hashes(const Record& record, bool is_bound);
  Result<void> check_order(const Record& record, const AdapterRow& adapter, uint32_t number);
  Result<void> check_lower_tier(const Record& record, TensorRow* row);
  Result<void> check_tier_is_covered(uint32_t tier);

  const SectionInfo& values_of(uint32_t tier) const {
    return file_.sections[layout::value_section(tier)];
  }
  const SectionInfo& index_of(uint32_t tier) const {
    return file_.sections[layout::index_section(tier)];
  }

  ParsedFile& file_;
  std::array<TierProgress, layout::kMaxTierCount> tiers_{};
  /// By tier: the adapter's first row at or above it, as far as rows were parsed.
  std::array<uint32_t, layout::kMaxTierCount + 1> tier_begin_{};
};

Result<void> TensorRowParser::parse_all() {
  SHIRA_TRY(
      check_row_count(file_, layout::kTensors, file_.header.tensor_count, layout::kTensorRowBytes));
  SHIRA_ASSIGN(file_.rows, Array<TensorRow>::make(file_.header.tensor_count));
  file_.names.ranges.reserve(file_.adapters.size() + file_.rows.size());
  for (const AdapterRow& adapter : file_.adapters) {
    tier_begin_.fill(adapter.first_tensor);
    for (uint32_t i = 0; i < adapter.tensor_count; ++i) {
      SHIRA_TRY(parse_row(adapter, adapter.first_tensor + i));
    }
  }
  for (uint32_t tier = 0; tier < file_.header.tier_count; ++tier) {
    SHIRA_TRY(check_tier_is_covered(tier));
  }
  return {};
}

Result<void> TensorRowParser::parse_row(const AdapterRow& adapter, uint32_t number) {
  TensorRow& row = file_.rows[number];
  row.offset =
      file_.section(layout::kTensors).offset_bytes + uint64_t{number} * layout::kTensorRowBytes;
  Record record(file_.bytes, row.offset);
  SHIRA_ASSIGN(row.name, take_name(record, &file_));
  record.set_tensor(row.name);
  SHIRA_TRY(parse_types(record, &row));
  SHIRA_TRY(parse_kind_and_flags(record, adapter.is_bound, &row));
  SHIRA_TRY(parse_counts(record, &row));
  SHIRA_TRY(parse_value_stream(record, &row));
  SHIRA_TRY(parse_shape(record, &row));
  SHIRA_TRY(check_hashes(record, adapter.is_bound));
  SHIRA_TRY(check_order(record, adapter, number));
  return check_lower_tier(record, &row);
}

Result<void> TensorRowParser::parse_types(const Record& record, TensorRow* row) {
  const uint8_t dtype = record.u8(kDtype);
  if (!is_dtype(dtype)) {
    return record.refuse(Status::BAD_ENUM, kDtype, meaningless("dtype", dtype));
  }
  row->dtype = static_cast<Dtype>(dtype);
  row->rank = record.u8(kRank);
  if (row->rank < 1 || row->rank > kMaxRank) {
    return record.refuse(Status::BAD_SHAPE, kRank,
                         out_of_range("the rank", row->rank, 1, kMaxRank));
  }
  row->tier = record.u8(kTier);
  if (row->tier >= file_.header.tier_count) {
    return record.refuse(Status::BAD_COUNT, kTier,
                         out_of_range("the tier", row->tier, 0, file_.header.tier_count - 1));
  }
  const uint8_t codec = record.u8(kValueCodec);
  if (!is_value_codec(codec)) {
    return record.refuse(Status::BAD_ENUM, kValueCodec, meaningless("value codec", codec));
  }
  row->values.codec = static_cast<ValueCodec>(codec);
  return {};
}

Result<void> TensorRowParser::parse_kind_and_flags(const Record& record, bool is_bound,
                                                   TensorRow* row) {
  const uint8_t kind = record.u8(kValueKind);
  if (kind > 1) {
    return record.refuse(Status::BAD_ENUM, kValueKind, meaningless("value kind", kind));
  }
  row->value_kind = static_cast<ValueKind>(kind);
  const ValueCodec codec = row->values.codec;
  const bool is_target = row->value_kind == ValueKind::target;
  const bool is_allowed =
      is_target ? static_cast<uint8_t>(codec) == static_cast<uint8_t>(row->dtype)
                : is_float(row->dtype) && codec != ValueCodec::i8 && codec != ValueCodec::i4;
  if (!is_allowed) {
    return record.refuse(Status::BAD_ENUM, kValueKind,
                         std::string(value_kind_name(row->value_kind)) + " values of a tensor of " +
                             dtype_name(row->dtype) + " cannot be coded as " +
                             value_codec_name(codec));
  }
  const uint8_t flags = record.u8(kFlags);
  if ((flags & ~kFlagFingerprint) != 0) {
    return record.refuse(Status::RESERVED_NOT_ZERO, kFlags,
                         "reserved flags of the tensor are set (" + std::to_string(flags) + ")");
  }
  if ((flags == kFlagFingerprint) != is_bound) {
    return record.refuse(Status::BAD_ENUM, kFlags,
                         is_bound ? "the adapter is bound, but this tensor has no fingerprint"
                                  : "the adapter is unbound, but this tensor has a fingerprint");
  }
  if (is_target && !is_bound) {
    return record.refuse(Status::BAD_ENUM, kFlags,
                         "target values need a fingerprint, and the adapter is unbound");
  }
  return {};
}

Result<void> TensorRowParser::parse_counts(const Record& record, TensorRow* row) {
  const bool scaled = is_scaled(row->values.codec);
  row->values.scale_exponent = static_cast<int8_t>(record.u8(kScaleExponent));
  // NOLINTNEXTLINE(bugprone-signed-char-misuse,cert-str34-c): a number, not a character
  const int exponent = row->values.scale_exponent;
  const int max_exponent = scaled ? kMaxScaleExponent : 0;
  if (exponent < -max_exponent || exponent > max_exponent) {
    return record.refuse(Status::BAD_VALUE, kScaleExponent,
                         "scale_exponent is " + std::to_string(exponent) + ", not in -" +
                             std::to_string(max_exponent) + " to " + std::to_string(max_exponent));
  }
  SHIRA_TRY(record.check_zero(kReserved1, kIndexNumber, "a reserved field of the tensor"));

  row->index_number = record.u32(kIndexNumber);
  uint32_t& named_count = tiers_[row->tier].index_count;
  const uint32_t index_count = index_of(row->tier).index_count;
  if (row->index_number > named_count || row->index_number >= index_count) {
    return record.refuse(Status::BAD_LAYOUT, kIndexNumber,
                         "index_number is " + std::to_string(row->index_number) +
                             "; the next new one is " + std::to_string(named_count) + " of " +
                             std::to_string(index_count));
  }
  named_count = std::max(named_count, row->index_number + 1);

  const uint32_t group = record.u32(kValueGroup);
  const bool is_allowed =
      scaled ? group >= kMinValueGroup && group % kValueGroupStep == 0 : group == 0;
  if (!is_allowed) {
    return record.refuse(Status::BAD_COUNT, kValueGroup,
                         "value_group " + std::to_string(group) + " is not allowed for " +
                             value_codec_name(row->values.codec));
  }
  row->values.group = group;
  row->nnz = record.u64(kNnz);
  if (row->nnz == 0) return record.refuse(Status::BAD_COUNT, kNnz, "the tensor has no entries");
  row->values.entry_count = row->nnz;
  return {};
}

Result<void> TensorRowParser::parse_value_stream(const Record& record, TensorRow* row) {
  const SectionInfo& section = values_of(row->tier);
  uint64_t& end_bytes = tiers_[row->tier].value_end_bytes;
  const uint64_t offset = record.u64(kValueOffset);
  const uint64_t due = align_up(end_bytes, layout::kStreamAlignment);
  if (offset != due) {
    return record.refuse(Status::BAD_LAYOUT, kValueOffset, differs("value_offset", offset, due));
  }
  SHIRA_TRY(record.check_zero_at(section.offset_bytes + end_bytes,
                                 section.offset_bytes + std::min(due, section.size_bytes),
                                 "the padding between value streams"));
  const uint64_t size_bytes = record.u64(kValueBytes);
  // More entries than the section has bits cannot fit; fewer cannot overflow their size.
  if (row->nnz / 8 > section.size_bytes ||
      size_bytes != value_stream_bytes(row->values.codec, row->nnz, row->values.group)) {
    return record.refuse(Status::BAD_LAYOUT, kValueBytes,
                         "a stream of " + std::to_string(size_bytes) + " bytes does not hold " +
                             std::to_string(row->nnz) + " values of " +
                             value_codec_name(row->values.codec));
  }
  if (!range_fits(offset, size_bytes, section.size_bytes)) {
    return record.refuse(Status::BAD_LAYOUT, kValueBytes,
                         "the stream of " + std::to_string(size_bytes) + " bytes at offset " +
                             std::to_string(offset) + " leaves " + section_name(section));
  }
  row->values_offset = section.offset_bytes + offset;
  row->values.bytes = file_.bytes.slice(row->values_offset, size_bytes);
  end_bytes = offset + size_bytes;
  return record.check_zero(kReserved2, kDims, "a reserved field of the tensor");
}

Result<void> TensorRowParser::parse_shape(const Record& record, TensorRow* row) {
  row->element_count = 1;
  bool fits = true;
  for (uint32_t i = 0; i < kMaxRank; ++i) {
    const uint64_t field = kDims + uint64_t{4} * i;
    const uint32_t dim = record.u32(field);
    if ((dim == 0) != (i >= row->rank)) {
      return record.refuse(Status::BAD_SHAPE, field,
                           "dimension " + std::to_string(i) + " of a tensor of rank " +
                               std::to_string(row->rank) + " is " + std::to_string(dim));
    }
    if (dim == 0 || !fits) continue;
    row->element_count *= dim;  // both factors are below 2^32
    fits = row->element_count <= layout::kMaxElementCount;
  }
  if (fits) return {};
  return record.refuse(
      Status::BAD_SHAPE, kDims,
      "the tensor has more than " + std::to_string(layout::kMaxElementCount) + " elements");
}

Result<void> TensorRowParser::check_hashes(const Record& record, bool is_bound) {
  if (is_bound) return {};
  return record.check_zero(kFingerprint, layout::kTensorRowBytes,
                           "a hash of a tensor without fingerprint");
}

Result<void> TensorRowParser::check_order(const Record& record, const AdapterRow& adapter,
                                          uint32_t number) {
  const TensorRow& row = file_.rows[number];
  if (number > adapter.first_tensor) {
    const TensorRow& before = file_.rows[number - 1];
    if (row.tier < before.tier) {
      return record.refuse(Status::BAD_LAYOUT, kTier,
                           "a row of tier " + std::to_string(row.tier) +
                               " stands behind one of tier " + std::to_string(before.tier));
    }
    if (row.tier == before.tier && !(before.name < row.name)) {
      return record.refuse(Status::BAD_NAME, layout::name::kOffset,
                           "\"" + std::string(row.name) + "\" does not sort after \"" +
                               std::string(before.name) + "\"");
    }
  }
  for (uint32_t tier = row.tier + 1U; tier <= layout::kMaxTierCount; ++tier) {
    tier_begin_[tier] = number + 1;
  }
  return {};
}

/// All but tier, index_number, value_group, scale_exponent, nnz, value_offset, value_bytes and
/// fingerprint are those of the tensor's row in the next lower tier that has one.
Result<void> TensorRowParser::check_lower_tier(const Record& record, TensorRow* row) {
  for (uint32_t tier = row->tier; tier-- > 0 && row->lower_row == kNoRow;) {
    const TensorRow* rows = file_.rows.data();
    const TensorRow* end = rows + tier_begin_[tier + 1];
    const TensorRow* found =
        std::lower_bound(rows + tier_begin_[tier], end, row->name,
                         [](const TensorRow& a, std::string_view name) { return a.name < name; });
    if (found != end && found->name == row->name) {
      row->lower_row = static_cast<uint32_t>(found - rows);
    }
  }
  if (row->lower_row == kNoRow) return {};
  static constexpr struct {
    uint64_t begin, end;
  } kEqualFields[] = {{0, kTier},
                      {kValueCodec, kScaleExponent},
                      {kReserved1, kIndexNumber},
                      {kReserved2, kFingerprint},
                      {kBaseDigest, layout::kTensorRowBytes}};
  const Record lower(file_.bytes, file_.rows[row->lower_row].offset);
  for (const auto& fields : kEqualFields) {
    if (std::memcmp(record.bytes(fields.begin), lower.bytes(fields.begin),
                    fields.end - fields.begin) != 0) {
      return record.refuse(Status::BAD_SHAPE, 0,
                           "the tensor is described otherwise than in a lower tier");
    }
  }
  return {};
}

Result<void> TensorRowParser::check_tier_is_covered(uint32_t tier) {
  SHIRA_TRY(check_covered(file_, values_of(tier), tiers_[tier].value_end_bytes, "streams"));
  if (tiers_[tier].index_count == index_of(tier).index_count) return {};
  return Record(file_.bytes, layout::section_row(layout::index_section(tier)))
      .refuse(Status::BAD_LAYOUT, layout::section::kIndexCount,
              differs("index_count of " + section_name(index_of(tier)), index_of(tier).index_count,
                      tiers_[tier].index_count) +
                  ", the number of those that tensors name");
}

}  // namespace

Result<void> parse_tensor_rows(ParsedFile* file) { return TensorRowParser(file).parse_all(); }

}  // namespace shira
