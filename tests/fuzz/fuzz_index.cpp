// Fuzz target: index streams under any parameters. What decodes is a strictly ascending list inside
// the tensor, and encoding it again gives the same stream: every list has one spelling.
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "base/byte_reader.h"
#include "check.h"
#include "format/index_codec.h"
#include "shb_builder.h"

namespace shira::fuzz {
namespace {

constexpr uint64_t kMaxEntryCount = 1 << 12;  // runs can say more than a test has time for
constexpr size_t kParameterBytes = 16;

std::vector<uint32_t> positions(const IndexList& list) {
  std::vector<uint32_t> result(list.entries.data(), list.entries.data() + list.entries.size());
  for (size_t i = 0; i < list.runs.size(); ++i) {
    for (uint32_t k = 0; k < list.runs[i].length; ++k) result.push_back(list.runs[i].start + k);
  }
  return result;
}

/// A stream with the parameters of the input's first bytes, as far as a table row may have them.
IndexStream stream_of(const ByteReader& input) {
  IndexStream stream;
  stream.codec = static_cast<IndexCodec>(1 + input.u8(0) % 5);
  stream.bytes = input.slice(kParameterBytes, input.size() - kParameterBytes);
  // More units than bytes are refused at once.
  stream.unit_count = 1 + input.u32(4) % (stream.bytes.size() + 2);
  stream.element_count = input.u32(12);
  stream.entry_count = stream.unit_count;
  if (is_block_codec(stream.codec)) {
    stream.block_length = 2 + input.u16(2) % 65534;
    stream.entry_count *= stream.block_length;
  } else if (stream.codec == IndexCodec::runs) {
    stream.entry_count += input.u32(8);
  }
  return stream;
}

void check_decoding(const IndexStream& stream) {
  if (stream.bytes.size() == 0 || stream.entry_count > stream.element_count) return;
  const Result<IndexList> list = decode_index(stream);
  if (!list.ok()) {
    FUZZ_CHECK(list.error().status == Status::BAD_INDEX);
    FUZZ_CHECK(list.error().offset_bytes <= stream.bytes.size());
    return;
  }
  FUZZ_CHECK(list.value().entry_count == stream.entry_count);
  if (stream.entry_count > kMaxEntryCount) return;
  const std::vector<uint32_t> index = positions(list.value());
  FUZZ_CHECK(index.size() == stream.entry_count);
  for (size_t i = 0; i < index.size(); ++i) {
    FUZZ_CHECK(i == 0 || index[i - 1] < index[i]);
    FUZZ_CHECK(index[i] < stream.element_count);
  }
  const testing::EncodedIndex again =
      testing::encode_index(stream.codec, index, stream.block_length);
  FUZZ_CHECK(again.unit_count == stream.unit_count);
  FUZZ_CHECK(again.stream ==
             testing::Bytes(stream.bytes.data(), stream.bytes.data() + stream.bytes.size()));
}

/// The same bytes as gaps between units: a list that must survive encoding and decoding.
void check_round_trip(IndexStream stream) {
  const uint32_t unit = is_block_codec(stream.codec) ? stream.block_length : 1;
  std::vector<uint32_t> index;
  uint64_t next = 0;
  for (size_t i = 0; i + 1 < stream.bytes.size() && index.size() + unit <= kMaxEntryCount; i += 2) {
    next += stream.bytes.u8(i) % 8 == 7 ? uint64_t{stream.bytes.u16(i)} : stream.bytes.u8(i);
    if ((next + 1) * unit > UINT32_MAX) break;
    for (uint32_t k = 0; k < unit; ++k) index.push_back(static_cast<uint32_t>(next * unit + k));
    ++next;
  }
  if (index.empty()) return;
  const testing::EncodedIndex coded =
      testing::encode_index(stream.codec, index, stream.block_length);
  stream.bytes = ByteReader(coded.stream.data(), coded.stream.size());
  stream.unit_count = coded.unit_count;
  stream.entry_count = index.size();
  stream.element_count = next * unit;
  const Result<IndexList> list = decode_index(stream);
  FUZZ_CHECK(list.ok());
  FUZZ_CHECK(positions(list.value()) == index);
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  if (size_bytes < shira::fuzz::kParameterBytes) return 0;
  const auto stream = shira::fuzz::stream_of(shira::ByteReader(data, size_bytes));
  shira::fuzz::check_decoding(stream);
  shira::fuzz::check_round_trip(stream);
  return 0;
}
