// Error with its place, and Result<T>: how every fallible function of the core answers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/status.h"

namespace shira {

constexpr uint64_t kNoOffset = UINT64_MAX;

/// What went wrong and where. `message` is one sentence with expected and found; file, tensor and
/// offset are kept apart so that callers can test them, and are empty or kNoOffset where they do
/// not apply.
struct Error {
  Status status = Status::OK;
  std::string message{};
  std::string file{};                 // path or label of the file concerned
  std::string tensor{};               // name of the tensor concerned
  uint64_t offset_bytes = kNoOffset;  // position in `file`

  bool ok() const { return status == Status::OK; }
};

/// A value or an Error. REQUIRES of value(): ok().
// NOLINTBEGIN(bugprone-unchecked-optional-access): that is what REQUIRES says.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return value_.has_value(); }
  T& value() { return *value_; }
  const T& value() const { return *value_; }
  const Error& error() const { return error_; }
  Error& error() { return error_; }

 private:
  std::optional<T> value_;
  Error error_;
};
// NOLINTEND(bugprone-unchecked-optional-access)

/// Result of a function that returns nothing: converts from Error, default is success.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return error_.ok(); }
  const Error& error() const { return error_; }
  Error& error() { return error_; }

 private:
  Error error_;
};

}  // namespace shira

/// Returns the error of `expression` (any Result) from the enclosing function.
#define SHIRA_TRY(expression)                                    \
  do {                                                           \
    auto shira_try_result = (expression);                        \
    if (!shira_try_result.ok()) return shira_try_result.error(); \
  } while (false)

#define SHIRA_CONCAT_INNER(a, b) a##b
#define SHIRA_CONCAT(a, b) SHIRA_CONCAT_INNER(a, b)

/// Declares `declaration` from the value of `expression`, or returns its error.
#define SHIRA_ASSIGN(declaration, expression) \
  SHIRA_ASSIGN_INNER(SHIRA_CONCAT(shira_result_, __LINE__), declaration, expression)
#define SHIRA_ASSIGN_INNER(name, declaration, expression) \
  auto name = (expression);                               \
  if (!name.ok()) return name.error();                    \
  declaration = std::move(name.value())
