// Reads the map of names, and names weights by it.
// SPDX-License-Identifier: Apache-2.0
#include "attach/weight_names.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "attach/flatbuffer.h"
#include "attach/program_schema.h"

namespace shira {
namespace {

constexpr size_t kShownKeyDigits = 16;
constexpr uint64_t kCopyCostBytes = 128;  // of a weight that has another name as well

/// The string that a constant method returns; its position in `position`.
std::string_view constant_string(const FlatTable& plan, Flatbuffer* buffer, uint64_t* position) {
  const FlatVector outputs = plan.vector(kExecutionPlanOutputs, sizeof(int32_t));
  const FlatVector values = plan.vector(kExecutionPlanValues, sizeof(uint32_t));
  *position = plan.position();
  const uint32_t index = outputs.count == 1 ? buffer->number<uint32_t>(outputs.position) : 0;
  if (outputs.count != 1 || index >= values.count) {
    buffer->fail(plan.position(), "the names of packed weights have no value");
    return {};
  }
  const FlatTable value = plan.item(values, index);
  if (value.scalar<uint8_t>(kEValueValType) != kKernelTypesString) {
    buffer->fail(value.position(), "the names of packed weights are not a string");
    return {};
  }
  const FlatTable text = value.table(kEValueVal);
  *position = text.position();
  return text.string(kStringStringVal);
}

/// The key's names that no weight has got yet.
class KeyNames {
 public:
  KeyNames(const WeightNames& names, std::string_view key)
      : next_(std::lower_bound(names.begin(), names.end(), std::pair(key, std::string_view()))),
        end_(next_) {
    while (end_ != names.end() && end_->first == key) ++end_;
  }

  bool empty() const { return next_ == end_; }
  std::string_view take() { return (next_++)->second; }

 private:
  WeightNames::const_iterator next_, end_;
};

/// Makes names differ.
class UniqueNames {
 public:
  std::string add(std::string name) {
    if (taken_.insert(name).second) return name;
    unsigned& number = last_number_.emplace(name, 1).first->second;
    std::string numbered;
    do {
      numbered = name + "#" + std::to_string(++number);
    } while (!taken_.insert(numbered).second);
    return numbered;
  }

 private:
  std::set<std::string> taken_;
  std::map<std::string, unsigned> last_number_;
};

std::string name_of_key(const ProgramWeight& weight) {
  if (!weight.key.empty()) return "xnnpack:" + weight.key.substr(0, kShownKeyDigits);
  const char* kind = weight.storage == WeightStorage::packed ? "xnnpack@" : "constant@";
  return kind + std::to_string(weight.codes.range.offset_bytes);
}

/// Weights [begin, end) of the list have one key.
void mark_shared(std::vector<ProgramWeight>* weights, size_t begin, size_t end, size_t distinct) {
  for (size_t i = begin; i < end && end - begin > 1; ++i) {
    ProgramWeight& weight = (*weights)[i];
    weight.shares_storage_with = (*weights)[i == begin ? begin + 1 : begin].name;
    if (distinct > 1 && weight.why_not.empty()) {
      weight.why_not = "XNNPACK packs equal codes once, and " + weight.shares_storage_with +
                       " has the same with another scale, bias or use";
    }
  }
}

void mark_ambiguous(ProgramWeight* first, ProgramWeight* second) {
  for (ProgramWeight* weight : {first, second}) {
    if (weight->why_not.empty())
      weight->why_not = "the program gives this name to different weights";
  }
}

}  // namespace

Result<WeightNames> read_weight_names(ProgramSource* program) {
  WeightNames names;
  Flatbuffer& buffer = program->buffer();
  const FlatVector plans = program->root().vector(kProgramExecutionPlan, sizeof(uint32_t));
  std::string_view text;
  uint64_t position = 0;
  for (uint32_t p = 0; p < plans.count && buffer.ok(); ++p) {
    const FlatTable plan = program->root().item(plans, p);
    if (plan.string(kExecutionPlanName) != kWeightNamesMethod) continue;
    text = constant_string(plan, &buffer, &position);
    break;
  }
  while (!text.empty() && buffer.ok()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const size_t tab = line.find('\t');
    if (end == std::string_view::npos || tab == std::string_view::npos || tab == 0 ||
        tab + 1 == line.size()) {
      buffer.fail(position, "a line of the names of packed weights is not a name, a tab and a key");
      break;
    }
    names.emplace_back(line.substr(tab + 1), line.substr(0, tab));
    if (!buffer.pay(position, sizeof(names.back()))) break;
    text.remove_prefix(end + 1);
  }
  SHIRA_TRY(program->check());
  std::sort(names.begin(), names.end());
  return names;
}

Result<void> name_weights(const WeightNames& names, ProgramSource* program,
                          std::vector<ProgramWeight>* weights) {
  // Weights with a key, by key; the others come first. Their order in the program is kept.
  std::stable_sort(weights->begin(), weights->end(),
                   [](const auto& a, const auto& b) { return a.key < b.key; });
  std::vector<ProgramWeight> named;
  UniqueNames unique;
  std::map<std::string, size_t> first_of_name;  // of those that the program gives
  for (size_t i = 0; i < weights->size();) {
    const size_t first = named.size();
    const std::string key = (*weights)[i].key;
    size_t distinct = 0;
    KeyNames own(names, key);
    for (; i < weights->size() && (*weights)[i].key == key; ++i, ++distinct) {
      ProgramWeight& weight = (*weights)[i];
      if (weight.name.empty() && !key.empty() && !own.empty()) weight.name = own.take();
      const std::string given = weight.name;
      weight.name = unique.add(given.empty() ? name_of_key(weight) : given);
      named.push_back(std::move(weight));
      const auto [other, is_new] = first_of_name.emplace(given, named.size() - 1);
      if (!given.empty() && !is_new) mark_ambiguous(&named[other->second], &named.back());
    }
    while (!key.empty() && !own.empty()) {
      if (!program->buffer().pay(program->root().position(), kCopyCostBytes))
        return program->check();
      named.push_back(named.back());
      named.back().name = unique.add(std::string(own.take()));
    }
    if (!key.empty()) mark_shared(&named, first, named.size(), distinct);
  }
  std::sort(named.begin(), named.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  *weights = std::move(named);
  return {};
}

}  // namespace shira
