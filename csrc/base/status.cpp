// Names and texts of the status codes, from the one list in shira/status.def.
// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

namespace shira {

const char* status_name(Status status) {
  switch (status) {
#define X(number, name, parent, text) \
  case Status::name:                  \
    return #name;
#include "shira/status.def"
#undef X
  }
  return "UNKNOWN";
}

const char* status_text(Status status) {
  switch (status) {
#define X(number, name, parent, text) \
  case Status::name:                  \
    return text;
#include "shira/status.def"
#undef X
  }
  return "a status code that this version does not know";
}

}  // namespace shira
