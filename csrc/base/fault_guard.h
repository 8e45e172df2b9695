// FaultGuard: touching mapped memory whose file somebody else may truncate at any moment.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>

namespace shira {

/// While it lives, this thread's accesses to [memory, memory + size_bytes) do not end the process
/// with SIGBUS when the file behind them is truncated or its storage fails. The kernel takes every
/// page behind a file's new end away, private copies too, so that no check beforehand and no copy
/// made beforehand could promise that. Instead the process's SIGBUS action is ours while guards
/// exist: a fault inside a guarded range puts an empty page in place and is remembered; every other
/// one is passed on to the action that was there before.
///
/// Guards nest. The cost is a few nanoseconds under another guard, anywhere in the process, and
/// three system calls otherwise. What is not covered: a thread that blocks SIGBUS (the kernel then
/// ends the process unasked), and an application that replaces the SIGBUS action during a switch.
class FaultGuard {
 public:
  /// Guards nothing, but makes the guards made meanwhile cheap.
  FaultGuard() : FaultGuard(nullptr, 0) {}
  FaultGuard(const void* memory, uint64_t size_bytes);
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

  /// True when a page was missing: what was read there was zero, what was stored there is lost.
  bool has_faulted() const {
    std::atomic_signal_fence(std::memory_order_seq_cst);  // after every access that was asked for
    return has_faulted_ != 0;
  }

 private:
  static void on_sigbus(int signal_number, siginfo_t* info, void* context);
  bool put_page(uintptr_t address);

  const uintptr_t begin_;
  const uintptr_t end_;
  FaultGuard* outer_ = nullptr;  // of this thread
  volatile sig_atomic_t has_faulted_ = 0;
};

}  // namespace shira
