// A small program made by hand, with a weight inside of the XNNPACK delegate and a table of codes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "attach_fixtures.h"

namespace shira::test {

inline const std::string kCodesKey(64, 'a');
inline const std::string kScalesKey = "scale_" + std::string(64, 'b');
inline const std::string kBiasKey(64, 'c');
/// Of the bias that the program has no name for.
inline const char* const kFcBias = "xnnpack:aaaaaaaaaaaaaaaa.bias";

/// Where the parts of the file are.
struct WeightsPte {
  Bytes bytes;
  size_t payload = 0;  // of the delegate
  size_t graph = 0;    // in it, the flatbuffer
};

/// One fully connected node: an input of qdint8, an int4 filter (2, 32) in groups of 32, a bias.
/// And another node of the kind `second_node`, unless that is 0, which reads its output.
inline Bytes make_xnn_payload(uint8_t second_node) {
  FlatWriter w(8);
  const auto root = w.table_at(0, {{1, 4}, {2, 4}, {8, 4}});
  const size_t nodes = w.references_at(root.fields.at(1), second_node == 0 ? 1 : 2);
  const auto node = w.table_at(nodes, {{0, 1}, {1, 4}});
  w.put<uint8_t>(node.fields.at(0), 2);
  const auto layer = w.table_at(node.fields.at(1), {{0, 4}, {1, 4}, {2, 4}, {3, 4}, {4, 4}});
  for (unsigned i = 0; i < 4; ++i) w.put<uint32_t>(layer.fields.at(i), i);
  if (second_node != 0) {
    const auto other = w.table_at(nodes + 4, {{0, 1}, {1, 4}});
    w.put<uint8_t>(other.fields.at(0), second_node);
    w.put<uint32_t>(w.table_at(other.fields.at(1), {{0, 4}}).fields.at(0), 3);
  }
  // Value i: its datatype, its shape, its constant.
  const std::vector<std::pair<int16_t, std::vector<uint32_t>>> values{
      {9, {1, 32}}, {10, {2, 32}}, {1, {2}}, {1, {1, 2}}};
  const std::vector<uint32_t> constants{0, 1, 3, 0};
  const size_t items = w.references_at(root.fields.at(2), values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const auto value = w.table_at(items + 4 * i, {{0, 1}, {1, 4}});
    const bool is_quantized = i == 1;
    w.put<uint8_t>(value.fields.at(0), is_quantized ? 2 : 1);
    size_t reference = value.fields.at(1);
    size_t parameters = 0;
    if (is_quantized) {
      const auto quantized = w.table_at(reference, {{0, 4}, {1, 1}, {2, 4}});
      w.put<uint8_t>(quantized.fields.at(1), 4);
      reference = quantized.fields.at(0);
      parameters = quantized.fields.at(2);
    }
    const auto tensor = w.table_at(reference, {{0, 2}, {2, 4}, {3, 4}, {6, 4}});
    w.put<int16_t>(tensor.fields.at(0), values[i].first);
    w.vector_at(tensor.fields.at(2), values[i].second);
    w.put<uint32_t>(tensor.fields.at(3), constants[i]);
    w.put<uint32_t>(tensor.fields.at(6), static_cast<uint32_t>(i));
    if (is_quantized) {
      const auto groups = w.table_at(parameters, {{1, 4}, {2, 4}, {4, 4}});
      w.put<int32_t>(groups.fields.at(2), 32);
      w.put<uint32_t>(groups.fields.at(4), 2);
    }
  }
  const std::vector<std::string> keys{"", kCodesKey, kScalesKey, kBiasKey};
  const size_t data = w.references_at(root.fields.at(8), keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto item = w.table_at(data + 4 * i, {{0, 8}, {1, 8}, {2, 4}});
    w.put<uint64_t>(item.fields.at(0), UINT64_MAX);
    w.string_at(item.fields.at(2), keys[i]);
  }
  memcpy(&w.bytes()[4], "XN01", 4);

  Bytes payload(32 + w.bytes().size());
  memcpy(&payload[4], "XH00", 4);
  const uint16_t header_bytes = 30;
  const auto graph_bytes = static_cast<uint32_t>(w.bytes().size());
  const uint32_t graph_offset = 32;
  const uint32_t constants_offset = graph_offset + graph_bytes;
  memcpy(&payload[8], &header_bytes, 2);
  memcpy(&payload[10], &graph_offset, 4);
  memcpy(&payload[14], &graph_bytes, 4);
  memcpy(&payload[18], &constants_offset, 4);
  memcpy(&payload[graph_offset], w.bytes().data(), w.bytes().size());
  return payload;
}

/// Method "forward" calls embedding_4bit on the table "table" (4, 16) in groups of 8, and the
/// delegate, whose weight is named "fc.weight". File bytes of weights are data_byte()s. `names`:
/// the text that gives the name, if not one without a bias.
inline WeightsPte make_weights_pte(uint8_t second_node = 0, std::string names = {}) {
  if (names.empty()) names = "fc.weight\t" + kCodesKey + "\n";
  const Bytes payload = make_xnn_payload(second_node);
  FlatWriter w(40);
  const auto root = w.table_at(0, {{1, 4}, {4, 4}, {5, 4}, {7, 4}});
  const size_t plans = w.references_at(root.fields.at(1), 2);

  auto plan = w.table_at(plans, {{0, 4}, {2, 4}, {5, 4}, {6, 4}, {7, 4}});
  w.string_at(plan.fields.at(0), "forward");
  size_t values = w.references_at(plan.fields.at(2), 3);
  const std::vector<std::pair<uint8_t, std::vector<int32_t>>> tensors{{0, {4, 8}}, {6, {4, 2}}};
  for (size_t t = 0; t < tensors.size(); ++t) {
    const auto value = w.table_at(values + 4 * t, {{0, 1}, {1, 4}});
    w.put<uint8_t>(value.fields.at(0), 5);
    const auto tensor = w.table_at(value.fields.at(1), {{0, 1}, {2, 4}, {3, 4}, {5, 4}, {9, 4}});
    w.put<uint8_t>(tensor.fields.at(0), tensors[t].first);
    w.vector_at(tensor.fields.at(2), tensors[t].second);
    w.vector_at(tensor.fields.at(3), std::vector<uint8_t>{0, 1});
    w.put<uint32_t>(tensor.fields.at(5), static_cast<uint32_t>(t + 1));
    const auto extra = w.table_at(tensor.fields.at(9), {{1, 4}});
    w.string_at(extra.fields.at(1), t == 0 ? "table" : "scales");
  }
  auto value = w.table_at(values + 8, {{0, 1}, {1, 4}});
  w.put<uint8_t>(value.fields.at(0), 1);  // None: no zero points
  w.table_at(value.fields.at(1), {{0, 4}});
  const auto chain = w.table_at(w.references_at(plan.fields.at(5), 1), {{2, 4}});
  const size_t instructions = w.references_at(chain.fields.at(2), 2);
  for (size_t i = 0; i < 2; ++i) {
    const auto instruction = w.table_at(instructions + 4 * i, {{0, 1}, {1, 4}});
    w.put<uint8_t>(instruction.fields.at(0), static_cast<uint8_t>(i + 1));
    const auto call = w.table_at(instruction.fields.at(1), {{0, 4}, {1, 4}});
    w.vector_at(call.fields.at(1),
                i == 0 ? std::vector<int32_t>{0, 1, 2, 2, 2, 2, 2} : std::vector<int32_t>{2});
  }
  const auto op = w.table_at(w.references_at(plan.fields.at(6), 1), {{0, 4}});
  w.string_at(op.fields.at(0), "quantized_decomposed::embedding_4bit");
  const auto delegate = w.table_at(w.references_at(plan.fields.at(7), 1), {{0, 4}, {1, 4}});
  w.string_at(delegate.fields.at(0), "XnnpackBackend");
  const auto processed = w.table_at(delegate.fields.at(1), {{0, 1}, {1, 4}});
  w.put<uint8_t>(processed.fields.at(0), 1);
  w.put<uint32_t>(processed.fields.at(1), 1);

  plan = w.table_at(plans + 4, {{0, 4}, {2, 4}, {4, 4}});
  w.string_at(plan.fields.at(0), "shira_packed_weights");
  value = w.table_at(w.references_at(plan.fields.at(2), 1), {{0, 1}, {1, 4}});
  w.put<uint8_t>(value.fields.at(0), 6);
  const auto text = w.table_at(value.fields.at(1), {{0, 4}});
  w.string_at(text.fields.at(0), names);
  w.vector_at(plan.fields.at(4), std::vector<int32_t>{0});

  // Constants, payload, codes, scales, bias.
  const std::vector<uint64_t> sizes{64, payload.size(), 32, 4, 8};
  const size_t segments = w.references_at(root.fields.at(4), sizes.size());
  uint64_t offset = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto segment = w.table_at(segments + 4 * i, {{0, 8}, {1, 8}});
    w.put<uint64_t>(segment.fields.at(0), offset);
    w.put<uint64_t>(segment.fields.at(1), sizes[i]);
    offset += sizes[i];
  }
  const auto constants = w.table_at(root.fields.at(5), {{1, 4}});
  w.vector_at(constants.fields.at(1), std::vector<uint64_t>{0, 0, 32});
  const size_t named = w.references_at(root.fields.at(7), 3);
  for (size_t i = 0; i < 3; ++i) {
    const auto item = w.table_at(named + 4 * i, {{0, 4}, {1, 4}});
    w.string_at(item.fields.at(0), i == 0 ? kCodesKey : i == 1 ? kScalesKey : kBiasKey);
    w.put<uint32_t>(item.fields.at(1), static_cast<uint32_t>(i + 2));
  }

  WeightsPte file;
  memcpy(&w.bytes()[4], "ET12eh00", 8);
  w.put<uint32_t>(12, 32);
  w.put<uint64_t>(16, w.bytes().size());
  w.pad(16);
  const size_t base = w.bytes().size();
  w.put<uint64_t>(24, base);
  w.put<uint64_t>(32, offset);
  for (uint64_t i = 0; i < offset; ++i) w.bytes().push_back(data_byte(i));
  file.payload = base + sizes[0];
  file.graph = file.payload + 32;
  memcpy(&w.bytes()[file.payload], payload.data(), payload.size());
  file.bytes = w.bytes();
  return file;
}

}  // namespace shira::test
