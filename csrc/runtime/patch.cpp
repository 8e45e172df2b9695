// The order and the content digest of an active set.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/patch.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <tuple>

#include "runtime/index_set.h"

namespace shira {
namespace {

// Feeds (flat index, value) of the entries with an effect to the hasher, a few KiB at a time.
template <typename T>
class EffectHasher {
 public:
  EffectHasher(const uint8_t* originals, const uint8_t* values)
      : original_(reinterpret_cast<const T*>(originals)),
        value_(reinterpret_cast<const T*>(values)) {}

  void add(uint32_t start, uint32_t length) {
    for (uint32_t i = 0; i < length; ++i, ++original_, ++value_) {
      if (*original_ == *value_) continue;
      const uint32_t index = start + i;
      std::memcpy(buffer_ + used_, &index, sizeof(index));
      std::memcpy(buffer_ + used_ + sizeof(index), value_, sizeof(T));
      used_ += sizeof(index) + sizeof(T);
      if (used_ + sizeof(index) + sizeof(T) > sizeof(buffer_)) flush();
    }
  }

  Patch::Digest finish() {
    flush();
    return Patch::Digest{true, has_effect_, hasher_.digest()};
  }

 private:
  void flush() {
    has_effect_ = has_effect_ || used_ > 0;
    hasher_.update(buffer_, used_);
    used_ = 0;
  }

  Hasher128 hasher_;
  unsigned char buffer_[4096];
  size_t used_ = 0;
  const T* original_;
  const T* value_;
  bool has_effect_ = false;
};

template <typename T>
Patch::Digest hash_effect(const Patch& patch) {
  EffectHasher<T> hasher(patch.originals->data(), patch.values.get());
  const IndexList& list = *patch.positions->list;
  for (size_t i = 0; i < list.runs.size(); ++i) hasher.add(list.runs[i].start, list.runs[i].length);
  for (size_t i = 0; i < list.entries.size(); ++i) hasher.add(list.entries[i], 1);
  return hasher.finish();
}

Patch::Digest digest_of_patch(const Patch& patch) {
  switch (dtype_bytes(patch.dtype)) {
    case 4:
      return hash_effect<uint32_t>(patch);
    case 2:
      return hash_effect<uint16_t>(patch);
    default:
      return hash_effect<uint8_t>(patch);
  }
}

}  // namespace

// A file that was opened twice with other tiers gives two adapters of one number; names settle what
// gives the same sum anyway.
bool sums_before(const ActiveMember& a, const ActiveMember& b) {
  const auto key = [](const ActiveMember& member) {
    const Adapter& source = *member.adapter->source;
    return std::make_tuple(std::cref(source.file->content_digest()), source.number, member.scale,
                           source.file->opened_tier_count(), std::cref(member.adapter->name));
  };
  return key(a) < key(b);
}

const Patch* ActiveSet::find(uint32_t tensor_index) const {
  const auto found = std::lower_bound(patches.begin(), patches.end(), tensor_index,
                                      [](const std::shared_ptr<const Patch>& patch, uint32_t i) {
                                        return patch->tensor_index < i;
                                      });
  return found != patches.end() && (*found)->tensor_index == tensor_index ? found->get() : nullptr;
}

Hash128 digest_of(const std::vector<std::shared_ptr<const Patch>>& patches) {
  std::vector<const Patch*> with_effect;
  for (const auto& patch : patches) {
    if (!patch->digest.known) patch->digest = digest_of_patch(*patch);
    if (patch->digest.has_effect) with_effect.push_back(patch.get());
  }
  std::sort(with_effect.begin(), with_effect.end(),
            [](const Patch* a, const Patch* b) { return a->tensor_name < b->tensor_name; });
  Hasher128 hasher;
  for (const Patch* patch : with_effect) {
    const std::string& name = patch->tensor_name;
    const auto name_bytes = static_cast<uint32_t>(name.size());
    hasher.update(&name_bytes, sizeof(name_bytes));
    hasher.update(name.data(), name.size());
    hasher.update(patch->digest.hash.data(), patch->digest.hash.size());
  }
  return hasher.digest();
}

}  // namespace shira
