// LogCapture: what ExecuTorch says about a failure, as part of our error and not on stderr.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <executorch/runtime/core/error.h>

#include <string>

#include "base/result.h"

namespace shira {

/// While it lives, errors that ExecuTorch logs on this thread are kept here, and what is no error
/// is dropped: a library does not print. What other threads log goes where it went before. Captures
/// nest; the inner one listens.
class LogCapture {
 public:
  LogCapture();
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  /// `what`, ExecuTorch's first error message (later ones only say who has passed it on) and the
  /// name of `code`. A lack of memory is OUT_OF_MEMORY, everything else `status`.
  Error error(Status status, const std::string& what, executorch::runtime::Error code) const;

 private:
  friend void keep_message(const char* message, size_t length);

  std::string first_message_;
  LogCapture* const outer_;
};

}  // namespace shira
