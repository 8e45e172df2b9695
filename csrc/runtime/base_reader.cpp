// Laying originals over live bytes, a chunk at a time.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base_reader.h"

#include <algorithm>
#include <cstring>

#include "runtime/live_access.h"

namespace shira {
namespace {

const IndexList kNothing;

const IndexList& positions_of(const Patch* patch) {
  return patch == nullptr ? kNothing : *patch->positions->list;
}

}  // namespace

BaseReader::BaseReader(const TensorSpec& spec, const Patch* patch)
    : spec_(spec),
      element_bytes_(dtype_bytes(spec.dtype)),
      originals_(patch == nullptr ? nullptr : patch->originals->data()),
      entries_(positions_of(patch)),
      runs_(positions_of(patch)) {}

Result<void> BaseReader::read(uint64_t offset_bytes, uint64_t size_bytes, uint8_t* out) {
  SHIRA_TRY(access_live(spec_, [&] { std::memcpy(out, spec_.data + offset_bytes, size_bytes); }));
  // One of the two is empty.
  overlay(&entries_, offset_bytes / element_bytes_, size_bytes / element_bytes_, out);
  overlay(&runs_, offset_bytes / element_bytes_, size_bytes / element_bytes_, out);
  return {};
}

template <typename Cursor>
void BaseReader::overlay(Cursor* cursor, uint64_t first_index, uint64_t count, uint8_t* out) const {
  const uint64_t end_index = first_index + count;
  while (!cursor->done() && cursor->start() < end_index) {
    const auto length =
        static_cast<uint32_t>(std::min<uint64_t>(cursor->length(), end_index - cursor->start()));
    std::memcpy(out + (cursor->start() - first_index) * element_bytes_,
                originals_ + cursor->offset() * element_bytes_, length * element_bytes_);
    cursor->consume(length);
  }
}

}  // namespace shira
