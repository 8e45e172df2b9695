// Names of what XNNPACK knows by keys only: the map that a program carries, and names for the rest.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "attach/program_source.h"
#include "attach/program_weights.h"
#include "base/result.h"

namespace shira {

/// The constant method in which a program carries the names of its packed weights: one string of
/// lines, each of a name, a tab, the key of its codes, and a line feed.
constexpr std::string_view kWeightNamesMethod = "shira_packed_weights";

using WeightNames = std::vector<std::pair<std::string_view, std::string_view>>;  // key, name

/// Sorted; empty for a program without that method. BAD_PROGRAM_FILE when it is something else.
Result<WeightNames> read_weight_names(ProgramSource* program);

/// Gives each weight a name, sorts by name, and says which ones share their codes. A weight with
/// several names is listed under each of them. Of weights with equal codes and other scales it is
/// not known whose name is whose, and none can be switched. Names that are there already are kept,
/// but for
/// "#2" and so on behind the second weight of a name. BAD_PROGRAM_FILE when that takes more than a
/// small multiple of the file.
Result<void> name_weights(const WeightNames& names, ProgramSource* program,
                          std::vector<ProgramWeight>* weights);

}  // namespace shira
