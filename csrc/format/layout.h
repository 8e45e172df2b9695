// Where each field of a .shb file stands: the tables of docs/FORMAT.md as numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace shira::layout {

constexpr uint8_t kMagic[8] = {0x89, 'S', 'H', 'B', '\r', '\n', 0x1A, '\n'};
constexpr uint16_t kVersionMajor = 0;
constexpr uint16_t kVersionMinor = 1;
constexpr uint64_t kKnownRequiredFeatures = 0;

constexpr uint64_t kHeaderBytes = 128;
namespace header {
constexpr uint64_t kMajor = 8;
constexpr uint64_t kMinor = 10;
constexpr uint64_t kHeaderSize = 12;
constexpr uint64_t kFileBytes = 16;
constexpr uint64_t kRequiredFeatures = 24;
constexpr uint64_t kSectionCount = 40;
constexpr uint64_t kAdapterCount = 44;
constexpr uint64_t kTensorCount = 48;
constexpr uint64_t kSectionTableCrc = 52;
constexpr uint64_t kReserved1 = 56;
constexpr uint64_t kContentDigest = 64;
constexpr uint64_t kReserved2 = 96;
constexpr uint64_t kHeaderCrc = 124;
}  // namespace header

enum SectionIndex : uint32_t { kAdapters, kTensors, kNames, kMetadata, kIndex, kValues };
constexpr uint32_t kSectionTotal = 6;
constexpr const char* kSectionNames[kSectionTotal] = {"ADAPTERS", "TENSORS", "NAMES",
                                                      "METADATA", "INDEX",   "VALUES"};
constexpr uint64_t kSectionAlignment = 64;
constexpr uint64_t kSectionRowBytes = 64;
constexpr uint64_t kSectionTableEnd = kHeaderBytes + kSectionRowBytes * kSectionTotal;
constexpr uint64_t section_row(uint32_t section_index) {
  return kHeaderBytes + kSectionRowBytes * section_index;
}
namespace section {
constexpr uint64_t kKind = 0;
constexpr uint64_t kCrc = 4;
constexpr uint64_t kOffset = 8;
constexpr uint64_t kSize = 16;
constexpr uint64_t kReserved = 24;
constexpr uint64_t kSha256 = 32;
}  // namespace section

constexpr uint64_t kAdapterRowBytes = 64;
namespace adapter {
constexpr uint64_t kFirstTensor = 8;
constexpr uint64_t kTensorCount = 12;
constexpr uint64_t kFlags = 16;
constexpr uint64_t kReserved = 20;
constexpr uint32_t kFlagBound = 1;
}  // namespace adapter

constexpr uint64_t kTensorRowBytes = 128;
namespace tensor {
constexpr uint64_t kNameOffset = 0;  // the name's two fields stand the same way in an adapter row
constexpr uint64_t kNameBytes = 4;
constexpr uint64_t kDtype = 8;
constexpr uint64_t kRank = 9;
constexpr uint64_t kIndexCodec = 10;
constexpr uint64_t kValueCodec = 11;
constexpr uint64_t kValueKind = 12;
constexpr uint64_t kFlags = 13;
constexpr uint64_t kReserved = 14;
constexpr uint64_t kIndexParam = 16;
constexpr uint64_t kIndexSection = 20;
constexpr uint64_t kValueSection = 24;
constexpr uint64_t kUnitCount = 28;
constexpr uint64_t kNnz = 32;
constexpr uint64_t kIndexOffset = 40;
constexpr uint64_t kIndexBytes = 48;
constexpr uint64_t kValueOffset = 56;
constexpr uint64_t kDims = 64;
constexpr uint64_t kFingerprint = 96;
constexpr uint64_t kBaseDigest = 112;
constexpr uint8_t kFlagFingerprint = 1;
}  // namespace tensor

constexpr uint64_t kStreamAlignment = 8;
constexpr uint32_t kMaxTensorCount = 65536;
constexpr uint64_t kMaxElementCount = 4294967295;
constexpr uint32_t kMaxNameBytes = 1024;
constexpr uint64_t kMaxMetadataBytes = 1048576;
constexpr uint32_t kMaxBlockLength = 65535;

}  // namespace shira::layout
