// The lists of backends/xnnpack/serialization/schema.fbs: datatypes and kinds of nodes.
// SPDX-License-Identifier: Apache-2.0
#include "attach/xnn_schema.h"

#include <iterator>

namespace shira {
namespace {

constexpr const char* kDatatypeNames[] = {"invalid", "fp32",   "fp16",    "qint8",  "quint8",
                                          "qint32",  "qcint8", "qcint32", "qcint4", "qdint8",
                                          "qbint4",  "qpint8", "int32",   "pfp32",  "bf16"};

// In the order of their tags, from 1 on.
constexpr XnnNodeKind kNodeKinds[] = {
    {"XNNAdd", 2, {0, 1}},
    {"XNNFullyConnected", 3, {kFullyConnectedInput, kFullyConnectedFilter, kFullyConnectedBias}},
    {"XNNSoftmax", 1, {0}},
    {"XNNSigmoid", 1, {0}},
    {"XNNStaticTranspose", 1, {2}},
    {"XNNClamp", 1, {0}},
    {"XNNConv2d", 3, {15, 16, 17}},
    {"XNNDiv", 2, {0, 1}},
    {"XNNStaticResizeBilinear2D", 1, {2}},
    {"XNNStaticConstantPad", 1, {3}},
    {"XNNAvgPooling2d", 1, {10}},
    {"XNNMinimum", 2, {0, 1}},
    {"XNNDepthwiseConv2d", 3, {15, 16, 17}},
    {"XNNMaxPooling2d", 1, {10}},
    {"XNNMultiply", 2, {0, 1}},
    {"XNNSubtract", 2, {0, 1}},
    {"XNNFloor", 1, {0}},
    {"XNNConvert", 1, {0}},
    {"XNNGlobalAvgPooling2d", 1, {0}},
    {"XNNStaticReshape", 1, {2}},
    {"XNNArgMaxPooling2d", 1, {6}},
    {"XNNSquareRoot", 1, {0}},
    {"XNNCeiling", 1, {0}},
    {"XNNHardswish", 1, {0}},
    {"XNNLeakyReLU", 1, {1}},
    {"XNNMaximum", 2, {0, 1}},
    {"XNNNegate", 1, {0}},
    {"XNNSquare", 1, {0}},
    {"XNNELU", 1, {1}},
    {"XNNAbs", 1, {0}},
    {"XNNPReLU", 2, {0, 1}},
    {"XNNConcatenate2", 2, {1, 2}},
    {"XNNConcatenate3", 3, {1, 2, 3}},
    {"XNNConcatenate4", 4, {1, 2, 3, 4}},
    {"XNNStaticSlice", 1, {3}},
    {"XNNScaledDotProductAttention", 5, {0, 1, 2, 3, 4}},
    {"XNNBatchMatrixMultiply", 2, {0, 1}},
    {"XNNConcatenate5", 5, {1, 2, 3, 4, 7}},
    {"XNNConvTranspose2d", 3, {15, 16, 17}},
    {"XNNReciprocalSquareRoot", 1, {0}},
    {"XNNLog", 1, {0}},
    {"XNNGelu", 1, {0}},
    {"XNNTanh", 1, {0}},
    {"XNNExp", 1, {0}},
    {"XNNSin", 1, {0}},
    {"XNNCopy", 1, {0}},
    {"XNNCos", 1, {0}},
};

}  // namespace

const char* xnn_datatype_name(XnnDatatype datatype) {
  const auto number = static_cast<int16_t>(datatype);
  if (number < 0 || number >= static_cast<int16_t>(std::size(kDatatypeNames))) {
    return "of an unknown type";
  }
  return kDatatypeNames[number];
}

const XnnNodeKind* find_xnn_node(uint8_t tag) {
  return tag == 0 || tag > std::size(kNodeKinds) ? nullptr : &kNodeKinds[tag - 1];
}

}  // namespace shira
