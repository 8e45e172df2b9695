// Which kernels are chosen, and what happens to names that cannot be.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace shira::kernels {
namespace {

TEST(Dispatch, ScalarIsTheLastResort) {
  ASSERT_FALSE(implementations().empty());
  EXPECT_STREQ(implementations().back().table.isa, "scalar");
  EXPECT_TRUE(implementations().back().supported);
}

TEST(Dispatch, ChoosesTheFirstSupportedOne) {
  const KernelTable* best = nullptr;
  for (const Implementation& implementation : implementations()) {
    if (implementation.supported && best == nullptr) best = &implementation.table;
  }
  EXPECT_EQ(select_kernels(nullptr).value(), best);
  EXPECT_EQ(select_kernels("").value(), best);
}

TEST(Dispatch, HonoursEveryNameOrRefusesIt) {
  for (const Implementation& implementation : implementations()) {
    const auto selected = select_kernels(implementation.table.isa);
    if (implementation.supported) {
      EXPECT_EQ(selected.value(), &implementation.table);
    } else {
      EXPECT_EQ(selected.error().status, Status::NOT_SUPPORTED);
    }
  }
  const auto unknown = select_kernels("abacus");
  EXPECT_EQ(unknown.error().status, Status::INVALID_ARGUMENT);
  EXPECT_NE(unknown.error().message.find("abacus"), std::string::npos);
  EXPECT_NE(unknown.error().message.find("scalar"), std::string::npos);
}

/// Each runs in a forked process of its own, because the choice is made once; nothing else here
/// makes it.
TEST(DispatchDeathTest, ReadsTheEnvironmentOnce) {
  EXPECT_EXIT(
      {
        setenv("SHIRA_FORCE_KERNEL", "scalar", 1);
        const auto first = active_kernels();
        setenv("SHIRA_FORCE_KERNEL", "abacus", 1);
        const bool good =
            first.ok() && std::string(first.value()->isa) == "scalar" && active_kernels().ok();
        std::_Exit(good ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        setenv("SHIRA_FORCE_KERNEL", "abacus", 1);
        const bool refused = !active_kernels().ok() && !active_kernels().ok();
        std::_Exit(refused ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace shira::kernels
