// Chooses a kernel implementation once per process.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/cpu_features.h"

namespace shira::kernels {

#define X(isa, supported, flags) void isa##_kernels(KernelTable*);
#include "kernels/kernels.def"
#undef X

namespace {

Implementation make(const char* isa, bool supported, void (*fill)(KernelTable*)) {
  Implementation implementation{{}, supported};
  if (supported) {
    scalar_kernels(&implementation.table);
    fill(&implementation.table);
  }
  implementation.table.isa = isa;
  return implementation;
}

}  // namespace

const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> kImplementations = {
#define X(isa, supported, flags) make(#isa, supported, isa##_kernels),
#include "kernels/kernels.def"
#undef X
  };
  return kImplementations;
}

Result<const KernelTable*> select_kernels(const char* forced) {
  const bool any = forced == nullptr || *forced == '\0';
  std::string known;
  for (const Implementation& implementation : implementations()) {
    const char* isa = implementation.table.isa;
    if (any) {
      if (implementation.supported) return &implementation.table;
    } else if (std::strcmp(isa, forced) == 0) {
      if (implementation.supported) return &implementation.table;
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
