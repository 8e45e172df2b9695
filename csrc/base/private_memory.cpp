// Reading /proc/self/pagemap.
// SPDX-License-Identifier: Apache-2.0
#include "base/private_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/array.h"

namespace shira {
namespace {

// One 64-bit word for each page (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kShowsFile = uint64_t{1} << 61;  // or shared anonymous memory
constexpr uint64_t kSwapped = uint64_t{1} << 62;
constexpr uint64_t kPresent = uint64_t{1} << 63;

constexpr uint64_t kChunkPages = 8192;

bool is_private(uint64_t word) {
  return (word & (kPresent | kSwapped)) != 0 && (word & kShowsFile) == 0;
}

Error cannot_read(const char* path, int code) {
  return Error{Status::IO_ERROR,
               std::string("the system does not tell which pages are private: ") + strerror(code),
               path};
}

/// Reads as many words as there are, up to `count`; -1 and errno when it fails.
int64_t read_words(int descriptor, uint64_t first_page, uint64_t* words, uint64_t count) {
  uint64_t done_bytes = 0;
  const uint64_t wanted_bytes = count * sizeof(uint64_t);
  while (done_bytes < wanted_bytes) {
    const ssize_t got =
        pread(descriptor, reinterpret_cast<uint8_t*>(words) + done_bytes, wanted_bytes - done_bytes,
              static_cast<off_t>(first_page * sizeof(uint64_t) + done_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done_bytes += static_cast<uint64_t>(got);
  }
  return static_cast<int64_t>(done_bytes / sizeof(uint64_t));
}

}  // namespace

Result<uint64_t> count_private_bytes(const AddressRange& range, const char* path) {
  if (range.begin >= range.end) return uint64_t{0};
  SHIRA_ASSIGN(Array<uint64_t> words, Array<uint64_t>::make(kChunkPages));
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return cannot_read(path, errno);
  const uint64_t end_page = (range.end - 1) / page_bytes() + 1;
  uint64_t private_pages = 0;
  int64_t got = 0;
  int code = 0;
  for (uint64_t page = range.begin / page_bytes(); page < end_page;
       page += static_cast<uint64_t>(got)) {
    got = read_words(descriptor, page, words.data(), std::min(kChunkPages, end_page - page));
    if (got < 0) code = errno;
    if (got <= 0) break;
    private_pages +=
        static_cast<uint64_t>(std::count_if(words.data(), words.data() + got, is_private));
  }
  close(descriptor);
  if (code != 0) return cannot_read(path, code);
  return private_pages * page_bytes();
}

}  // namespace shira
