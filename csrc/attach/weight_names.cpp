// Reads the map of names, and names weights by it.
// SPDX-License-Identifier: Apache-2.0
#include "attach/weight_names.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

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

auto keys_of(const WeightLine& line) { return std::tie(line.key, line.bias_key, line.name); }

/// The lines of a key.
WeightNames lines_of(const WeightNames& names, std::string_view key) {
  const auto begin =
      std::lower_bound(names.begin(), names.end(), key,
                       [](const WeightLine& line, std::string_view k) { return line.key < k; });
  auto end = begin;
  while (end != names.end() && end->key == key) ++end;
  return {begin, end};
}

/// The order of both, which are of one key. Lines that say nothing of a bias come first.
struct ByBiasKey {
  using Key = std::optional<std::string_view>;
  static Key key(const WeightLine& line) { return line.bias_key; }
  static Key key(const ProgramWeight& weight) { return weight.bias_key; }
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    return key(a) < key(b);
  }
};

/// Lists weights under their names. What is wrong with a name is noted at first: it would look like
/// a reason of the weight's own.
class Namer {
 public:
  Namer(const WeightNames& names, ProgramSource* program, size_t count)
      : names_(names), program_(*program) {
    named_.reserve(count);
  }

  /// Weights [begin, end) have one key and stand in the order of their biases' keys.
  void add_key(ProgramWeight* begin, ProgramWeight* end) {
    const size_t first = named_.size();
    const bool is_split = begin->bias_key != end[-1].bias_key;
    // Lines that say which bias their weight has come first; what others mean is open where there
    // are several biases.
    WeightNames lines = lines_of(names_, begin->key);
    const auto open_begin = std::stable_partition(
        lines.begin(), lines.end(),
        [&](const WeightLine& line) { return std::binary_search(begin, end, line, ByBiasKey()); });
    auto open = open_begin;
    const auto take_open = [&] {
      if (is_split && open_begin != lines.end()) note(named_.size(), kWhichIsWhich);
      return open == lines.end() ? nullptr : &*open++;
    };
    for (ProgramWeight* weight = begin; weight != end;) {
      auto [own, own_end] = std::equal_range(lines.begin(), open_begin, *weight, ByBiasKey());
      const bool has_own = own != own_end;
      ProgramWeight* const run_end = std::upper_bound(weight, end, *weight, ByBiasKey());
      for (; weight != run_end; ++weight) {
        const WeightLine* line = !has_own ? take_open() : own == own_end ? nullptr : &*own++;
        add(std::move(*weight), line);
      }
      while (own != own_end) add_copy(&*own++);
    }
    while (open != lines.end()) add_copy(take_open());
    mark_shared(first);
  }

  void add_without_key(ProgramWeight weight) { add(std::move(weight), nullptr); }

  std::vector<ProgramWeight> finish() {
    const size_t weight_count = named_.size();
    refuse_noted();
    for (size_t i = 0; i < weight_count; ++i) {
      if (named_[i].storage == WeightStorage::packed && named_[i].bias) add_bias(i);
    }
    mark_shared_biases(weight_count);
    refuse_noted();
    std::sort(named_.begin(), named_.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return std::move(named_);
  }

 private:
  /// What else is known of a weight.
  struct Side {
    std::string_view bias_name;  // that the program gives
    bool is_copy = false;        // of another one, under another name
  };

  static constexpr const char* kWhichIsWhich =
      "the program does not say which of its weights with these codes has which bias";

  /// `line`: where its names stand, or null.
  void add(ProgramWeight weight, const WeightLine* line, bool is_copy = false) {
    if (weight.name.empty() && line != nullptr) weight.name = line->name;
    const bool has_bias_name = line != nullptr && line->bias_key == weight.bias_key;
    std::string unnamed = name_of_key(weight);
    push(std::move(weight), has_bias_name ? line->bias_name : std::string_view(), is_copy,
         std::move(unnamed));
  }

  /// The weight that was added last, under another name.
  void add_copy(const WeightLine* line) {
    const uint64_t cost_bytes = kCopyCostBytes * (named_.back().bias ? 2 : 1);
    if (!program_.buffer().pay(program_.root().position(), cost_bytes)) return;
    ProgramWeight copy = named_.back();
    copy.name.clear();
    add(std::move(copy), line, true);
  }

  void add_bias(size_t weight_index) {
    const ProgramWeight& weight = named_[weight_index];
    ProgramWeight bias;
    bias.name = sides_[weight_index].bias_name;
    bias.owner = weight.owner;
    bias.node = weight.node;
    bias.storage = WeightStorage::packed_bias;
    bias.dtype = weight.dtype == Dtype::f16 ? Dtype::f16 : Dtype::f32;
    bias.dims = {weight.dims[0]};
    bias.codes = weight.bias;
    bias.key = weight.bias_key;
    bias.methods = weight.methods;
    bias.beside = weight.name;
    bias.why_not = weight.bias_why_not;
    push(std::move(bias), {}, sides_[weight_index].is_copy, name_of_key(weight) + ".bias");
  }

  /// `unnamed`: what its name is if it has none.
  void push(ProgramWeight weight, std::string_view bias_name, bool is_copy, std::string unnamed) {
    if (weight.name.empty()) {
      weight.name = unique_.add(std::move(unnamed));
    } else {
      by_given_name_[weight.name].push_back(named_.size());
      weight.name = unique_.add(weight.name);
    }
    named_.push_back(std::move(weight));
    sides_.push_back({bias_name, is_copy});
  }

  /// Those from `first` on have one key.
  void mark_shared(size_t first) {
    // What else uses the codes may be packed under any name.
    std::map<std::string, std::vector<size_t>> by_packed_name;
    bool has_other_use = false;
    for (size_t i = first; i < named_.size(); ++i) {
      const ProgramWeight& weight = named_[i];
      has_other_use |= weight.storage != WeightStorage::packed || !weight.why_not.empty();
    }
    for (size_t i = first; i < named_.size(); ++i)
      by_packed_name[has_other_use ? "" : packed_name(named_[i])].push_back(i);
    for (const auto& [packed_name, indices] : by_packed_name) {
      if (indices.size() < 2) continue;
      const auto is_copy = [this](size_t i) { return sides_[i].is_copy; };
      const auto copy_count = std::count_if(indices.begin(), indices.end(), is_copy);
      const bool is_collision = indices.size() - static_cast<size_t>(copy_count) > 1;
      for (const size_t i : indices) {
        ProgramWeight& weight = named_[i];
        weight.shares_storage_with = named_[indices[i == indices[0] ? 1 : 0]].name;
        if (is_collision && weight.why_not.empty()) {
          weight.why_not = "XNNPACK packs equal codes once, and " + weight.shares_storage_with +
                           " has the same with another scale, bias or use";
        }
      }
    }
  }

  /// Biases from `first` on are packed into the same bytes where their weights are.
  void mark_shared_biases(size_t first) {
    std::map<std::string_view, size_t> of_weight;
    for (size_t i = first; i < named_.size(); ++i) of_weight[named_[i].beside] = i;
    std::map<std::string_view, std::string_view> other_weight;
    for (size_t i = 0; i < first; ++i) other_weight[named_[i].name] = named_[i].shares_storage_with;
    for (size_t i = first; i < named_.size(); ++i) {
      const auto other = of_weight.find(other_weight[named_[i].beside]);
      if (other != of_weight.end()) named_[i].shares_storage_with = named_[other->second].name;
    }
  }

  void note(size_t index, std::string reason) { noted_.emplace(index, std::move(reason)); }

  /// Gives weights without a reason of their own those that were noted, and that of a name which
  /// others have, too.
  void refuse_noted() {
    for (const auto& [name, indices] : by_given_name_) {
      if (indices.size() < 2) continue;
      std::string places;
      for (const size_t i : indices) {
        const std::string& beside = named_[i].beside;
        if (!beside.empty()) places += (places.empty() ? "" : " and ") + beside;
      }
      const std::string reason =
          places.empty() ? "the program gives this name to different weights"
                         : "it is one bias of several weights, with a copy packed beside " + places;
      for (const size_t i : indices) note(i, reason);
    }
    for (const auto& [index, reason] : noted_) {
      std::string& why_not = named_[index].why_not;
      if (why_not.empty()) why_not = reason;
    }
  }

  const WeightNames& names_;
  ProgramSource& program_;
  UniqueNames unique_;
  std::vector<ProgramWeight> named_;
  std::vector<Side> sides_;  // of each
  std::map<std::string, std::vector<size_t>> by_given_name_;
  std::map<size_t, std::string> noted_;  // why one cannot be switched
};

/// The fields of a line; more than there may be are one.
std::vector<std::string_view> split(std::string_view line) {
  constexpr size_t kMaxFields = 5;
  std::vector<std::string_view> fields;
  for (;;) {
    const size_t tab = line.find('\t');
    fields.push_back(line.substr(0, tab));
    if (tab == std::string_view::npos || fields.size() == kMaxFields) return fields;
    line.remove_prefix(tab + 1);
  }
}

std::optional<WeightLine> parse_line(std::string_view text) {
  const std::vector<std::string_view> fields = split(text);
  WeightLine line;
  line.name = fields[0];
  if (fields.size() >= 2) line.key = fields[1];
  if (fields.size() == 4) {
    line.bias_name = fields[2];
    line.bias_key = fields[3];
  }
  const bool is_sound = (fields.size() == 2 || fields.size() == 4) && !line.name.empty() &&
                        !line.key.empty() &&
                        (line.bias_name.empty() || !line.bias_key.value_or("").empty());
  return is_sound ? std::optional(line) : std::nullopt;
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
    const std::optional<WeightLine> line = parse_line(text.substr(0, end));
    if (end == std::string_view::npos || !line) {
      buffer.fail(position,
                  "a line of the names of packed weights is not a name, a tab and a key, with"
                  " those of a bias or without");
      break;
    }
    names.push_back(*line);
    if (!buffer.pay(position, sizeof(names.back()))) break;
    text.remove_prefix(end + 1);
  }
  SHIRA_TRY(program->check());
  std::sort(names.begin(), names.end(),
            [](const auto& a, const auto& b) { return keys_of(a) < keys_of(b); });
  return names;
}

Result<void> name_weights(const WeightNames& names, ProgramSource* program,
                          std::vector<ProgramWeight>* weights) {
  // Weights with a key, by keys; the others come first. Their order in the program is kept.
  std::stable_sort(weights->begin(), weights->end(), [](const auto& a, const auto& b) {
    return std::tie(a.key, a.bias_key) < std::tie(b.key, b.bias_key);
  });
  const auto has_bias = [](const ProgramWeight& weight) { return bool{weight.bias}; };
  const auto bias_count = std::count_if(weights->begin(), weights->end(), has_bias);
  Namer namer(names, program, weights->size() + static_cast<size_t>(bias_count));
  ProgramWeight* const end = weights->data() + weights->size();
  for (ProgramWeight* weight = weights->data(); weight != end;) {
    ProgramWeight* const begin = weight;
    if (weight->key.empty()) {
      namer.add_without_key(std::move(*weight++));
      continue;
    }
    while (weight != end && weight->key == begin->key) ++weight;
    namer.add_key(begin, weight);
  }
  SHIRA_TRY(program->check());
  *weights = namer.finish();
  return {};
}

void refuse_biases(std::vector<ProgramWeight>* weights) {
  std::map<std::string_view, std::string_view> refused;
  for (const ProgramWeight& weight : *weights)
    if (!weight.why_not.empty()) refused.emplace(weight.name, weight.why_not);
  for (ProgramWeight& weight : *weights) {
    const auto beside = refused.find(weight.beside);
    if (weight.beside.empty() || !weight.why_not.empty() || beside == refused.end()) continue;
    weight.why_not = "it is packed beside " + weight.beside + ": " + std::string(beside->second);
  }
}

}  // namespace shira
