// Attach mode B: a program that is already loaded from a mapped file. Its read-only shared mapping
// is replaced, at the same address, by a private copy-on-write mapping; the file is never written
// (I5). SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/program.h"

namespace shira {

/// Address of a constant as the program itself sees it (Method::get_attribute), which settles the
/// choice between several mappings.
struct Anchor {
  std::string name;
  uintptr_t address = 0;
};

/// Finds the program's mapping of each patchable constant of `path` (.pte or .ptd) in this process,
/// replaces it by a copy-on-write mapping and returns the tensors, ready for Program::add_tensor.
///
/// With anchors, the mapping that holds the anchor is taken, and constants without an anchor are
/// left alone. Without, the one mapping of the constant's load is taken (a .pte's whole constant
/// segment, a .ptd's tensor), and more than one that could be it is AMBIGUOUS.
///
/// A .ptd does not tell which of its constants a delegate has packed as well (tables of embeddings
/// tied to a last layer): a store would reach one of the two. read_program_weights() of the .pte
/// and the .ptd gives such constants a reason; leave their anchors away.
///
/// Nothing is remapped unless all can be. NOT_MAPPED (nothing maps this file: the loader may have
/// copied it into the heap), AMBIGUOUS, DETACHED (an anchor outside the file's mappings, or the
/// file at `path` is another one by now), UNKNOWN_TENSOR (an anchor for a constant that the file
/// does not name), NOT_SUPPORTED (attached already, or no constant is patchable), BASE_MODIFIED
/// (the mapping is private and no longer shows the file), OUT_OF_MEMORY, and those of
/// read_program_file().
///
/// The new mapping is never locked: a locked one would refuse to drop its pages and would fault
/// every one of them in. It stays private until the program itself unmaps it; when the last of the
/// tensors' regions is gone it becomes read-only, as it is by then. It may be attached again unless
/// an adapter was left in it, which a new mapping would take away unasked.
/// REQUIRES: the program is not being unloaded meanwhile; forward passes may run.
Result<std::vector<TensorSpec>> attach_mapped_file(const std::string& path,
                                                   const std::vector<Anchor>& anchors);

/// Attach mode C: the loader is ours and has mapped the whole of `path` from byte 0 on at
/// `mapping`, private and writable, so that nothing has to be replaced. Returns the region of all
/// that is in it, which keeps `mapping` alive; whoever lets go of it last unmaps it.
/// DETACHED (`mapping` does not show the file that is at `path` now), READ_ONLY, IO_ERROR,
/// OUT_OF_MEMORY.
Result<std::shared_ptr<Region>> attach_own_mapping(const std::string& path,
                                                   const std::shared_ptr<uint8_t>& mapping);

}  // namespace shira
