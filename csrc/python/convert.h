// What the bindings share: conversions, errors as exceptions, calls without the GIL.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"
#include "base/signature.h"

namespace py = pybind11;

namespace shira {

// Names in a hostile file or path need not be UTF-8; what is not is shown as escapes.
inline py::str text(std::string_view bytes) {
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
      bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "backslashreplace"));
}

inline py::object offset_or_none(uint64_t offset_bytes) {
  return offset_bytes == kNoOffset ? py::object(py::none()) : py::object(py::int_(offset_bytes));
}

[[noreturn]] inline void raise(const Error& error) {
  py::object make_error = py::module_::import("shira_runtime.errors").attr("make_error");
  py::object exception =
      make_error(static_cast<int32_t>(error.status), text(error.message), text(error.file),
                 text(error.tensor), offset_or_none(error.offset_bytes));
  PyErr_SetObject(py::type::handle_of(exception).ptr(), exception.ptr());
  throw py::error_already_set();
}

template <typename T>
T unwrap(Result<T> result) {
  if (!result.ok()) raise(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(result.value());
}

/// Runs `call` without the GIL. Whatever may wait for the gate or reads many bytes goes through
/// here: a thread that waited with the GIL would keep the forward pass that it waits for from
/// ending. The core is built without exceptions: one from the ordinary allocator would pass through
/// it and leave its locks and the gate taken for ever, so it ends the process here.
template <typename Call>
auto released(Call call) {
  py::gil_scoped_release release;
  return [&call]() noexcept { return call(); }();
}

/// The same for a call that answers with a Result: its value, or its error as an exception.
template <typename Call>
auto unlocked(Call call) {
  return unwrap(released(call));
}

using Unlocked = py::call_guard<py::gil_scoped_release>;

inline Dtype parse_dtype(const std::string& name) {
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8, Dtype::i4}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  raise({Status::INVALID_ARGUMENT,
         "dtype is '" + name + "', expected f32, f16, bf16, int8 or int4",
         {},
         {},
         kNoOffset});
}

template <typename Bytes>
py::bytes to_bytes(const Bytes& bytes) {
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

inline py::tuple to_shape(const std::vector<uint32_t>& dims) { return py::tuple(py::cast(dims)); }

/// The 32 bytes of an Ed25519 public key.
inline PublicKey to_key(const py::bytes& bytes) {
  const std::string key_bytes = bytes;
  PublicKey key{};
  if (key_bytes.size() != key.size()) {
    raise({Status::INVALID_ARGUMENT, "a public key has " + std::to_string(key.size()) +
                                         " bytes, not " + std::to_string(key_bytes.size())});
  }
  std::copy(key_bytes.begin(), key_bytes.end(), key.begin());
  return key;
}

void bind_adapters(py::module_& module);  // adapters.cpp
void bind_weights(py::module_& module);   // weights.cpp

}  // namespace shira
