// A log function that ExecuTorch calls instead of its own, registered once and never taken back.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/log_capture.h"

#include <executorch/runtime/platform/platform.h>

#include <utility>

namespace shira {
namespace {

thread_local LogCapture* listening = nullptr;
pal_emit_log_message_method emit_before = nullptr;  // set before ours is registered

}  // namespace

void keep_message(const char* message, size_t length) {
  if (listening->first_message_.empty()) listening->first_message_.assign(message, length);
}

namespace {

void emit_log_message(et_timestamp_t timestamp, et_pal_log_level_t level, const char* filename,
                      const char* function, size_t line, const char* message, size_t length) {
  if (listening != nullptr) {
    if (level == kError || level == kFatal) keep_message(message, length);
  } else if (emit_before != nullptr) {
    emit_before(timestamp, level, filename, function, line, message, length);
  }
}

bool listen_to_executorch() {
  emit_before = executorch::runtime::get_pal_impl()->emit_log_message;
  return executorch::runtime::register_pal(
      executorch::runtime::PalImpl::create(emit_log_message, __FILE__));
}

}  // namespace

LogCapture::LogCapture() : outer_(listening) {
  [[maybe_unused]] static const bool is_registered = listen_to_executorch();
  listening = this;
}

LogCapture::~LogCapture() { listening = outer_; }

Error LogCapture::error(Status status, const std::string& what,
                        executorch::runtime::Error code) const {
  using EtError = executorch::runtime::Error;
  std::string message = what + ": ";
  if (!first_message_.empty()) message += first_message_ + " ";
  message += std::string("(ExecuTorch's ") + executorch::runtime::to_string(code) + ")";
  const bool lacks_memory = code == EtError::MemoryAllocationFailed ||
                            code == EtError::DelegateMemoryAllocationFailed ||
                            code == EtError::OutOfResources;
  return Error{lacks_memory ? Status::OUT_OF_MEMORY : status, std::move(message)};
}

}  // namespace shira
