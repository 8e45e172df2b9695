// The graph that a program hands to the XNNPACK delegate, as far as its weights are concerned.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/program_file.h"
#include "base/byte_reader.h"
#include "base/dtype.h"
#include "base/result.h"

namespace shira {

/// A delegate's payload, in ranges of the program's file.
struct XnnPayload {
  FileRange graph;      // the flatbuffer
  FileRange constants;  // what graphs refer to by offset; may be empty
};

/// As much of a payload's start as parse_xnn_header() looks at.
constexpr uint64_t kXnnHeaderBytes = 30;

/// `head`: the first kXnnHeaderBytes of `payload`, or all of it. Nothing when it is in no format
/// that is known here; BAD_PROGRAM_FILE when its parts do not fit in it.
Result<std::optional<XnnPayload>> parse_xnn_header(const ByteReader& head, const FileRange& payload,
                                                   const std::string& path);

/// Bytes that a graph refers to: by a key of the program's named data, or where they lie.
struct XnnData {
  std::string key;  // empty: `range` lies in the program's file
  FileRange range;  // with a key: only its size, 0 where that is not known
};

/// A constant that a node of the graph reads; see ProgramWeight for the fields.
struct XnnWeight {
  const char* node = "";
  std::optional<Dtype> dtype;
  std::vector<uint32_t> dims;
  uint32_t group_length = 0;
  XnnData codes, scales, bias;
  std::string why_not, bias_why_not;
};

/// Every filter of a fully connected node, once for each such node, and every other constant but
/// biases and single numbers. `graph`: the bytes of payload.graph. BAD_PROGRAM_FILE.
Result<std::vector<XnnWeight>> read_xnn_graph(const ByteReader& graph, const XnnPayload& payload,
                                              const std::string& path);

}  // namespace shira
