// The schema's tables, walked with every offset, count and length checked.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_tables.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "attach/flatbuffer.h"
#include "attach/program_schema.h"
#include "base/checked_math.h"
#include "base/dtype.h"

namespace shira {
namespace {

/// schema/scalar_type.fbs: what a code means, how large an element is, and whether it is patchable.
struct ScalarType {
  uint8_t code;
  const char* name;
  uint8_t bytes;
  bool patchable;
  Dtype dtype;
};
constexpr ScalarType kScalarTypes[] = {
    {0, "uint8", 1, false, {}},          {1, "int8", 1, false, {}},
    {2, "int16", 2, false, {}},          {3, "int32", 4, false, {}},
    {4, "int64", 8, false, {}},          {5, "float16", 2, true, Dtype::f16},
    {6, "float32", 4, true, Dtype::f32}, {7, "float64", 8, false, {}},
    {11, "bool", 1, false, {}},          {15, "bfloat16", 2, true, Dtype::bf16},
    {27, "uint16", 2, false, {}},        {28, "uint32", 4, false, {}},
    {29, "uint64", 8, false, {}},
};

/// One pass over the tables of a file; the first problem ends it.
class TableReader {
 public:
  TableReader(const ProgramHead& head, Flatbuffer* buffer, ProgramFile* file)
      : head_(head), buffer_(buffer), file_(file) {}

  Result<void> read() {
    file_->loads.push_back({0, head_.flatbuffer_end_bytes});
    const FlatTable root = FlatTable::root(buffer_);
    // The one schema version there has been.
    static_assert(kProgramVersion == kFlatTensorVersion);
    if (const auto version = root.scalar<uint32_t>(kProgramVersion); version != 0) {
      buffer_->fail(root.position(), "schema version " + std::to_string(version) + ", expected 0");
    }
    SHIRA_ASSIGN(const std::vector<FileRange> segments,
                 read_segments(head_, root, file_->path, file_->file_bytes, buffer_));
    head_.is_ptd ? read_flat_tensor(root, segments) : read_program(root, segments);
    if (!buffer_->ok()) {
      return bad_program_file(file_->path, buffer_->problem_offset_bytes(), buffer_->problem());
    }
    return {};
  }

 private:
  void read_program(const FlatTable& root, const std::vector<FileRange>& segments) {
    file_->loads.insert(file_->loads.end(), segments.begin(), segments.end());
    const FlatTable constants = root.table(kProgramConstantSegment);
    const FlatVector offsets = constants.vector(kSubsegmentOffsetsOffsets, sizeof(uint64_t));
    const auto segment_index = constants.scalar<uint32_t>(kSubsegmentOffsetsSegmentIndex);
    if (offsets.count == 0) return;
    if (segment_index >= segments.size()) {
      return buffer_->fail(constants.position(),
                           "the constants lie in segment " + std::to_string(segment_index) +
                               ", and there are " + std::to_string(segments.size()));
    }
    file_->constants_offset_bytes = segments[segment_index].offset_bytes;
    file_->constants_size_bytes = segments[segment_index].size_bytes;
    const FlatVector plans = root.vector(kProgramExecutionPlan, sizeof(uint32_t));
    for (uint32_t p = 0; p < plans.count && buffer_->ok(); ++p) {
      const FlatTable plan = root.item(plans, p);
      const FlatVector values = plan.vector(kExecutionPlanValues, sizeof(uint32_t));
      for (uint32_t v = 0; v < values.count && buffer_->ok(); ++v) {
        const FlatTable value = plan.item(values, v);
        if (value.scalar<uint8_t>(kEValueValType) == kKernelTypesTensor) {
          read_constant(value.table(kEValueVal), offsets, segments[segment_index]);
        }
      }
    }
  }

  /// A tensor without memory of its own and with data in the constant segment is a constant. One
  /// without a name is kept for now: it may share its bytes with a named one.
  void read_constant(const FlatTable& table, const FlatVector& offsets, const FileRange& segment) {
    const FlatTable extra = table.table(kTensorExtraTensorInfo);
    const auto constant_index = table.scalar<uint32_t>(kTensorDataBufferIdx);
    if (constant_index == 0 || table.table(kTensorAllocationInfo) ||
        extra.scalar<uint8_t>(kExtraTensorInfoLocation) != kTensorDataLocationSegment) {
      return;
    }
    if (constant_index >= offsets.count) {
      return buffer_->fail(table.position(),
                           "there is no constant " + std::to_string(constant_index));
    }
    if (table.scalar<int32_t>(kTensorStorageOffset) != 0) {
      return buffer_->fail(table.position(), "a constant has a storage offset, which must be 0");
    }
    const auto offset =
        buffer_->number<uint64_t>(offsets.position + sizeof(uint64_t) * uint64_t{constant_index});
    if (offset > segment.size_bytes) {
      return buffer_->fail(table.position(), "a constant lies outside the constant segment");
    }
    add_tensor(table, {kTensorScalarType, kTensorSizes, kTensorDimOrder},
               extra.string(kExtraTensorInfoFullyQualifiedName),
               {segment.offset_bytes + offset, segment.size_bytes - offset}, segment);
  }

  void read_flat_tensor(const FlatTable& root, const std::vector<FileRange>& segments) {
    const FlatVector entries = root.vector(kFlatTensorNamedData, sizeof(uint32_t));
    for (uint32_t i = 0; i < entries.count && buffer_->ok(); ++i) {
      const FlatTable entry = root.item(entries, i);
      const auto segment_index = entry.scalar<uint32_t>(kNamedDataSegmentIndex);
      if (segment_index >= segments.size()) {
        return buffer_->fail(entry.position(),
                             "there is no segment " + std::to_string(segment_index));
      }
      const FileRange& segment = segments[segment_index];
      file_->loads.push_back(segment);
      // Without a layout it is a backend's blob, not a tensor.
      if (const FlatTable layout = entry.table(kNamedDataTensorLayout)) {
        add_tensor(layout, {kTensorLayoutScalarType, kTensorLayoutSizes, kTensorLayoutDimOrder},
                   entry.string(kNamedDataKey), segment, segment);
      }
    }
  }

  struct LayoutFields {
    unsigned scalar_type, sizes, dim_order;
  };

  /// Adds the tensor that `table` describes; its bytes start where `room` does and must fit in it.
  void add_tensor(const FlatTable& table, const LayoutFields& fields, std::string_view name,
                  const FileRange& room, const FileRange& load) {
    if (file_->tensors.size() >= kMaxDescriptions) {
      return buffer_->fail(table.position(), "the file describes more than " +
                                                 std::to_string(kMaxDescriptions) + " constants");
    }
    const auto code = table.scalar<uint8_t>(fields.scalar_type);
    const FlatVector sizes = table.vector(fields.sizes, sizeof(int32_t));
    const FlatVector dim_order = table.vector(fields.dim_order, sizeof(uint8_t));
    if (sizes.count > kMaxTensorRank || dim_order.count != sizes.count) {
      return buffer_->fail(table.position(), "a constant of rank " + std::to_string(sizes.count) +
                                                 " has a dimension order of length " +
                                                 std::to_string(dim_order.count));
    }
    const auto* type = std::find_if(std::begin(kScalarTypes), std::end(kScalarTypes),
                                    [code](const ScalarType& t) { return t.code == code; });
    const bool known = type != std::end(kScalarTypes);
    ProgramTensor tensor;
    tensor.name = std::string(name);
    tensor.offset_bytes = room.offset_bytes;
    tensor.size_bytes = known ? type->bytes : 1;
    tensor.load = load;
    for (uint32_t i = 0; i < sizes.count; ++i) {
      const auto extent = buffer_->number<int32_t>(sizes.position + sizeof(int32_t) * uint64_t{i});
      if (extent < 0 ||
          !checked_mul(tensor.size_bytes, static_cast<uint64_t>(extent), &tensor.size_bytes)) {
        return buffer_->fail(sizes.position, "a constant has an impossible shape");
      }
      tensor.dims.push_back(static_cast<uint32_t>(extent));
    }
    if (tensor.size_bytes > room.size_bytes) {
      return buffer_->fail(table.position(), "a constant of " + std::to_string(tensor.size_bytes) +
                                                 " bytes has room for " +
                                                 std::to_string(room.size_bytes));
    }
    if (known && type->patchable) {
      tensor.dtype = type->dtype;
    } else {
      forbid(&tensor, known ? std::string("its dtype is ") + type->name
                            : "its dtype has the unknown code " + std::to_string(code));
    }
    if (!is_row_major(dim_order, tensor.dims))
      forbid(&tensor, "its elements are not in row-major order");
    if (tensor.size_bytes == 0) forbid(&tensor, "it is empty");
    if (tensor.dims.empty() || tensor.dims.size() > kMaxRank) {
      forbid(&tensor, "its rank is " + std::to_string(tensor.dims.size()) + ", not 1 to " +
                          std::to_string(kMaxRank));
    }
    // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): no element of kScalarTypes has 0 bytes.
    if (known && tensor.offset_bytes % type->bytes != 0) forbid(&tensor, "it is misaligned");
    if (buffer_->ok()) file_->tensors.push_back(std::move(tensor));
  }

  /// True when the dimensions of more than one element lie in memory in their order; where a
  /// dimension of one element stands makes no difference.
  bool is_row_major(const FlatVector& dim_order, const std::vector<uint32_t>& dims) {
    uint32_t seen = 0;
    int last = -1;
    bool ascending = true;
    for (uint32_t i = 0; i < dim_order.count; ++i) {
      const auto dim = buffer_->number<uint8_t>(dim_order.position + i);
      if (dim >= dims.size() || ((seen >> dim) & 1U) != 0) {
        buffer_->fail(dim_order.position, "a dimension order is not a permutation");
        return false;
      }
      seen |= 1U << dim;
      if (dims[dim] == 1) continue;
      ascending = ascending && static_cast<int>(dim) > last;
      last = dim;
    }
    return ascending;
  }

  static void forbid(ProgramTensor* tensor, std::string why_not) {
    if (tensor->patchable) tensor->why_not = std::move(why_not);
    tensor->patchable = false;
  }

  const ProgramHead& head_;
  Flatbuffer* buffer_;
  ProgramFile* file_;
};

}  // namespace

Result<void> read_program_tables(const ProgramHead& head, const uint8_t* bytes, ProgramFile* file) {
  Flatbuffer buffer(bytes, static_cast<size_t>(head.flatbuffer_end_bytes));
  return TableReader(head, &buffer, file).read();
}

Result<std::vector<FileRange>> read_segments(const ProgramHead& head, const FlatTable& root,
                                             const std::string& path, uint64_t file_bytes,
                                             Flatbuffer* buffer) {
  std::vector<FileRange> segments;
  const FlatVector items =
      root.vector(head.is_ptd ? kFlatTensorSegments : kProgramSegments, sizeof(uint32_t));
  for (uint32_t i = 0; i < items.count && buffer->ok(); ++i) {
    const FlatTable item = root.item(items, i);
    FileRange segment;
    segment.size_bytes = item.scalar<uint64_t>(kDataSegmentSize);
    uint64_t end_bytes = 0;
    if (!checked_add(head.segments_offset_bytes, item.scalar<uint64_t>(kDataSegmentOffset),
                     &segment.offset_bytes) ||
        !checked_add(segment.offset_bytes, segment.size_bytes, &end_bytes)) {
      buffer->fail(item.position(), "the end of a segment overflows");
    } else if (segment.size_bytes != 0 && segment.offset_bytes < head.flatbuffer_end_bytes) {
      buffer->fail(item.position(), "a segment begins at byte " +
                                        std::to_string(segment.offset_bytes) +
                                        ", before the end of the flatbuffer at byte " +
                                        std::to_string(head.flatbuffer_end_bytes));
    } else if (end_bytes > file_bytes && buffer->ok()) {
      return truncated_program_file(path, end_bytes, file_bytes);
    }
    segments.push_back(segment);
  }
  return segments;
}

}  // namespace shira
