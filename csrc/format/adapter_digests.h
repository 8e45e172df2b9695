// SHA-256 of a .shb file's content and its signature (docs/FORMAT.md section 12).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/signature.h"
#include "base/thread_pool.h"
#include "format/adapter_file.h"

namespace shira {

/// Every section's SHA-256, then content_digest. DIGEST_MISMATCH with the field's offset,
/// NO_CRYPTOGRAPHY. REQUIRES: the section table was checked.
Result<void> check_file_digests(ByteReader file, const std::vector<SectionInfo>& sections,
                                ThreadPool* pool);

/// The header says that the file was signed with the secret half of `key`: NOT_SIGNED, WRONG_KEY,
/// NO_CRYPTOGRAPHY. Not that it is true.
Result<void> check_signer(ByteReader file, const PublicKey& key);

/// The digests, check_signer(), and then that it is true: BAD_SIGNATURE.
Result<void> check_file_signature(ByteReader file, const std::vector<SectionInfo>& sections,
                                  const PublicKey& key, ThreadPool* pool);

}  // namespace shira
