// Mutations of .shb files that get past the checksums, so that fuzzing reaches what lies behind.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira::fuzz {

/// Mutates the file in place, which has room for `max_bytes`; returns its new size. Most results
/// are laid out and checksummed as the specification wants; some are left broken.
size_t mutate_shb(uint8_t* data, size_t size_bytes, size_t max_bytes, unsigned seed);

/// Corrects the checksums of the sections that lie inside the file, of the table and the header.
/// What is too short or has no plausible section table stays as it is.
void seal(uint8_t* data, size_t size_bytes);

}  // namespace shira::fuzz
