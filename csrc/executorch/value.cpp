// Sizes and names of element types, and short ways to make inputs.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/value.h"

#include <utility>

namespace shira {

size_t element_bytes(ElementType type) {
  static constexpr size_t kBytes[] = {
#define X(name, bytes, scalar_type) bytes,
#include "executorch/element_types.def"
#undef X
  };
  return kBytes[static_cast<size_t>(type)];
}

const char* element_name(ElementType type) {
  static constexpr const char* kNames[] = {
#define X(name, bytes, scalar_type) #name,
#include "executorch/element_types.def"
#undef X
  };
  return type == ElementType::bool_ ? "bool" : kNames[static_cast<size_t>(type)];
}

uint64_t Value::size_bytes() const {
  uint64_t size = element_bytes(element_type);
  for (const int64_t dim : sizes) size *= static_cast<uint64_t>(dim);
  return size;
}

Value Value::of_tensor(ElementType type, std::vector<int64_t> sizes, const void* data) {
  Value value;
  value.kind = Kind::tensor;
  value.element_type = type;
  value.sizes = std::move(sizes);
  value.data = data;
  return value;
}

Value Value::of_integer(int64_t number) {
  Value value;
  value.kind = Kind::integer;
  value.integer = number;
  return value;
}

Value Value::of_real(double number) {
  Value value;
  value.kind = Kind::real;
  value.real = number;
  return value;
}

Value Value::of_boolean(bool truth) {
  Value value;
  value.kind = Kind::boolean;
  value.boolean = truth;
  return value;
}

}  // namespace shira
