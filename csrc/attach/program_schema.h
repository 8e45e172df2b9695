// Field numbers, tags and limits of the flatbuffer schemas that ExecuTorch's files are made of.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira {

// Field numbers of ExecuTorch's schema/program.fbs, by table and field name.
constexpr unsigned kProgramVersion = 0;
constexpr unsigned kProgramExecutionPlan = 1;
constexpr unsigned kProgramBackendDelegateData = 3;
constexpr unsigned kProgramSegments = 4;
constexpr unsigned kProgramConstantSegment = 5;
constexpr unsigned kProgramNamedData = 7;
constexpr unsigned kExecutionPlanName = 0;
constexpr unsigned kExecutionPlanValues = 2;
constexpr unsigned kExecutionPlanOutputs = 4;
constexpr unsigned kExecutionPlanChains = 5;
constexpr unsigned kExecutionPlanOperators = 6;
constexpr unsigned kExecutionPlanDelegates = 7;
constexpr unsigned kEValueValType = 0;  // the tag of the union `val`
constexpr unsigned kEValueVal = 1;
constexpr uint8_t kKernelTypesTensor = 5;
constexpr uint8_t kKernelTypesString = 6;
constexpr uint8_t kKernelTypesTensorList = 10;
constexpr uint8_t kKernelTypesOptionalTensorList = 11;
constexpr unsigned kStringStringVal = 0;
constexpr unsigned kTensorListItems = 0;  // the same with optional ones
constexpr unsigned kTensorScalarType = 0;
constexpr unsigned kTensorStorageOffset = 1;
constexpr unsigned kTensorSizes = 2;
constexpr unsigned kTensorDimOrder = 3;
constexpr unsigned kTensorDataBufferIdx = 5;
constexpr unsigned kTensorAllocationInfo = 6;
constexpr unsigned kTensorExtraTensorInfo = 9;
constexpr unsigned kExtraTensorInfoFullyQualifiedName = 1;
constexpr unsigned kExtraTensorInfoLocation = 2;
constexpr uint8_t kTensorDataLocationSegment = 0;
constexpr unsigned kSubsegmentOffsetsSegmentIndex = 0;
constexpr unsigned kSubsegmentOffsetsOffsets = 1;
constexpr unsigned kDelegateDataData = 0;
constexpr unsigned kBackendDelegateId = 0;
constexpr unsigned kBackendDelegateProcessed = 1;
constexpr unsigned kDataReferenceLocation = 0;
constexpr unsigned kDataReferenceIndex = 1;
constexpr uint8_t kDataLocationInline = 0;
constexpr uint8_t kDataLocationSegment = 1;
constexpr unsigned kChainInstructions = 2;
constexpr unsigned kInstructionType = 0;
constexpr unsigned kInstructionArguments = 1;
constexpr uint8_t kInstructionIsKernelCall = 1;
constexpr uint8_t kInstructionIsDelegateCall = 2;
constexpr unsigned kKernelCallOpIndex = 0;  // this and the next are the same of a DelegateCall
constexpr unsigned kKernelCallArgs = 1;
constexpr unsigned kOperatorName = 0;

// The same of extension/flat_tensor/serialize/flat_tensor.fbs.
constexpr unsigned kFlatTensorVersion = 0;
constexpr unsigned kFlatTensorSegments = 1;
constexpr unsigned kFlatTensorNamedData = 2;
constexpr unsigned kNamedDataKey = 0;  // this and the next are the same in both
constexpr unsigned kNamedDataSegmentIndex = 1;
constexpr unsigned kNamedDataTensorLayout = 2;
constexpr unsigned kTensorLayoutScalarType = 0;
constexpr unsigned kTensorLayoutSizes = 1;
constexpr unsigned kTensorLayoutDimOrder = 2;

// DataSegment is the same in both.
constexpr unsigned kDataSegmentOffset = 0;
constexpr unsigned kDataSegmentSize = 1;

constexpr size_t kMaxTensorRank = 16;  // ExecuTorch's kTensorDimensionLimit

// Far above what programs have. A description of some 40 bytes becomes a record of several hundred,
// which comes from the ordinary allocator.
constexpr size_t kMaxDescriptions = size_t{1} << 18;

}  // namespace shira
