// Reading and parsing of /proc/self/maps.
// SPDX-License-Identifier: Apache-2.0
#include "base/process_maps.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace shira {
namespace {

constexpr size_t kFirstTextBytes = size_t{64} << 10;  // some 600 areas

/// Reads fields of one line from the left; after the first failure everything fails.
class LineReader {
 public:
  explicit LineReader(std::string_view line) : rest_(line) {}

  bool ok() const { return ok_; }

  /// A number in base 10 or 16, followed by `delimiter` (or by the end of the line for the last
  /// one).
  uint64_t number(unsigned base, char delimiter) {
    uint64_t value = 0;
    size_t length = 0;
    for (; length < rest_.size() && rest_[length] != delimiter; ++length) {
      const unsigned digit = digit_value(rest_[length]);
      if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
          __builtin_add_overflow(value, digit, &value)) {
        return fail();
      }
    }
    if (length == 0) return fail();
    rest_.remove_prefix(std::min(length + 1, rest_.size()));
    return value;
  }

  /// Exactly `length` characters and a space after them.
  std::string_view word(size_t length) {
    if (!ok_ || rest_.size() <= length || rest_[length] != ' ') {
      fail();
      return {};
    }
    const std::string_view word = rest_.substr(0, length);
    rest_.remove_prefix(length + 1);
    return word;
  }

  /// What is left, without the blanks that pad the column.
  std::string_view rest() const {
    const size_t begin = rest_.find_first_not_of(' ');
    return begin == std::string_view::npos ? std::string_view{} : rest_.substr(begin);
  }

 private:
  static unsigned digit_value(char c) {
    if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
    return UINT32_MAX;
  }

  uint64_t fail() {
    ok_ = false;
    rest_ = {};
    return 0;
  }

  std::string_view rest_;
  bool ok_ = true;
};

/// "7fb859e03000-7fb859fff000 r--s 001fc000 fe:01 1234    /path": false when malformed.
bool parse_line(std::string_view line, MemoryArea* area) {
  LineReader reader(line);
  area->begin = static_cast<uintptr_t>(reader.number(16, '-'));
  area->end = static_cast<uintptr_t>(reader.number(16, ' '));
  const std::string_view permissions = reader.word(4);
  area->file_offset_bytes = reader.number(16, ' ');
  const uint64_t device_major = reader.number(16, ':');
  const uint64_t device_minor = reader.number(16, ' ');
  area->inode = reader.number(10, ' ');
  if (!reader.ok() || area->begin >= area->end) return false;
  area->readable = permissions[0] == 'r';
  area->writable = permissions[1] == 'w';
  area->shared = permissions[3] == 's';
  area->device = makedev(static_cast<unsigned>(device_major), static_cast<unsigned>(device_minor));
  area->path = reader.rest();
  return true;
}

// PROCMAP_QUERY of linux/fs.h, which older system headers lack.
struct MapQuery {
  uint64_t struct_bytes;
  uint64_t query_flags;
  uint64_t query_address;
  uint64_t begin;
  uint64_t end;
  uint64_t area_flags;
  uint64_t area_page_bytes;
  uint64_t file_offset_bytes;
  uint64_t inode;
  uint32_t device_major;
  uint32_t device_minor;
  uint32_t name_bytes;
  uint32_t build_id_bytes;
  uint64_t name_address;
  uint64_t build_id_address;
};
static_assert(sizeof(MapQuery) == 104);
constexpr unsigned long kMapQuery = _IOWR('f', 17, MapQuery);
constexpr uint64_t kReadable = 0x01;
constexpr uint64_t kWritable = 0x02;
constexpr uint64_t kShared = 0x08;
constexpr uint64_t kCoveringOrNext = 0x10;

/// The first area that ends behind `address`. False and errno ENOENT when there is none; any other
/// errno when the kernel cannot answer.
bool query_area(int descriptor, uintptr_t address, MemoryArea* area) {
  MapQuery query{};
  query.struct_bytes = sizeof(query);
  query.query_flags = kCoveringOrNext;
  query.query_address = address;
  if (ioctl(descriptor, kMapQuery, &query) != 0) return false;
  area->begin = static_cast<uintptr_t>(query.begin);
  area->end = static_cast<uintptr_t>(query.end);
  area->readable = (query.area_flags & kReadable) != 0;
  area->writable = (query.area_flags & kWritable) != 0;
  area->shared = (query.area_flags & kShared) != 0;
  area->file_offset_bytes = query.file_offset_bytes;
  area->device = makedev(query.device_major, query.device_minor);
  area->inode = query.inode;
  return true;
}

/// The areas with bytes of `ranges`, which are sorted. False when the kernel cannot answer.
bool query_areas(int descriptor, const std::vector<AddressRange>& ranges,
                 std::vector<MemoryArea>* areas) {
  uintptr_t known_until = 0;
  for (const AddressRange& range : ranges) {
    known_until = std::max(known_until, range.begin);
    while (known_until < range.end) {
      MemoryArea area;
      if (!query_area(descriptor, known_until, &area)) return errno == ENOENT;
      known_until = area.end;
      areas->push_back(area);
    }
  }
  return true;
}

Error cannot_read(int code) {
  return Error{Status::IO_ERROR,
               std::string("/proc/self/maps cannot be read: ") + strerror(code),
               "/proc/self/maps",
               {},
               kNoOffset};
}

}  // namespace

ProcessMaps::ProcessMaps(Array<char> text, size_t text_bytes) : text_(std::move(text)) {
  std::string_view rest(text_.data(), text_bytes);
  while (!rest.empty()) {
    const size_t line_bytes = std::min(rest.find('\n'), rest.size());
    MemoryArea area;
    // Ascending addresses are what find() relies on, so that a line out of order is malformed too.
    if (parse_line(rest.substr(0, line_bytes), &area) &&
        (areas_.empty() || areas_.back().end <= area.begin)) {
      areas_.push_back(area);
    }
    rest.remove_prefix(std::min(line_bytes + 1, rest.size()));
  }
}

Result<ProcessMaps> ProcessMaps::parse(std::string_view text) {
  SHIRA_ASSIGN(Array<char> copy, Array<char>::make(text.size()));
  std::copy(text.begin(), text.end(), copy.data());
  return ProcessMaps(std::move(copy), text.size());
}

Result<ProcessMaps> ProcessMaps::read() {
  const int descriptor = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return cannot_read(errno);
  size_t text_bytes = 0;
  Error error;
  Result<Array<char>> text = Array<char>::make(kFirstTextBytes);
  while (text.ok()) {
    if (text_bytes == text.value().size()) {
      Result<Array<char>> larger = Array<char>::make(2 * text_bytes);
      if (larger.ok()) memcpy(larger.value().data(), text.value().data(), text_bytes);
      text = std::move(larger);
      continue;
    }
    // The kernel hands out a few kilobytes of whole lines at a time, whatever is asked for.
    const ssize_t got =
        ::read(descriptor, text.value().data() + text_bytes, text.value().size() - text_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) error = cannot_read(errno);
    if (got <= 0) break;
    text_bytes += static_cast<size_t>(got);
  }
  close(descriptor);
  if (!error.ok()) return error;
  if (!text.ok()) return text.error();
  return ProcessMaps(std::move(text.value()), text_bytes);
}

Result<ProcessMaps> ProcessMaps::read_near(std::vector<AddressRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const AddressRange& a, const AddressRange& b) { return a.begin < b.begin; });
  const int descriptor = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return cannot_read(errno);
  ProcessMaps maps;
  const bool is_answered = query_areas(descriptor, ranges, &maps.areas_);
  close(descriptor);
  if (!is_answered) return read();
  return maps;
}

const MemoryArea* ProcessMaps::find(uintptr_t address) const {
  const auto after =
      std::upper_bound(areas_.begin(), areas_.end(), address,
                       [](uintptr_t value, const MemoryArea& area) { return value < area.begin; });
  if (after == areas_.begin()) return nullptr;
  const MemoryArea& area = *(after - 1);
  return address < area.end ? &area : nullptr;
}

size_t page_bytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace shira
