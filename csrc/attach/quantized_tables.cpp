// Finds the calls of quantized operators in a program's methods, and what they read.
// SPDX-License-Identifier: Apache-2.0
#include "attach/quantized_tables.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <utility>

#include "attach/flatbuffer.h"
#include "attach/program_schema.h"
#include "base/checked_math.h"

namespace shira {
namespace {

constexpr uint8_t kByte = 0;
constexpr uint8_t kChar = 1;
constexpr uint8_t kHalf = 5;
constexpr uint8_t kFloat = 6;
constexpr std::string_view kUnnamed = "(an unnamed constant)";
constexpr uint64_t kUseCostBytes = 32;  // of what is kept of a call

/// An operator whose argument `weight_argument` has the codes; scales and zero points come next.
struct TableOperator {
  const char* name;
  uint8_t weight_argument;
  uint8_t scalar_type;
  WeightStorage storage;
};
constexpr TableOperator kOperators[] = {
    {"quantized_decomposed::embedding_4bit", 0, kByte, WeightStorage::nibble_table},
    {"quantized_decomposed::embedding_byte", 0, kChar, WeightStorage::byte_table},
    {"quantized_decomposed::embedding_2bit", 0, kByte, WeightStorage::unknown},
    {"quantized_decomposed::mixed_linear", 1, kChar, WeightStorage::byte_table},
    {"quantized_decomposed::mixed_mm", 1, kChar, WeightStorage::byte_table},
};

class CallReader {
 public:
  CallReader(ProgramSource* program, const NamedData& named_data)
      : program_(*program), buffer_(program->buffer()), named_data_(named_data) {
    const FlatTable constants = program_.root().table(kProgramConstantSegment);
    offsets_ = constants.vector(kSubsegmentOffsetsOffsets, sizeof(uint64_t));
    const auto segment_index = constants.scalar<uint32_t>(kSubsegmentOffsetsSegmentIndex);
    if (offsets_.count == 0) return;
    if (segment_index < program_.segments().size()) {
      segment_ = program_.segments()[segment_index];
    } else {
      buffer_.fail(constants.position(), "there is no segment " + std::to_string(segment_index));
    }
  }

  std::vector<QuantizedTable> read() {
    const FlatVector plans = program_.root().vector(kProgramExecutionPlan, sizeof(uint32_t));
    for (uint32_t p = 0; p < plans.count && buffer_.ok(); ++p) {
      read_plan(program_.root().item(plans, p));
    }
    std::vector<QuantizedTable> tables;
    for (const Use& use : uses_) {
      if (!buffer_.ok()) break;
      tables.push_back({make_weight(use), {use.method}});
    }
    return tables;
  }

 private:
  struct Constant {
    uint32_t file_index = 0;
    FileRange room;  // from its first byte to the end of where it has to lie
    FlatTable tensor;
    std::string_view name, other_name;
    std::string_view other_reader;
    const TableOperator* reader = nullptr;
  };

  struct Use {
    const TableOperator* reader;
    size_t constant;
    FlatTable scales, zero_points;  // their EValues
    std::string_view method;
  };

  void read_plan(const FlatTable& plan) {
    values_ = plan.vector(kExecutionPlanValues, sizeof(uint32_t));
    plan_ = plan;
    method_ = plan.string(kExecutionPlanName);
    // ExecuTorch ends the process where an output is none of the values.
    const FlatVector outputs = plan.vector(kExecutionPlanOutputs, sizeof(int32_t));
    for (uint32_t i = 0; i < outputs.count && buffer_.ok(); ++i) {
      if (value_number(outputs, i) == UINT32_MAX)
        buffer_.fail(outputs.position, "an output of a method is no value");
    }
    constant_of_value_.assign(values_.count, kNone);
    std::vector<FlatTable> lists;
    for (uint32_t v = 0; v < values_.count && buffer_.ok(); ++v) {
      const FlatTable value = plan.item(values_, v);
      const auto type = value.scalar<uint8_t>(kEValueValType);
      if (type == kKernelTypesTensor) {
        constant_of_value_[v] = find_codes(value.table(kEValueVal));
      } else if (type == kKernelTypesTensorList || type == kKernelTypesOptionalTensorList) {
        lists.push_back(value.table(kEValueVal));
      }
    }
    for (const FlatTable& list : lists) {
      const FlatVector items = list.vector(kTensorListItems, sizeof(int32_t));
      for (uint32_t i = 0; i < items.count; ++i) mark_read(items, i, "a list of tensors");
    }
    read_operators(plan);
    const FlatVector chains = plan.vector(kExecutionPlanChains, sizeof(uint32_t));
    for (uint32_t c = 0; c < chains.count && buffer_.ok(); ++c) {
      const FlatTable chain = plan.item(chains, c);
      const FlatVector instructions = chain.vector(kChainInstructions, sizeof(uint32_t));
      for (uint32_t i = 0; i < instructions.count && buffer_.ok(); ++i) {
        read_instruction(chain.item(instructions, i));
      }
    }
  }

  void read_operators(const FlatTable& plan) {
    operators_.clear();
    const FlatVector operators = plan.vector(kExecutionPlanOperators, sizeof(uint32_t));
    for (uint32_t i = 0; i < operators.count && buffer_.ok(); ++i) {
      const std::string_view name = plan.item(operators, i).string(kOperatorName);
      const auto* known = std::find_if(std::begin(kOperators), std::end(kOperators),
                                       [name](const TableOperator& o) { return o.name == name; });
      operators_.emplace_back(name, known == std::end(kOperators) ? nullptr : known);
    }
  }

  void read_instruction(const FlatTable& instruction) {
    const auto type = instruction.scalar<uint8_t>(kInstructionType);
    if (type != kInstructionIsKernelCall && type != kInstructionIsDelegateCall) return;
    const FlatTable call = instruction.table(kInstructionArguments);
    // Both kinds of calls have an index and then the arguments.
    const FlatVector arguments = call.vector(kKernelCallArgs, sizeof(int32_t));
    std::string_view name = "a delegate";
    const TableOperator* reader = nullptr;
    if (type == kInstructionIsKernelCall) {
      const auto index = call.scalar<uint32_t>(kKernelCallOpIndex);
      if (index >= operators_.size()) {
        return buffer_.fail(call.position(), "there is no operator " + std::to_string(index));
      }
      std::tie(name, reader) = operators_[index];
    }
    for (uint32_t i = 0; i < arguments.count && buffer_.ok(); ++i) {
      if (reader == nullptr || i != reader->weight_argument || i + 2 >= arguments.count) {
        mark_read(arguments, i, name);
      } else if (const uint32_t constant = constant_of(arguments, i); constant != kNone) {
        constants_[constant].reader = reader;
        add_use(
            {reader, constant, value_of(arguments, i + 1), value_of(arguments, i + 2), method_});
      }
    }
  }

  void add_use(const Use& use) {
    if (uses_.size() >= kMaxDescriptions) {
      return buffer_.fail(plan_.position(), "more than " + std::to_string(kMaxDescriptions) +
                                                " calls of quantized operators");
    }
    if (buffer_.pay(plan_.position(), kUseCostBytes)) uses_.push_back(use);
  }

  /// The value number that stands at `index` of a list of them.
  uint32_t value_number(const FlatVector& list, uint32_t index) {
    const auto number = buffer_.number<uint32_t>(list.position + sizeof(int32_t) * uint64_t{index});
    // -1 stands for None in lists.
    if (number >= values_.count && number != UINT32_MAX) {
      buffer_.fail(list.position, "there is no value " + std::to_string(number));
    }
    return number < values_.count ? number : UINT32_MAX;
  }

  uint32_t constant_of(const FlatVector& list, uint32_t index) {
    const uint32_t number = value_number(list, index);
    return number == UINT32_MAX ? kNone : constant_of_value_[number];
  }

  FlatTable value_of(const FlatVector& list, uint32_t index) {
    const uint32_t number = value_number(list, index);
    return number == UINT32_MAX ? FlatTable() : plan_.item(values_, number);
  }

  void mark_read(const FlatVector& list, uint32_t index, std::string_view reader) {
    const uint32_t constant = constant_of(list, index);
    if (constant != kNone) constants_[constant].other_reader = reader;
  }

  /// Number of the constant that `tensor` is if it may be a table of codes.
  uint32_t find_codes(const FlatTable& tensor) {
    const auto type = tensor.scalar<uint8_t>(kTensorScalarType);
    if (type != kByte && type != kChar) return kNone;
    Constant constant;
    if (!find_bytes(tensor, &constant)) return kNone;
    const auto [place, is_new] = constant_of_place_.emplace(
        std::pair(constant.file_index, constant.room.offset_bytes), constants_.size());
    if (is_new) {
      constants_.push_back(constant);
    } else if (constants_[place->second].name != constant.name) {
      constants_[place->second].other_name = constant.name.empty() ? kUnnamed : constant.name;
    }
    return static_cast<uint32_t>(place->second);
  }

  /// False when `tensor` is no constant, or lies in a file that was not given.
  bool find_bytes(const FlatTable& tensor, Constant* constant) {
    const FlatTable extra = tensor.table(kTensorExtraTensorInfo);
    const auto constant_index = tensor.scalar<uint32_t>(kTensorDataBufferIdx);
    if (tensor.table(kTensorAllocationInfo)) return false;
    constant->tensor = tensor;
    constant->name = extra.string(kExtraTensorInfoFullyQualifiedName);
    if (extra.scalar<uint8_t>(kExtraTensorInfoLocation) != kTensorDataLocationSegment) {
      const NamedData::Entry* entry = named_data_.find(constant->name);
      if (entry == nullptr) return false;
      constant->file_index = entry->bytes.file_index;
      constant->room = entry->bytes.range;
      return true;
    }
    if (constant_index == 0) return false;
    if (constant_index >= offsets_.count) {
      buffer_.fail(tensor.position(), "there is no constant " + std::to_string(constant_index));
      return false;
    }
    const auto offset =
        buffer_.number<uint64_t>(offsets_.position + sizeof(uint64_t) * uint64_t{constant_index});
    if (offset > segment_.size_bytes || tensor.scalar<int32_t>(kTensorStorageOffset) != 0) {
      buffer_.fail(tensor.position(), "a constant lies outside the constant segment");
      return false;
    }
    constant->room = {segment_.offset_bytes + offset, segment_.size_bytes - offset};
    return true;
  }

  ProgramWeight make_weight(const Use& use) {
    const Constant& constant = constants_[use.constant];
    ProgramWeight weight;
    weight.name = std::string(constant.name);
    weight.owner = use.reader->name;
    weight.shares_storage_with = std::string(constant.other_name);
    weight.why_not = table_obstacle(use, constant, &weight);
    if (!weight.why_not.empty()) return weight;
    if (constant.name.empty()) {
      weight.why_not = "the program gives it no name";
    } else if (!constant.other_reader.empty()) {
      weight.why_not = std::string(constant.other_reader) + " reads it too";
    } else if (constant.reader != use.reader) {
      weight.why_not = std::string(constant.reader->name) + " reads it too";
    }
    return weight;
  }

  /// Why the codes cannot be understood, or "" and all about them in `weight`.
  std::string table_obstacle(const Use& use, const Constant& constant, ProgramWeight* weight) {
    if (use.reader->storage == WeightStorage::unknown) return "its codes have 2 bits";
    if (constant.tensor.scalar<uint8_t>(kTensorScalarType) != use.reader->scalar_type) {
      return use.reader->scalar_type == kChar ? "its codes are unsigned" : "its codes are signed";
    }
    const std::vector<uint32_t> sizes = read_sizes(constant.tensor);
    if (sizes.size() != 2 || sizes[0] == 0 || sizes[1] == 0) return "it is no matrix";
    const bool is_nibbles = use.reader->storage == WeightStorage::nibble_table;
    const uint64_t columns = uint64_t{sizes[1]} * (is_nibbles ? 2 : 1);
    uint64_t numel = 0;
    if (!checked_mul(sizes[0], columns, &numel) || numel > UINT32_MAX) {
      return "it has more than 2^32 - 1 elements";
    }
    if (!is_row_major(constant.tensor, sizes)) return "its elements are not in row-major order";
    const uint64_t size_bytes = uint64_t{sizes[0]} * sizes[1];
    if (size_bytes > constant.room.size_bytes) {
      buffer_.fail(constant.tensor.position(), "a constant of " + std::to_string(size_bytes) +
                                                   " bytes has room for " +
                                                   std::to_string(constant.room.size_bytes));
      return {};
    }
    weight->storage = use.reader->storage;
    weight->dtype = is_nibbles ? Dtype::i4 : Dtype::i8;
    weight->dims = {sizes[0], static_cast<uint32_t>(columns)};
    weight->code_bias = is_nibbles ? 8 : 0;
    weight->codes = {constant.file_index, {constant.room.offset_bytes, size_bytes}};
    return scale_obstacle(use, weight);
  }

  std::string scale_obstacle(const Use& use, ProgramWeight* weight) {
    std::vector<uint32_t> sizes;
    if (!read_floats(use.scales, &sizes, &weight->scale_dtype, &weight->scales)) {
      return "its scales are no float constants";
    }
    const uint32_t group_count = sizes.size() == 2 ? sizes[1] : 1;
    if (sizes.empty() || sizes.size() > 2 || sizes[0] != weight->dims[0] || group_count == 0 ||
        weight->dims[1] % group_count != 0) {
      weight->scales = {};
      return "its scales do not fit its shape";
    }
    if (group_count > 1) weight->group_length = weight->dims[1] / group_count;
    if (use.zero_points.scalar<uint8_t>(kEValueValType) != kKernelTypesTensor) return {};
    std::vector<uint32_t> zero_sizes;
    Dtype dtype{};
    if (!read_floats(use.zero_points, &zero_sizes, &dtype, &weight->zero_points) ||
        zero_sizes != sizes || dtype != weight->scale_dtype) {
      weight->zero_points = {};
      return "its zero points are not like its scales";
    }
    return {};
  }

  /// A constant of f32 or f16, with all its bytes there.
  bool read_floats(const FlatTable& value, std::vector<uint32_t>* sizes, Dtype* dtype,
                   WeightBytes* bytes) {
    if (value.scalar<uint8_t>(kEValueValType) != kKernelTypesTensor) return false;
    const FlatTable tensor = value.table(kEValueVal);
    const auto type = tensor.scalar<uint8_t>(kTensorScalarType);
    Constant constant;
    if ((type != kFloat && type != kHalf) || !find_bytes(tensor, &constant)) return false;
    *dtype = type == kFloat ? Dtype::f32 : Dtype::f16;
    *sizes = read_sizes(tensor);
    uint64_t size_bytes = dtype_bytes(*dtype);
    for (const uint32_t size : *sizes) {
      if (!checked_mul(size_bytes, size, &size_bytes)) return false;
    }
    if (size_bytes > constant.room.size_bytes || !is_row_major(tensor, *sizes)) return false;
    *bytes = {constant.file_index, {constant.room.offset_bytes, size_bytes}};
    return true;
  }

  /// Empty for what has no sizes, or negative ones, or too many.
  std::vector<uint32_t> read_sizes(const FlatTable& tensor) {
    const FlatVector items = tensor.vector(kTensorSizes, sizeof(int32_t));
    std::vector<uint32_t> sizes;
    for (uint32_t i = 0; i < items.count && items.count <= kMaxTensorRank; ++i) {
      const auto size = buffer_.number<int32_t>(items.position + sizeof(int32_t) * uint64_t{i});
      if (size < 0) return {};
      sizes.push_back(static_cast<uint32_t>(size));
    }
    return sizes;
  }

  bool is_row_major(const FlatTable& tensor, const std::vector<uint32_t>& sizes) {
    const FlatVector order = tensor.vector(kTensorDimOrder, sizeof(uint8_t));
    if (order.count != sizes.size()) return false;
    for (uint32_t i = 0; i < order.count; ++i) {
      if (buffer_.number<uint8_t>(order.position + i) != i) return false;
    }
    return true;
  }

  static constexpr uint32_t kNone = UINT32_MAX;

  ProgramSource& program_;
  Flatbuffer& buffer_;
  const NamedData& named_data_;
  FlatVector offsets_;  // of constants, in segment_
  FileRange segment_;
  std::vector<Constant> constants_;
  std::map<std::pair<uint32_t, uint64_t>, size_t> constant_of_place_;
  std::vector<Use> uses_;
  // Of the plan that is being read:
  FlatTable plan_;
  std::string_view method_;
  FlatVector values_;
  std::vector<uint32_t> constant_of_value_;
  std::vector<std::pair<std::string_view, const TableOperator*>> operators_;
};

}  // namespace

std::vector<QuantizedTable> read_quantized_tables(ProgramSource* program,
                                                  const NamedData& named_data) {
  return CallReader(program, named_data).read();
}

}  // namespace shira
