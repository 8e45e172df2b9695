// A log function that ExecuTorch calls instead of the one that is in place.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/log_capture.h"

#include <executorch/runtime/platform/platform.h>

#include <atomic>
#include <utility>

namespace shira {
namespace {

thread_local LogCapture* listening = nullptr;
thread_local bool is_passing_on = false;  // another copy of this library may pass it back
std::atomic<pal_emit_log_message_method> emit_before{nullptr};

}  // namespace

void keep_message(const char* message, size_t length) {
  if (listening->first_message_.empty()) listening->first_message_.assign(message, length);
}

namespace {

void emit_log_message(et_timestamp_t timestamp, et_pal_log_level_t level, const char* filename,
                      const char* function, size_t line, const char* message, size_t length) {
  if (listening != nullptr) {
    if (level == kError || level == kFatal) keep_message(message, length);
  } else if (const auto emit = emit_before.load(); emit != nullptr && !is_passing_on) {
    is_passing_on = true;
    emit(timestamp, level, filename, function, line, message, length);
    is_passing_on = false;
  }
}

/// Again with every capture, since ExecuTorch's Python module puts a function of its own in place
/// when it is imported. register_pal() would do, but complains on stderr about whoever is second.
void listen_to_executorch() {
  auto* const place =
      &const_cast<executorch::runtime::PalImpl*>(executorch::runtime::get_pal_impl())
           ->emit_log_message;
  const pal_emit_log_message_method now = __atomic_load_n(place, __ATOMIC_ACQUIRE);
  if (now == &emit_log_message) return;
  emit_before = now;
  __atomic_store_n(place, &emit_log_message, __ATOMIC_RELEASE);
}

}  // namespace

LogCapture::LogCapture() : outer_(listening) {
  listen_to_executorch();
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
