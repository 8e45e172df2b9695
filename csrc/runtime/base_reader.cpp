// Laying originals over live bytes, a chunk at a time.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base_reader.h"

#include <algorithm>
#include <cstring>

#include "runtime/element_ops.h"
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
  SHIRA_TRY(access_live(spec_, [&] { read_elements(spec_, offset_bytes, size_bytes, out); }));
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

Result<Hash128> digest_of_elements(const TensorSpec& spec) {
  Hash128 digest{};
  if (!spec.layout) {
    SHIRA_TRY(access_live(spec, [&] { digest = hash128(spec.data, live_bytes(spec)); }));
    return digest;
  }
  constexpr uint64_t kChunkBytes = uint64_t{256} << 10;  // a multiple of every element size
  const uint64_t total_bytes = logical_bytes(spec);
  SHIRA_ASSIGN(Bytes chunk, Bytes::make(std::min(kChunkBytes, total_bytes)));
  BaseReader reader(spec, nullptr);
  Hasher128 hasher;
  for (uint64_t offset = 0; offset < total_bytes; offset += chunk.size()) {
    const uint64_t size_bytes = std::min<uint64_t>(chunk.size(), total_bytes - offset);
    SHIRA_TRY(reader.read(offset, size_bytes, chunk.data()));
    hasher.update(chunk.data(), size_bytes);
  }
  return hasher.digest();
}

Result<void> read_source(const TensorSpec& spec, uint64_t offset_bytes, uint64_t size_bytes,
                         uint8_t* out) {
  Result<void> read =
      spec.layout ? spec.layout->read_source(*spec.region, spec.data, offset_bytes, size_bytes, out)
                  : spec.region->read_source(spec.data + offset_bytes, size_bytes, out);
  if (!read.ok()) read.error().tensor = spec.name;
  return read;
}

uint64_t cold_source_bytes(const TensorSpec& spec, uint64_t offset_bytes, uint64_t size_bytes) {
  return spec.layout
             ? spec.layout->cold_source_bytes(*spec.region, spec.data, offset_bytes, size_bytes)
             : spec.region->cold_source_bytes(spec.data + offset_bytes, size_bytes);
}

}  // namespace shira
