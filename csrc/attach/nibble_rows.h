// The layout of tables of 4-bit codes that portable operators look up, two codes in a byte.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/element_layout.h"

namespace shira {

/// Of a table that embedding_4bit reads, as a tensor of i4 in the shape (rows, columns): in memory
/// (rows, columns / 2) bytes, each with the even column in its high half and the odd one in the
/// low, each code as its value plus 8. A source of the region has them in the same way. REQUIRES:
/// columns are even, and `table` is the tensor's data.
std::shared_ptr<const ElementLayout> make_nibble_rows(uint8_t* table, uint32_t row_count,
                                                      uint32_t column_count);

}  // namespace shira
