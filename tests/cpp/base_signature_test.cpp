// SHA-256 against FIPS 180-4, Ed25519 against RFC 8032, and every signature that must be refused.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "base/hash.h"
#include "base/signature.h"

namespace {

using shira::PublicKey;
using shira::Signature;
using shira::Status;
using Bytes = std::vector<uint8_t>;

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

template <typename Array>
Array array_of(const Bytes& bytes) {
  Array array{};
  EXPECT_EQ(bytes.size(), array.size());
  std::copy_n(bytes.begin(), std::min(bytes.size(), array.size()), array.begin());
  return array;
}

std::string hex(const shira::Result<shira::Hash256>& hash) {
  return hash.ok() ? shira::to_hex(hash.value().data(), hash.value().size()) : hash.error().message;
}

Bytes pattern(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 256 * 13 + 1);
  return bytes;
}

/// These tests are about answers; no_cryptography_test is about a build that has none.
class WithSodium : public testing::Test {
 protected:
  void SetUp() override {
    if (!shira::cryptography_available()) GTEST_SKIP() << "this build has no libsodium";
  }
};
using Sha256 = WithSodium;
using Ed25519 = WithSodium;

// --- SHA-256 ---

struct HashVector {
  std::string message;
  const char* hex;
};

TEST_F(Sha256, KnowsTheVectorsOfTheStandard) {
  const HashVector vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
       "lmnopqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1000000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const HashVector& vector : vectors) {
    EXPECT_EQ(hex(shira::sha256(vector.message.data(), vector.message.size())), vector.hex);
  }
  EXPECT_EQ(hex(shira::sha256(nullptr, 0)), vectors[0].hex);
}

struct PatternVector {
  size_t size_bytes;  // of pattern(); around the lengths at which padding takes another block
  const char* hex;    // of Python's hashlib
};

constexpr PatternVector kPatternVectors[] = {
    {55, "16fa57a0a3423a715d594516339f36189d6b5f93754a9714fef202616a9fabfe"},
    {56, "c37b44e5f1b18554b36966f4f8e08bfbf3164c4b6c10374d12d89850892073c5"},
    {63, "bbba992d2c85af960fb2987a1fd05e0aa82a3db3c740dd8982a9e273b75e36a3"},
    {64, "66bd4633ed6f71c4ecfa4763bf7ba1c8ec7612de9aa6c0578a7b675207c71e0b"},
    {65, "9f7dc47107b750a1f3d35db5d9547f24ef40da5b731b9540d4f43710a154f6c9"},
    {119, "a3ed307b730fa77c07531300c6e4a282330011d4d4caf6bb7b63ae05950f4b66"},
    {1000, "0d8b6bf8a19b8ddd129e2842d1386fdf91a9c7c450f1800e7652d0c8f91982e5"},
    {100000, "67ee5e735ac2effec60c88a7018c922714b98db0bd0d0cb8623a296c50303676"},
};

TEST_F(Sha256, KnowsTheLengthsAroundABlock) {
  for (const PatternVector& vector : kPatternVectors) {
    const Bytes bytes = pattern(vector.size_bytes);
    EXPECT_EQ(hex(shira::sha256(bytes.data(), bytes.size())), vector.hex) << vector.size_bytes;
  }
}

TEST_F(Sha256, StreamsLikeOneCall) {
  const Bytes bytes = pattern(1000);
  for (const size_t piece : {1, 7, 63, 64, 65, 1000}) {
    shira::Hasher256 hasher = shira::Hasher256::make().value();
    for (size_t begin = 0; begin < bytes.size(); begin += piece) {
      hasher.update(bytes.data() + begin, std::min(piece, bytes.size() - begin));
    }
    hasher.update(nullptr, 0);
    EXPECT_EQ(hasher.digest(), shira::sha256(bytes.data(), bytes.size()).value()) << piece;
    EXPECT_EQ(hasher.digest(), hasher.digest()) << "asking changes nothing";
  }
}

TEST_F(Sha256, ACopyGoesItsOwnWay) {
  const Bytes bytes = pattern(200);
  shira::Hasher256 first = shira::Hasher256::make().value();
  first.update(bytes.data(), 100);
  const shira::Hasher256 second = first;
  first.update(bytes.data() + 100, 100);
  EXPECT_EQ(first.digest(), shira::sha256(bytes.data(), 200).value());
  EXPECT_EQ(second.digest(), shira::sha256(bytes.data(), 100).value());
}

// --- Ed25519 ---

struct SignatureVector {
  const char* name;
  const char* public_key;
  const char* signature;
  const char* message;
};

/// RFC 8032, section 7.1.
constexpr SignatureVector kSignatureVectors[] = {
    {"test 1", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e3970"
     "1cf9b46bd25bf5f0595bbe24655141438e7a100b",
     ""},
    {"test 2", "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613"
     "d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
     "72"},
    {"test 3", "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760"
     "984dc6594a7c15e9716ed28dc027beceea1ec40a",
     "af82"},
    {"test 1024", "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
     "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23"
     "c436d94b5e8fcd4f681e30a6ac00a9704a188a03",
     "08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50f8f5"
     "4e9f77b1e355f6c50544e23fb1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37"
     "c93a1b270b20329d658675fc6ea534e0810a4432826bf58c941efb65d57a338bbd2e26640f89ffbc1a858efc"
     "b8550ee3a5e1998bd177e93a7363c344fe6b199ee5d02e82d522c4feba15452f80288a821a579116ec6dad2b"
     "3b310da903401aa62100ab5d1a36553e06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573c"
     "b116dbefefd75499da96bd68a8a97b928a8bbc103b6621fcde2beca1231d206be6cd9ec7aff6f6c94fcd7204"
     "ed3455c68c83f4a41da4af2b74ef5c53f1d8ac70bdcb7ed185ce81bd84359d44254d95629e9855a94a7c1958"
     "d1f8ada5d0532ed8a5aa3fb2d17ba70eb6248e594e1a2297acbbb39d502f1a8c6eb6f1ce22b3de1a1f40cc24"
     "554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f27088d78b7e883c8759d2c4f5c6"
     "5adb7553878ad575f9fad878e80a0c9ba63bcbcc2732e69485bbc9c90bfbd62481d9089beccf80cfe2df16a2"
     "cf65bd92dd597b0707e0917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128bab27af87a"
     "71314f318c782b23ebfe808b82b0ce26401d2e22f04d83d1255dc51addd3b75a2b1ae0784504df543af8969b"
     "e3ea7082ff7fc9888c144da2af58429ec96031dbcad3dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9"
     "b47acdb751fb73e666c6c655ade8297297d07ad1ba5e43f1bca32301651339e22904cc8c42f58c30c04aafdb"
     "038dda0847dd988dcda6f3bfd15c4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f672451"
     "7b65e614ad6808d6f6ee34dff7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08"
     "d78ff4ef5d63653a65040cf9bfd4aca7984a74d37145986780fc0b16ac451649de6188a7dbdf191f64b5fc5e"
     "2ab47b57f7f7276cd419c17a3ca8e1b939ae49e488acba6b965610b5480109c8b17b80e1b7b750dfc7598d5d"
     "5011fd2dcc5600a32ef5b52a1ecc820e308aa342721aac0943bf6686b64b2579376504ccc493d97e6aed3fb0"
     "f9cd71a43dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5fb93246f6b1116398a346f1a641f3b041"
     "e989f7914f90cc2c7fff357876e506b50d334ba77c225bc307ba537152f3f1610e4eafe595f6d9d90d11faa9"
     "33a15ef1369546868a7f3a45a96768d40fd9d03412c091c6315cf4fde7cb68606937380db2eaaa707b4c4185"
     "c32eddcdd306705e4dc1ffc872eeee475a64dfac86aba41c0618983f8741c5ef68d3a101e8a3b8cac60c905c"
     "15fc910840b94c00a0b9d0"},
    {"test SHA(abc)", "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
     "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c6"
     "6431e0303dca179c138ac17ad9bef1177331a704",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23"
     "a3feebbd454d4423643ce80e2a9ac94fa54ca49f"}};

struct Signed {
  PublicKey key;
  Signature signature;
  Bytes message;
};

Signed signed_of(const SignatureVector& vector) {
  return {array_of<PublicKey>(from_hex(vector.public_key)),
          array_of<Signature>(from_hex(vector.signature)), from_hex(vector.message)};
}

Status verify(const Signed& given) {
  return shira::verify_ed25519(given.key, given.signature, given.message.data(),
                               given.message.size())
      .error()
      .status;
}

TEST_F(Ed25519, KnowsTheVectorsOfTheRfc) {
  for (const SignatureVector& vector : kSignatureVectors) {
    EXPECT_EQ(verify(signed_of(vector)), Status::OK) << vector.name;
  }
}

TEST_F(Ed25519, RefusesWithAStatusAndASentence) {
  Signed given = signed_of(kSignatureVectors[1]);
  given.message.clear();
  const auto verified = shira::verify_ed25519(given.key, given.signature, given.message.data(), 0);
  EXPECT_FALSE(verified.ok());
  EXPECT_EQ(verified.error().status, Status::BAD_SIGNATURE);
  EXPECT_NE(verified.error().message, "");
}

TEST_F(Ed25519, RefusesAnotherKeysSignature) {
  for (const SignatureVector& vector : kSignatureVectors) {
    for (const SignatureVector& other : kSignatureVectors) {
      Signed given = signed_of(vector);
      given.key = signed_of(other).key;
      EXPECT_EQ(verify(given), &vector == &other ? Status::OK : Status::BAD_SIGNATURE)
          << vector.name << " with the key of " << other.name;
    }
  }
}

/// Verifies with each bit of `bytes`, which belong to `given`, flipped in turn.
template <typename Container>
void refuse_every_flip(const Signed& given, Container& bytes, const char* what) {
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<uint8_t>(1U << (bit % 8));
    EXPECT_EQ(verify(given), Status::BAD_SIGNATURE) << what << " bit " << bit;
    bytes[bit / 8] ^= static_cast<uint8_t>(1U << (bit % 8));
  }
  EXPECT_EQ(verify(given), Status::OK);
}

TEST_F(Ed25519, RefusesEveryFlippedBit) {
  Signed given = signed_of(kSignatureVectors[4]);
  refuse_every_flip(given, given.message, "message");
  refuse_every_flip(given, given.signature, "signature");
  refuse_every_flip(given, given.key, "key");
}

TEST_F(Ed25519, RefusesALongerAndAShorterMessage) {
  Signed given = signed_of(kSignatureVectors[3]);
  given.message.push_back(0);
  EXPECT_EQ(verify(given), Status::BAD_SIGNATURE);
  given.message.resize(given.message.size() - 2);
  EXPECT_EQ(verify(given), Status::BAD_SIGNATURE);
}

/// The order of the group, little-endian: 2^252 + 27742317777372353535851937790883648493.
constexpr uint8_t kOrder[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7,
                                0xa2, 0xde, 0xf9, 0xde, 0x14, 0,    0,    0,    0,    0,    0,
                                0,    0,    0,    0,    0,    0,    0,    0,    0,    0x10};

TEST_F(Ed25519, RefusesAnUnreducedS) {
  // S and S + L are the same scalar, so a verifier that does not look lets anybody make a second
  // signature from the first. All the multiples that fit into 256 bits.
  for (const SignatureVector& vector : kSignatureVectors) {
    Signed given = signed_of(vector);
    for (int multiple = 1; multiple <= 14; ++multiple) {
      uint32_t carry = 0;
      for (size_t i = 0; i < 32; ++i) {
        carry += uint32_t{given.signature[32 + i]} + kOrder[i];
        given.signature[32 + i] = static_cast<uint8_t>(carry);
        carry >>= 8;
      }
      ASSERT_EQ(carry, 0U) << "the sum must fit to be a test";
      EXPECT_EQ(verify(given), Status::BAD_SIGNATURE) << vector.name << " + " << multiple << " L";
    }
  }
}

/// Points of order 1, 2, 4 and 8 in every encoding that decodes to them but for the sign of zero;
/// the last ones are not canonical.
constexpr const char* kSmallOrder[] = {
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};

TEST_F(Ed25519, RefusesKeysThatSignEverything) {
  // With such a key, R of small order and S = 0 fulfil the equation for one message in eight, and
  // for every message where the key is the neutral element.
  for (const char* key : kSmallOrder) {
    for (const char* r : kSmallOrder) {
      Signed given{array_of<PublicKey>(from_hex(key)), {}, {}};
      const Bytes encoded = from_hex(r);
      std::copy(encoded.begin(), encoded.end(), given.signature.begin());
      for (uint8_t byte = 0; byte < 16; ++byte) {
        given.message = Bytes(48, byte);
        EXPECT_EQ(verify(given), Status::BAD_SIGNATURE) << key << " " << r << " " << int{byte};
      }
    }
  }
}

TEST(FirstUse, MayComeFromManyThreadsAtOnce) {
  std::vector<Status> answers(8, Status::BUSY);
  std::vector<std::thread> threads;
  for (Status& answer : answers) {
    threads.emplace_back([&answer] { answer = verify(signed_of(kSignatureVectors[3])); });
  }
  for (std::thread& thread : threads) thread.join();
  const Status expected = shira::cryptography_available() ? Status::OK : Status::NO_CRYPTOGRAPHY;
  EXPECT_EQ(answers, std::vector<Status>(answers.size(), expected));
}

}  // namespace
