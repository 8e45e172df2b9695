// Gate: any number of readers (forwards, checks) or one writer (a switch) at the live weights (law
// I9). SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace shira {

/// Unlike std::shared_mutex, begin and end may come from different threads (a forward that is
/// finished by a callback), and a waiting writer keeps new readers out, so that back-to-back
/// forwards cannot starve a switch. Not recursive: a thread that asks again while it reads waits
/// for ever once a writer waits.
class Gate {
 public:
  /// Waits for the writer in flight and for those already waiting.
  void begin_read();

  /// False, and nothing happens, when no reader is inside.
  bool end_read();

  /// Waits until nobody is inside.
  void begin_write();

  /// False instead of waiting.
  bool try_begin_write();

  void end_write();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t reader_count_ = 0;
  uint64_t waiting_writer_count_ = 0;
  bool writing_ = false;
};

/// Holds the gate as a reader for a scope.
class GateReader {
 public:
  explicit GateReader(Gate& gate) : gate_(gate) { gate_.begin_read(); }
  ~GateReader() { gate_.end_read(); }
  GateReader(const GateReader&) = delete;
  GateReader& operator=(const GateReader&) = delete;

 private:
  Gate& gate_;
};

/// Holds the gate as the writer for a scope, unless `wait` is false and somebody is inside.
class GateWriter {
 public:
  explicit GateWriter(Gate& gate, bool wait = true) : gate_(gate), holds_(true) {
    if (wait) {
      gate_.begin_write();
    } else {
      holds_ = gate_.try_begin_write();
    }
  }
  ~GateWriter() {
    if (holds_) gate_.end_write();
  }
  GateWriter(const GateWriter&) = delete;
  GateWriter& operator=(const GateWriter&) = delete;

  bool holds() const { return holds_; }

 private:
  Gate& gate_;
  bool holds_;
};

}  // namespace shira
