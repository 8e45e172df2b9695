// Hostile .pte and .ptd files: every case of the catalogue, every truncation, every flipped bit.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attach/mapped_file.h"
#include "attach/program_file.h"
#include "attach_fixtures.h"
#include "flatbuffer_victim.h"

namespace shira {
namespace {

using test::Bytes;
using test::Constant;
using test::FlatTensors;
using test::kF16;
using test::kF32;
using test::make_ptd;
using test::make_pte;

constexpr uint32_t kMax32 = std::numeric_limits<uint32_t>::max();
constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

test::Program small_program() {
  test::Program program;
  program.methods = {{{"fc.weight", kF32, {3, 4, 2}, {}, 1}, {"fc.bias", kF16, {8}, {}, 2}}};
  program.offsets = {0, 0, 128};
  program.constant_bytes = 144;
  return program;
}

FlatTensors small_flat_tensors() {
  FlatTensors content;
  content.constants = {{"fc.weight", kF32, {3, 8}, {}, 0}, {"fc.bias", kF16, {8}, {}, 1}};
  content.segments = {{0, 96}, {128, 16}};
  return content;
}

/// One of the two small files.
class Victim : public test::FlatbufferVictim {
 public:
  using FlatbufferVictim::FlatbufferVictim;

  size_t root() const { return get<uint32_t>(0); }
  // .pte: root -> plan 0 -> value 1 (fc.weight) -> its tensor.
  size_t plan() const { return item(root(), 1, 0); }
  size_t value() const { return item(plan(), 2, 1); }
  size_t tensor() const { return child(value(), 1); }
  size_t extra() const { return child(tensor(), 9); }
  size_t segment() const { return item(root(), 4, 0); }
  size_t constants() const { return child(root(), 5); }
  // .ptd: root -> named data 0 (fc.weight) -> its layout.
  size_t ptd_segment(size_t i = 0) const { return item(root(), 1, i); }
  size_t entry(size_t i = 0) const { return item(root(), 2, i); }
  size_t layout() const { return child(entry(), 2); }
};

enum class Outcome { refused, accepted };

/// One line of the catalogue: what is done to a small file, and what must come of it.
struct Case {
  const char* what;
  bool is_ptd;
  Outcome outcome;
  std::function<void(Victim*)> damage;
};

constexpr bool kPte = false;
constexpr bool kPtd = true;

const std::vector<Case>& catalogue() {
  using V = Victim;
  constexpr Outcome kRefused = Outcome::refused;
  constexpr Outcome kAccepted = Outcome::accepted;
  static const std::vector<Case> kCases = {
      // The header
      {"nothing is wrong", kPte, kAccepted, [](V*) {}},
      {"nothing is wrong", kPtd, kAccepted, [](V*) {}},
      {"header length 0", kPte, kRefused, [](V* v) { v->put<uint32_t>(12, 0); }},
      {"header one byte short", kPte, kRefused, [](V* v) { v->put<uint32_t>(12, 23); }},
      {"header one byte short", kPtd, kRefused, [](V* v) { v->put<uint32_t>(12, 39); }},
      {"header length 2^32 - 1", kPte, kAccepted, [](V* v) { v->put<uint32_t>(12, kMax32); }},
      {"flatbuffer of 0 bytes", kPte, kRefused, [](V* v) { v->put<uint64_t>(16, 0); }},
      {"flatbuffer of 3 bytes", kPte, kRefused, [](V* v) { v->put<uint64_t>(16, 3); }},
      {"flatbuffer as long as its root", kPte, kRefused,
       [](V* v) { v->put<uint64_t>(16, v->root()); }},
      {"flatbuffer longer than the file", kPte, kRefused,
       [](V* v) { v->put<uint64_t>(16, v->bytes().size() + 1); }},
      {"flatbuffer of 2^64 - 1 bytes", kPte, kRefused, [](V* v) { v->put(16, kMax64); }},
      {"flatbuffer that wraps around", kPtd, kRefused,
       [](V* v) {
         v->put<uint64_t>(16, 64);
         v->put<uint64_t>(24, kMax64 - 16);
       }},
      {"flatbuffer that reaches into the segments", kPte, kRefused,
       [](V* v) { v->put<uint64_t>(16, v->bytes().size()); }},
      {"segments at byte 0", kPte, kRefused, [](V* v) { v->put<uint64_t>(24, 0); }},
      {"segments behind the file", kPte, kRefused,
       [](V* v) { v->put<uint64_t>(24, v->bytes().size()); }},
      {"segments at byte 2^64 - 1", kPte, kRefused, [](V* v) { v->put(24, kMax64); }},
      {"segments that wrap around", kPtd, kRefused, [](V* v) { v->put(32, kMax64 - 100); }},
      {"schema version 1", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->root(), 0), 1); }},
      {"schema version 2^31", kPtd, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->root(), 0), 1U << 31); }},

      // Tables and their lists of fields
      {"root at byte 2^32 - 1", kPte, kRefused, [](V* v) { v->put(0, kMax32); }},
      {"root in the last byte", kPte, kRefused,
       [](V* v) { v->put(0, static_cast<uint32_t>(v->get<uint64_t>(16) - 1)); }},
      {"root is the offset to the root", kPte, kRefused, [](V* v) { v->put<uint32_t>(0, 0); }},
      {"fields before the file", kPte, kRefused,
       [](V* v) { v->put(v->root(), std::numeric_limits<int32_t>::max()); }},
      {"fields behind the file", kPtd, kRefused,
       [](V* v) { v->put(v->root(), std::numeric_limits<int32_t>::min()); }},
      {"fields half behind the file", kPte, kRefused,
       [](V* v) {
         const auto end = static_cast<int64_t>(v->get<uint64_t>(16));
         v->put(v->root(), static_cast<int32_t>(static_cast<int64_t>(v->root()) - end + 1));
       }},
      {"a table that is its own list of fields", kPte, kRefused,
       [](V* v) { v->put<int32_t>(v->root(), 0); }},
      {"a list of 65534 bytes of fields", kPte, kAccepted,
       [](V* v) { v->put<uint16_t>(v->list_of_fields(v->root()), 0xfffe); }},
      {"a list of an odd number of bytes of fields", kPte, kRefused,
       [](V* v) { v->put<uint16_t>(v->list_of_fields(v->root()), 15); }},
      {"a list of 2 bytes of fields", kPtd, kRefused,
       [](V* v) { v->put<uint16_t>(v->list_of_fields(v->root()), 2); }},
      {"a table of 65535 bytes", kPtd, kAccepted,
       [](V* v) { v->put<uint16_t>(v->list_of_fields(v->root()) + 2, 0xffff); }},
      {"a table of 0 bytes with fields", kPte, kRefused,
       [](V* v) { v->put<uint16_t>(v->list_of_fields(v->tensor()) + 2, 0); }},
      {"a field outside its table", kPte, kRefused,
       [](V* v) { v->put<uint16_t>(v->slot(v->tensor(), 5), 0xfffe); }},
      {"a field that begins inside its table and ends outside", kPtd, kRefused,
       [](V* v) {
         const auto table_bytes = v->get<uint16_t>(v->list_of_fields(v->entry()) + 2);
         v->put<uint16_t>(v->slot(v->entry(), 1), static_cast<uint16_t>(table_bytes - 3));
       }},
      {"a field on top of the offset to the list of fields", kPte, kRefused,
       [](V* v) { v->put<uint16_t>(v->slot(v->segment(), 1), 1); }},
      {"a wide field behind the file", kPte, kRefused,
       [](V* v) {
         v->put<uint16_t>(v->list_of_fields(v->segment()) + 2, 0xffff);
         v->put<uint16_t>(v->slot(v->segment(), 1), 0xfff0);
       }},

      // References, vectors, strings
      {"a table behind the file", kPte, kRefused,
       [](V* v) { v->put(v->item_reference(v->root(), 1, 0), kMax32); }},
      {"a table at the end of the file", kPte, kRefused,
       [](V* v) {
         const size_t at = v->item_reference(v->root(), 1, 0);
         v->put(at, static_cast<uint32_t>(v->get<uint64_t>(16) - at));
       }},
      {"a vector behind the file", kPtd, kRefused,
       [](V* v) { v->put(v->field(v->root(), 2), kMax32); }},
      {"a vector of 2^31 tables", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->child(v->root(), 4), 1U << 31); }},
      {"a vector of 2^32 - 1 tables", kPtd, kRefused,
       [](V* v) { v->put(v->child(v->root(), 2), kMax32); }},
      {"a vector whose bytes are 2^32 and some", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->child(v->root(), 1), 0x40000001); }},
      {"a vector of 64-bit numbers whose bytes are 2^32 and some", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->child(v->constants(), 1), 0x20000001); }},
      {"a vector with one item more than there is room for", kPte, kRefused,
       [](V* v) {
         const size_t at = v->child(v->constants(), 1);
         v->put(at, static_cast<uint32_t>((v->get<uint64_t>(16) - at - 4) / 8 + 1));
       }},
      {"a vector that is its own reference, and empty", kPte, kAccepted,
       [](V* v) { v->put<uint32_t>(v->field(v->plan(), 2), 0); }},
      {"a name of 2^31 bytes", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->child(v->extra(), 1), 1U << 31); }},
      {"a name of 2^32 - 1 bytes", kPtd, kRefused,
       [](V* v) { v->put(v->child(v->entry(), 0), kMax32); }},
      {"a name without a terminator, up to the end of the flatbuffer", kPte, kAccepted,
       [](V* v) {
         const size_t at = v->child(v->extra(), 1);
         v->put(at, static_cast<uint32_t>(v->get<uint64_t>(16) - at - 4));
       }},
      {"a name with a zero byte inside", kPte, kAccepted,
       [](V* v) { v->put<char>(v->child(v->extra(), 1) + 5, '\0'); }},
      {"a name that is not UTF-8", kPtd, kAccepted,
       [](V* v) { v->put<uint8_t>(v->child(v->entry(), 0) + 5, 0xff); }},
      {"an empty name", kPtd, kAccepted,
       [](V* v) { v->put<uint32_t>(v->child(v->entry(), 0), 0); }},

      // Cycles and repetitions
      {"a plan that is the root, by an offset that goes back", kPte, kRefused,
       [](V* v) {
         const size_t at = v->item_reference(v->root(), 1, 0);
         v->put(at, static_cast<uint32_t>(v->root() - at));
       }},
      {"two values that are the same table", kPte, kAccepted,
       [](V* v) {
         const size_t at = v->item_reference(v->plan(), 2, 1);
         v->put(at, static_cast<uint32_t>(v->item(v->plan(), 2, 2) - at));
       }},
      {"a vector of tables whose first item is in itself", kPtd, kRefused,
       [](V* v) { v->put<uint32_t>(v->item_reference(v->root(), 2, 0), 0); }},
      {"an extra table that is its tensor's own reference", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->tensor(), 9), 0); }},
      {"a tensor that is a segment", kPte, kAccepted,
       [](V* v) {
         const size_t at = v->field(v->value(), 1);
         v->put(at, static_cast<uint32_t>(v->segment() - at));
       }},

      // Segments and constants
      {"no such segment", kPtd, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->entry(), 1), 2); }},
      {"segment 2^32 - 1", kPtd, kRefused, [](V* v) { v->put(v->field(v->entry(), 1), kMax32); }},
      {"no such constant segment", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->constants(), 0), 2); }},
      {"no such constant", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->tensor(), 5), 3); }},
      {"constant 2^31", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->field(v->tensor(), 5), 1U << 31); }},
      {"a segment one byte longer than the file", kPtd, kRefused,
       [](V* v) { v->put<uint64_t>(v->field(v->ptd_segment(1), 1), 17); }},
      {"a segment of 2^64 - 1 bytes", kPte, kRefused,
       [](V* v) { v->put(v->field(v->segment(), 1), kMax64); }},
      {"a segment of 2^63 bytes", kPtd, kRefused,
       [](V* v) { v->put(v->field(v->ptd_segment(), 1), uint64_t{1} << 63); }},
      {"a segment of 2^32 bytes and what it had", kPte, kRefused,
       [](V* v) { v->put(v->field(v->segment(), 1), (uint64_t{1} << 32) + 144); }},
      {"a segment at byte 2^64 - 1", kPte, kRefused,
       [](V* v) { v->put(v->field(v->segment(), 0), kMax64); }},
      {"a segment that ends by wrapping around", kPtd, kRefused,
       [](V* v) {
         v->put(v->field(v->ptd_segment(), 0), kMax64 - v->get<uint64_t>(32) - 8);
         v->put<uint64_t>(v->field(v->ptd_segment(), 1), 96);
       }},
      {"a segment inside the flatbuffer", kPtd, kRefused,
       [](V* v) {
         // Its offset counts from byte 0 then; the other segment is moved to where it was.
         v->put<uint64_t>(v->field(v->ptd_segment(1), 0), v->get<uint64_t>(32) + 128);
         v->put<uint64_t>(v->field(v->ptd_segment(0), 0), 64);
         v->put<uint64_t>(32, 0);
       }},
      {"segments that overlap", kPtd, kAccepted,
       [](V* v) { v->put<uint64_t>(v->field(v->ptd_segment(1), 0), 64); }},
      {"two names for the same bytes", kPtd, kAccepted,
       [](V* v) { v->put<uint32_t>(v->field(v->entry(1), 1), 0); }},
      {"a constant larger than its segment", kPtd, kRefused,
       [](V* v) { v->put<uint64_t>(v->field(v->ptd_segment(1), 1), 15); }},
      {"a constant behind the segment", kPte, kRefused,
       [](V* v) { v->put<uint64_t>(v->child(v->constants(), 1) + 4 + 8, 145); }},
      {"a constant at byte 2^64 - 1 of the segment", kPte, kRefused,
       [](V* v) { v->put(v->child(v->constants(), 1) + 4 + 8, kMax64); }},
      {"a constant at byte 2^32 of the segment", kPte, kRefused,
       [](V* v) { v->put(v->child(v->constants(), 1) + 4 + 8, uint64_t{1} << 32); }},
      {"constants that overlap", kPte, kAccepted,
       [](V* v) { v->put<uint64_t>(v->child(v->constants(), 1) + 4 + 16, 64); }},
      {"a misaligned constant", kPte, kAccepted,
       [](V* v) { v->put<uint64_t>(v->child(v->constants(), 1) + 4 + 8, 1); }},
      {"a storage offset", kPte, kRefused,
       [](V* v) { v->put<int32_t>(v->field(v->tensor(), 1), -1); }},

      // Shapes
      {"an extent of -1", kPte, kRefused,
       [](V* v) { v->put<int32_t>(v->child(v->tensor(), 2) + 4, -1); }},
      {"an extent of -2^31", kPtd, kRefused,
       [](V* v) { v->put(v->child(v->layout(), 1) + 4, std::numeric_limits<int32_t>::min()); }},
      {"an extent of 0", kPtd, kAccepted,
       [](V* v) { v->put<int32_t>(v->child(v->layout(), 1) + 4, 0); }},
      {"extents of 2^31 - 1", kPte, kRefused,
       [](V* v) {
         v->put(v->child(v->tensor(), 2) + 4, std::numeric_limits<int32_t>::max());
         v->put(v->child(v->tensor(), 2) + 8, std::numeric_limits<int32_t>::max());
       }},
      {"bytes that wrap around to 0", kPte, kRefused,
       [](V* v) {
         v->put<int32_t>(v->child(v->tensor(), 2) + 4, 1 << 30);
         v->put<int32_t>(v->child(v->tensor(), 2) + 8, 1 << 30);
         v->put<int32_t>(v->child(v->tensor(), 2) + 12, 4);
       }},
      {"a rank of 1 with two dimensions in the order", kPtd, kRefused,
       [](V* v) { v->put<uint32_t>(v->child(v->layout(), 1), 1); }},
      {"a rank of 2^31", kPte, kRefused,
       [](V* v) { v->put<uint32_t>(v->child(v->tensor(), 2), 1U << 31); }},
      {"dimension 255 in the order", kPte, kRefused,
       [](V* v) { v->put<uint8_t>(v->child(v->tensor(), 3) + 4, 255); }},
      {"dimension 0 twice in the order", kPtd, kRefused,
       [](V* v) { v->put<uint8_t>(v->child(v->layout(), 2) + 5, 0); }},
      {"the columns first", kPtd, kAccepted,
       [](V* v) {
         v->put<uint8_t>(v->child(v->layout(), 2) + 4, 1);
         v->put<uint8_t>(v->child(v->layout(), 2) + 5, 0);
       }},
      {"an unknown dtype", kPtd, kAccepted,
       [](V* v) { v->put<uint8_t>(v->field(v->layout(), 0), 255); }},
  };
  return kCases;
}

/// A copy whose last byte is followed by memory that nobody may touch.
class AtTheEdge {
 public:
  explicit AtTheEdge(const Bytes& bytes) {
    const size_t page = page_bytes();
    const size_t whole = (bytes.size() + page - 1) / page * page;
    mapped_bytes_ = whole + page;
    memory_ = static_cast<uint8_t*>(
        mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED) std::abort();
    mprotect(memory_ + whole, page, PROT_NONE);
    data_ = memory_ + whole - bytes.size();
    std::copy(bytes.begin(), bytes.end(), data_);
  }
  ~AtTheEdge() { munmap(memory_, mapped_bytes_); }
  AtTheEdge(const AtTheEdge&) = delete;
  AtTheEdge& operator=(const AtTheEdge&) = delete;
  const uint8_t* data() const { return data_; }

 private:
  uint8_t* memory_;
  uint8_t* data_;
  size_t mapped_bytes_;
};

/// Parses, and looks at everything that is listed. Every range must lie inside the file.
Result<ProgramFile> parse(const Bytes& bytes, const std::string& what) {
  const Bytes exact(bytes);  // its end is where AddressSanitizer watches
  Result<ProgramFile> file = parse_program_file(exact.data(), exact.size(), "hostile");
  if (!file.ok()) {
    EXPECT_TRUE(file.error().status == Status::BAD_PROGRAM_FILE ||
                file.error().status == Status::TRUNCATED)
        << what << ": " << file.error().message;
    EXPECT_NE(file.error().offset_bytes, kNoOffset) << what << ": " << file.error().message;
    EXPECT_FALSE(file.error().message.empty()) << what;
    return file;
  }
  const auto is_inside = [](const FileRange& outer, uint64_t offset, uint64_t size) {
    return offset >= outer.offset_bytes && offset <= outer.end_bytes() &&
           size <= outer.end_bytes() - offset;
  };
  const FileRange whole{0, exact.size()};
  for (const FileRange& load : file.value().loads) {
    EXPECT_TRUE(is_inside(whole, load.offset_bytes, load.size_bytes)) << what;
  }
  std::vector<const ProgramTensor*> patchable;
  for (const ProgramTensor& tensor : file.value().tensors) {
    EXPECT_TRUE(is_inside(whole, tensor.load.offset_bytes, tensor.load.size_bytes)) << what;
    EXPECT_TRUE(is_inside(tensor.load, tensor.offset_bytes, tensor.size_bytes)) << what;
    EXPECT_NE(tensor.patchable, !tensor.why_not.empty()) << what;
    if (!tensor.patchable) continue;
    uint64_t size_bytes = dtype_bytes(tensor.dtype);
    for (const uint32_t extent : tensor.dims) size_bytes *= extent;
    EXPECT_EQ(size_bytes, tensor.size_bytes) << what;
    EXPECT_EQ(tensor.offset_bytes % dtype_bytes(tensor.dtype), 0U) << what;
    patchable.push_back(&tensor);
  }
  // Two patchable constants have no byte in common, or say that they have all of them.
  for (const ProgramTensor* a : patchable) {
    for (const ProgramTensor* b : patchable) {
      if (a == b || a->offset_bytes >= b->end_bytes() || b->offset_bytes >= a->end_bytes())
        continue;
      EXPECT_TRUE(a->same_bytes_as(*b) && !a->shares_storage_with.empty()) << what;
    }
  }
  return file;
}

Bytes small_file(bool is_ptd) {
  return is_ptd ? make_ptd(small_flat_tensors()) : make_pte(small_program());
}

TEST(AttachHostile, EveryCaseOfTheCatalogue) {
  for (const Case& c : catalogue()) {
    const std::string what = std::string(c.is_ptd ? ".ptd: " : ".pte: ") + c.what;
    Victim victim(small_file(c.is_ptd));
    c.damage(&victim);
    const Result<ProgramFile> file = parse(victim.bytes(), what);
    EXPECT_EQ(file.ok(), c.outcome == Outcome::accepted)
        << what << ": " << (file.ok() ? "accepted" : file.error().message);
    const AtTheEdge edge(victim.bytes());
    EXPECT_EQ(parse_program_file(edge.data(), victim.bytes().size(), "hostile").ok(), file.ok());
    const test::TemporaryFile disk(victim.bytes(), "hostile");
    EXPECT_EQ(read_program_file(disk.path()).ok(), file.ok()) << what;
  }
}

TEST(AttachHostile, AQuarterOfAMillionConstantsAreEnough) {
  // Every one of them is the same description, which the work bound alone would let pass.
  constexpr size_t kCount = (size_t{1} << 18) + 1;
  for (const size_t count : {kCount - 1, kCount}) {
    test::FlatWriter w(48);
    const auto root = w.table_at(0, {{0, 4}, {1, 4}, {2, 4}});
    const auto segment = w.table_at(w.references_at(root.fields.at(1), 1), {{0, 8}, {1, 8}});
    w.put<uint64_t>(segment.fields.at(1), 4);
    const size_t entries = w.references_at(root.fields.at(2), count);
    const auto entry = w.table_at(entries, {{0, 4}, {1, 4}, {2, 4}});
    for (size_t i = 0; i < count; ++i) w.refer_to(entries + 4 * i, entry.position);
    w.string_at(entry.fields.at(0), "w");
    const auto layout = w.table_at(entry.fields.at(2), {{0, 1}});
    w.put<uint8_t>(layout.fields.at(0), kF32);
    w.bytes().resize(w.bytes().size() + 32 * count);
    memcpy(&w.bytes()[4], "FT01FH01", 8);
    w.put<uint32_t>(12, 40);
    w.put<uint64_t>(16, 48);
    w.put<uint64_t>(24, w.bytes().size() - 48);
    w.put<uint64_t>(32, w.bytes().size());
    w.append<uint32_t>(0);
    const Result<ProgramFile> file =
        parse_program_file(w.bytes().data(), w.bytes().size(), "hostile");
    EXPECT_EQ(file.ok(), count < kCount);
    if (!file.ok()) {
      EXPECT_EQ(file.error().message, "the file describes more than 262144 constants");
    }
  }
}

TEST(AttachHostile, EveryTruncation) {
  for (const bool is_ptd : {kPte, kPtd}) {
    const Bytes whole = small_file(is_ptd);
    for (size_t length = 0; length < whole.size(); ++length) {
      const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      const std::string what = "the first " + std::to_string(length) + " bytes";
      EXPECT_FALSE(parse(part, what).ok()) << what;
      const AtTheEdge edge(part);
      EXPECT_FALSE(parse_program_file(edge.data(), length, what).ok()) << what;
    }
  }
}

/// Calls visit(bytes, what) with every bit of the tables flipped, and every byte 0 and 255.
template <typename Visit>
void for_each_flip(const Bytes& whole, const Visit& visit) {
  const uint64_t tables_bytes = parse(whole, "good").value().loads[0].size_bytes;
  Bytes damaged = whole;
  for (size_t i = 0; i < tables_bytes; ++i) {
    const auto try_byte = [&](uint8_t byte) {
      damaged[i] = byte;
      if (byte != whole[i]) {
        visit(damaged, "byte " + std::to_string(i) + " is " + std::to_string(byte));
      }
      damaged[i] = whole[i];
    };
    for (int bit = 0; bit < 8; ++bit) try_byte(static_cast<uint8_t>(whole[i] ^ (1 << bit)));
    try_byte(0);
    try_byte(255);
  }
}

TEST(AttachHostile, EveryFlippedBit) {
  for (const bool is_ptd : {kPte, kPtd}) {
    for_each_flip(small_file(is_ptd), [](const Bytes& damaged, const std::string& what) {
      const bool is_accepted = parse(damaged, what).ok();
      const AtTheEdge edge(damaged);
      EXPECT_EQ(parse_program_file(edge.data(), damaged.size(), what).ok(), is_accepted) << what;
    });
  }
}

/// The file is attached as a program that was loaded by its undamaged tables, and every byte of
/// every tensor that comes of it is written: inside the mapping, or the process ends here.
TEST(AttachHostile, EveryFlippedBitOfAProgramThatIsAttached) {
  for (const bool is_ptd : {kPte, kPtd}) {
    FlatTensors content = small_flat_tensors();
    content.segment_alignment = page_bytes();  // so that each has a page of its own
    content.segments[1].first = page_bytes();
    test::Program program = small_program();
    program.segment_alignment = page_bytes();
    const Bytes whole = is_ptd ? make_ptd(content) : make_pte(program);
    const ProgramFile good = parse(whole, "good").value();
    size_t attached_count = 0;
    const test::TemporaryFile disk(whole, "hostile");
    const int descriptor = open(disk.path().c_str(), O_WRONLY);
    for_each_flip(whole, [&](const Bytes& damaged, const std::string& what) {
      // In place: making thousands of files takes longer than everything else here.
      ASSERT_EQ(pwrite(descriptor, damaged.data(), damaged.size(), 0),
                static_cast<ssize_t>(damaged.size()));
      std::vector<std::unique_ptr<test::Load>> loads;
      for (const FileRange& load : good.loads) {
        if (load.size_bytes == 0) continue;
        loads.push_back(
            std::make_unique<test::Load>(disk.path(), load.offset_bytes, load.size_bytes, false));
      }
      Result<std::vector<TensorSpec>> specs = attach_mapped_file(disk.path(), {});
      if (!specs.ok()) return;
      ++attached_count;
      for (const TensorSpec& spec : specs.value()) {
        uint64_t size_bytes = dtype_bytes(spec.dtype);
        for (const uint32_t extent : spec.dims) size_bytes *= extent;
        const auto begin = reinterpret_cast<uintptr_t>(spec.data);
        const bool is_inside =
            std::any_of(loads.begin(), loads.end(), [&](const std::unique_ptr<test::Load>& load) {
              const auto pages = reinterpret_cast<uintptr_t>(load->pages());
              return begin >= pages && begin + size_bytes <= pages + load->length();
            });
        EXPECT_TRUE(is_inside) << what;
        memset(spec.data, 0x5a, size_bytes);
      }
      EXPECT_TRUE(disk.read() == damaged) << what << ": the file was written";
    });
    close(descriptor);
    EXPECT_GT(attached_count, 100U);
  }
}

/// A sparse file of over 4 GiB: the tables at its beginning, the weights at its end.
TEST(AttachHostile, WeightsBehindFourGibibytes) {
  FlatTensors content;
  const auto page = static_cast<uint64_t>(page_bytes());
  content.constants = {{"fc.weight", kF32, {3, 8}, {}, 0}, {"fc.bias", kF16, {8}, {}, 1}};
  content.segments = {{0, 96}, {page, 16}};
  content.segment_alignment = page_bytes();
  Victim victim(make_ptd(content));
  const uint64_t tables_bytes = victim.get<uint64_t>(32);
  const Bytes data(victim.bytes().begin() + static_cast<std::ptrdiff_t>(tables_bytes),
                   victim.bytes().end());
  const uint64_t start = (uint64_t{1} << 32) + 7 * page;
  victim.put<uint64_t>(32, start);
  victim.bytes().resize(tables_bytes);
  const test::TemporaryFile disk(victim.bytes(), "large.ptd");
  const int descriptor = open(disk.path().c_str(), O_WRONLY);
  if (pwrite(descriptor, data.data(), data.size(), static_cast<off_t>(start)) !=
      static_cast<ssize_t>(data.size())) {
    close(descriptor);
    GTEST_SKIP() << "this file system has no files of 4 GiB";
  }
  close(descriptor);

  const Result<ProgramFile> file = read_program_file(disk.path());
  ASSERT_TRUE(file.ok()) << file.error().message;
  const ProgramTensor& bias = file.value().tensors[0];
  EXPECT_EQ(bias.offset_bytes, start + page);
  const test::Load weight(disk.path(), start, 96);
  const test::Load bias_load(disk.path(), start + page, 16);
  Result<std::vector<TensorSpec>> specs = attach_mapped_file(disk.path(), {});
  ASSERT_TRUE(specs.ok()) << specs.error().message;
  ASSERT_EQ(specs.value().size(), 2U);
  EXPECT_EQ(specs.value()[0].data, bias_load.data());
  EXPECT_EQ(specs.value()[1].data, weight.data());
  const TensorSpec& spec = specs.value()[1];
  EXPECT_EQ(Bytes(spec.data, spec.data + 96), Bytes(data.begin(), data.begin() + 96));
  spec.data[95] ^= 0xff;
  const Result<ProcessMaps> maps = ProcessMaps::read();
  EXPECT_TRUE(spec.region->check(maps.value(), spec.data, 96).ok());
  Bytes source(96);
  ASSERT_TRUE(spec.region->read_source(spec.data, 96, source.data()).ok());
  EXPECT_EQ(source, Bytes(data.begin(), data.begin() + 96));
  ASSERT_TRUE(spec.region->hard_revert().ok());
  EXPECT_EQ(spec.data[95], data[95]);

  // The same place modulo 2^32 is another one.
  ASSERT_EQ(truncate(disk.path().c_str(), static_cast<off_t>(start)), 0);
  EXPECT_EQ(read_program_file(disk.path()).error().status, Status::TRUNCATED);
  const Error detached = spec.region->check(maps.value(), spec.data, 96).error();
  EXPECT_EQ(detached.status, Status::DETACHED);
  EXPECT_EQ(detached.offset_bytes, start);
}

TEST(AttachHostile, AFlatbufferLargerThanFlatbuffersAreIsNotRead) {
  // A .pte without an extended header is all flatbuffer, as far as its bytes say.
  Bytes bytes = small_file(kPte);
  memset(&bytes[8], 0, 4);
  const test::TemporaryFile disk(bytes, "sparse.pte");
  if (truncate(disk.path().c_str(), off_t{1} << 33) != 0) {
    GTEST_SKIP() << "this file system has no files of 8 GiB";
  }
  const Error error = read_program_file(disk.path()).error();
  EXPECT_EQ(error.status, Status::BAD_PROGRAM_FILE);
  EXPECT_NE(error.message.find("at most 2147483647 bytes"), std::string::npos) << error.message;
}

}  // namespace
}  // namespace shira
