// Step 9 of docs/FORMAT.md section 13, and the unpacking of what it allows.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_values.h"

#include <utility>

#include "format/row_groups.h"

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
  const RowGroups groups(file.rows.size(), file.group_bytes, [&](size_t i) {
    return file.is_opened(file.rows[i]) ? file.rows[i].values.bytes.size() : 0;
  });
  return groups.run(file.pool.get(), [&](size_t number) -> Result<void> {
    for (size_t i = groups[number].begin; i < groups[number].end; ++i) {
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
  });
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

Result<Array<uint8_t>> make_unpacked(const ValueStream& stream, ArrayPool* pool) {
  return pool->take<uint8_t>(unpacked_bytes(stream));
}

void unpack_values(const ValueStream& stream, uint8_t* out) {
  if (is_scaled(stream.codec)) {
    unpack_scaled(stream, reinterpret_cast<float*>(out));
  } else {
    unpack_i4(stream, reinterpret_cast<int8_t*>(out));
  }
}

}  // namespace shira
