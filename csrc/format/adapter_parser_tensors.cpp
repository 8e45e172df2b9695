// The rules of docs/FORMAT.md for tensors: their rows, index streams and values.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "base/checked_math.h"
#include "format/adapter_parser.h"
#include "format/layout.h"
#include "format/message.h"

namespace shira {
namespace {

/// Position of the first of `count` values with all bits of `exponent` set, or `count`.
template <typename Bits>
uint64_t find_exponent(const uint8_t* values, uint64_t count, Bits exponent) {
  const ByteReader bytes(values, count * sizeof(Bits));
  bool found = false;  // without a branch per value the loop runs at the speed of memory
  for (uint64_t i = 0; i < count; ++i) {
    Bits bits;
    __builtin_memcpy(&bits, values + i * sizeof(Bits), sizeof(Bits));
    found |= (bits & exponent) == exponent;
  }
  uint64_t position = 0;
  if (!found) return count;
  Bits bits = 0;
  while (bytes.read(position * sizeof(Bits), &bits) && (bits & exponent) != exponent) ++position;
  return position;
}

/// Position of the first NaN or infinity among `count` values, or `count`.
uint64_t find_non_finite(Dtype dtype, const uint8_t* values, uint64_t count) {
  switch (dtype) {
    case Dtype::f32:
      return find_exponent<uint32_t>(values, count, 0x7F800000U);
    case Dtype::f16:
      return find_exponent<uint16_t>(values, count, 0x7C00U);
    case Dtype::bf16:
      return find_exponent<uint16_t>(values, count, 0x7F80U);
  }
  return 0;
}

}  // namespace

Result<void> AdapterParser::parse_tensor_table() {
  const uint32_t tensor_count = bytes_.u32(layout::header::kTensorCount);
  SHIRA_TRY(check_row_count(layout::kTensors, tensor_count, layout::kTensorRowBytes));
  file_.tensors_.resize(tensor_count);
  for (uint32_t i = 0; i < tensor_count; ++i) {
    AdapterTensor& tensor = file_.tensors_[i];
    const uint64_t row = section(layout::kTensors).offset_bytes + i * layout::kTensorRowBytes;
    const uint64_t name_begin = name_end_;
    SHIRA_ASSIGN(tensor.name, take_name(row));
    if (i > 0 && !(file_.tensors_[i - 1].name < tensor.name)) {
      return fail(Status::BAD_NAME, name_begin,
                  "tensor " + std::to_string(i) + ", \"" + tensor.name +
                      "\", does not sort after \"" + file_.tensors_[i - 1].name + "\"");
    }
    tensor_name_ = tensor.name;
    SHIRA_TRY(parse_tensor(row, &tensor));
    tensor_name_.clear();
  }
  SHIRA_TRY(check_covered(layout::kNames, name_end_, "the names"));
  SHIRA_TRY(check_covered(layout::kIndex, index_end_, "the index streams"));
  return check_covered(layout::kValues, value_end_, "the value streams");
}

Result<void> AdapterParser::parse_tensor(uint64_t row, AdapterTensor* tensor) {
  SHIRA_TRY(parse_types(row, tensor));
  SHIRA_TRY(check_flags(row));
  SHIRA_TRY(parse_shape(row, tensor));
  SHIRA_TRY(parse_counts(row, tensor));
  SHIRA_TRY(parse_streams(row, tensor));
  SHIRA_TRY(check_values(*tensor));
  const uint8_t* bytes = bytes_.data() + row;
  std::copy_n(bytes + layout::tensor::kFingerprint, sizeof(Hash128), tensor->fingerprint.begin());
  std::copy_n(bytes + layout::tensor::kBaseDigest, sizeof(Hash128), tensor->base_digest.begin());
  return {};
}

Result<void> AdapterParser::parse_types(uint64_t row, AdapterTensor* tensor) {
  const auto bad_enum = [&](uint64_t field, const char* what) {
    return fail(Status::BAD_ENUM, row + field,
                std::string(what) + " " + std::to_string(bytes_.u8(row + field)) +
                    " has no meaning in this version");
  };
  const uint8_t dtype = bytes_.u8(row + layout::tensor::kDtype);
  if (!is_dtype(dtype)) return bad_enum(layout::tensor::kDtype, "dtype");
  tensor->dtype = static_cast<Dtype>(dtype);

  const uint8_t index_codec = bytes_.u8(row + layout::tensor::kIndexCodec);
  if (!is_index_codec(index_codec)) return bad_enum(layout::tensor::kIndexCodec, "index codec");
  tensor->index_codec = static_cast<IndexCodec>(index_codec);

  const uint8_t value_codec = bytes_.u8(row + layout::tensor::kValueCodec);
  if (!is_dtype(value_codec)) return bad_enum(layout::tensor::kValueCodec, "value codec");
  tensor->value_dtype = static_cast<Dtype>(value_codec);

  const uint8_t value_kind = bytes_.u8(row + layout::tensor::kValueKind);
  if (value_kind > 1) return bad_enum(layout::tensor::kValueKind, "value kind");
  tensor->value_kind = static_cast<ValueKind>(value_kind);

  if (tensor->value_kind == ValueKind::target && tensor->value_dtype != tensor->dtype) {
    return fail(Status::BAD_ENUM, row + layout::tensor::kValueCodec,
                std::string("target values are ") + dtype_name(tensor->value_dtype) +
                    ", but the tensor is " + dtype_name(tensor->dtype));
  }
  if (tensor->value_kind == ValueKind::target && !file_.bound_) {
    return fail(Status::BAD_ENUM, row + layout::tensor::kValueKind,
                "target values need an adapter with base fingerprints, and this one is unbound");
  }
  return {};
}

Result<void> AdapterParser::check_flags(uint64_t row) {
  const uint8_t flags = bytes_.u8(row + layout::tensor::kFlags);
  if ((flags & ~layout::tensor::kFlagFingerprint) != 0) {
    return fail(Status::RESERVED_NOT_ZERO, row + layout::tensor::kFlags,
                "reserved flags of the tensor are set (" + std::to_string(flags) + ")");
  }
  if ((flags == layout::tensor::kFlagFingerprint) != file_.bound_) {
    return fail(Status::BAD_ENUM, row + layout::tensor::kFlags,
                file_.bound_ ? "the adapter is bound, but this tensor has no fingerprint"
                             : "the adapter is unbound, but this tensor has a fingerprint");
  }
  SHIRA_TRY(check_zero(row + layout::tensor::kReserved, row + layout::tensor::kIndexParam,
                       "a reserved field of the tensor"));
  if (file_.bound_) return {};
  return check_zero(row + layout::tensor::kFingerprint, row + layout::kTensorRowBytes,
                    "a hash of a tensor without fingerprint");
}

Result<void> AdapterParser::parse_shape(uint64_t row, AdapterTensor* tensor) {
  const uint8_t rank = bytes_.u8(row + layout::tensor::kRank);
  if (rank < 1 || rank > kMaxRank) {
    return fail(Status::BAD_SHAPE, row + layout::tensor::kRank,
                out_of_range("the rank", rank, 1, kMaxRank));
  }
  tensor->numel = 1;
  for (uint32_t i = 0; i < kMaxRank; ++i) {
    const uint64_t field = row + layout::tensor::kDims + uint64_t{4} * i;
    const uint32_t dim = bytes_.u32(field);
    if ((dim == 0) != (i >= rank)) {
      return fail(Status::BAD_SHAPE, field,
                  "dimension " + std::to_string(i) + " of a tensor of rank " +
                      std::to_string(rank) + " is " + std::to_string(dim));
    }
    if (i >= rank) continue;
    tensor->numel *= dim;  // both factors are below 2^32
    if (tensor->numel > layout::kMaxElementCount) {
      return fail(
          Status::BAD_SHAPE, field,
          "the tensor has more than " + std::to_string(layout::kMaxElementCount) + " elements");
    }
    tensor->dims.push_back(dim);
  }
  return {};
}

Result<void> AdapterParser::parse_counts(uint64_t row, AdapterTensor* tensor) {
  const bool blocks = is_block_codec(tensor->index_codec);
  tensor->index_param = bytes_.u32(row + layout::tensor::kIndexParam);
  const uint32_t param_low = blocks ? 2 : 0;
  const uint32_t param_high = blocks ? layout::kMaxBlockLength : 0;
  if (tensor->index_param < param_low || tensor->index_param > param_high) {
    return fail(Status::BAD_INDEX, row + layout::tensor::kIndexParam,
                out_of_range("index_param", tensor->index_param, param_low, param_high) + " (" +
                    index_codec_name(tensor->index_codec) + ")");
  }
  const uint64_t nnz = bytes_.u64(row + layout::tensor::kNnz);
  if (nnz < 1 || nnz > tensor->numel) {
    return fail(Status::BAD_COUNT, row + layout::tensor::kNnz,
                out_of_range("nnz", nnz, 1, tensor->numel));
  }
  tensor->unit_count = bytes_.u32(row + layout::tensor::kUnitCount);
  if (tensor->unit_count < 1 || tensor->unit_count > nnz) {
    return fail(Status::BAD_COUNT, row + layout::tensor::kUnitCount,
                out_of_range("unit_count", tensor->unit_count, 1, nnz));
  }
  const uint64_t unit_length = blocks ? tensor->index_param : 1;
  if (tensor->index_codec != IndexCodec::runs && nnz != tensor->unit_count * unit_length) {
    return fail(Status::BAD_COUNT, row + layout::tensor::kUnitCount,
                std::to_string(tensor->unit_count) + " units of " + std::to_string(unit_length) +
                    " entries are not the " + std::to_string(nnz) + " entries of the tensor");
  }
  tensor->index.entry_count = nnz;
  return {};
}

Result<void> AdapterParser::parse_streams(uint64_t row, AdapterTensor* tensor) {
  const uint64_t index_section_field = row + layout::tensor::kIndexSection;
  const uint64_t value_section_field = row + layout::tensor::kValueSection;
  if (bytes_.u32(index_section_field) != layout::kIndex) {
    return fail(
        Status::BAD_LAYOUT, index_section_field,
        differs("the index section's number", bytes_.u32(index_section_field), layout::kIndex));
  }
  if (bytes_.u32(value_section_field) != layout::kValues) {
    return fail(
        Status::BAD_LAYOUT, value_section_field,
        differs("the value section's number", bytes_.u32(value_section_field), layout::kValues));
  }
  const uint64_t nnz = tensor->index.entry_count;
  tensor->index_bytes = bytes_.u64(row + layout::tensor::kIndexBytes);
  SHIRA_ASSIGN(const uint64_t index_begin,
               take_stream(layout::kIndex, &index_end_, row + layout::tensor::kIndexOffset,
                           row + layout::tensor::kIndexBytes, tensor->index_bytes));
  SHIRA_ASSIGN(const uint64_t value_begin,
               take_stream(layout::kValues, &value_end_, row + layout::tensor::kValueOffset,
                           row + layout::tensor::kNnz, nnz * dtype_bytes(tensor->value_dtype)));
  tensor->values = bytes_.data() + value_begin;

  IndexStream stream;
  stream.codec = tensor->index_codec;
  stream.bytes = bytes_.slice(index_begin, tensor->index_bytes);
  stream.block_length = tensor->index_param;
  stream.unit_count = tensor->unit_count;
  stream.entry_count = nnz;
  stream.element_count = tensor->numel;
  Result<IndexList> index = decode_index(stream);
  if (!index.ok()) {
    Error& error = index.error();
    const bool placed = error.offset_bytes != kNoOffset;
    return fail(error.status, placed ? index_begin + error.offset_bytes : kNoOffset,
                std::move(error.message));
  }
  tensor->index = std::move(index.value());
  return {};
}

Result<void> AdapterParser::check_values(const AdapterTensor& tensor) {
  const uint64_t count = tensor.nnz();
  const uint64_t position = find_non_finite(tensor.value_dtype, tensor.values, count);
  if (position == count) return {};
  const auto stream_begin = static_cast<uint64_t>(tensor.values - bytes_.data());
  return fail(
      Status::BAD_VALUE, stream_begin + position * dtype_bytes(tensor.value_dtype),
      "value " + std::to_string(position) + " of " + std::to_string(count) + " is NaN or infinite");
}

/// The offset in the file of a stream that must start where the one before, ending at *end, allows.
Result<uint64_t> AdapterParser::take_stream(uint32_t section_index, uint64_t* end,
                                            uint64_t offset_field, uint64_t size_field,
                                            uint64_t size_bytes) {
  const SectionInfo& info = section(section_index);
  const char* name = layout::kSectionNames[section_index];
  const uint64_t begin = align_up(*end, layout::kStreamAlignment);
  const uint64_t offset = bytes_.u64(offset_field);
  if (offset != begin - info.offset_bytes) {
    return fail(Status::BAD_LAYOUT, offset_field,
                differs(std::string("the stream's offset in section ") + name, offset,
                        begin - info.offset_bytes));
  }
  if (size_bytes == 0 || !range_fits(begin, size_bytes, section_end(section_index))) {
    return fail(Status::BAD_LAYOUT, size_field,
                "the stream of " + std::to_string(size_bytes) + " bytes at offset " +
                    std::to_string(offset) + " of section " + name + " (" +
                    std::to_string(info.size_bytes) + " bytes) is empty or leaves it");
  }
  SHIRA_TRY(check_zero(*end, begin, "the padding between streams"));
  *end = begin + size_bytes;
  return begin;
}

}  // namespace shira
