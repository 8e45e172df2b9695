// Fuzz target: index streams and mask rules under any parameters, compared with the most naive
// reading of the specification; what decodes is encoded again and must give the same stream.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/byte_reader.h"
#include "check.h"
#include "format/index_codec.h"
#include "format/mask_rule.h"
#include "index_encoder.h"
#include "naive_masks.h"

namespace shira::fuzz {
namespace {

constexpr uint64_t kMaxEntryCount = 1 << 12;  // a few bytes can say more than a test has time for
constexpr size_t kParameterBytes = 20;

/// A stream with the parameters of the input's first bytes, as far as a table row may have them.
IndexStream stream_of(const ByteReader& input) {
  IndexStream stream;
  stream.codec = static_cast<IndexCodec>(1 + input.u8(0) % 7);
  stream.bytes = input.slice(kParameterBytes, input.size() - kParameterBytes);
  stream.unit_count = is_derived(stream.codec)
                          ? uint64_t{input.u32(4)}
                          : 1 + input.u32(4) % (8 * uint64_t{stream.bytes.size()} + 2);
  stream.element_count = input.u8(2) % 4 == 0 ? input.u32(12) : input.u16(12);
  switch (stream.codec) {
    case IndexCodec::runs:
      stream.entry_count = stream.unit_count + input.u32(8);
      break;
    case IndexCodec::structured:
    case IndexCodec::top_magnitude:
      stream.unit_count = 1;
      stream.entry_count = input.u32(8);
      if (input.u8(3) % 4 != 0) stream.entry_count = naive_structured_count(stream);
      break;
    default:
      stream.block_length = input.u8(2) % 2 == 0 ? 1 : 1 + input.u32(16) % (1U << 24);
      stream.entry_count = stream.unit_count * stream.block_length;
      stream.rice_bits = stream.codec == IndexCodec::rice ? input.u8(1) % 32 : 0;
  }
  return stream;
}

/// What the reader checks in a row of the index table before it looks at the stream.
bool may_follow_a_table_row(const IndexStream& stream) {
  if (stream.unit_count == 0 || stream.entry_count == 0) return false;
  if (stream.entry_count > stream.element_count) return false;
  const uint64_t least = least_index_bytes(stream);
  return is_derived(stream.codec) ? stream.bytes.size() == least : stream.bytes.size() >= least;
}

void check_list(const IndexList& list, const IndexStream& stream) {
  FUZZ_CHECK(list.entry_count == stream.entry_count);
  FUZZ_CHECK(list.entries.empty() != list.runs.empty());
  uint64_t count = list.entries.size();
  uint64_t end = 0;
  for (size_t i = 0; i < list.entries.size(); ++i) {
    FUZZ_CHECK(list.entries[i] >= end);
    end = uint64_t{list.entries[i]} + 1;
  }
  for (size_t i = 0; i < list.runs.size(); ++i) {
    FUZZ_CHECK(list.runs[i].length >= 1 && (i == 0 || list.runs[i].start > end));
    end = uint64_t{list.runs[i].start} + list.runs[i].length;
    count += list.runs[i].length;
  }
  FUZZ_CHECK(end <= stream.element_count && count == stream.entry_count);
}

void check_stream(const IndexStream& stream) {
  const Result<IndexList> list = decode_index(stream);
  if (list.ok()) {
    check_list(list.value(), stream);
  } else {
    FUZZ_CHECK(list.error().status == Status::BAD_INDEX);
    FUZZ_CHECK(list.error().offset_bytes <= stream.bytes.size());
  }
  // The naive reader lists what it has understood before it sees that the rest is wrong.
  const bool is_runs = stream.codec == IndexCodec::runs;
  if ((is_runs ? stream.element_count : stream.entry_count) > kMaxEntryCount) return;
  const testing::NaiveIndex naive = testing::NaiveDecoder(stream).decode();
  FUZZ_CHECK(naive.bad_offset.has_value() != list.ok());
  if (!list.ok()) {
    FUZZ_CHECK(list.error().offset_bytes == *naive.bad_offset);
    return;
  }
  const std::vector<uint32_t> positions = testing::positions_of(list.value());
  FUZZ_CHECK(std::equal(positions.begin(), positions.end(), naive.positions.begin(),
                        naive.positions.end()));
  const testing::EncodedIndex again =
      testing::encode_index(stream.codec, positions, stream.block_length, stream.rice_bits);
  FUZZ_CHECK(again.unit_count == stream.unit_count);
  FUZZ_CHECK(std::equal(again.stream.begin(), again.stream.end(), stream.bytes.data(),
                        stream.bytes.data() + stream.bytes.size()));
}

void check_rule(const IndexStream& stream) {
  const Result<MaskRule> rule = parse_mask_rule(stream);
  if (!rule.ok()) {
    FUZZ_CHECK(rule.error().status == Status::BAD_INDEX && rule.error().offset_bytes == 0);
  }
  if (stream.element_count > kMaxEntryCount) return;
  const bool is_valid = naive_rule_is_valid(stream);
  FUZZ_CHECK(rule.ok() == is_valid);
  if (!is_valid || stream.codec == IndexCodec::top_magnitude) return;
  const Result<IndexList> list = expand_mask(rule.value());
  FUZZ_CHECK(list.ok());
  check_list(list.value(), stream);
  FUZZ_CHECK(testing::positions_of(list.value()) == naive_mask(stream));
}

/// The input's bytes as the base that a TOPK mask is taken from.
void check_top_magnitude(const IndexStream& stream, const ByteReader& input) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f16}) {
    MaskRule rule;
    rule.codec = IndexCodec::top_magnitude;
    rule.element_count = input.size() / dtype_bytes(dtype);
    rule.entry_count = 1 + stream.unit_count % rule.element_count;
    // The fuzzer's own copy may lie anywhere.
    std::vector<uint32_t> aligned(rule.element_count);
    std::memcpy(aligned.data(), input.data(), rule.element_count * dtype_bytes(dtype));
    const Result<IndexList> list = select_top_magnitude(rule, dtype, aligned.data());
    FUZZ_CHECK(list.ok());
    FUZZ_CHECK(testing::positions_of(list.value()) ==
               naive_top_magnitude(dtype, input, rule.element_count, rule.entry_count));
  }
}

/// The same bytes as gaps between units: a list that must survive encoding and decoding.
void check_round_trip(const IndexStream& stream) {
  const uint32_t unit = 1 + stream.block_length % 16;
  std::vector<uint32_t> index;
  uint64_t next = 0;
  for (size_t i = 0; i + 1 < stream.bytes.size() && index.size() + unit <= kMaxEntryCount; i += 2) {
    uint64_t gap = stream.bytes.u8(i) % 8 == 7 ? stream.bytes.u16(i) : stream.bytes.u8(i);
    // Each quotient of a Rice code takes as many bits.
    if (stream.codec == IndexCodec::rice) gap %= uint64_t{64} << stream.rice_bits;
    next += gap;
    for (uint32_t k = 0; k < unit; ++k) index.push_back(static_cast<uint32_t>(next * unit + k));
    ++next;
  }
  if (index.empty()) return;
  const testing::EncodedIndex coded =
      testing::encode_index(stream.codec, index, unit, stream.rice_bits);
  const IndexStream again =
      testing::index_stream(stream.codec, coded, index.size(), next * unit, unit, stream.rice_bits);
  FUZZ_CHECK(coded.stream.size() >= least_index_bytes(again));
  const Result<IndexList> list = decode_index(again);
  FUZZ_CHECK(list.ok());
  FUZZ_CHECK(testing::positions_of(list.value()) == index);
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  using namespace shira::fuzz;
  if (size_bytes < kParameterBytes) return 0;
  const shira::ByteReader input(data, size_bytes);
  const shira::IndexStream stream = stream_of(input);
  if (shira::is_derived(stream.codec)) {
    if (may_follow_a_table_row(stream)) check_rule(stream);
    if (stream.codec == shira::IndexCodec::top_magnitude) check_top_magnitude(stream, input);
  } else {
    if (may_follow_a_table_row(stream)) check_stream(stream);
    check_round_trip(stream);
  }
  return 0;
}
