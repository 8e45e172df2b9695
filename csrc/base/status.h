// Status codes of the library, generated from shira/status.def.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace shira {

enum class Status : int32_t {
#define X(number, name, parent, text) name = number,
#include "shira/status.def"
#undef X
};

/// The code's name ("BAD_INDEX"), or "UNKNOWN" for a number that is not in status.def.
const char* status_name(Status status);

/// The code's one-sentence meaning from status.def.
const char* status_text(Status status);

}  // namespace shira
