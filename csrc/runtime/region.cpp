// Region: what memory without a source answers.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/region.h"

namespace shira {

Result<void> Region::read_source(const uint8_t* /*data*/, uint64_t /*size_bytes*/,
                                 uint8_t* /*out*/) const {
  return Error{Status::NOT_SUPPORTED, "this memory has no source file to read the base from"};
}

Result<void> Region::hard_revert() {
  return Error{Status::NOT_SUPPORTED, "this memory has no source file to revert to"};
}

}  // namespace shira
