// Checks of the text in an adapter file: names are plain UTF-8, metadata is one JSON object.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/byte_reader.h"

namespace shira {

constexpr size_t kNoPosition = SIZE_MAX;
constexpr unsigned kMaxJsonDepth = 64;

/// Position of the first byte that is not part of valid UTF-8 (no overlong forms, no surrogates, up
/// to U+10FFFF), or kNoPosition.
size_t find_invalid_utf8(ByteReader text);

/// Position of the first code point U+0000 to U+001F or U+007F to U+009F, or kNoPosition. REQUIRES:
/// the text is valid UTF-8.
size_t find_control_character(ByteReader text);

/// Position where `text` stops being a JSON object by the grammar of RFC 8259, nested at most
/// kMaxJsonDepth deep, without white space around it; kNoPosition for a good one. Iterative:
/// hostile nesting costs no stack. Does not look at UTF-8.
size_t find_invalid_json(ByteReader text);

}  // namespace shira
