// Index codecs: from a coded stream (docs/FORMAT.md section 10) to the positions it describes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/byte_reader.h"
#include "base/result.h"
#include "format/index_list.h"

namespace shira {

/// Numbers are those of docs/FORMAT.md.
enum class IndexCodec : uint8_t { gaps8 = 1, gaps16 = 2, runs = 3, blocks8 = 4, blocks16 = 5 };

constexpr bool is_index_codec(uint8_t number) { return number >= 1 && number <= 5; }
constexpr bool is_block_codec(IndexCodec codec) {
  return codec == IndexCodec::blocks8 || codec == IndexCodec::blocks16;
}
const char* index_codec_name(IndexCodec codec);  // "gaps8", ...

/// A coded stream and what its tensor says about it.
struct IndexStream {
  IndexCodec codec = IndexCodec::gaps8;
  ByteReader bytes;
  uint32_t block_length = 0;   // index_param of the block codecs
  uint64_t unit_count = 0;     // entries, runs or blocks
  uint64_t entry_count = 0;    // nnz
  uint64_t element_count = 0;  // of the tensor
};

/// Decodes and proves: strictly increasing, inside the tensor, the stream used to its last byte.
/// Entry codecs give entries, the others runs; touching blocks become one run. Nothing is allocated
/// before the stream is known to be long enough for its units. BAD_INDEX with the offset in the
/// stream, OUT_OF_MEMORY. REQUIRES: 1 <= unit_count <= entry_count <= element_count <= 2^32 - 1;
/// gaps: unit_count = entry_count; blocks: block_length >= 2 and entry_count = unit_count *
/// block_length.
Result<IndexList> decode_index(const IndexStream& stream);

}  // namespace shira
