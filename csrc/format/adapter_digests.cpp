// The checks of digests and signature, in the order of docs/FORMAT.md section 13.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_digests.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/hash.h"
#include "format/adapter_record.h"
#include "format/header.h"
#include "format/layout.h"

namespace shira {
namespace {

constexpr char kSignaturePrefix[16] = "shb-signature-1";  // with its NUL

Error mismatch(const Record& record, uint64_t field, const std::string& what,
               const Hash256& computed) {
  return record.refuse(Status::DIGEST_MISMATCH, field,
                       "the SHA-256 of " + what + " is " +
                           to_hex(computed.data(), computed.size()) + ", but the file declares " +
                           to_hex(record.bytes(field), 32));
}

/// The SHA-256 of the header, without what signing changes, and of the section table.
Result<Hash256> compute_content_digest(ByteReader file, size_t section_count) {
  std::array<uint8_t, layout::kHeaderBytes> header;
  std::copy_n(file.data(), header.size(), header.begin());
  std::fill(header.begin() + layout::header::kContentDigest,
            header.begin() + layout::header::kReserved3, uint8_t{0});
  std::fill(header.begin() + layout::header::kHeaderCrc, header.end(), uint8_t{0});
  SHIRA_ASSIGN(Hasher256 hasher, Hasher256::make());
  hasher.update(header.data(), header.size());
  hasher.update(file.data() + layout::kHeaderBytes, section_count * layout::kSectionRowBytes);
  return hasher.digest();
}

}  // namespace

Result<void> check_file_digests(ByteReader file, const std::vector<SectionInfo>& sections,
                                ThreadPool* pool) {
  SHIRA_TRY(pool->run(sections.size(), file.size(), [&](size_t number) -> Result<void> {
    const SectionInfo& section = sections[number];
    SHIRA_ASSIGN(const Hash256 digest,
                 sha256(file.data() + section.offset_bytes, section.size_bytes));
    if (digest == section.sha256) return {};
    return mismatch(Record(file, layout::section_row(static_cast<uint32_t>(number))),
                    layout::section::kSha256, section_name(section), digest);
  }));
  SHIRA_ASSIGN(const Hash256 digest, compute_content_digest(file, sections.size()));
  const Record header(file, 0);
  if (std::memcmp(digest.data(), header.bytes(layout::header::kContentDigest), digest.size()) != 0)
    return mismatch(header, layout::header::kContentDigest, "the content", digest);
  return {};
}

Result<void> check_signer(ByteReader file, const PublicKey& key) {
  SHIRA_TRY(Hasher256::make());  // that cryptography is missing comes first
  const Record header(file, 0);
  if (header.u32(layout::header::kSignatureKind) == 0) {
    return header.refuse(Status::NOT_SIGNED, layout::header::kSignatureKind,
                         "the file is not signed, and a key is required");
  }
  const uint8_t* named_key = header.bytes(layout::header::kPublicKey);
  if (std::memcmp(named_key, key.data(), key.size()) != 0) {
    return header.refuse(Status::WRONG_KEY, layout::header::kPublicKey,
                         "the file is signed with the key " + to_hex(named_key, key.size()) +
                             ", not with " + to_hex(key.data(), key.size()));
  }
  return {};
}

Result<void> check_file_signature(ByteReader file, const std::vector<SectionInfo>& sections,
                                  const PublicKey& key, ThreadPool* pool) {
  SHIRA_TRY(check_file_digests(file, sections, pool));
  SHIRA_TRY(check_signer(file, key));
  const Record header(file, 0);
  std::array<uint8_t, sizeof(kSignaturePrefix) + sizeof(Hash256)> message;
  std::copy_n(kSignaturePrefix, sizeof(kSignaturePrefix), message.begin());
  std::copy_n(header.bytes(layout::header::kContentDigest), sizeof(Hash256),
              message.begin() + sizeof(kSignaturePrefix));
  Signature signature;
  std::copy_n(header.bytes(layout::header::kSignature), signature.size(), signature.begin());
  Result<void> verified = verify_ed25519(key, signature, message.data(), message.size());
  if (!verified.ok() && verified.error().status == Status::BAD_SIGNATURE) {
    verified.error().offset_bytes = layout::header::kSignature;
  }
  return verified;
}

}  // namespace shira
