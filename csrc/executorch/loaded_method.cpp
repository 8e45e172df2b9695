// Loading a method, and running it with values of ours.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/loaded_method.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "executorch/log_capture.h"

namespace shira {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

std::optional<ElementType> element_type_of(ScalarType type) {
  switch (type) {
#define X(name, bytes, scalar_type) \
  case ScalarType::scalar_type:     \
    return ElementType::name;
#include "executorch/element_types.def"
#undef X
    default:
      return std::nullopt;
  }
}

ScalarType scalar_type_of(ElementType type) {
  static constexpr ScalarType kTypes[] = {
#define X(name, bytes, scalar_type) ScalarType::scalar_type,
#include "executorch/element_types.def"
#undef X
  };
  return kTypes[static_cast<size_t>(type)];
}

/// What a list of dimensions leaves out when it is empty.
std::vector<uint8_t> whole_dim_order(const std::vector<uint8_t>& dim_order, size_t rank) {
  if (!dim_order.empty() || rank == 0) return dim_order;
  std::vector<uint8_t> row_major(rank);
  std::iota(row_major.begin(), row_major.end(), uint8_t{0});
  return row_major;
}

ValueInfo describe(et::Result<et::Tag> tag, const et::Result<et::TensorInfo>& tensor) {
  ValueInfo info;
  std::optional<ElementType> type;
  info.is_supported = tag.ok();
  if (!tag.ok()) return info;
  switch (*tag) {
    case et::Tag::None:
      info.kind = Value::Kind::none;
      break;
    case et::Tag::Int:
      info.kind = Value::Kind::integer;
      break;
    case et::Tag::Double:
      info.kind = Value::Kind::real;
      break;
    case et::Tag::Bool:
      info.kind = Value::Kind::boolean;
      break;
    case et::Tag::String:
      info.kind = Value::Kind::text;
      break;
    case et::Tag::Tensor: {
      info.kind = Value::Kind::tensor;
      if (tensor.ok()) type = element_type_of(tensor->scalar_type());
      info.is_supported = type.has_value();
      if (!type) break;
      info.element_type = *type;
      info.sizes.assign(tensor->sizes().begin(), tensor->sizes().end());
      info.dim_order.assign(tensor->dim_order().begin(), tensor->dim_order().end());
      break;
    }
    default:
      info.is_supported = false;
  }
  return info;
}

std::string describe(const Value& value) {
  switch (value.kind) {
    case Value::Kind::none:
      return "nothing";
    case Value::Kind::integer:
      return "an integer";
    case Value::Kind::real:
      return "a real number";
    case Value::Kind::boolean:
      return "a boolean";
    case Value::Kind::text:
      return "a text";
    case Value::Kind::tensor:
      break;
  }
  std::string text = std::string(element_name(value.element_type)) + "[";
  for (size_t i = 0; i < value.sizes.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(value.sizes[i]);
  }
  return text + "]";
}

/// A tensor over bytes of the caller's, for the length of one pass.
struct TensorView {
  std::vector<TensorImpl::SizesType> sizes;
  std::vector<TensorImpl::DimOrderType> dim_order;
  std::vector<TensorImpl::StridesType> strides;
  std::unique_ptr<TensorImpl> impl;

  /// REQUIRES: check_inputs() has found every size within those of the method.
  explicit TensorView(const Value& value)
      : sizes(value.sizes.begin(), value.sizes.end()),
        dim_order(whole_dim_order(value.dim_order, value.sizes.size())),
        strides(sizes.size()) {
    TensorImpl::StridesType stride = 1;
    for (size_t i = dim_order.size(); i-- > 0;) {
      strides[dim_order[i]] = stride;
      stride *= std::max(sizes[dim_order[i]], 1);
    }
    // Methods read their inputs only.
    impl = std::make_unique<TensorImpl>(
        scalar_type_of(value.element_type), static_cast<ssize_t>(sizes.size()), sizes.data(),
        const_cast<void*>(value.data), dim_order.data(), strides.data());
  }
};

Result<Value> copy_tensor(const Tensor& tensor) {
  const std::optional<ElementType> type = element_type_of(tensor.scalar_type());
  if (!type) return Error{Status::NOT_SUPPORTED, "an output has elements of an unknown type"};
  Value value = Value::of_tensor(*type, {tensor.sizes().begin(), tensor.sizes().end()}, nullptr);
  value.dim_order.assign(tensor.dim_order().begin(), tensor.dim_order().end());
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(tensor.nbytes()));
  if (tensor.nbytes() > 0) std::memcpy(bytes.data(), tensor.const_data_ptr(), tensor.nbytes());
  const auto owner = std::make_shared<Array<uint8_t>>(std::move(bytes));
  value.data = owner->data();
  value.owner = owner;
  return value;
}

Result<Value> copy_output(const et::EValue& output) {
  if (output.isTensor()) return copy_tensor(output.toTensor());
  if (output.isInt()) return Value::of_integer(output.toInt());
  if (output.isDouble()) return Value::of_real(output.toDouble());
  if (output.isBool()) return Value::of_boolean(output.toBool());
  Value value;
  if (output.isNone()) return value;
  if (!output.isString())
    return Error{Status::NOT_SUPPORTED, "an output is neither a tensor nor a number nor a text"};
  value.kind = Value::Kind::text;
  value.text = std::string(output.toString());
  return value;
}

}  // namespace

Result<MethodInfo> describe_method(const et::MethodMeta& meta) {
  MethodInfo info;
  info.name = meta.name();
  for (size_t i = 0; i < meta.num_inputs(); ++i)
    info.inputs.push_back(describe(meta.input_tag(i), meta.input_tensor_meta(i)));
  for (size_t i = 0; i < meta.num_outputs(); ++i)
    info.outputs.push_back(describe(meta.output_tag(i), meta.output_tensor_meta(i)));
  for (size_t i = 0; i < meta.num_backends(); ++i) {
    const et::Result<const char*> backend = meta.get_backend_name(i);
    if (!backend.ok()) return Error{Status::BAD_PROGRAM_FILE, "a delegate has no name"};
    info.backends.emplace_back(*backend);
  }
  return info;
}

Result<std::unique_ptr<LoadedMethod>> LoadedMethod::load(const et::Program& program,
                                                         const std::string& name,
                                                         const et::NamedDataMap* data,
                                                         const et::LoadBackendOptionsMap& options) {
  const LogCapture capture;
  const std::string what = "ExecuTorch cannot load '" + name + "'";
  const et::Result<et::MethodMeta> meta = program.method_meta(name.c_str());
  if (!meta.ok()) return capture.error(Status::BAD_PROGRAM_FILE, what, meta.error());
  SHIRA_ASSIGN(MethodInfo info, describe_method(*meta));
  std::unique_ptr<LoadedMethod> loaded(new LoadedMethod(std::move(info)));
  SHIRA_TRY(loaded->plan_memory(*meta));
  loaded->memory_manager_ = std::make_unique<et::MemoryManager>(
      &loaded->method_allocator_, loaded->planned_memory_.get(), &loaded->temporary_allocator_);
  et::Result<et::Method> method =
      program.load_method(name.c_str(), loaded->memory_manager_.get(), nullptr, data, &options);
  if (!method.ok()) return capture.error(Status::BAD_PROGRAM_FILE, what, method.error());
  loaded->method_ = std::make_unique<et::Method>(std::move(*method));
  SHIRA_TRY(loaded->give_outputs_memory(*meta));
  return loaded;
}

Result<void> LoadedMethod::plan_memory(const et::MethodMeta& meta) {
  for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
    const et::Result<int64_t> size_bytes = meta.memory_planned_buffer_size(i);
    if (!size_bytes.ok() || *size_bytes < 0)
      return Error{Status::BAD_PROGRAM_FILE, "the size of a planned buffer is not there"};
    SHIRA_ASSIGN(Array<uint8_t> buffer, Array<uint8_t>::make(static_cast<size_t>(*size_bytes)));
    // Programs rely on it: a KV cache without an initial value begins as zeros.
    std::memset(buffer.data(), 0, buffer.size());
    buffers_.push_back(std::move(buffer));
    spans_.emplace_back(buffers_.back().data(), buffers_.back().size());
  }
  planned_memory_ = std::make_unique<et::HierarchicalAllocator>(
      et::Span<et::Span<uint8_t>>(spans_.data(), spans_.size()));
  return {};
}

/// An exporter may leave outputs without a place in the planned memory.
Result<void> LoadedMethod::give_outputs_memory(const et::MethodMeta& meta) {
  for (size_t i = 0; i < meta.num_outputs(); ++i) {
    const et::Result<et::TensorInfo> tensor = meta.output_tensor_meta(i);
    if (!tensor.ok() || tensor->is_memory_planned()) continue;
    SHIRA_ASSIGN(Array<uint8_t> buffer, Array<uint8_t>::make(tensor->nbytes()));
    // Refused where the output is an input or a constant, which has its place.
    if (method_->set_output_data_ptr(buffer.data(), buffer.size(), i) == et::Error::Ok)
      buffers_.push_back(std::move(buffer));
  }
  return {};
}

const void* LoadedMethod::find_constant(const std::string& name) {
  const LogCapture capture;
  const et::Result<Tensor> tensor = method_->get_attribute(name);
  return tensor.ok() ? tensor->const_data_ptr() : nullptr;
}

Result<void> LoadedMethod::check_inputs(const std::vector<Value>& inputs) const {
  const auto refuse = [&](const std::string& what) {
    return Error{Status::INVALID_ARGUMENT, "'" + info_.name + "' " + what};
  };
  if (inputs.size() != info_.inputs.size()) {
    return refuse("takes " + std::to_string(info_.inputs.size()) +
                  (info_.inputs.size() == 1 ? " input, not " : " inputs, not ") +
                  std::to_string(inputs.size()));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ValueInfo& wanted = info_.inputs[i];
    const std::string input = "input " + std::to_string(i);
    if (!wanted.is_supported) return refuse("takes as " + input + " what cannot be given here");
    Value expected;
    expected.kind = wanted.kind;
    expected.element_type = wanted.element_type;
    expected.sizes = wanted.sizes;
    const bool is_tensor = wanted.kind == Value::Kind::tensor;
    bool fits = inputs[i].kind == wanted.kind;
    if (fits && is_tensor) {
      const std::vector<int64_t>& sizes = inputs[i].sizes;
      fits = inputs[i].element_type == wanted.element_type && sizes.size() == wanted.sizes.size() &&
             std::equal(sizes.begin(), sizes.end(), wanted.sizes.begin(),
                        [](int64_t size, int64_t most) { return size >= 0 && size <= most; }) &&
             whole_dim_order(inputs[i].dim_order, sizes.size()) ==
                 whole_dim_order(wanted.dim_order, sizes.size());
    }
    if (!fits) {
      return refuse("takes as " + input + (is_tensor ? " at most " : " ") + describe(expected) +
                    ", not " + describe(inputs[i]));
    }
    if (is_tensor && inputs[i].data == nullptr && inputs[i].size_bytes() > 0)
      return refuse("got no bytes for " + input);
  }
  return {};
}

Result<std::vector<Value>> LoadedMethod::execute(const std::vector<Value>& inputs) {
  SHIRA_TRY(check_inputs(inputs));
  std::vector<std::unique_ptr<TensorView>> views;
  std::vector<et::EValue> arguments;
  for (const Value& input : inputs) {
    switch (input.kind) {
      case Value::Kind::tensor:
        views.push_back(std::make_unique<TensorView>(input));
        arguments.emplace_back(Tensor(views.back()->impl.get()));
        break;
      case Value::Kind::integer:
        arguments.emplace_back(input.integer);
        break;
      case Value::Kind::real:
        arguments.emplace_back(input.real);
        break;
      case Value::Kind::boolean:
        arguments.emplace_back(input.boolean);
        break;
      case Value::Kind::none:
        arguments.emplace_back();
        break;
      case Value::Kind::text:
        return Error{Status::NOT_SUPPORTED, "a text cannot be an input"};
    }
  }

  const std::lock_guard<std::mutex> lock(mutex_);
  const LogCapture capture;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const et::Error code = method_->set_input(arguments[i], i);
    if (code == et::Error::Ok) continue;
    return capture.error(
        Status::INVALID_ARGUMENT,
        "ExecuTorch refused input " + std::to_string(i) + ", " + describe(inputs[i]), code);
  }
  if (const et::Error code = method_->execute(); code != et::Error::Ok) {
    return capture.error(Status::INVALID_ARGUMENT, "ExecuTorch cannot run '" + info_.name + "'",
                         code);
  }
  std::vector<Value> outputs;
  for (size_t i = 0; i < method_->outputs_size(); ++i) {
    SHIRA_ASSIGN(Value output, copy_output(method_->get_output(i)));
    outputs.push_back(std::move(output));
  }
  return outputs;
}

}  // namespace shira
