// The SIGBUS action behind FaultGuard: taken while guards exist, given back afterwards.
// SPDX-License-Identifier: Apache-2.0
#include "base/fault_guard.h"

#include <pthread.h>

#include <cerrno>
#include <mutex>

#include "base/map_over.h"
#include "base/process_maps.h"

namespace shira {
namespace {

std::mutex action_mutex;      // guards the two below
uint64_t guard_count = 0;     // guards with a part in our being the action
struct sigaction previous{};  // stays valid afterwards: a later handler may pass faults on to ours

/// The innermost guard of each thread. A key, since a handler may not touch a thread_local that its
/// library has not used in that thread yet: that one may allocate.
pthread_key_t guards_key() {
  static const pthread_key_t key = [] {
    pthread_key_t made = 0;
    pthread_key_create(&made, nullptr);
    return made;
  }();
  return key;
}

bool is_ours(const struct sigaction& action, void (*handler)(int, siginfo_t*, void*)) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == handler;
}

void pass_on(int signal_number, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal_number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal_number);
  } else if (previous.sa_handler == SIG_DFL || info->si_code > 0) {
    // A real fault cannot be ignored. The faulting access happens again and ends the process where
    // it stands, as if we had never been there; a signal that was sent has to be sent again.
    signal(signal_number, SIG_DFL);
    if (info->si_code <= 0) raise(signal_number);
  }
}

}  // namespace

FaultGuard::FaultGuard(const void* memory, uint64_t size_bytes)
    : begin_(reinterpret_cast<uintptr_t>(memory)),
      end_(begin_ + static_cast<uintptr_t>(size_bytes)) {
  static_cast<void>(page_bytes());  // asked for here once, so that the handler finds it known
  const pthread_key_t key = guards_key();
  outer_ = static_cast<FaultGuard*>(pthread_getspecific(key));
  pthread_setspecific(key, this);
  const std::lock_guard<std::mutex> lock(action_mutex);
  if (guard_count++ > 0) return;
  struct sigaction ours{};
  ours.sa_sigaction = &FaultGuard::on_sigbus;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&ours.sa_mask);
  struct sigaction found{};
  sigaction(SIGBUS, &ours, &found);
  if (!is_ours(found, &FaultGuard::on_sigbus)) previous = found;
}

FaultGuard::~FaultGuard() {
  pthread_setspecific(guards_key(), outer_);
  const std::lock_guard<std::mutex> lock(action_mutex);
  if (--guard_count > 0) return;
  struct sigaction now{};
  sigaction(SIGBUS, nullptr, &now);
  // What the application has installed meanwhile is its own.
  if (is_ours(now, &FaultGuard::on_sigbus)) sigaction(SIGBUS, &previous, nullptr);
}

// Async-signal-safe: everything it needs was made by the guard's constructor.
void FaultGuard::on_sigbus(int signal_number, siginfo_t* info, void* context) {
  const int code = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  // Another page does not help a misaligned access, and a signal that was sent has no address.
  const bool is_missing_page = info->si_code > 0 && info->si_code != BUS_ADRALN;
  auto* guard = static_cast<FaultGuard*>(pthread_getspecific(guards_key()));
  for (; is_missing_page && guard != nullptr; guard = guard->outer_) {
    if (!guard->put_page(address)) continue;
    errno = code;
    return;
  }
  errno = code;
  pass_on(signal_number, info, context);
}

bool FaultGuard::put_page(uintptr_t address) {
  if (address < begin_ || address >= end_) return false;
  const uintptr_t page = address & ~(uintptr_t{page_bytes()} - 1);
  if (!map_over(page, page_bytes(), PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0)) return false;
  has_faulted_ = 1;
  return true;
}

}  // namespace shira
