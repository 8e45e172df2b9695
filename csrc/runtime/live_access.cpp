// What becomes of a tensor whose pages went away.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/live_access.h"

namespace shira {

Error pages_went_away(const TensorSpec& tensor) {
  tensor.region->take_empty_pages_away(tensor.data, live_bytes(tensor));
  return Error{Status::DETACHED,
               "pages of the tensor went away while it was used: the file that it is mapped from "
               "was truncated, or its storage failed",
               {},
               tensor.name};
}

}  // namespace shira
