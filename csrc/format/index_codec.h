// Index codecs: from a coded stream (docs/FORMAT.md section 9) to the positions it describes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/array_pool.h"
#include "base/byte_reader.h"
#include "base/result.h"
#include "base/spent_bytes.h"
#include "format/index_list.h"

namespace shira {

/// Numbers are those of docs/FORMAT.md. The last three are rules (format/mask_rule.h), not lists.
enum class IndexCodec : uint8_t {
  gaps8 = 1,
  gaps16 = 2,
  rice = 3,
  runs = 4,
  structured = 5,
  random = 6,
  top_magnitude = 7
};

constexpr bool is_index_codec(uint8_t number) { return number >= 1 && number <= 7; }
constexpr bool is_derived(IndexCodec codec) { return codec >= IndexCodec::structured; }
const char* index_codec_name(IndexCodec codec);  // "gaps8", "gaps16", "rice", "runs", "struct", ...

/// A coded stream and what its row of the index table says about it.
struct IndexStream {
  IndexCodec codec = IndexCodec::gaps8;
  ByteReader bytes;
  uint8_t rice_bits = 0;
  uint32_t block_length = 0;
  uint64_t unit_count = 0;     // blocks, runs, or 1 for a whole mask
  uint64_t entry_count = 0;    // nnz
  uint64_t element_count = 0;  // of the tensor
};

/// The fewest bytes that `stream.unit_count` units can take; the exact size of a derived codec.
uint64_t least_index_bytes(const IndexStream& stream);

/// Decodes and proves: strictly increasing, inside the tensor, the stream used to its last byte.
/// Blocks of length 1 give entries; longer blocks and runs give runs, of which touching ones become
/// one. Runs that are shorter than 2 on average give entries, too: they take less memory. BAD_INDEX
/// with the offset in the stream, OUT_OF_MEMORY. REQUIRES: the codec is not derived, and the row of
/// the index table was checked (counts agree, at least least_index_bytes()). The list's memory
/// comes from `pool`; coded bytes are spent while they are decoded, but for the last ones.
Result<IndexList> decode_index(const IndexStream& stream, ArrayPool* pool, SpentBytes* spent);

/// The same with a list that has its own memory, and bytes that stay.
Result<IndexList> decode_index(const IndexStream& stream);

/// What the list of `stream` takes from a pool.
uint64_t decoded_index_bytes(const IndexStream& stream);

}  // namespace shira
