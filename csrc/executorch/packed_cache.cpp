// Making the file.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/packed_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace shira {

Result<PackedCache> PackedCache::make() {
  const int descriptor = memfd_create("shira-packed-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) {
    const int code = errno;
    return Error{code == ENOSYS ? Status::NOT_SUPPORTED : Status::OUT_OF_MEMORY,
                 "no file in memory for packed weights can be made: " +
                     std::generic_category().message(code)};
  }
  return PackedCache(descriptor, "/proc/self/fd/" + std::to_string(descriptor));
}

PackedCache::~PackedCache() {
  if (descriptor_ >= 0) close(descriptor_);
}

PackedCache::PackedCache(PackedCache&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

void PackedCache::keep_size() const { fcntl(descriptor_, F_ADD_SEALS, F_SEAL_SHRINK); }

}  // namespace shira
