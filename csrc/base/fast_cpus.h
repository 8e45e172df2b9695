// Which CPUs are the fast ones, where a system has faster and slower ones (big.LITTLE).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shira {

/// The CPUs that the calling thread may run on, ascending; empty when the system does not tell.
std::vector<uint32_t> allowed_cpus();

/// Those of `cpus` that are within a quarter of the fastest one of them: a phone's single prime
/// core and its big ones, but not the little ones. By cpu_capacity in
/// `sysfs_root`/devices/system/cpu, else by the highest frequency. Empty when there is nothing to
/// choose: all are alike, or the system does not tell of each.
std::vector<uint32_t> fast_cpus(const std::vector<uint32_t>& cpus, const std::string& sysfs_root);

/// From now on the calling thread runs on these alone, if the system agrees.
void stay_on_cpus(const std::vector<uint32_t>& cpus);

}  // namespace shira
