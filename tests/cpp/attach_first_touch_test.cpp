// Tests of how pages become private: the plan for every page size, moved huge pages, reports, the
// limit.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "attach/touch_plan.h"
#include "base/huge_pages.h"
#include "base/private_memory.h"
#include "runtime/positions.h"
#include "transaction_support.h"

namespace shira::testing {
namespace {

// ---- The plan, on made-up pages ----

struct Sizes {
  uint64_t page_bytes;
  uint64_t huge_bytes;
};

class TouchPlanOfPages : public ::testing::TestWithParam<Sizes> {};

Array<uint64_t> words_of(const std::vector<bool>& bits, size_t word_count) {
  Array<uint64_t> words = std::move(Array<uint64_t>::make(word_count).value());
  std::fill(words.data(), words.data() + word_count, 0);
  for (size_t i = 0; i < bits.size(); ++i) words[i / 64] |= uint64_t{bits[i]} << i % 64;
  return words;
}

IndexList one_run(uint32_t start, uint32_t length) {
  IndexList list;
  list.runs = std::move(Array<Run>::make(1).value());
  list.runs[0] = Run{start, length};
  list.entry_count = length;
  return list;
}

TEST_P(TouchPlanOfPages, EveryMissingPageIsInExactlyOnePiece) {
  std::mt19937_64 random(5);
  const uint64_t block_pages = GetParam().huge_bytes / GetParam().page_bytes;
  for (int round = 0; round < 60; ++round) {
    const uint64_t span_pages = block_pages * 3 + random() % (2 * block_pages);
    const uint64_t first_page = random() % (block_pages + 3);
    const uint64_t tensor_pages = 1 + random() % (span_pages - first_page);
    HugeBlocks blocks;
    if (round % 4 != 0) {
      blocks = {block_pages, random() % block_pages,
                round % 4 == 1 ? uint64_t{1} : block_pages * 3 / 4, span_pages};
    }
    std::vector<bool> marked(tensor_pages);
    std::vector<bool> known(span_pages);
    const unsigned density = std::vector<unsigned>{2, 50, 98, 100}[random() % 4];
    for (size_t i = 0; i < marked.size(); ++i) {
      // Whole stretches, too: a plan of one piece must come out as one.
      marked[i] = i % 700 < 300 ? density >= 50 : random() % 100 < density;
    }
    for (size_t i = 0; i < known.size(); ++i) known[i] = random() % 100 < 3 && round % 3 == 0;
    const Array<uint64_t> marked_words = words_of(marked, tensor_pages / 64 + 1);
    const Array<uint64_t> known_words = words_of(known, span_pages / 64 + 1);
    const auto is_missing = [&](uint64_t page) {
      return page >= first_page && page < first_page + tensor_pages && marked[page - first_page] &&
             !known[page];
    };

    // The same, page by page.
    std::vector<char> expected(span_pages, '.');
    for (uint64_t page = 0; page < span_pages; ++page)
      expected[page] = is_missing(page) ? 's' : '.';
    for (uint64_t begin = 0; blocks.block_pages != 0 && begin + block_pages <= span_pages;
         ++begin) {
      if ((begin + blocks.phase_pages) % block_pages != 0) continue;
      if (begin == 0 || begin + block_pages == span_pages) continue;
      uint64_t missing_count = 0;
      for (uint64_t page = begin; page < begin + block_pages; ++page)
        missing_count += is_missing(page) ? 1 : 0;
      if (missing_count < blocks.min_missing_pages) continue;
      std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(begin), block_pages, 'h');
    }

    std::vector<char> found(span_pages, '.');
    TouchPiece before;
    const Result<void> walked =
        TouchPlan(marked_words, first_page, known_words, blocks)
            .for_each([&](const TouchPiece& piece) -> Result<void> {
              EXPECT_GT(piece.page_count, 0U);
              EXPECT_LE(piece.first_page + piece.page_count, span_pages);
              EXPECT_TRUE(before.first_page + before.page_count < piece.first_page ||
                          before.is_huge != piece.is_huge || before.page_count == 0)
                  << "two pieces that should be one";
              for (uint64_t i = 0; i < piece.page_count && piece.first_page + i < span_pages; ++i)
                found[piece.first_page + i] = piece.is_huge ? 'h' : 's';
              before = piece;
              return {};
            });
    ASSERT_TRUE(walked.ok());
    ASSERT_EQ(std::string(found.begin(), found.end()),
              std::string(expected.begin(), expected.end()));
  }
}

TEST_P(TouchPlanOfPages, PagesOfEntriesAreThoseOfTheirBytes) {
  const uint64_t page = GetParam().page_bytes;
  TensorSpec tensor;
  tensor.dtype = Dtype::f16;
  tensor.data = reinterpret_cast<uint8_t*>(7 * page + page / 2);
  IndexList list;
  const std::vector<uint32_t> index = {0, static_cast<uint32_t>(page / 4 - 1),
                                       static_cast<uint32_t>(page / 4),
                                       static_cast<uint32_t>(3 * page / 4)};
  list.entries = std::move(Array<uint32_t>::make(index.size()).value());
  std::copy(index.begin(), index.end(), list.entries.data());
  list.entry_count = index.size();
  const Result<PageSet> entries = PageSet::make(list, tensor, page);
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries.value().count(), 3U);
  EXPECT_EQ(entries.value().words()[0], 0b111U);

  const IndexList runs = one_run(static_cast<uint32_t>(page / 4), static_cast<uint32_t>(page));
  const Result<PageSet> covered = PageSet::make(runs, tensor, page);
  ASSERT_TRUE(covered.ok());
  EXPECT_EQ(covered.value().words()[0], 0b110U);
}

INSTANTIATE_TEST_SUITE_P(PageSizes, TouchPlanOfPages,
                         ::testing::Values(Sizes{4 << 10, 2 << 20}, Sizes{16 << 10, 32 << 20},
                                           Sizes{64 << 10, 512 << 20}));

// ---- What the system gives ----

TEST(HugePageBytes, AreReadFromTheSystemsSettings) {
  const test::TemporaryFolder folder;
  const auto bytes_with = [&](const std::string& enabled, const std::string& size) {
    std::ofstream(folder / "enabled") << enabled << "\n";
    std::ofstream(folder / "hpage_pmd_size") << size << "\n";
    return huge_page_bytes(folder.path().c_str());
  };
  EXPECT_EQ(huge_page_bytes(folder.path().c_str()), 0U) << "no such files";
  EXPECT_EQ(bytes_with("always [madvise] never", "2097152"), 2097152U);
  EXPECT_EQ(bytes_with("[always] madvise never", "33554432"), 33554432U);
  EXPECT_EQ(bytes_with("always madvise [never]", "2097152"), 0U);
  for (const char* size : {"", "0", "-1", "words", "3000000", "4096", "99999999999999999999999"})
    EXPECT_EQ(bytes_with("[always]", size), 0U) << size;
}

TEST(PrivateBytes, ArePagesThatNobodyElseHas) {
  const test::TemporaryFile file(test::Bytes(8 * page_bytes(), 1));
  const int descriptor = open(file.path().c_str(), O_RDONLY);
  auto* memory = static_cast<uint8_t*>(
      mmap(nullptr, 8 * page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0));
  close(descriptor);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const auto private_pages = [&](size_t first, size_t last) {
    const Result<uint64_t> bytes =
        count_private_bytes({begin + first * page_bytes(), begin + last * page_bytes()});
    EXPECT_TRUE(bytes.ok()) << bytes.error().message;
    return bytes.value() / page_bytes();
  };
  volatile uint8_t sum = 0;
  for (size_t page = 0; page < 8; ++page) sum = sum + memory[page * page_bytes()];
  EXPECT_EQ(private_pages(0, 8), 0U) << "pages of the file that only this process maps";
  memory[2 * page_bytes()] = memory[5 * page_bytes()] = 9;
  EXPECT_EQ(private_pages(0, 8), 2U);
  EXPECT_EQ(private_pages(3, 6), 1U);
  EXPECT_EQ(private_pages(3, 3), 0U);
  ASSERT_EQ(mmap(memory, 2 * page_bytes(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            memory);
  memory[0] = 1;
  EXPECT_EQ(private_pages(0, 8), 3U) << "anonymous memory";
  munmap(memory, 8 * page_bytes());

  EXPECT_EQ(count_private_bytes({0, 4096}, "/nowhere").error().status, Status::IO_ERROR);
  EXPECT_EQ(count_private_bytes({0, 4096}, "/proc/self").error().status, Status::IO_ERROR);
  const test::TemporaryFile short_map(test::Bytes(13, 0xff));
  EXPECT_EQ(count_private_bytes({0, 64 * page_bytes()}, short_map.path().c_str()).value(), 0U);
  test::Bytes words(16, 0);
  words[7] = 0x80;   // present
  words[15] = 0xa0;  // present, of a file
  const test::TemporaryFile two_pages(words);
  EXPECT_EQ(count_private_bytes({0, 64 * page_bytes()}, two_pages.path().c_str()).value(),
            page_bytes());
}

// ---- Moved pages of a live program ----

class MovedPages : public ::testing::Test {
 protected:
  static constexpr size_t kTensorBytes = size_t{5} << 20;

  MovedPages()
      : weights_(2, kTensorBytes / page_bytes()),
        attached_(std::make_unique<AttachedProgram>(weights_)) {}

  void SetUp() override {
    if (huge_page_bytes() == 0 || huge_page_bytes() > kTensorBytes * 2 / 5)
      GTEST_SKIP() << "this system has no huge pages of a fitting size";
  }
  void TearDown() override { EXPECT_TRUE(weights_.read() == weights_.content()) << "written"; }

  Program& program() { return attached_->program; }

  ProgramMemory memory() {
    const Result<ProgramMemory> memory = program().memory();
    EXPECT_TRUE(memory.ok()) << memory.error().message;
    return memory.value();
  }

  /// The first byte that lies in a moved page.
  uint8_t* moved_byte() const {
    const auto address = reinterpret_cast<uintptr_t>(attached_->data(0)) + huge_page_bytes();
    return reinterpret_cast<uint8_t*>(address & ~(huge_page_bytes() - 1));
  }

  void expect(const std::vector<Member>& members) {
    const Result<SwitchReport> result = program().switch_to(members);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_TRUE(attached_->live() == weights_.expected(members));
  }

  const WeightsFile weights_;
  std::unique_ptr<AttachedProgram> attached_;
};

TEST_F(MovedPages, HoldTheSameWeightsThroughEveryStateAndBack) {
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  EXPECT_EQ(memory().huge_bytes, 0U);
  expect({{"a", 1}});
  const ProgramMemory first = memory();
  EXPECT_GE(first.huge_bytes, 2 * huge_page_bytes());
  EXPECT_GE(first.private_bytes, first.huge_bytes);
  EXPECT_LE(first.private_bytes, first.mapped_bytes);
  EXPECT_GT(first.originals_bytes, 0U);
  for (const std::vector<Member>& members :
       {std::vector<Member>{{"b", 0.5F}}, {{"a", 1}, {"d", 2}}, {{"c", 1}}, {}})
    expect(members);
  EXPECT_EQ(memory().huge_bytes, first.huge_bytes) << "a page is moved once";
  EXPECT_TRUE(program().verify_base().value().modified.empty());
}

TEST_F(MovedPages, AreTakenOnlyWhereNearlyAllPagesAreNeeded) {
  // 2 % of the entries lie on every page; automatic is the default.
  expect({{"a", 1}});
  EXPECT_GE(memory().huge_bytes, 2 * huge_page_bytes());
  ASSERT_TRUE(program().hard_revert().ok());
  ASSERT_TRUE(program().set_first_touch(FirstTouch::populate).ok());
  expect({{"a", 1}});
  EXPECT_EQ(memory().huge_bytes, 0U);
  EXPECT_GT(memory().private_bytes, 0U);
}

TEST_F(MovedPages, HardRevertMapsTheFileOverThem) {
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  for (int round = 0; round < 2; ++round) {
    expect({{"a", 1}});
    ASSERT_GT(memory().huge_bytes, 0U);
    const Result<SwitchReport> reverted = program().hard_revert();
    ASSERT_TRUE(reverted.ok()) << reverted.error().message;
    EXPECT_GT(reverted.value().elements_changed, 0U);
    EXPECT_EQ(memory().private_bytes, 0U);
    EXPECT_EQ(memory().huge_bytes, 0U);
    EXPECT_TRUE(attached_->live() == weights_.expected({}));
  }
}

TEST_F(MovedPages, WhatSomebodyElseStoredIsMovedToo) {
  moved_byte()[3] ^= 1;
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  const std::vector<Bytes> before = attached_->live();
  // Entries may or may not lie on the changed byte; either way nothing else may change it.
  const Result<SwitchReport> result = program().switch_to({{"a", 1}});
  if (result.ok()) {
    ASSERT_TRUE(program().switch_to({}).ok());
    EXPECT_EQ(program().verify_base().value().modified.size(), 1U);
  }
  EXPECT_TRUE(attached_->live() == before);
}

TEST_F(MovedPages, ReadersNeverSeeAnythingButTheBase) {
  for (int round = 0; round < 5; ++round) {
    attached_ = std::make_unique<AttachedProgram>(weights_);
    const uint8_t* data = attached_->data(0);
    const std::vector<Bytes> base = weights_.expected({});
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::atomic<int> passes{0};
    std::thread reader([&] {
      while (!stop) {
        for (size_t i = 0; i < kTensorBytes; i += page_bytes()) {
          if (static_cast<const volatile uint8_t*>(data)[i] != base[0][i]) ++wrong;
        }
        ++passes;
      }
    });
    while (passes < 2) std::this_thread::yield();
    // What a switch does before its first store, and nothing else.
    const IndexList all = one_run(0, kTensorBytes / 4);
    const PageSet pages = std::move(PageSet::make(all, program().tensors().front()).value());
    EXPECT_TRUE(attached_->region->prepare_stores(data, pages).ok());
    const int seen = passes;
    while (passes < seen + 2) std::this_thread::yield();
    EXPECT_TRUE(attached_->region->hard_revert().ok());
    const int reverted = passes;
    while (passes < reverted + 2) std::this_thread::yield();
    stop = true;
    reader.join();
    ASSERT_EQ(wrong, 0);
  }
}

TEST_F(MovedPages, AreNotTakenForStrangersMemoryNorStrangersForThem) {
  expect({{"a", 1}});
  ASSERT_GT(memory().huge_bytes, 0U);
  ASSERT_TRUE(program().check_adapter("a").ok());
  // A hole, and then somebody else's memory in a place that is not moved.
  uint8_t* first = attached_->data(0);
  auto* first_page = reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(first) &
                                                ~(uintptr_t{page_bytes()} - 1));
  void* kept = mmap(nullptr, page_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_EQ(mremap(first_page + page_bytes(), page_bytes(), page_bytes(),
                   MREMAP_MAYMOVE | MREMAP_FIXED, kept),
            kept);
  EXPECT_EQ(program().switch_to({}).error().status, Status::DETACHED);
  ASSERT_NE(mmap(first_page + page_bytes(), page_bytes(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  EXPECT_EQ(program().switch_to({}).error().status, Status::DETACHED);
  ASSERT_NE(mremap(kept, page_bytes(), page_bytes(), MREMAP_MAYMOVE | MREMAP_FIXED,
                   first_page + page_bytes()),
            MAP_FAILED);
  expect({});
}

TEST_F(MovedPages, OfAnUnloadedProgramAreDetachedWhateverTookTheirPlace) {
  expect({{"a", 1}});
  ASSERT_GT(memory().huge_bytes, 0U);
  uint8_t* moved = moved_byte();
  attached_->unload();
  EXPECT_EQ(program().switch_to({}).error().status, Status::DETACHED);
  // Exactly where our copy lay; only the ends of the program's mapping tell it from ours.
  ASSERT_NE(mmap(moved, huge_page_bytes(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
            MAP_FAILED);
  std::fill_n(moved, huge_page_bytes(), 0x5a);
  const std::vector<TensorSpec> specs = program().tensors();
  const Result<ProcessMaps> maps = ProcessMaps::read();
  const Result<void> checked = specs[0].region->check(maps.value(), moved, huge_page_bytes());
  EXPECT_EQ(checked.error().status, Status::DETACHED) << checked.error().message;
  attached_.reset();
  EXPECT_EQ(moved[0], 0x5a);
  moved[1] = 1;  // still writable
  munmap(moved, huge_page_bytes());
}

TEST_F(MovedPages, MayBeAttachedAgainWhenTheyShowTheBase) {
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  expect({{"a", 1}});
  attached_->program.~Program();
  new (&attached_->program) Program();
  attached_->region.reset();
  const Error error = attach_mapped_file(weights_.path(), {}).error();
  EXPECT_EQ(error.status, Status::BASE_MODIFIED) << error.message;
}

TEST_F(MovedPages, AttachedAgainAreReplacedByTheFile) {
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  expect({{"a", 1}});
  expect({});
  uint8_t* moved = moved_byte();
  attached_->program.~Program();
  new (&attached_->program) Program();
  attached_->region.reset();
  EXPECT_GT(test::residency(moved, huge_page_bytes()).copied_kib, 0U);
  const Result<std::vector<TensorSpec>> specs = attach_mapped_file(weights_.path(), {});
  ASSERT_TRUE(specs.ok()) << specs.error().message;
  EXPECT_EQ(test::residency(moved, huge_page_bytes()).copied_kib, 0U);
  EXPECT_TRUE(attached_->live() == weights_.expected({}));
}

TEST_F(MovedPages, SurviveATruncatedFileButTheSwitchDoesNot) {
  expect({{"a", 1}});
  ASSERT_GT(memory().huge_bytes, 0U);
  const uint8_t before = moved_byte()[5];
  weights_.truncate_to(page_bytes());
  EXPECT_EQ(program().switch_to({}).error().status, Status::DETACHED);
  EXPECT_EQ(moved_byte()[5], before);
  EXPECT_EQ(program().hard_revert().error().status, Status::DETACHED);
  weights_.restore();
}

TEST_F(MovedPages, AFileTruncatedBeforeTheyAreMovedIsAnErrorNotSigbus) {
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  attached_->region->before_prepare = [&](const uint8_t*) { weights_.truncate_to(page_bytes()); };
  const ProgramState before = program().state();
  EXPECT_EQ(program().switch_to({{"a", 1}}).error().status, Status::DETACHED);
  EXPECT_TRUE(same_state(program().state(), before));
  attached_->region->before_prepare = {};
  weights_.restore();
  expect({{"a", 1}});
}

TEST_F(MovedPages, AreSpreadOverThreads) {
  ASSERT_TRUE(program().set_thread_count(4).ok());
  ASSERT_TRUE(program().set_first_touch(FirstTouch::huge).ok());
  expect({{"a", 1}});
  expect({{"b", 1}});
  expect({});
}

TEST_F(MovedPages, KilledWhileTheyAreMovedHarmsNothing) {
  for (int round = 0; round < 6; ++round) {
    fflush(nullptr);
    int started[2];
    ASSERT_EQ(pipe(started), 0);
    const pid_t child = fork();
    if (child == 0) {
      if (!program().set_first_touch(FirstTouch::huge).ok()) _exit(1);
      if (write(started[1], "x", 1) != 1) _exit(1);
      for (;;) {
        if (!program().switch_to({{"a", 1}}).ok() || !program().hard_revert().ok()) _exit(2);
      }
    }
    close(started[1]);
    char ready = 0;
    ASSERT_EQ(read(started[0], &ready, 1), 1);
    close(started[0]);
    usleep(static_cast<useconds_t>(3000 + 4000 * round));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WTERMSIG(status), SIGKILL);
    ASSERT_TRUE(weights_.read() == weights_.content());
  }
}

// ---- Giving pages back ----

TEST_F(MovedPages, PagesThatShowTheFileAreGivenBack) {
  for (const FirstTouch first_touch : {FirstTouch::populate, FirstTouch::huge}) {
    attached_ = std::make_unique<AttachedProgram>(weights_);
    ASSERT_TRUE(program().set_first_touch(first_touch).ok());
    expect({{"a", 1}});
    const uint64_t private_bytes = memory().private_bytes;
    const ProgramState active = program().state();
    EXPECT_LT(program().release_pages().value(), private_bytes / 10) << "they hold an adapter";
    EXPECT_TRUE(attached_->live() == weights_.expected({{"a", 1}}));
    EXPECT_TRUE(same_state(program().state(), active));

    expect({});
    const ProgramState base = program().state();
    const uint64_t before = memory().private_bytes;
    const Result<uint64_t> released = program().release_pages();
    ASSERT_TRUE(released.ok()) << released.error().message;
    EXPECT_EQ(released.value(), before);
    EXPECT_EQ(memory().private_bytes, 0U);
    EXPECT_EQ(memory().huge_bytes, 0U);
    EXPECT_TRUE(attached_->live() == weights_.expected({}));
    EXPECT_TRUE(same_state(program().state(), base));
    EXPECT_EQ(program().release_pages().value(), 0U);
    expect({{"b", 1}});
  }
}

TEST_F(MovedPages, WhatSomebodyElseStoredIsNotGivenBack) {
  for (const FirstTouch first_touch : {FirstTouch::populate, FirstTouch::huge}) {
    attached_ = std::make_unique<AttachedProgram>(weights_);
    ASSERT_TRUE(program().set_first_touch(first_touch).ok());
    expect({{"a", 1}});
    expect({});
    uint8_t* stored = moved_byte() + 3 * page_bytes();
    *stored ^= 0x40;
    const std::vector<Bytes> live = attached_->live();
    ASSERT_TRUE(program().release_pages().ok());
    EXPECT_TRUE(attached_->live() == live);
    EXPECT_EQ(memory().private_bytes,
              first_touch == FirstTouch::huge ? huge_page_bytes() : page_bytes());
    *stored ^= 0x40;
    EXPECT_EQ(program().release_pages().value(),
              first_touch == FirstTouch::huge ? huge_page_bytes() : page_bytes());
  }
}

// ---- The limit ----

TEST_F(MovedPages, TheLimitRefusesASwitchBeforeAnythingIsTouched) {
  for (const FirstTouch first_touch : {FirstTouch::populate, FirstTouch::automatic}) {
    attached_ = std::make_unique<AttachedProgram>(weights_);
    ASSERT_TRUE(program().set_first_touch(first_touch).ok());
    const AdapterPages pages = program().adapter_pages("a").value();
    ASSERT_EQ(pages.tensors.size(), 2U);
    EXPECT_EQ(pages.page_bytes, page_bytes());
    uint64_t page_count = 0;
    for (const TensorPages& tensor : pages.tensors) {
      page_count += tensor.page_count;
      EXPECT_LE(tensor.page_count, tensor.tensor_page_count);
      EXPECT_GE(tensor.tensor_page_count, kTensorBytes / page_bytes());
    }
    // Two neighbours may share a page; moved blocks may have a page without an entry.
    program().set_max_dirty_bytes((page_count - 8) * page_bytes());
    const ProgramState before = program().state();
    const Error error = program().switch_to({{"a", 1}}).error();
    EXPECT_EQ(error.status, Status::DIRTY_LIMIT);
    EXPECT_TRUE(error.tensor == "w0" || error.tensor == "w1") << error.tensor;
    EXPECT_NE(error.message.find(std::to_string((page_count - 8) * page_bytes())),
              std::string::npos)
        << error.message;
    EXPECT_TRUE(same_state(program().state(), before));
    EXPECT_EQ(memory().private_bytes, 0U) << "not a page was touched";

    program().set_max_dirty_bytes((page_count + 8) * page_bytes());
    expect({{"a", 1}});
    const uint64_t private_bytes = memory().private_bytes;
    EXPECT_LE(private_bytes, (page_count + 8) * page_bytes());
    EXPECT_GE(private_bytes, (page_count - 8) * page_bytes());
    program().set_max_dirty_bytes(1);
    expect({});  // no page more than before
    expect({{"a", 1}});
    program().set_max_dirty_bytes(0);
    expect({{"c", 1}});
    EXPECT_EQ(program().adapter_pages("nobody").error().status, Status::UNKNOWN_ADAPTER);
  }
}

}  // namespace
}  // namespace shira::testing
