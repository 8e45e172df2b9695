// Attach mode B: a program that is already loaded from a mapped file. Its read-only shared mapping is replaced, at the same
// address, by a private copy-on-write mapping of the same file; the file itself is never written (law I5).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/program.h"

namespace shira {

/// Address of a constant as the program itself sees it (Method::get_attribute), which settles the choice between several mappings.
struct Anchor {
  std::string name;
  uintptr_t address = 0;
};

/// Finds the program's mapping of each patchable constant of `path` (.pte or .ptd) in this process, replaces it by a copy-on-write mapping and
/// returns the tensors, ready for Program::add_tensor. With anchors, the mapping that holds the anchor is taken, and constants without an
/// anchor are left alone; without anchors, the one mapping whose extent is that of the constant's load (whole constant segment of a .pte, the
/// tensor's own pages of a .ptd), and more than one candidate is AMBIGUOUS.
/// Nothing is remapped unless all can be. NOT_MAPPED (nothing maps this file: say whether it was loaded into the heap), AMBIGUOUS,
/// DETACHED (an anchor outside the file's mappings, or the file on disk is another one by now), TRUNCATED (the file is shorter than
/// its tables say: touching it would be SIGBUS), IO_ERROR, BAD_PROGRAM_FILE.
/// The new mapping is never locked (a locked one would refuse MADV_DONTNEED and fault every page in).
Result<std::vector<TensorSpec>> attach_mapped_file(const std::string& path, const std::vector<Anchor>& anchors);

}  // namespace shira
