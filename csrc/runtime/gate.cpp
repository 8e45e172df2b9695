// Gate: one mutex and one condition variable; everybody waits for the same "something changed".
// SPDX-License-Identifier: Apache-2.0
#include "runtime/gate.h"

namespace shira {

void Gate::begin_read() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return !writing_ && waiting_writer_count_ == 0; });
  ++reader_count_;
}

bool Gate::end_read() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (reader_count_ == 0) return false;
  if (--reader_count_ == 0) changed_.notify_all();
  return true;
}

void Gate::begin_write() {
  std::unique_lock<std::mutex> lock(mutex_);
  ++waiting_writer_count_;
  changed_.wait(lock, [this] { return !writing_ && reader_count_ == 0; });
  --waiting_writer_count_;
  writing_ = true;
}

bool Gate::try_begin_write() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (writing_ || reader_count_ > 0 || waiting_writer_count_ > 0) return false;
  writing_ = true;
  return true;
}

void Gate::end_write() {
  const std::lock_guard<std::mutex> lock(mutex_);
  writing_ = false;
  changed_.notify_all();
}

}  // namespace shira
