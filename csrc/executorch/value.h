// Value: what a method of an ExecuTorch program takes and gives, without ExecuTorch's headers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace shira {

/// The types of tensor elements that a program may take or give.
enum class ElementType : uint8_t {
#define X(name, bytes, scalar_type) name,
#include "executorch/element_types.def"
#undef X
};

size_t element_bytes(ElementType type);
const char* element_name(ElementType type);  // "float32", as numpy calls it; "bfloat16"

/// A tensor, a number, a text or nothing.
struct Value {
  enum class Kind : uint8_t { none, tensor, integer, real, boolean, text };

  Kind kind = Kind::none;

  // A tensor: elements one behind the other in `dim_order` (the outermost dimension first; empty
  // for row-major). An input's bytes are the caller's and need no owner; an output's are its own.
  ElementType element_type = ElementType::float32;
  std::vector<int64_t> sizes;
  std::vector<uint8_t> dim_order;
  const void* data = nullptr;
  std::shared_ptr<const void> owner;

  int64_t integer = 0;
  double real = 0.0;
  bool boolean = false;
  std::string text;

  /// The product of `sizes`, times the size of an element.
  uint64_t size_bytes() const;

  static Value of_tensor(ElementType type, std::vector<int64_t> sizes, const void* data);
  static Value of_integer(int64_t number);
  static Value of_real(double number);
  static Value of_boolean(bool truth);
};

/// What a method declares for one input or output. Sizes are upper bounds where it is dynamic.
struct ValueInfo {
  Value::Kind kind = Value::Kind::none;
  bool is_supported = true;  // false: a list or another kind that Value cannot hold
  ElementType element_type = ElementType::float32;
  std::vector<int64_t> sizes;
  std::vector<uint8_t> dim_order;
};

struct MethodInfo {
  std::string name;
  std::vector<ValueInfo> inputs;
  std::vector<ValueInfo> outputs;
  std::vector<std::string> backends;  // delegates, such as "XnnpackBackend"
};

}  // namespace shira
