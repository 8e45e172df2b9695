// Opening without waiting, and reading however many calls the system makes of it.
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/array.h"

namespace shira {

Result<File> File::open(const std::string& path) {
  if (path.find('\0') != std::string::npos) {  // the system would open what stands before it
    return Error{Status::IO_ERROR, "the path has a NUL byte in it", path};
  }
  // Without O_NONBLOCK, opening a FIFO waits for somebody to write to it.
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (descriptor < 0 && errno == EINTR);
  const int code = errno;
  File file(descriptor, path);
  if (descriptor < 0 && path.rfind("file://", 0) == 0) {
    return file.error(Status::IO_ERROR, "this is a URL, and a path is needed: leave out file://");
  }
  if (descriptor < 0) return file.system_error("the file cannot be opened", code);
  struct stat status{};
  if (fstat(descriptor, &status) != 0)
    return file.system_error("the file cannot be examined", errno);
  if (!S_ISREG(status.st_mode)) return file.error(Status::IO_ERROR, "this is not a regular file");
  return file;
}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

Result<FileState> File::state() const {
  struct stat status{};
  if (fstat(descriptor_, &status) != 0) return system_error("the file cannot be examined", errno);
  return FileState{static_cast<uint64_t>(status.st_size), status.st_mtim.tv_sec,
                   status.st_mtim.tv_nsec};
}

Result<uint64_t> File::read_at(uint64_t offset_bytes, uint64_t size_bytes, uint8_t* out) const {
  uint64_t done_bytes = 0;
  while (done_bytes < size_bytes) {
    const ssize_t got =
        pread(descriptor_, out + done_bytes, static_cast<size_t>(size_bytes - done_bytes),
              static_cast<off_t>(offset_bytes + done_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("the file cannot be read", errno);
    if (got == 0) break;
    done_bytes += static_cast<uint64_t>(got);
  }
  return done_bytes;
}

uint64_t File::count_cold_bytes(uint64_t offset_bytes, uint64_t size_bytes) const {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset_bytes / page * page;
  const uint64_t span_bytes = offset_bytes + size_bytes - begin;
  Result<Array<uint8_t>> resident =
      Array<uint8_t>::make(static_cast<size_t>((span_bytes + page - 1) / page));
  if (!resident.ok() || size_bytes == 0) return 0;
  void* view =
      mmap(nullptr, span_bytes, PROT_READ, MAP_SHARED, descriptor_, static_cast<off_t>(begin));
  if (view == MAP_FAILED) return 0;
  uint64_t cold_pages = 0;
  if (mincore(view, span_bytes, resident.value().data()) == 0) {
    for (size_t i = 0; i < resident.value().size(); ++i)
      cold_pages += (resident.value()[i] & 1) == 0 ? 1 : 0;
  }
  munmap(view, span_bytes);
  return std::min(cold_pages * page, size_bytes);
}

Result<void> File::check_fits_memory(uint64_t size_bytes) const {
  const long page_count = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  // A system that does not say is one that knows when to refuse.
  const uint64_t memory_bytes =
      page_count > 0 && page_bytes > 0
          ? static_cast<uint64_t>(page_count) * static_cast<uint64_t>(page_bytes)
          : UINT64_MAX;
  const uint64_t limit_bytes = std::min<uint64_t>(memory_bytes, SIZE_MAX) / 2;
  if (size_bytes <= limit_bytes) return {};
  return error(Status::OUT_OF_MEMORY, "reading it would take " + std::to_string(size_bytes) +
                                          " bytes, more than half of the memory there is, " +
                                          std::to_string(limit_bytes));
}

Error File::system_error(const char* what, int code) const {
  return error(code == ENOMEM || code == EAGAIN ? Status::OUT_OF_MEMORY : Status::IO_ERROR,
               what + (": " + std::generic_category().message(code)));
}

}  // namespace shira
