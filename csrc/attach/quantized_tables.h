// Weights that portable quantized operators read as codes, where they lie in the program's file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string_view>
#include <vector>

#include "attach/program_source.h"
#include "attach/program_weights.h"

namespace shira {

/// A weight and the methods that use it. The same one may be listed several times.
struct QuantizedTable {
  ProgramWeight weight;  // without methods; without a name where the program has none
  std::set<std::string_view> methods;
};

/// Walks the calls of every method. What is wrong is kept in the program's buffer.
std::vector<QuantizedTable> read_quantized_tables(ProgramSource* program,
                                                  const NamedData& named_data);

}  // namespace shira
