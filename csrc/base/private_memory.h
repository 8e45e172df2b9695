// How much of a mapping is this process's own: the kernel's answer, page by page.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/process_maps.h"
#include "base/result.h"

namespace shira {

/// Bytes of the pages of `range` that belong to this process alone: copies made on write and
/// anonymous memory, in RAM or swapped out. Pages that show a file are not counted, whoever else
/// maps them. What the kernel does not tell because `path` is too short counts as none. Slow (eight
/// bytes are read for every page). IO_ERROR, OUT_OF_MEMORY.
Result<uint64_t> count_private_bytes(const AddressRange& range,
                                     const char* path = "/proc/self/pagemap");

}  // namespace shira
