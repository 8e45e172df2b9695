// Walks the XNNGraph flatbuffer (backends/xnnpack/serialization/schema.fbs of ExecuTorch).
// SPDX-License-Identifier: Apache-2.0
#include "attach/xnn_graph.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "attach/flatbuffer.h"
#include "attach/program_head.h"
#include "attach/program_schema.h"
#include "attach/xnn_schema.h"
#include "base/checked_math.h"

namespace shira {
namespace {

constexpr size_t kMaxKeyBytes = 128;  // they have 64 or 70
// What a weight's record costs in a flatbuffer at the least, about.
constexpr uint64_t kWeightCostBytes = 48;
constexpr uint32_t kXnnFlagTransposeWeights = 1;

bool is_integer(XnnDatatype datatype) {
  return datatype == XnnDatatype::qcint8 || datatype == XnnDatatype::qcint4 ||
         datatype == XnnDatatype::qbint4;
}

/// One pass over a graph; the first problem ends it.
class GraphReader {
 public:
  GraphReader(const ByteReader& graph, const XnnPayload& payload)
      : buffer_(graph.data(), graph.size()), payload_(payload) {}

  Result<std::vector<XnnWeight>> read(const std::string& path) {
    const FlatTable root = FlatTable::root(&buffer_);
    read_constants(root);
    read_values(root);
    read_nodes(root);
    add_other_constants();
    if (!buffer_.ok()) {
      return bad_program_file(path, payload_.graph.offset_bytes + buffer_.problem_offset_bytes(),
                              "the graph of an XNNPACK delegate: " + buffer_.problem());
    }
    return std::move(weights_);
  }

 private:
  struct Constant {
    uint64_t position = 0;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    std::string_view key;
  };

  /// A tensor of the graph. `constant` is 0 where it is computed or an input.
  struct Value {
    uint32_t id = 0;
    FlatTable tensor, quantization;
    uint8_t quantization_type = 0;
    XnnDatatype datatype{};
    uint32_t constant = 0;
    const char* reader = nullptr;  // a node that reads it as anything but a filter or a bias
    bool is_filter = false;
  };

  void read_constants(const FlatTable& root) {
    const FlatVector items = root.vector(kXnnGraphConstantData, sizeof(uint32_t));
    for (uint32_t i = 0; i < items.count && buffer_.ok(); ++i) {
      const FlatTable item = root.item(items, i);
      constants_.push_back({item.position(), item.scalar<uint64_t>(kConstantDataOffsetOffset),
                            item.scalar<uint64_t>(kConstantDataOffsetSize),
                            item.string(kConstantDataOffsetNamedKey)});
      if (constants_.back().key.size() > kMaxKeyBytes) {
        buffer_.fail(item.position(), "a key of " + std::to_string(constants_.back().key.size()) +
                                          " bytes, expected at most " +
                                          std::to_string(kMaxKeyBytes));
      }
    }
  }

  void read_values(const FlatTable& root) {
    const FlatVector items = root.vector(kXnnGraphValues, sizeof(uint32_t));
    for (uint32_t i = 0; i < items.count && buffer_.ok(); ++i) {
      const FlatTable item = root.item(items, i);
      const auto type = item.scalar<uint8_t>(kXValueUnionType);
      Value value;
      value.tensor = item.table(kXValueUnion);
      if (type == kXValueIsQuantized) {
        const FlatTable quantized = value.tensor;
        value.tensor = quantized.table(kQuantizedTensorValue);
        value.quantization_type = quantized.scalar<uint8_t>(kQuantizedQuantParamsType);
        value.quantization = quantized.table(kQuantizedQuantParams);
      } else if (type != kXValueIsTensor) {
        return buffer_.fail(item.position(), "a value of the unknown kind " + std::to_string(type));
      }
      value.id = value.tensor.scalar<uint32_t>(kTensorValueIdOut);
      value.datatype = static_cast<XnnDatatype>(value.tensor.scalar<int16_t>(kTensorValueDatatype));
      value.constant = value.tensor.scalar<uint32_t>(kTensorValueConstantBufferIdx);
      values_.push_back(value);
    }
    const auto by_id = [](const Value& a, const Value& b) { return a.id < b.id; };
    std::sort(values_.begin(), values_.end(), by_id);
    const auto twice = std::adjacent_find(
        values_.begin(), values_.end(), [](const auto& a, const auto& b) { return a.id == b.id; });
    if (twice != values_.end()) {
      buffer_.fail(twice->tensor.position(),
                   "two values have the number " + std::to_string(twice->id));
    }
  }

  /// Null for an id that stands for "none".
  Value* find_value(uint32_t id) {
    const auto found =
        std::lower_bound(values_.begin(), values_.end(), id,
                         [](const Value& v, uint32_t wanted) { return v.id < wanted; });
    return found == values_.end() || found->id != id ? nullptr : &*found;
  }

  void read_nodes(const FlatTable& root) {
    const FlatVector items = root.vector(kXnnGraphNodes, sizeof(uint32_t));
    for (uint32_t i = 0; i < items.count && buffer_.ok(); ++i) {
      const FlatTable item = root.item(items, i);
      const auto type = item.scalar<uint8_t>(kXNodeUnionType);
      const XnnNodeKind* kind = find_xnn_node(type);
      if (kind == nullptr) {
        unknown_node_ = type;
        continue;
      }
      const FlatTable node = item.table(kXNodeUnion);
      for (unsigned f = 0; f < kind->input_count; ++f) {
        const unsigned field = kind->inputs[f];
        Value* value = find_value(node.scalar<uint32_t>(field));
        if (value == nullptr || value->constant == 0) continue;
        const bool is_fully_connected = type == kXnnFullyConnected;
        if (field == (is_fully_connected ? kFullyConnectedBias : kConvolutionBias)) {
          if (value->reader == nullptr) value->reader = kBias;
        } else if (is_fully_connected && field == kFullyConnectedFilter) {
          value->is_filter = true;
          filters_.push_back({node, value});
        } else {
          value->reader = kind->name;
        }
      }
    }
    // Only now is it known who else reads a filter.
    for (const Filter& filter : filters_) add_filter(filter.node, *filter.value);
  }

  struct Filter {
    FlatTable node;
    const Value* value = nullptr;
  };

  static constexpr const char* kBias = "a bias";

  void add_filter(const FlatTable& node, const Value& value) {
    XnnWeight weight = make_weight(value, "XNNFullyConnected");
    weight.why_not = filter_obstacle(node, value, &weight);
    add(std::move(weight), value);
  }

  void add_other_constants() {
    for (const Value& value : values_) {
      if (value.constant == 0 || value.is_filter || value.reader == kBias) continue;
      if (value.reader == nullptr && unknown_node_ == 0) continue;
      XnnWeight weight = make_weight(value, value.reader == nullptr ? "" : value.reader);
      uint64_t numel = 1;
      for (const uint32_t dim : weight.dims) {
        if (!checked_mul(numel, dim, &numel)) numel = UINT64_MAX;
      }
      if (numel <= 1) continue;
      weight.why_not = value.reader == nullptr
                           ? unknown_node_reads_it()
                           : std::string(value.reader) +
                                 " reads it: only weights of fully connected layers can be switched"
                                 " inside of a delegate";
      add(std::move(weight), value);
    }
  }

  void add(XnnWeight weight, const Value& value) {
    if (weights_.size() >= kMaxDescriptions) {
      return buffer_.fail(value.tensor.position(),
                          "more than " + std::to_string(kMaxDescriptions) + " weights");
    }
    if (buffer_.pay(value.tensor.position(), kWeightCostBytes)) {
      weights_.push_back(std::move(weight));
    }
  }

  std::string unknown_node_reads_it() const {
    return "the graph has a node of the unknown kind " + std::to_string(unknown_node_) +
           ", which may read it";
  }

  XnnWeight make_weight(const Value& value, const char* node) {
    XnnWeight weight;
    weight.node = node;
    const FlatVector dims = value.tensor.vector(kTensorValueDims, sizeof(uint32_t));
    if (dims.count > kMaxTensorRank) {
      buffer_.fail(value.tensor.position(), "a value of rank " + std::to_string(dims.count));
      return weight;
    }
    for (uint32_t i = 0; i < dims.count; ++i) {
      weight.dims.push_back(
          buffer_.number<uint32_t>(dims.position + sizeof(uint32_t) * uint64_t{i}));
    }
    if (!constants_.empty()) weight.codes = find_data(value.constant, 0, value.tensor.position());
    return weight;
  }

  /// Constant `index`, of which `size_bytes` are needed (0: as many as it has).
  XnnData find_data(uint32_t index, uint64_t size_bytes, uint64_t position) {
    XnnData data;
    if (index >= constants_.size()) {
      buffer_.fail(position, "there is no constant " + std::to_string(index) + " of " +
                                 std::to_string(constants_.size()));
      return data;
    }
    const Constant& constant = constants_[index];
    data.range.size_bytes = size_bytes;
    if (!constant.key.empty()) {
      data.key = std::string(constant.key);
      return data;
    }
    if (size_bytes == 0) data.range.size_bytes = constant.size_bytes;
    if (!range_fits(constant.offset, data.range.size_bytes, payload_.constants.size_bytes)) {
      buffer_.fail(constant.position,
                   "a constant of " + std::to_string(data.range.size_bytes) + " bytes at " +
                       std::to_string(constant.offset) + " lies outside the delegate's " +
                       std::to_string(payload_.constants.size_bytes) + " bytes of constants");
    }
    data.range.offset_bytes = payload_.constants.offset_bytes + constant.offset;
    return data;
  }

  /// Why the filter `value` of `node` cannot be switched, or "" and everything in `weight`.
  std::string filter_obstacle(const FlatTable& node, const Value& value, XnnWeight* weight) {
    const char* name = xnn_datatype_name(value.datatype);
    const std::optional<Dtype> dtype = weight_dtype(value.datatype);
    if (!dtype) return std::string("its datatype is ") + name;
    const uint64_t rows = weight->dims.empty() ? 0 : weight->dims[0];
    const uint64_t columns = weight->dims.size() == 2 ? weight->dims[1] : 0;
    if (rows == 0 || columns == 0) return "it is no matrix";
    if (rows * columns > UINT32_MAX) return "it has more than 2^32 - 1 elements";
    weight->dtype = dtype;
    if (constants_.empty()) return "it lies inside the delegate's graph, as old exporters put it";
    const uint64_t row_bytes =
        *dtype == Dtype::i4 ? (columns + 1) / 2 : columns * dtype_bytes(*dtype);
    weight->codes = find_data(value.constant, rows * row_bytes, value.tensor.position());
    if (unknown_node_ != 0) return unknown_node_reads_it();
    if (value.reader != nullptr) return std::string(value.reader) + " reads it too";
    if ((node.scalar<uint32_t>(kFullyConnectedFlags) & kXnnFlagTransposeWeights) != 0) {
      return "it is stored transposed: the exporter has to preserve aten.linear";
    }
    if (std::string why_not = input_obstacle(node, value.datatype); !why_not.empty())
      return why_not;
    if (is_integer(value.datatype)) {
      std::string why_not = scale_obstacle(value, rows, columns, weight);
      if (!why_not.empty()) return why_not;
    }
    return bias_obstacle(node, value.datatype, rows, weight);
  }

  static std::optional<Dtype> weight_dtype(XnnDatatype datatype) {
    switch (datatype) {
      case XnnDatatype::fp32:
        return Dtype::f32;
      case XnnDatatype::fp16:
        return Dtype::f16;
      case XnnDatatype::qcint8:
        return Dtype::i8;
      case XnnDatatype::qcint4:
      case XnnDatatype::qbint4:
        return Dtype::i4;
      default:
        return std::nullopt;
    }
  }

  /// What the weight is multiplied by decides about its packing.
  std::string input_obstacle(const FlatTable& node, XnnDatatype datatype) {
    const Value* input = find_value(node.scalar<uint32_t>(kFullyConnectedInput));
    const XnnDatatype expected = is_integer(datatype) ? XnnDatatype::qdint8 : datatype;
    const XnnDatatype found = input == nullptr ? XnnDatatype::invalid : input->datatype;
    if (found == expected) return {};
    return std::string("it is multiplied by ") + xnn_datatype_name(found) + ", not by " +
           xnn_datatype_name(expected);
  }

  std::string scale_obstacle(const Value& value, uint64_t rows, uint64_t columns,
                             XnnWeight* weight) {
    const bool has_groups = value.datatype == XnnDatatype::qbint4;
    const FlatTable& quantization = value.quantization;
    if (value.quantization_type != (has_groups ? kQuantIsPerChannelGroup : kQuantIsPerChannel)) {
      return "its codes have scales of kind " + std::to_string(value.quantization_type);
    }
    if (quantization.scalar<int32_t>(kPerChannelDim) != 0) return "its scales are not by rows";
    uint64_t scale_count = rows;
    if (has_groups) {
      const auto group = quantization.scalar<int32_t>(kPerChannelGroupSize);
      if (group <= 0 || columns % static_cast<uint64_t>(group) != 0) {
        return "groups of " + std::to_string(group) + " do not divide its " +
               std::to_string(columns) + " columns";
      }
      weight->group_length = static_cast<uint32_t>(group);
      scale_count = rows * (columns / weight->group_length);
    }
    const uint64_t scale_bytes = scale_count * (has_groups ? sizeof(uint16_t) : sizeof(float));
    const auto index = quantization.scalar<uint32_t>(has_groups ? kPerChannelGroupScaleBuffer
                                                                : kPerChannelScaleBuffer);
    if (index != 0) {
      weight->scales = find_data(index, scale_bytes, quantization.position());
      return {};
    }
    if (has_groups) return "its scales lie inside the delegate's graph, as old exporters put them";
    const FlatVector scales = quantization.vector(kPerChannelScale, sizeof(float));
    if (scales.count != rows) {
      return "it has " + std::to_string(scales.count) + " scales, not " + std::to_string(rows);
    }
    weight->scales.range = {payload_.graph.offset_bytes + scales.position, scale_bytes};
    return {};
  }

  std::string bias_obstacle(const FlatTable& node, XnnDatatype datatype, uint64_t rows,
                            XnnWeight* weight) {
    const auto id = node.scalar<uint32_t>(kFullyConnectedBias);
    if (id == kXnnInvalidValueId) return {};
    const Value* bias = find_value(id);
    if (bias == nullptr || bias->constant == 0) return "its bias is not constant";
    const bool is_half = datatype == XnnDatatype::fp16;
    if (bias->datatype != (is_half ? XnnDatatype::fp16 : XnnDatatype::fp32)) {
      return std::string("its bias is ") + xnn_datatype_name(bias->datatype);
    }
    const FlatVector dims = bias->tensor.vector(kTensorValueDims, sizeof(uint32_t));
    if (dims.count != 1 || buffer_.number<uint32_t>(dims.position) != rows) {
      return "its bias is not one number for each row";
    }
    weight->bias = find_data(bias->constant, rows * (is_half ? 2 : 4), bias->tensor.position());
    if (bias->is_filter || bias->reader != kBias) {
      weight->bias_why_not =
          std::string(bias->is_filter ? "XNNFullyConnected" : bias->reader) + " reads it too";
    }
    return {};
  }

  Flatbuffer buffer_;
  const XnnPayload& payload_;
  std::vector<Constant> constants_;
  std::vector<Value> values_;  // sorted by id
  std::vector<Filter> filters_;
  uint8_t unknown_node_ = 0;
  std::vector<XnnWeight> weights_;
};

}  // namespace

Result<std::optional<XnnPayload>> parse_xnn_header(const ByteReader& head, const FileRange& payload,
                                                   const std::string& path) {
  constexpr uint64_t kMagic = 4;
  const auto has = [&head](const char* text) {
    return head.contains(kMagic, 4) && memcmp(head.data() + kMagic, text, 4) == 0;
  };
  XnnPayload result;
  if (has("XN00") || has("XN01")) {  // the flatbuffer alone, as old exporters wrote it
    result.graph = payload;
  } else if (!has("XH00")) {
    return std::optional<XnnPayload>();
  } else {
    // Magic, u16 length of the header, u32 offset and size of the graph, u32 offset and u64 size of
    // the constants.
    const FileRange graph{head.u32(10), head.u32(14)};
    const FileRange constants{head.u32(18), head.u64(22)};
    if (!head.contains(0, kXnnHeaderBytes) || head.u16(8) < kXnnHeaderBytes ||
        !range_fits(graph.offset_bytes, graph.size_bytes, payload.size_bytes) ||
        !range_fits(constants.offset_bytes, constants.size_bytes, payload.size_bytes)) {
      return bad_program_file(path, payload.offset_bytes,
                              "the payload of an XNNPACK delegate has " +
                                  std::to_string(payload.size_bytes) +
                                  " bytes, and its header places parts outside of them");
    }
    result.graph = {payload.offset_bytes + graph.offset_bytes, graph.size_bytes};
    result.constants = {payload.offset_bytes + constants.offset_bytes, constants.size_bytes};
  }
  return std::optional<XnnPayload>(result);
}

Result<std::vector<XnnWeight>> read_xnn_graph(const ByteReader& graph, const XnnPayload& payload,
                                              const std::string& path) {
  return GraphReader(graph, payload).read(path);
}

}  // namespace shira
