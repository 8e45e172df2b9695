// Values of an adapter's rows: checking them, and making them what the runtime computes with.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/array.h"
#include "base/array_pool.h"
#include "format/adapter_steps.h"

namespace shira {

/// The runtime cannot use the codes as they stand in the file.
bool is_packed(ValueCodec codec);

/// The dtype of the values as they are handed out: f32 for scaled codecs.
Dtype unpacked_dtype(ValueCodec codec);

/// Memory for all values of the opened tiers that are packed. Those of several tiers are merged one
/// by one and must go one by one, so each of them gets memory of its own. OUT_OF_MEMORY.
Result<ArrayPool> make_value_pool(const ParsedFile& file);

/// Memory for the values of a packed stream, (entry_count,) of unpacked_dtype(). OUT_OF_MEMORY.
Result<Array<uint8_t>> make_unpacked(const ValueStream& stream, ArrayPool* pool);

/// Fills it. REQUIRES: the stream was checked.
void unpack_values(const ValueStream& stream, uint8_t* out);

}  // namespace shira
