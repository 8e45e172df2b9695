// Field numbers, tags and node kinds of the XNNPACK delegate's graph.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira {

// Fields of backends/xnnpack/serialization/schema.fbs, by table and field name.
constexpr unsigned kXnnGraphNodes = 1;
constexpr unsigned kXnnGraphValues = 2;
constexpr unsigned kXnnGraphConstantData = 8;
constexpr unsigned kXNodeUnionType = 0;
constexpr unsigned kXNodeUnion = 1;
constexpr unsigned kXValueUnionType = 0;
constexpr unsigned kXValueUnion = 1;
constexpr uint8_t kXValueIsTensor = 1;
constexpr uint8_t kXValueIsQuantized = 2;
constexpr unsigned kTensorValueDatatype = 0;
constexpr unsigned kTensorValueDims = 2;
constexpr unsigned kTensorValueConstantBufferIdx = 3;
constexpr unsigned kTensorValueIdOut = 6;
constexpr unsigned kQuantizedTensorValue = 0;
constexpr unsigned kQuantizedQuantParamsType = 1;
constexpr unsigned kQuantizedQuantParams = 2;
constexpr uint8_t kQuantIsPerChannel = 1;
constexpr uint8_t kQuantIsPerChannelGroup = 4;
constexpr unsigned kPerChannelScale = 0;
constexpr unsigned kPerChannelDim = 1;  // the same with groups
constexpr unsigned kPerChannelScaleBuffer = 2;
constexpr unsigned kPerChannelGroupSize = 2;
constexpr unsigned kPerChannelGroupScaleBuffer = 4;
constexpr unsigned kConstantDataOffsetOffset = 0;
constexpr unsigned kConstantDataOffsetSize = 1;
constexpr unsigned kConstantDataOffsetNamedKey = 2;
constexpr unsigned kFullyConnectedInput = 0;
constexpr unsigned kFullyConnectedFilter = 1;
constexpr unsigned kFullyConnectedBias = 2;
constexpr unsigned kFullyConnectedFlags = 4;
constexpr unsigned kConvolutionBias = 17;

constexpr uint32_t kXnnInvalidValueId = UINT32_MAX;

enum class XnnDatatype : int16_t {
  invalid = 0,
  fp32 = 1,
  fp16 = 2,
  qcint8 = 6,
  qcint4 = 8,
  qdint8 = 9,
  qbint4 = 10,
};

/// "fp32", "qcint8", ... of every datatype of the schema; "of an unknown type" for others.
const char* xnn_datatype_name(XnnDatatype datatype);

/// A kind of node, and in which of its fields the values stand that it reads.
struct XnnNodeKind {
  const char* name;
  uint8_t input_count;
  uint8_t inputs[5];
};

/// The tag of fully connected nodes.
constexpr uint8_t kXnnFullyConnected = 2;

/// Null for a tag that the schema does not have.
const XnnNodeKind* find_xnn_node(uint8_t tag);

}  // namespace shira
