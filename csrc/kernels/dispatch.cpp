// Chooses a kernel implementation once per process.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <string>

namespace shira::kernels {

#define X(isa, supported) const KernelTable& isa##_kernels();
#include "kernels/kernels.def"
#undef X

namespace {

bool on_every_cpu() { return true; }

}  // namespace

const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> kImplementations = {
#define X(isa, supported) {&isa##_kernels(), supported()},
#include "kernels/kernels.def"
#undef X
  };
  return kImplementations;
}

Result<const KernelTable*> select_kernels(const char* forced) {
  const bool any = forced == nullptr || *forced == '\0';
  std::string known;
  for (const Implementation& implementation : implementations()) {
    const char* isa = implementation.table->isa;
    if (any) {
      if (implementation.supported) return implementation.table;
    } else if (std::strcmp(isa, forced) == 0) {
      if (implementation.supported) return implementation.table;
      return Error{Status::NOT_SUPPORTED,
                   "this CPU cannot run the kernels \"" + std::string(isa) + "\""};
    }
    known += (known.empty() ? "" : ", ") + std::string(isa);
  }
  return Error{Status::INVALID_ARGUMENT, "there are no kernels \"" +
                                             std::string(any ? "" : forced) +
                                             "\" (SHIRA_FORCE_KERNEL); this build has " + known};
}

Result<const KernelTable*> active_kernels() {
  static const Result<const KernelTable*> kActive =
      select_kernels(std::getenv("SHIRA_FORCE_KERNEL"));
  return kActive;
}

}  // namespace shira::kernels
