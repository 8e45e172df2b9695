# Finds libsodium: Sodium_FOUND, Sodium_LIBRARY and the target Sodium::sodium. Looks below Sodium_ROOT too.
# SPDX-License-Identifier: Apache-2.0
#
# The static library comes first, so that what is shipped (the wheel, libshira.so, an app's library)
# does not depend on a package that the user's machine may lack. It is taken only where it can be
# part of a shared library: its objects must be position-independent. Debian's are so once their
# symbols are hidden, which is wanted anyway: a host that has its own libsodium keeps it. Whatever is
# found must link, so a cross build is not fooled by the host's library.
include(CheckCXXSourceCompiles)
include(FindPackageHandleStandardArgs)

find_path(Sodium_INCLUDE_DIR sodium.h)
find_library(Sodium_STATIC_LIBRARY libsodium.a)
find_library(Sodium_SHARED_LIBRARY sodium)
mark_as_advanced(Sodium_INCLUDE_DIR Sodium_STATIC_LIBRARY Sodium_SHARED_LIBRARY)

if(NOT APPLE)
  set(sodium_hidden LINKER:--exclude-libs,libsodium.a)
endif()

function(sodium_check_links library result)
  if(NOT Sodium_INCLUDE_DIR OR NOT library)
    return()
  endif()
  set(CMAKE_REQUIRED_QUIET ON)
  set(CMAKE_REQUIRED_FLAGS -fPIC)
  set(CMAKE_REQUIRED_INCLUDES ${Sodium_INCLUDE_DIR})
  set(CMAKE_REQUIRED_LIBRARIES ${library})
  set(CMAKE_REQUIRED_LINK_OPTIONS -shared ${sodium_hidden})
  check_cxx_source_compiles("
    #include <sodium.h>
    int check(const unsigned char* bytes) {
      unsigned char hash[crypto_hash_sha256_BYTES];
      return sodium_init() + crypto_hash_sha256(hash, bytes, 1) +
             crypto_sign_ed25519_verify_detached(bytes, hash, sizeof(hash), bytes);
    }" ${result})
endfunction()

sodium_check_links("${Sodium_STATIC_LIBRARY}" Sodium_STATIC_LINKS)
if(Sodium_STATIC_LINKS)
  set(Sodium_LIBRARY ${Sodium_STATIC_LIBRARY})
else()
  sodium_check_links("${Sodium_SHARED_LIBRARY}" Sodium_SHARED_LINKS)
  if(Sodium_SHARED_LINKS)
    set(Sodium_LIBRARY ${Sodium_SHARED_LIBRARY})
  endif()
endif()

find_package_handle_standard_args(Sodium REQUIRED_VARS Sodium_LIBRARY Sodium_INCLUDE_DIR)
if(Sodium_FOUND AND NOT TARGET Sodium::sodium)
  add_library(Sodium::sodium UNKNOWN IMPORTED)
  set_target_properties(Sodium::sodium PROPERTIES
    IMPORTED_LOCATION "${Sodium_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${Sodium_INCLUDE_DIR}"
    INTERFACE_LINK_OPTIONS "${sodium_hidden}")
endif()
