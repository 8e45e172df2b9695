// Streaming the base out of patched memory, a chunk at a time.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base_verifier.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "runtime/base_reader.h"
#include "runtime/element_ops.h"
#include "runtime/live_access.h"

namespace shira {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;  // a multiple of every element size

// What one pass over a tensor found.
struct Finding {
  bool differs = false;
  uint64_t first_offset_bytes = kNoOffset;
  Hash128 base_digest{};
};

uint64_t first_difference(const uint8_t* a, const uint8_t* b, uint64_t size_bytes) {
  return static_cast<uint64_t>(std::mismatch(a, a + size_bytes, b).first - a);
}

// What lies beside the elements follows from them, also under patches.
Result<void> check_beside(const TensorSpec& spec, Finding* finding) {
  const DefaultFloatMode float_mode;
  Result<void> beside;
  SHIRA_TRY(access_live(spec, [&] { beside = spec.layout->check_beside(); }));
  if (beside.error().status == Status::BASE_MODIFIED) {
    finding->differs = true;
    finding->first_offset_bytes = beside.error().offset_bytes;
    return {};
  }
  if (!beside.ok()) beside.error().tensor = spec.name;
  return beside;
}

Result<Finding> read_through(const LiveWeights& live, uint32_t tensor_index) {
  const TensorSpec& spec = live.table.specs()[tensor_index];
  const uint64_t tensor_bytes = logical_bytes(spec);
  const uint64_t chunk_bytes = std::min(kChunkBytes, tensor_bytes);
  const bool has_source = spec.region->has_source();
  SHIRA_ASSIGN(Bytes chunk, Bytes::make(chunk_bytes));
  SHIRA_ASSIGN(Bytes source, Bytes::make(has_source ? chunk_bytes : 0));
  BaseReader reader(spec, live.active.find(tensor_index));
  Hasher128 hasher;
  Finding finding;
  for (uint64_t offset = 0; offset < tensor_bytes; offset += chunk_bytes) {
    const uint64_t size_bytes = std::min(chunk_bytes, tensor_bytes - offset);
    SHIRA_TRY(reader.read(offset, size_bytes, chunk.data()));
    hasher.update(chunk.data(), size_bytes);
    if (!has_source) continue;
    SHIRA_TRY(read_source(spec, offset, size_bytes, source.data()));
    if (std::memcmp(chunk.data(), source.data(), size_bytes) == 0) continue;
    finding.differs = true;
    finding.first_offset_bytes = offset + first_difference(chunk.data(), source.data(), size_bytes);
    return finding;
  }
  finding.base_digest = hasher.digest();
  finding.differs = !has_source && finding.base_digest != live.table.digest(tensor_index);
  if (spec.layout && !finding.differs) SHIRA_TRY(check_beside(spec, &finding));
  return finding;
}

// The adapters that were made for another base than the one that `finding` read.
void compare_adapters(const std::vector<std::shared_ptr<BoundAdapter>>& adapters,
                      const TensorSpec& spec, uint32_t tensor_index, const Finding& finding,
                      std::vector<ModifiedTensor>* modified) {
  for (const auto& adapter : adapters) {
    if (!adapter->source->is_bound) continue;
    for (const BoundTensor& bound : adapter->tensors) {
      if (bound.tensor_index != tensor_index || bound.source->base_digest == finding.base_digest)
        continue;
      modified->push_back(ModifiedTensor{spec.name, kNoOffset, adapter->name});
    }
  }
}

}  // namespace

Result<VerifyReport> verify_live_base(const LiveWeights& live,
                                      const std::vector<std::shared_ptr<BoundAdapter>>& adapters,
                                      ThreadPool& pool) {
  std::vector<uint32_t> all(live.table.specs().size());
  std::iota(all.begin(), all.end(), 0U);
  SHIRA_TRY(live.table.check_live(all));

  VerifyReport report;
  report.tensors_checked = all.size();
  for (const TensorSpec& spec : live.table.specs()) report.bytes_checked += logical_bytes(spec);
  std::vector<Finding> findings(all.size());
  SHIRA_TRY(pool.run(all.size(), report.bytes_checked, [&](size_t i) -> Result<void> {
    SHIRA_ASSIGN(findings[i], read_through(live, static_cast<uint32_t>(i)));
    return {};
  }));
  for (const uint32_t i : all) {
    const TensorSpec& spec = live.table.specs()[i];
    if (findings[i].differs) {
      report.modified.push_back(ModifiedTensor{spec.name, findings[i].first_offset_bytes, {}});
    } else {
      compare_adapters(adapters, spec, i, findings[i], &report.modified);
    }
  }
  return report;
}

}  // namespace shira
