// Tests of the copy-on-write attach on real mappings: each trap of live mapped weights, one by one.
// SPDX-License-Identifier: Apache-2.0
#include "attach/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <thread>

#include "attach/program_file.h"
#include "attach_fixtures.h"

namespace shira {
namespace {

using test::Bytes;
using test::data_byte;
using test::FlatTensors;
using test::in_child;
using test::kF32;
using test::kSanitized;
using test::Load;
using test::make_ptd;
using test::make_pte;
using test::Residency;
using test::residency;
using test::TemporaryFile;

/// A .pte with a weight of 64 pages that begins and ends inside a page, and a bias behind it.
Bytes sixty_four_pages() {
  const auto page = static_cast<uint32_t>(page_bytes());
  test::Program program;
  program.methods = {
      {{"weight", kF32, {64, static_cast<int32_t>(page / 4)}, {}, 1}, {"bias", kF32, {16}, {}, 2}}};
  program.offsets = {0, 0, 64 * uint64_t{page}};
  program.constant_bytes = 64 * uint64_t{page} + 64;
  return make_pte(program);
}

/// The two loads that ExecuTorch makes of a .pte.
struct LoadedPte {
  explicit LoadedPte(const std::string& path, bool lock = true) {
    const ProgramFile file = read_program_file(path).value();
    flatbuffer = std::make_unique<Load>(path, 0, file.loads[0].size_bytes, lock);
    constants =
        std::make_unique<Load>(path, file.constants_offset_bytes, file.constants_size_bytes, lock);
  }
  uint8_t* weight() const { return constants->data(); }
  std::vector<Anchor> anchors() const {
    return {{"weight", reinterpret_cast<uintptr_t>(weight())}};
  }
  std::unique_ptr<Load> flatbuffer;
  std::unique_ptr<Load> constants;
};

const TensorSpec& spec(const std::vector<TensorSpec>& specs, const std::string& name) {
  for (const TensorSpec& candidate : specs) {
    if (candidate.name == name) return candidate;
  }
  ADD_FAILURE() << "no tensor " << name;
  std::abort();
}

uint64_t size_bytes(const TensorSpec& tensor) {
  uint64_t bytes = dtype_bytes(tensor.dtype);
  for (const uint32_t extent : tensor.dims) bytes *= extent;
  return bytes;
}

Result<void> check(const TensorSpec& tensor) {
  Result<ProcessMaps> maps = ProcessMaps::read();
  EXPECT_TRUE(maps.ok());
  return tensor.region->check(maps.value(), tensor.data, size_bytes(tensor));
}

bool shows_file(const uint8_t* memory, uint64_t count, uint64_t data_offset = 0) {
  for (uint64_t i = 0; i < count; ++i) {
    if (memory[i] != data_byte(data_offset + i)) return false;
  }
  return true;
}

class AttachMappedFile : public ::testing::Test {
 protected:
  AttachMappedFile() : content_(sixty_four_pages()), file_(content_, "a model.pte") {}
  void TearDown() override {
    if (!is_file_changed_) {
      EXPECT_TRUE(file_.read() == content_) << "the file was written";
    }
  }

  std::vector<TensorSpec> attach(const std::vector<Anchor>& anchors = {}) {
    Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), anchors);
    EXPECT_TRUE(specs.ok()) << specs.error().message;
    return specs.ok() ? std::move(specs.value()) : std::vector<TensorSpec>();
  }

  Status failure(const std::vector<Anchor>& anchors = {}) {
    Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), anchors);
    if (specs.ok()) return Status::OK;
    EXPECT_EQ(specs.error().file, file_.path());
    return specs.error().status;
  }

  const size_t page_ = page_bytes();
  const Bytes content_;
  TemporaryFile file_;
  bool is_file_changed_ = false;
};

TEST_F(AttachMappedFile, StoresReachTheProgramAndNeverTheFile) {
  LoadedPte loaded(file_.path());
  const std::vector<TensorSpec> specs = attach();
  ASSERT_EQ(specs.size(), 2U);
  const TensorSpec& weight = spec(specs, "weight");
  EXPECT_EQ(weight.data, loaded.weight()) << "the address stays";
  EXPECT_EQ(weight.dims, (std::vector<uint32_t>{64, static_cast<uint32_t>(page_ / 4)}));
  EXPECT_TRUE(shows_file(weight.data, size_bytes(weight)));
  EXPECT_EQ(spec(specs, "bias").region, weight.region) << "one mapping, one region";
  ASSERT_TRUE(check(weight).ok());
  memset(weight.data, 0x5a, size_bytes(weight));
  EXPECT_EQ(loaded.weight()[12345], 0x5a);
  EXPECT_TRUE(shows_file(spec(specs, "bias").data, 64, 64 * page_)) << "same page, other tensor";
  EXPECT_TRUE(file_.read() == content_);

  Bytes source(size_bytes(weight));
  ASSERT_TRUE(weight.region->has_source());
  ASSERT_TRUE(weight.region->read_source(weight.data + 5, 100, source.data()).ok());
  EXPECT_TRUE(shows_file(source.data(), 100, 5)) << "the source is the file, not the memory";
  ASSERT_TRUE(weight.region->hard_revert().ok());
  EXPECT_TRUE(shows_file(weight.data, size_bytes(weight)));
  ASSERT_TRUE(check(weight).ok()) << "and it can be patched again";
  weight.data[0] = 1;
}

TEST_F(AttachMappedFile, LockedPagesAreNeitherKeptNorFaultedIn) {
  LoadedPte loaded(file_.path());
  const Load& constants = *loaded.constants;
  if (!constants.is_locked()) GTEST_SKIP() << "mlock is not permitted here";
  const Residency before = residency(constants.pages(), constants.length());
  ASSERT_TRUE(before.is_locked);
  ASSERT_GE(before.resident_kib, 64 * page_ / 1024);
  ASSERT_EQ(madvise(constants.pages(), constants.length(), MADV_DONTNEED), -1)
      << "the premise of the trap";

  const std::vector<TensorSpec> specs = attach();
  const Residency after = residency(constants.pages(), constants.length());
  EXPECT_TRUE(after.is_covered);
  EXPECT_FALSE(after.is_locked);
  EXPECT_EQ(after.resident_kib, 0U);
  const TensorSpec& weight = spec(specs, "weight");
  weight.data[3 * page_] = 1;
  const Residency touched = residency(constants.pages(), constants.length());
  EXPECT_LE(touched.copied_kib, page_ / 1024) << "one store copies one page";
  EXPECT_TRUE(weight.region->hard_revert().ok());
  EXPECT_EQ(residency(constants.pages(), constants.length()).copied_kib, 0U);
}

TEST_F(AttachMappedFile, AnApplicationThatLocksEverythingIsServed) {
  if (kSanitized) GTEST_SKIP() << "sanitizers make munlock do nothing";
  const int answer = in_child([&] {
    LoadedPte loaded(file_.path());
    const Load& constants = *loaded.constants;
    if (mlockall(MCL_FUTURE) != 0) return 77;
    Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), {});
    if (!specs.ok()) return 1;
    const Residency attached = residency(constants.pages(), constants.length());
    if (attached.is_locked || attached.resident_kib != 0) return 2;
    // Locking what is there already is the application's right, and defeats MADV_DONTNEED.
    if (mlockall(MCL_CURRENT) != 0) return 77;
    const TensorSpec& weight = spec(specs.value(), "weight");
    memset(weight.data, 1, size_bytes(weight));
    if (!residency(constants.pages(), constants.length()).is_locked) return 3;
    if (madvise(constants.pages(), constants.length(), MADV_DONTNEED) == 0) return 4;
    if (!weight.region->hard_revert().ok()) return 5;
    return shows_file(weight.data, size_bytes(weight)) ? 0 : 6;
  });
  if (answer == 77) GTEST_SKIP() << "mlockall is not permitted here";
  EXPECT_EQ(answer, 0);
}

TEST_F(AttachMappedFile, OfTwoProgramsOfOneFileTheAnchoredOneIsPatched) {
  LoadedPte first(file_.path());
  LoadedPte second(file_.path());
  EXPECT_EQ(failure(), Status::AMBIGUOUS);
  const std::vector<TensorSpec> specs = attach(second.anchors());
  ASSERT_EQ(specs.size(), 1U);
  specs[0].data[7] ^= 0xff;
  EXPECT_FALSE(shows_file(second.weight(), 64));
  EXPECT_TRUE(shows_file(first.weight(), 64));
  EXPECT_EQ(failure(second.anchors()), Status::NOT_SUPPORTED) << "attached already";
  EXPECT_EQ(failure({{"weight", second.anchors()[0].address + 4}}), Status::NOT_SUPPORTED);
  EXPECT_EQ(failure({{"weight", first.anchors()[0].address + 4}}), Status::DETACHED);
  attach(first.anchors());
}

TEST_F(AttachMappedFile, UnloadedMemoryIsDetached) {
  LoadedPte loaded(file_.path());
  const std::vector<TensorSpec> specs = attach();
  const TensorSpec& weight = spec(specs, "weight");
  void* pages = loaded.constants->pages();
  const size_t length = loaded.constants->length();
  loaded.constants->unload();
  EXPECT_EQ(check(weight).error().status, Status::DETACHED);
  EXPECT_EQ(weight.region->hard_revert().error().status, Status::DETACHED);

  // The kernel gives the address to somebody else, writable and private like ours.
  const auto reuse = [&](int flags, int descriptor, off_t offset) {
    return mmap(pages, length, PROT_READ | PROT_WRITE, MAP_FIXED | flags, descriptor, offset);
  };
  ASSERT_NE(reuse(MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), MAP_FAILED);
  memset(pages, 0x77, length);
  EXPECT_EQ(check(weight).error().status, Status::DETACHED);
  EXPECT_EQ(weight.region->hard_revert().error().status, Status::DETACHED);
  EXPECT_EQ(static_cast<uint8_t*>(pages)[length - 1], 0x77) << "a stranger's memory was dropped";

  const TemporaryFile other(content_);
  const int other_descriptor = open(other.path().c_str(), O_RDONLY);
  ASSERT_NE(reuse(MAP_PRIVATE, other_descriptor, 0), MAP_FAILED);
  EXPECT_EQ(check(weight).error().status, Status::DETACHED) << "another file of the same content";
  close(other_descriptor);

  const int descriptor = open(file_.path().c_str(), O_RDONLY);
  ASSERT_NE(reuse(MAP_PRIVATE, descriptor, static_cast<off_t>(page_)), MAP_FAILED);
  EXPECT_EQ(check(weight).error().status, Status::DETACHED) << "another place of the same file";
  ASSERT_NE(mmap(pages, length, PROT_READ, MAP_FIXED | MAP_SHARED, descriptor, 0), MAP_FAILED);
  EXPECT_EQ(check(weight).error().status, Status::DETACHED) << "loaded again, not attached";
  ASSERT_NE(reuse(MAP_PRIVATE, descriptor, 0), MAP_FAILED);
  EXPECT_TRUE(check(weight).ok());
  ASSERT_EQ(mprotect(pages, page_, PROT_READ), 0);
  EXPECT_EQ(check(weight).error().status, Status::READ_ONLY);
  ASSERT_EQ(munmap(static_cast<uint8_t*>(pages) + 10 * page_, page_), 0);
  ASSERT_EQ(mprotect(pages, page_, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(check(weight).error().status, Status::DETACHED) << "a hole in the middle";
  close(descriptor);
  munmap(pages, length);
}

TEST_F(AttachMappedFile, AFileTruncatedBeforehandIsAnErrorNotSigbus) {
  LoadedPte loaded(file_.path());
  is_file_changed_ = true;
  ASSERT_EQ(truncate(file_.path().c_str(), static_cast<off_t>(20 * page_)), 0);
  EXPECT_EQ(failure(), Status::TRUNCATED);
  EXPECT_EQ(failure(loaded.anchors()), Status::TRUNCATED);
  ASSERT_EQ(truncate(file_.path().c_str(), 0), 0);
  EXPECT_EQ(failure(), Status::BAD_PROGRAM_FILE);
}

TEST_F(AttachMappedFile, AFileTruncatedAfterwardsIsAnErrorNotSigbus) {
  LoadedPte loaded(file_.path());
  const std::vector<TensorSpec> specs = attach();
  const TensorSpec& weight = spec(specs, "weight");
  weight.data[63 * page_] = 1;
  is_file_changed_ = true;
  ASSERT_EQ(truncate(file_.path().c_str(), static_cast<off_t>(20 * page_)), 0);
  EXPECT_EQ(check(weight).error().status, Status::DETACHED);
  Bytes source(size_bytes(weight));
  EXPECT_EQ(weight.region->read_source(weight.data, source.size(), source.data()).error().status,
            Status::DETACHED);
  EXPECT_EQ(weight.region->hard_revert().error().status, Status::DETACHED);
}

TEST_F(AttachMappedFile, AFileRewrittenInPlaceIsNoSource) {
  LoadedPte loaded(file_.path());
  const std::vector<TensorSpec> specs = attach();
  const TensorSpec& weight = spec(specs, "weight");
  is_file_changed_ = true;
  Bytes changed = content_;
  changed.back() ^= 1;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the clock of file times is coarse
  TemporaryFile::write(file_.path(), changed);
  uint8_t byte = 0;
  EXPECT_EQ(weight.region->read_source(weight.data, 1, &byte).error().status, Status::DETACHED);
  EXPECT_EQ(weight.region->hard_revert().error().status, Status::DETACHED);
}

TEST_F(AttachMappedFile, AFileReplacedBeforehandIsDetached) {
  LoadedPte loaded(file_.path());
  TemporaryFile::write(file_.path() + ".new", content_);
  ASSERT_EQ(rename((file_.path() + ".new").c_str(), file_.path().c_str()), 0);
  EXPECT_EQ(failure(), Status::DETACHED);
  EXPECT_EQ(failure(loaded.anchors()), Status::DETACHED);
  ASSERT_EQ(unlink(file_.path().c_str()), 0);
  EXPECT_EQ(failure(), Status::IO_ERROR);
  is_file_changed_ = true;
}

TEST_F(AttachMappedFile, AFileReplacedAfterwardsStaysTheSource) {
  LoadedPte loaded(file_.path());
  const std::vector<TensorSpec> specs = attach();
  const TensorSpec& weight = spec(specs, "weight");
  Bytes other = content_;
  other.back() ^= 1;
  TemporaryFile::write(file_.path() + ".new", other);
  ASSERT_EQ(rename((file_.path() + ".new").c_str(), file_.path().c_str()), 0);
  is_file_changed_ = true;
  ASSERT_TRUE(check(weight).ok()) << "the program still uses the old file, and so do we";
  memset(weight.data, 1, size_bytes(weight));
  EXPECT_TRUE(weight.region->hard_revert().ok());
  EXPECT_TRUE(shows_file(weight.data, size_bytes(weight)));
}

TEST_F(AttachMappedFile, WhatIsNotMappedIsSaidSo) {
  EXPECT_EQ(failure(), Status::NOT_MAPPED);
  EXPECT_EQ(failure({{"weight", 4096}}), Status::NOT_MAPPED);
  // A loader that reads the file into the heap.
  const Bytes heap = file_.read();
  EXPECT_EQ(failure({{"weight", reinterpret_cast<uintptr_t>(heap.data())}}), Status::NOT_MAPPED);
  LoadedPte loaded(file_.path());
  EXPECT_EQ(failure({{"weight", reinterpret_cast<uintptr_t>(heap.data())}}), Status::DETACHED);
  EXPECT_EQ(failure({{"wieght", loaded.anchors()[0].address}}), Status::UNKNOWN_TENSOR);
}

TEST_F(AttachMappedFile, ASymbolicLinkIsTheFile) {
  ASSERT_EQ(symlink(file_.path().c_str(), (file_.path() + ".link").c_str()), 0);
  LoadedPte loaded(file_.path());
  Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path() + ".link", {});
  EXPECT_TRUE(specs.ok()) << specs.error().message;
}

TEST_F(AttachMappedFile, UnloadingLeavesNothingBehind) {
  const auto descriptors = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  const auto before = descriptors();
  const auto of_this_file = [this] {
    size_t areas = 0;
    const Result<ProcessMaps> maps = ProcessMaps::read();
    for (const MemoryArea& area : maps.value().areas()) areas += area.path == file_.path() ? 1 : 0;
    return areas;
  };
  auto loaded = std::make_unique<LoadedPte>(file_.path());
  std::vector<TensorSpec> specs = attach();
  specs[0].data[0] ^= 1;
  ASSERT_GT(of_this_file(), 0U);
  EXPECT_GT(descriptors(), before) << "the region holds the file";
  loaded.reset();  // as the loader does: munmap of the pages it mapped
  EXPECT_EQ(of_this_file(), 0U);
  specs.clear();
  EXPECT_EQ(descriptors(), before);
}

TEST_F(AttachMappedFile, AProgramMayBeAttachedAgainWhenNobodyHoldsItsRegions) {
  LoadedPte loaded(file_.path());
  std::vector<TensorSpec> specs = attach();
  EXPECT_EQ(failure(loaded.anchors()), Status::NOT_SUPPORTED);
  spec(specs, "weight").data[5] ^= 1;
  specs.pop_back();
  EXPECT_EQ(failure(loaded.anchors()), Status::NOT_SUPPORTED) << "one tensor is left";
  specs.clear();
  EXPECT_FALSE(shows_file(loaded.weight(), 16)) << "what was stored stays";
  Result<ProcessMaps> maps = ProcessMaps::read();
  EXPECT_FALSE(maps.value().find(reinterpret_cast<uintptr_t>(loaded.weight()))->writable);

  // A new mapping would show the base again: weights must not change behind the program's back.
  const Error error = attach_mapped_file(file_.path(), loaded.anchors()).error();
  EXPECT_EQ(error.status, Status::BASE_MODIFIED);
  EXPECT_EQ(error.offset_bytes, read_program_file(file_.path()).value().constants_offset_bytes + 5);
  EXPECT_EQ(failure(), Status::BASE_MODIFIED);
  EXPECT_FALSE(shows_file(loaded.weight(), 16));
  ASSERT_EQ(mprotect(loaded.constants->pages(), page_, PROT_READ | PROT_WRITE), 0);
  loaded.weight()[5] ^= 1;
  ASSERT_EQ(mprotect(loaded.constants->pages(), page_, PROT_READ), 0);
  specs = attach();
  EXPECT_TRUE(shows_file(loaded.weight(), 64 * page_));
  void* pages = loaded.constants->pages();
  const size_t length = loaded.constants->length();
  loaded.constants->unload();
  ASSERT_NE(
      mmap(pages, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
      MAP_FAILED);
  specs.clear();
  maps = ProcessMaps::read();
  EXPECT_TRUE(maps.value().find(reinterpret_cast<uintptr_t>(pages))->writable)
      << "somebody else's memory was made read-only";
  munmap(pages, length);
}

TEST_F(AttachMappedFile, APrivateMappingThatShowsTheFileIsAttachedUpToItsLastByte) {
  // Another loader's: private, read-only, and the last page goes on behind the end of the file.
  LoadedPte loaded(file_.path());
  const Load& constants = *loaded.constants;
  const int descriptor = open(file_.path().c_str(), O_RDONLY);
  const Result<ProcessMaps> maps = ProcessMaps::read();
  const auto offset_bytes = static_cast<off_t>(
      maps.value().find(reinterpret_cast<uintptr_t>(constants.pages()))->file_offset_bytes);
  ASSERT_NE(mmap(constants.pages(), constants.length(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_FIXED, descriptor, offset_bytes),
            MAP_FAILED);
  close(descriptor);
  uint8_t* last = loaded.weight() + 64 * page_ + 63;
  const auto protect = [&](int protection) {
    return mprotect(constants.pages(), constants.length(), protection) == 0;
  };
  last[0] ^= 1;
  last[1] ^= 1;  // behind the end of the file
  ASSERT_TRUE(protect(PROT_READ));
  EXPECT_EQ(failure(), Status::BASE_MODIFIED);
  ASSERT_TRUE(protect(PROT_READ | PROT_WRITE));
  last[0] ^= 1;
  ASSERT_TRUE(protect(PROT_READ));
  EXPECT_EQ(attach().size(), 2U);
}

TEST_F(AttachMappedFile, ReadersNeverSeeAnythingButTheFile) {
  // A forward pass may run while the mapping is replaced.
  for (int round = 0; round < 50; ++round) {
    LoadedPte loaded(file_.path());
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::atomic<int> passes{0};
    std::thread reader([&] {
      while (!stop) {
        for (size_t page = 0; page < 64; ++page) {
          const volatile uint8_t* byte = loaded.weight() + page * page_;
          if (*byte != data_byte(page * page_)) ++wrong;
        }
        ++passes;
      }
    });
    while (passes < 2) std::this_thread::yield();
    attach();
    const int seen = passes;
    while (passes < seen + 2) std::this_thread::yield();
    stop = true;
    reader.join();
    ASSERT_EQ(wrong, 0);
  }
}

TEST_F(AttachMappedFile, KillingTheProcessBetweenStoresHarmsNothing) {
  fflush(nullptr);
  int started[2];
  ASSERT_EQ(pipe(started), 0);
  const pid_t child = fork();
  if (child == 0) {
    LoadedPte loaded(file_.path());
    Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), {});
    if (!specs.ok() || write(started[1], "x", 1) != 1) _exit(1);
    for (uint8_t value = 0;; ++value) {
      for (const TensorSpec& tensor : specs.value()) memset(tensor.data, value, size_bytes(tensor));
    }
  }
  close(started[1]);
  char ready = 0;
  ASSERT_EQ(read(started[0], &ready, 1), 1);
  close(started[0]);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_TRUE(file_.read() == content_);
}

/// Three tensors of a .ptd: two in one page, and one large one. Each is a load of its own.
class AttachPtd : public ::testing::Test {
 protected:
  AttachPtd() : content_(make_ptd(flat_tensors())), file_(content_, "model.ptd") {
    const ProgramFile tables = read_program_file(file_.path()).value();
    header_ = std::make_unique<Load>(file_.path(), 0, tables.loads[0].size_bytes);
    for (const ProgramTensor& tensor : tables.tensors) {
      loads_.push_back(
          std::make_unique<Load>(file_.path(), tensor.load.offset_bytes, tensor.load.size_bytes));
      anchors_.push_back({tensor.name, reinterpret_cast<uintptr_t>(loads_.back()->data())});
    }
  }
  void TearDown() override { EXPECT_TRUE(file_.read() == content_) << "the file was written"; }

  FlatTensors flat_tensors() const {
    FlatTensors tensors;
    tensors.segment_alignment = page_;
    tensors.constants = {{"a.bias", kF32, {16}, {}, 0},
                         {"b.bias", kF32, {16}, {}, 1},
                         {"c.weight", kF32, {8, static_cast<int32_t>(page_ / 4)}, {}, 2}};
    tensors.segments = {{0, 64}, {128, 64}, {256, 8 * uint64_t{page_}}};
    return tensors;
  }

  const size_t page_ = page_bytes();
  const Bytes content_;
  TemporaryFile file_;
  std::unique_ptr<Load> header_;
  std::vector<std::unique_ptr<Load>> loads_;
  std::vector<Anchor> anchors_;
};

TEST_F(AttachPtd, EachTensorHasAMappingOfItsOwn) {
  EXPECT_EQ(attach_mapped_file(file_.path(), {}).error().status, Status::AMBIGUOUS);
  Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), anchors_);
  ASSERT_TRUE(specs.ok()) << specs.error().message;
  ASSERT_EQ(specs.value().size(), 3U);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(specs.value()[i].data, loads_[i]->data());
  EXPECT_NE(specs.value()[0].region, specs.value()[1].region);
  memset(specs.value()[0].data, 0x5a, 64);
  EXPECT_TRUE(shows_file(loads_[1]->data(), 64, 128)) << "a neighbour in the same file page";
  EXPECT_TRUE(shows_file(loads_[2]->data(), 8 * page_, 256));
  ASSERT_TRUE(specs.value()[2].region->hard_revert().ok());
  EXPECT_EQ(loads_[0]->data()[0], 0x5a) << "a region drops its own pages only";
}

TEST_F(AttachPtd, OneBadAnchorLeavesEveryMappingAsItWas) {
  std::vector<Anchor> anchors = anchors_;
  anchors[2].address += 64;
  EXPECT_EQ(attach_mapped_file(file_.path(), anchors).error().status, Status::DETACHED);
  const Result<ProcessMaps> maps = ProcessMaps::read();
  for (const MemoryArea& area : maps.value().areas()) {
    EXPECT_TRUE(area.path != file_.path() || (area.shared && !area.writable));
  }
}

TEST_F(AttachPtd, LackOfMemoryLeavesEveryMappingAsItWas) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need the whole address space";
  const int answer = in_child([&] {
    // Room for the small tensors' pages, not for the large one's.
    unsigned long pages = 0;
    if (FILE* statm = fopen("/proc/self/statm", "r")) {
      if (fscanf(statm, "%lu", &pages) != 1) return 9;
      fclose(statm);
    }
    for (rlim_t spare = 0; spare < 64; ++spare) {
      const rlim_t limit = (pages + spare) * page_;
      const rlimit limits{limit, RLIM_INFINITY};
      if (setrlimit(RLIMIT_AS, &limits) != 0) return 9;
      const Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), anchors_);
      if (specs.ok()) return spare == 0 ? 1 : 0;
      if (specs.error().status != Status::OUT_OF_MEMORY) return 2;
      const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
      setrlimit(RLIMIT_AS, &none);
      const Result<ProcessMaps> maps = ProcessMaps::read();
      size_t areas = 0;
      for (const MemoryArea& area : maps.value().areas()) {
        if (area.path != file_.path()) continue;
        ++areas;
        if (!area.shared || area.writable) return 3;
      }
      if (areas < 4) return 4;
      if (!shows_file(loads_[2]->data(), 8 * page_, 256)) return 5;
    }
    return 6;
  });
  EXPECT_EQ(answer, 0);
}

TEST_F(AttachPtd, AMoveThatFailsIsTakenBack) {
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
  const int answer = in_child([&] {
    // A sealed mapping cannot be replaced. It is the one with the highest address, so that the
    // others have been moved by then.
    const auto last = std::max_element(loads_.begin(), loads_.end(),
                                       [](auto& a, auto& b) { return a->pages() < b->pages(); });
    if (syscall(SYS_mseal, (*last)->pages(), (*last)->length(), 0) != 0) return 77;
    const Result<std::vector<TensorSpec>> specs = attach_mapped_file(file_.path(), anchors_);
    if (specs.ok() || specs.error().status != Status::IO_ERROR) return 1;
    const Result<ProcessMaps> maps = ProcessMaps::read();
    for (const auto& load : loads_) {
      const MemoryArea* area = maps.value().find(reinterpret_cast<uintptr_t>(load->data()));
      if (area == nullptr || !area->shared || area->writable) return 2;
    }
    if (!shows_file(loads_[0]->data(), 64, 0)) return 3;
    if (!shows_file(loads_[1]->data(), 64, 128)) return 4;
    return shows_file(loads_[2]->data(), 8 * page_, 256) ? 0 : 5;
  });
  if (answer == 77) GTEST_SKIP() << "this kernel cannot seal mappings";
  EXPECT_EQ(answer, 0);
}

}  // namespace
}  // namespace shira
