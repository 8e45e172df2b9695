// Names of what XNNPACK knows by keys only: the map that a program carries, and names for the rest.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "attach/program_source.h"
#include "attach/program_weights.h"
#include "base/result.h"

namespace shira {

/// The constant method in which a program carries the names of its packed weights: one string of
/// lines, each of a weight's name, the key of its codes, the name of the bias that is packed beside
/// it and the bias's key, with tabs between them, and a line feed. Without a bias the last two are
/// empty. The bias's name is empty where other layers use it, too. Lines of the first two alone say
/// nothing about a bias.
constexpr std::string_view kWeightNamesMethod = "shira_packed_weights";

/// One line.
struct WeightLine {
  std::string_view key;
  std::optional<std::string_view> bias_key;  // none: nothing is said
  std::string_view name, bias_name;
};

using WeightNames = std::vector<WeightLine>;

/// By keys, then names; empty for a program without that method. BAD_PROGRAM_FILE when it is
/// something else.
Result<WeightNames> read_weight_names(ProgramSource* program);

/// Gives each weight a name, adds a record for each bias that is packed beside one, sorts by name,
/// and says which ones are packed into the same bytes. A weight with several names is listed under
/// each of them. Where a line could mean one weight as well as another, or one name means several,
/// none of them can be switched. Names that are there already are kept, but for "#2" and so on
/// behind the second weight of a name. BAD_PROGRAM_FILE when that takes more than a small multiple
/// of the file.
Result<void> name_weights(const WeightNames& names, ProgramSource* program,
                          std::vector<ProgramWeight>* weights);

/// A bias cannot be switched where its weight cannot be: when all other reasons are known.
void refuse_biases(std::vector<ProgramWeight>* weights);

}  // namespace shira
