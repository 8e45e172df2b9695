// Masks that follow from a rule, element by element as docs/FORMAT.md section 9 says.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/byte_reader.h"
#include "base/dtype.h"
#include "format/index_codec.h"

namespace shira::fuzz {

inline std::vector<uint32_t> naive_structured_mask(const IndexStream& stream) {
  const unsigned parts = stream.bytes.u8(0);
  const uint64_t columns = stream.bytes.u32(4);
  const uint64_t period = stream.bytes.u32(8);
  const uint64_t phase = stream.bytes.u32(12);
  std::vector<uint32_t> mask;
  for (uint64_t i = 0; i < stream.element_count; ++i) {
    const uint64_t row = i / columns;
    const uint64_t column = i % columns;
    if (((parts & 1U) != 0 && row % period == phase) ||
        ((parts & 2U) != 0 && column % period == phase) || ((parts & 4U) != 0 && row == column)) {
      mask.push_back(static_cast<uint32_t>(i));
    }
  }
  return mask;
}

/// What nnz has to be, or 0 where there is no such mask or a large one.
inline uint64_t naive_structured_count(const IndexStream& stream) {
  const bool is_rule = stream.codec == IndexCodec::structured && stream.bytes.size() == 16;
  if (!is_rule || stream.element_count > (1U << 12)) return 0;
  if (stream.bytes.u32(4) == 0 || stream.bytes.u32(8) == 0) return 0;
  return naive_structured_mask(stream).size();
}

inline std::vector<uint32_t> naive_random_mask(const IndexStream& stream) {
  const uint64_t length = stream.block_length;
  const uint64_t blocks = stream.element_count / length;
  const uint64_t units = stream.unit_count;
  std::vector<uint32_t> mask;
  for (uint64_t i = 0; i < units; ++i) {
    uint64_t z = stream.bytes.u64(0) + (i + 1) * 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z = z ^ (z >> 31);
    const uint64_t first = i * blocks / units;
    const uint64_t width = (i + 1) * blocks / units - first;
    const uint64_t block = first + (((z >> 32) * width) >> 32);
    for (uint64_t k = 0; k < length; ++k) mask.push_back(static_cast<uint32_t>(block * length + k));
  }
  return mask;
}

inline std::vector<uint32_t> naive_mask(const IndexStream& stream) {
  return stream.codec == IndexCodec::random ? naive_random_mask(stream)
                                            : naive_structured_mask(stream);
}

/// Whether the stream of a derived codec keeps the rules. REQUIRES: the row of the table does.
inline bool naive_rule_is_valid(const IndexStream& stream) {
  if (stream.codec == IndexCodec::top_magnitude) return true;
  if (stream.codec == IndexCodec::random) {
    return stream.unit_count <= stream.element_count / stream.block_length;
  }
  const unsigned parts = stream.bytes.u8(0);
  const uint64_t columns = stream.bytes.u32(4);
  const uint64_t period = stream.bytes.u32(8);
  const uint64_t phase = stream.bytes.u32(12);
  if (parts == 0 || parts > 7 || (stream.bytes.u32(0) >> 8) != 0) return false;
  if (columns == 0 || stream.element_count % columns != 0 || phase >= period) return false;
  if (parts == 4 && (period != 1 || phase != 0)) return false;
  return naive_structured_mask(stream).size() == stream.entry_count;
}

/// The `count` elements of largest magnitude among the first `element_count` of `base`.
inline std::vector<uint32_t> naive_top_magnitude(Dtype dtype, const ByteReader& base,
                                                 uint64_t element_count, uint64_t count) {
  const auto magnitude = [&](uint32_t i) {
    return dtype == Dtype::f32 ? base.u32(uint64_t{4} * i) & 0x7FFFFFFFU
                               : base.u16(uint64_t{2} * i) & 0x7FFFU;
  };
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < element_count; ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return magnitude(a) > magnitude(b); });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace shira::fuzz
