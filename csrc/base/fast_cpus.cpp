// Reading what sysfs says about each CPU.
// SPDX-License-Identifier: Apache-2.0
#include "base/fast_cpus.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace shira {
namespace {

// The number in a file of sysfs; 0 when it cannot be read.
uint64_t number_in(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return 0;
  char line[32] = {};
  const bool is_read = std::fgets(line, sizeof(line), file) != nullptr;
  std::fclose(file);
  return is_read ? std::strtoull(line, nullptr, 10) : 0;
}

// The same measure of every CPU; empty when one of them lacks it.
std::vector<uint64_t> speeds_of(const std::vector<uint32_t>& cpus, const std::string& sysfs_root,
                                const char* measure) {
  std::vector<uint64_t> speeds;
  for (const uint32_t cpu : cpus) {
    speeds.push_back(
        number_in(sysfs_root + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/" + measure));
    if (speeds.back() == 0) return {};
  }
  return speeds;
}

}  // namespace

std::vector<uint32_t> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<uint32_t> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<uint32_t> fast_cpus(const std::vector<uint32_t>& cpus, const std::string& sysfs_root) {
  std::vector<uint64_t> speeds = speeds_of(cpus, sysfs_root, "cpu_capacity");
  if (speeds.empty()) speeds = speeds_of(cpus, sysfs_root, "cpufreq/cpuinfo_max_freq");
  if (speeds.empty()) return {};
  const uint64_t highest = *std::max_element(speeds.begin(), speeds.end());
  std::vector<uint32_t> fast;
  for (size_t i = 0; i < cpus.size(); ++i) {
    if (speeds[i] >= highest - highest / 4) fast.push_back(cpus[i]);
  }
  if (fast.size() == cpus.size()) fast.clear();
  return fast;
}

void stay_on_cpus(const std::vector<uint32_t>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const uint32_t cpu : cpus) CPU_SET(cpu, &set);
  // Where this is refused the thread runs as well, only slower.
  static_cast<void>(sched_setaffinity(0, sizeof(set), &set));
}

}  // namespace shira
