// Mapping a model file, and handing out parts of it as ExecuTorch's loader interface asks for them.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/private_mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "base/checked_math.h"
#include "base/process_maps.h"

namespace shira {

using executorch::runtime::FreeableBuffer;
using EtError = executorch::runtime::Error;

Result<std::shared_ptr<PrivateMapping>> PrivateMapping::map(const std::string& path) {
  SHIRA_ASSIGN(File file, File::open(path));
  SHIRA_ASSIGN(const FileState state, file.state());
  if (state.size_bytes == 0) return file.error(Status::BAD_PROGRAM_FILE, "the file is empty");
  const auto size_bytes = static_cast<size_t>(state.size_bytes);
  const char* what = "a copy-on-write mapping of the file cannot be made";
  // mlockall(MCL_FUTURE) locks new mappings. Without access no page is copied, and unlocked before
  // access is given, none ever is.
  void* memory = mmap(nullptr, size_bytes, PROT_NONE, MAP_PRIVATE, file.descriptor(), 0);
  if (memory == MAP_FAILED) return file.system_error(what, errno);
  munlock(memory, size_bytes);
  if (mprotect(memory, size_bytes, PROT_READ | PROT_WRITE) != 0) {
    const int code = errno;
    munmap(memory, size_bytes);
    return file.system_error(what, code);
  }
  return std::shared_ptr<PrivateMapping>(
      new PrivateMapping(std::move(file), state, static_cast<uint8_t*>(memory)));
}

PrivateMapping::~PrivateMapping() { munmap(data_, static_cast<size_t>(size_bytes_)); }

void PrivateMapping::give_back(const void* data, uint64_t size_bytes) const {
  if (keeps_pages_) return;
  // Only pages that hold nothing else.
  const auto begin = align_up(reinterpret_cast<uintptr_t>(data), page_bytes());
  const auto end = (reinterpret_cast<uintptr_t>(data) + size_bytes) & ~(page_bytes() - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

bool MappingLoader::has(size_t offset, size_t size) const {
  return offset <= mapping_->size_bytes() && size <= mapping_->size_bytes() - offset;
}

executorch::runtime::Result<FreeableBuffer> MappingLoader::load(
    size_t offset, size_t size, const SegmentInfo& /*segment_info*/) const {
  if (!has(offset, size)) return EtError::InvalidProgram;
  const auto give_back = [](void* mapping, void* data, size_t size_bytes) {
    static_cast<PrivateMapping*>(mapping)->give_back(data, size_bytes);
  };
  return FreeableBuffer(mapping_->data() + offset, size, give_back, mapping_.get());
}

EtError MappingLoader::load_into(size_t offset, size_t size, const SegmentInfo& /*segment_info*/,
                                 void* buffer) const {
  if (!has(offset, size)) return EtError::InvalidProgram;
  std::memcpy(buffer, mapping_->data() + offset, size);
  return EtError::Ok;
}

executorch::runtime::Result<size_t> MappingLoader::size() const {
  return static_cast<size_t>(mapping_->size_bytes());
}

}  // namespace shira
