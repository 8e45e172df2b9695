// Compares constants with packed weights of the same size: first how they begin, then all of them.
// SPDX-License-Identifier: Apache-2.0
#include "attach/twin_constants.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "attach/program_head.h"
#include "base/hash.h"

namespace shira {
namespace {

constexpr uint64_t kBeginningBytes = 4096;
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

bool is_packed(const ProgramWeight& weight) {
  const bool is_known =
      weight.storage == WeightStorage::packed || weight.storage == WeightStorage::packed_bias;
  return is_known && weight.codes;
}

struct FoundConstant {
  WeightBytes bytes;
  const ProgramTensor* tensor;
};

/// Weights and constants with the same bytes.
struct Equals {
  std::vector<size_t> packed;
  std::vector<FoundConstant> constants;
};

class TwinFinder {
 public:
  TwinFinder(const std::vector<std::unique_ptr<ProgramSource>>& files,
             const std::vector<ProgramWeight>& weights)
      : files_(files), weights_(weights) {
    for (const auto& file : files) bytes_left_ += 2 * file->file_bytes();
  }

  Result<std::vector<Equals>> find() {
    Equals all;
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (is_packed(weights_[i])) all.packed.push_back(i);
    }
    if (all.packed.empty()) return std::vector<Equals>();
    for (const auto& file : files_) {
      SHIRA_ASSIGN(std::vector<ProgramTensor> tensors, file->constants());
      tensors_.push_back(std::move(tensors));
    }
    for (uint32_t f = 0; f < tensors_.size(); ++f) {
      for (const ProgramTensor& tensor : tensors_[f])
        all.constants.push_back({{f, {tensor.offset_bytes, tensor.size_bytes}}, &tensor});
    }
    std::vector<Equals> groups{std::move(all)};
    for (const uint64_t limit_bytes : {uint64_t{0}, kBeginningBytes, UINT64_MAX}) {
      std::vector<Equals> finer;
      for (const Equals& group : groups) SHIRA_TRY(split(group, limit_bytes, &finer));
      groups = std::move(finer);
    }
    return groups;
  }

 private:
  /// By size and the first `limit_bytes`; what has no counterpart is left out.
  Result<void> split(const Equals& group, uint64_t limit_bytes, std::vector<Equals>* finer) {
    std::map<std::pair<uint64_t, Hash128>, Equals> parts;
    for (const size_t i : group.packed) {
      const WeightBytes& codes = weights_[i].codes;
      SHIRA_ASSIGN(const Hash128 hash, hash_of(codes, limit_bytes));
      parts[{codes.range.size_bytes, hash}].packed.push_back(i);
    }
    for (const FoundConstant& constant : group.constants) {
      SHIRA_ASSIGN(const Hash128 hash, hash_of(constant.bytes, limit_bytes));
      const auto part = parts.find({constant.bytes.range.size_bytes, hash});
      if (part != parts.end()) part->second.constants.push_back(constant);
    }
    for (auto& [key, part] : parts) {
      if (!part.constants.empty()) finer->push_back(std::move(part));
    }
    return {};
  }

  /// Computed once for each place.
  Result<Hash128> hash_of(const WeightBytes& bytes, uint64_t limit_bytes) {
    FileRange range = bytes.range;
    range.size_bytes = std::min(range.size_bytes, limit_bytes);
    if (range.size_bytes == 0) return Hash128();
    const auto [known, is_new] =
        hashes_.try_emplace({bytes.file_index, range.offset_bytes, range.size_bytes}, Hash128());
    if (!is_new) return known->second;
    const ProgramSource& file = *files_[bytes.file_index];
    // Constants of a sound program lie beside each other; a hostile one could pile them up.
    if (range.size_bytes > bytes_left_) {
      return bad_program_file(file.path(), range.offset_bytes,
                              "the constants have more bytes than the files");
    }
    bytes_left_ -= range.size_bytes;
    Hasher128 hasher;
    for (const uint64_t end = range.end_bytes(); range.offset_bytes < end;
         range.offset_bytes += range.size_bytes) {
      range.size_bytes = std::min(kPieceBytes, end - range.offset_bytes);
      SHIRA_ASSIGN(const Array<uint8_t> piece, file.read(range));
      hasher.update(piece.data(), piece.size());
    }
    return known->second = hasher.digest();
  }

  const std::vector<std::unique_ptr<ProgramSource>>& files_;
  const std::vector<ProgramWeight>& weights_;
  std::vector<std::vector<ProgramTensor>> tensors_;  // of each file
  std::map<std::tuple<uint32_t, uint64_t, uint64_t>, Hash128> hashes_;
  uint64_t bytes_left_ = 0;
};

using Refused = std::map<std::string_view, std::pair<const FoundConstant*, std::string>>;

/// Constants by name, each with the packed weight that has its values. One that is a weight already
/// gets the reason, of the others there are weights then.
void add_refused(const Refused& refused, std::vector<ProgramWeight>* weights) {
  const auto reason = [](const std::string& twin) {
    return "a delegate has packed the same values, as " + twin +
           ": a switch would change one of the two";
  };
  std::vector<ProgramWeight> added;
  for (const auto& [name, found] : refused) {
    const auto at = std::lower_bound(weights->begin(), weights->end(), name,
                                     [](const auto& w, std::string_view n) { return w.name < n; });
    if (at != weights->end() && at->name == name) {
      if (at->why_not.empty()) at->why_not = reason(found.second);
      continue;
    }
    const ProgramTensor& tensor = *found.first->tensor;
    ProgramWeight weight;
    weight.name = tensor.name;
    if (tensor.patchable) weight.dtype = tensor.dtype;
    weight.dims = tensor.dims;
    weight.codes = found.first->bytes;
    weight.why_not = reason(found.second);
    added.push_back(std::move(weight));
  }
  std::move(added.begin(), added.end(), std::back_inserter(*weights));
  std::sort(weights->begin(), weights->end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
}

/// Packed values that are there twice, in packings of their own: one parameter that two layers use,
/// or two that are equal. Those that the program gives a name are known to be one each.
void refuse_nameless(const std::set<std::string_view>& given, std::vector<ProgramWeight>* weights) {
  std::map<std::tuple<uint32_t, uint64_t, uint64_t>, std::vector<ProgramWeight*>> by_place;
  for (ProgramWeight& weight : *weights) {
    const WeightBytes& codes = weight.codes;
    if (!is_packed(weight)) continue;
    by_place[{codes.file_index, codes.range.offset_bytes, codes.range.size_bytes}].push_back(
        &weight);
  }
  for (const auto& [place, found] : by_place) {
    for (ProgramWeight* weight : found) {
      const bool is_alone = found.size() == 1 || !weight->shares_storage_with.empty();
      if (is_alone || given.count(weight->name) != 0 || !weight->why_not.empty()) continue;
      const ProgramWeight* other = found[weight == found[0] ? 1 : 0];
      weight->why_not = other->name +
                        " has the same values, and the program does not say by their names whether"
                        " the two are one parameter";
    }
  }
}

}  // namespace

Result<void> refuse_twins(const std::vector<std::unique_ptr<ProgramSource>>& files,
                          const WeightNames& names, std::vector<ProgramWeight>* weights) {
  std::set<std::string_view> given;
  for (const WeightLine& line : names) {
    given.insert(line.name);
    given.insert(line.bias_name);
  }
  TwinFinder finder(files, *weights);
  SHIRA_ASSIGN(const std::vector<Equals> groups, finder.find());
  Refused refused;
  for (const Equals& group : groups) {
    std::set<std::string_view> constant_names;
    for (const FoundConstant& constant : group.constants)
      constant_names.insert(constant.tensor->name);
    const std::string_view other = *constant_names.begin();  // "" comes first
    std::set<std::string_view> packed_names;                 // "": any that is not given
    std::string twin;
    for (const size_t i : group.packed) {
      ProgramWeight& weight = (*weights)[i];
      const auto name = given.find(weight.name);
      packed_names.insert(name == given.end() ? std::string_view() : *name);
      // Biases are often zeros, as are constants that have nothing to do with them.
      const bool may_differ = !other.empty() || weight.storage == WeightStorage::packed_bias;
      if (name != given.end() && may_differ && constant_names.count(*name) == 0) continue;
      twin = weight.name;
      if (!weight.why_not.empty()) continue;
      weight.why_not =
          "kernels outside of the delegate read the same values, as " +
          (other.empty() ? std::string("a constant without a name") : std::string(other)) +
          ": a switch would change one of the two";
    }
    for (const FoundConstant& constant : group.constants) {
      const std::string_view name = constant.tensor->name;
      if (!name.empty() && (packed_names.count("") != 0 || packed_names.count(name) != 0))
        refused.try_emplace(name, &constant, twin);
    }
  }
  refuse_nameless(given, weights);
  add_refused(refused, weights);
  return {};
}

}  // namespace shira
