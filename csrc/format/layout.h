// Where each field of a .shb file stands: the tables of docs/FORMAT.md as numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace shira::layout {

// --- section 4: header

constexpr uint8_t kMagic[8] = {0x89, 'S', 'H', 'B', '\r', '\n', 0x1A, '\n'};
constexpr uint16_t kVersionMajor = 1;
constexpr uint64_t kKnownRequiredFeatures = 0;
constexpr uint64_t kHeaderBytes = 256;
constexpr uint32_t kMinSectionCount = 6;
constexpr uint32_t kMaxSectionCount = 64;
constexpr uint32_t kMaxAdapterCount = 1024;
constexpr uint32_t kMaxTensorCount = 65536;
constexpr uint32_t kMaxTierCount = 8;

namespace header {
constexpr uint64_t kVersionMajor = 8;
constexpr uint64_t kVersionMinor = 10;
constexpr uint64_t kHeaderBytes = 12;
constexpr uint64_t kFileBytes = 16;
constexpr uint64_t kRequiredFeatures = 24;
constexpr uint64_t kSectionCount = 40;
constexpr uint64_t kAdapterCount = 44;
constexpr uint64_t kTensorCount = 48;
constexpr uint64_t kTierCount = 52;
constexpr uint64_t kSectionTableCrc = 56;
constexpr uint64_t kReserved1 = 60;
constexpr uint64_t kContentDigest = 64;
constexpr uint64_t kSignatureKind = 96;
constexpr uint64_t kReserved2 = 100;
constexpr uint64_t kPublicKey = 128;
constexpr uint64_t kSignature = 160;
constexpr uint64_t kReserved3 = 224;
constexpr uint64_t kHeaderCrc = 252;
}  // namespace header

// --- section 5: section table

constexpr uint64_t kSectionRowBytes = 64;
constexpr uint64_t kSectionAlignment = 64;
constexpr uint64_t kMaxSectionTableEnd = kHeaderBytes + kSectionRowBytes * kMaxSectionCount;
constexpr uint32_t kMaxIndexCount = 65536;

namespace section {
constexpr uint64_t kKind = 0;
constexpr uint64_t kCrc = 4;
constexpr uint64_t kOffset = 8;
constexpr uint64_t kSize = 16;
constexpr uint64_t kTier = 24;
constexpr uint64_t kIndexCount = 28;
constexpr uint64_t kSha256 = 32;
}  // namespace section

enum SectionKind : uint32_t {
  kAdapters = 1,
  kTensors = 2,
  kNames = 3,
  kMetadata = 4,
  kIndex = 5,
  kValues = 6,
  kIndexReference = 7,
  kFirstOptionalKind = 32768
};

// Sections stand in the order of their kinds, then two for each tier.
constexpr uint32_t section_number(SectionKind kind) { return kind - 1; }
constexpr uint32_t kTierSections = 4;
constexpr uint32_t index_section(uint32_t tier) { return kTierSections + 2 * tier; }
constexpr uint32_t value_section(uint32_t tier) { return kTierSections + 2 * tier + 1; }

/// Where row `section_number` of the section table starts in the file.
constexpr uint64_t section_row(uint32_t section_number) {
  return kHeaderBytes + kSectionRowBytes * section_number;
}

// --- sections 6 and 7: rows of ADAPTERS and TENSORS

constexpr uint32_t kMaxNameBytes = 1024;
constexpr uint32_t kMinMetadataBytes = 2;
constexpr uint32_t kMaxMetadataBytes = 1048576;
constexpr uint64_t kMaxElementCount = 4294967295;
constexpr uint64_t kStreamAlignment = 8;

namespace name {  // the same in both rows
constexpr uint64_t kOffset = 0;
constexpr uint64_t kSize = 4;
}  // namespace name

constexpr uint64_t kAdapterRowBytes = 64;
namespace adapter {
constexpr uint64_t kFirstTensor = 8;
constexpr uint64_t kTensorCount = 12;
constexpr uint64_t kFlags = 16;
constexpr uint64_t kReserved1 = 20;
constexpr uint64_t kMetadataOffset = 24;
constexpr uint64_t kMetadataBytes = 28;
constexpr uint64_t kReserved2 = 32;
constexpr uint32_t kFlagBound = 1;
}  // namespace adapter

constexpr uint64_t kTensorRowBytes = 128;
namespace tensor {
constexpr uint64_t kDtype = 8;
constexpr uint64_t kRank = 9;
constexpr uint64_t kTier = 10;
constexpr uint64_t kValueCodec = 11;
constexpr uint64_t kValueKind = 12;
constexpr uint64_t kFlags = 13;
constexpr uint64_t kScaleExponent = 14;
constexpr uint64_t kReserved1 = 15;
constexpr uint64_t kIndexNumber = 16;
constexpr uint64_t kValueGroup = 20;
constexpr uint64_t kNnz = 24;
constexpr uint64_t kValueOffset = 32;
constexpr uint64_t kValueBytes = 40;
constexpr uint64_t kReserved2 = 48;
constexpr uint64_t kDims = 64;
constexpr uint64_t kFingerprint = 96;
constexpr uint64_t kBaseDigest = 112;
constexpr uint8_t kFlagFingerprint = 1;
constexpr int kMaxScaleExponent = 64;
constexpr uint32_t kMinValueGroup = 64;
constexpr uint32_t kValueGroupStep = 8;
}  // namespace tensor

// --- section 9: rows of an index table

constexpr uint64_t kIndexRowBytes = 48;
constexpr uint64_t kIndexReferenceBytes = 32;
namespace index {
constexpr uint64_t kCodec = 0;
constexpr uint64_t kRiceBits = 1;
constexpr uint64_t kReserved1 = 2;
constexpr uint64_t kBlockLength = 4;
constexpr uint64_t kUnitCount = 8;
constexpr uint64_t kReserved2 = 12;
constexpr uint64_t kElementCount = 16;
constexpr uint64_t kNnz = 24;
constexpr uint64_t kOffset = 32;
constexpr uint64_t kSize = 40;
constexpr uint8_t kMaxRiceBits = 31;
constexpr uint32_t kMaxBlockLength = 16777216;
}  // namespace index

}  // namespace shira::layout
