// Step 9 of docs/FORMAT.md section 13, and the unpacking of what it allows.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_values.h"

#include <utility>

namespace shira {
namespace {

uint64_t unpacked_bytes(const ValueStream& stream) {
  return stream.entry_count * dtype_bytes(unpacked_dtype(stream.codec));
}

}  // namespace

bool is_packed(ValueCodec codec) { return is_scaled(codec) || codec == ValueCodec::i4; }

Dtype unpacked_dtype(ValueCodec codec) {
  return is_scaled(codec) ? Dtype::f32 : static_cast<Dtype>(codec);
}

Result<void> check_value_streams(const ParsedFile& file) {
  for (size_t i = 0; i < file.rows.size(); ++i) {
    const TensorRow& row = file.rows[i];
    if (!file.is_opened(row)) continue;
    Result<void> checked = check_values(row.values);
    if (checked.ok()) continue;
    Error& error = checked.error();
    if (error.offset_bytes != kNoOffset) error.offset_bytes += row.values_offset;
    error.tensor = row.name;
    return std::move(error);
  }
  return {};
}

Result<ArrayPool> make_value_pool(const ParsedFile& file) {
  uint64_t size_bytes = 0;
  for (size_t i = 0; i < file.rows.size(); ++i) {
    const TensorRow& row = file.rows[i];
    if (file.opened_tier_count > 1 || !file.is_opened(row) || !is_packed(row.values.codec)) {
      continue;
    }
    size_bytes += ArrayPool::bytes_of<uint8_t>(unpacked_bytes(row.values));
  }
  return ArrayPool::make(size_bytes);
}

Result<Array<uint8_t>> unpack_values(const ValueStream& stream, ArrayPool* pool) {
  SHIRA_ASSIGN(Array<uint8_t> values, pool->take<uint8_t>(unpacked_bytes(stream)));
  if (is_scaled(stream.codec)) {
    unpack_scaled(stream, reinterpret_cast<float*>(values.data()));
  } else {
    unpack_i4(stream, reinterpret_cast<int8_t*>(values.data()));
  }
  return values;
}

}  // namespace shira
