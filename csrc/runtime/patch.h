// Patch: what lies over one base tensor; ActiveSet: all that lies over the base at one time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/dtype.h"
#include "base/hash.h"
#include "base/result.h"
#include "format/adapter_file.h"
#include "runtime/positions.h"

namespace shira {

/// New values at some positions of one tensor, and the base values they replace. Immutable apart
/// from what is found out about it later. A single adapter at scale 1 shares all three parts: its
/// positions and originals, and the values in its file.
struct Patch {
  uint32_t tensor_index = 0;
  std::string tensor_name;
  Dtype dtype = Dtype::f32;  // of the tensor
  std::shared_ptr<const Positions> positions;
  /// (count,) elements of the tensor's dtype. Null while they are left in the file that the base
  /// came from (see originals.h): then their hash is known, and the digest. Guarded by the gate.
  mutable std::shared_ptr<const Bytes> originals;
  mutable Hash128 originals_hash{};
  std::shared_ptr<const uint8_t> values;  // as the originals

  /// XXH3-128 over (flat index as u32, value) of the entries whose value differs from the original.
  struct Digest {
    bool known = false;
    bool has_effect = false;  // at least one entry differs
    Hash128 hash{};
  };
  mutable Digest digest;  // guarded by whoever asks for digest_of()

  /// How many values differ from the original. Known of every patch of an active set; guarded by
  /// the gate.
  mutable std::optional<uint64_t> effect_count;
};

/// One tensor of an adapter, bound to a live tensor. What switches remember of it is guarded by the
/// gate.
struct BoundTensor {
  const AdapterTensor* source = nullptr;  // in the adapter
  uint32_t tensor_index = 0;
  std::shared_ptr<const Positions> positions;  // the same object for adapters of one mask
  bool has_checked_originals = false;          // those of `positions` are the base it was made for
  std::shared_ptr<const Patch> exact;          // the patch for scale 1 and nobody else
};

/// An adapter as added to a program.
struct BoundAdapter {
  std::string name;
  std::shared_ptr<const Adapter> source;  // keeps its file alive
  std::vector<BoundTensor> tensors;       // ascending by tensor_index

  /// How many elements a switch changes that leads from another adapter at scale 1 to this one: a
  /// number that takes a look at every weight, so that it is kept for the next time. Guarded by the
  /// gate.
  std::map<const BoundAdapter*, uint64_t> changed_from;
};

/// A member of the active set.
struct ActiveMember {
  std::shared_ptr<BoundAdapter> adapter;
  float scale = 1.0F;
};

/// The order in which contributions are summed (FORMAT.md section 11).
bool sums_before(const ActiveMember& a, const ActiveMember& b);

struct ActiveSet {
  std::vector<ActiveMember> members;                  // in the order of summation
  std::vector<std::shared_ptr<const Patch>> patches;  // ascending by tensor_index, one per tensor

  /// The patch over a tensor, or nullptr.
  const Patch* find(uint32_t tensor_index) const;
};

/// The content digest of what a set of patches changes (law I10): XXH3-128 over (length of name as
/// u32, name, patch hash) of the tensors with an effect, in name order. Fills the caches of the
/// patches. Needs no look at the program, whose tensors may become others meanwhile.
Hash128 digest_of(const std::vector<std::shared_ptr<const Patch>>& patches);

}  // namespace shira
