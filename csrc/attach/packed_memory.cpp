// Mapping the file, and recognising the mapping.
// SPDX-License-Identifier: Apache-2.0
#include "attach/packed_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace shira {
namespace {

Error cannot_map(int code) {
  return Error{code == ENOMEM ? Status::OUT_OF_MEMORY : Status::IO_ERROR,
               "the file in memory with packed weights cannot be mapped: " +
                   std::generic_category().message(code)};
}

}  // namespace

Result<std::shared_ptr<PackedMemory>> PackedMemory::map(int descriptor) {
  struct stat status{};
  if (fstat(descriptor, &status) != 0) return cannot_map(errno);
  const auto size_bytes = static_cast<size_t>(status.st_size);
  void* memory = MAP_FAILED;
  if (size_bytes != 0)
    memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (size_bytes != 0 && memory == MAP_FAILED) return cannot_map(errno);
  if (size_bytes != 0 && madvise(memory, size_bytes, MADV_DONTFORK) != 0) {
    const int code = errno;
    munmap(memory, size_bytes);
    return cannot_map(code);
  }
  return std::shared_ptr<PackedMemory>(
      new PackedMemory(size_bytes == 0 ? nullptr : static_cast<uint8_t*>(memory), size_bytes,
                       status.st_dev, status.st_ino));
}

PackedMemory::PackedMemory(uint8_t* data, uint64_t size_bytes, uint64_t device, uint64_t inode)
    : process_(getpid()), data_(data), size_bytes_(size_bytes), device_(device), inode_(inode) {}

PackedMemory::~PackedMemory() {
  if (data_ != nullptr && getpid() == process_) munmap(data_, static_cast<size_t>(size_bytes_));
}

Result<void> PackedMemory::check(const ProcessMaps& maps, const uint8_t* data,
                                 uint64_t size_bytes) const {
  if (getpid() != process_) {
    return Error{Status::DETACHED,
                 "the packed weights belong to the process that this one was forked from: load the "
                 "program again"};
  }
  const auto origin = reinterpret_cast<uintptr_t>(data_);
  const auto end = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(size_bytes);
  for (auto address = reinterpret_cast<uintptr_t>(data); address < end;) {
    const MemoryArea* area = maps.find(address);
    if (area == nullptr || !area->shared || area->device != device_ || area->inode != inode_ ||
        area->file_offset_bytes != area->begin - origin) {
      return Error{Status::DETACHED, "the mapping of the packed weights was taken away"};
    }
    if (!area->readable || !area->writable)
      return Error{Status::READ_ONLY, "the mapping of the packed weights was made read-only"};
    address = area->end;
  }
  return {};
}

}  // namespace shira
