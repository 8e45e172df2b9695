#!/bin/sh
# Compares the symbols that the shared library exports with the list: check_symbols.sh LIBRARY LIST
# SPDX-License-Identifier: Apache-2.0
set -eu
exported=$(nm -D --defined-only "$1" | awk '{print $3}' | LC_ALL=C sort)
if [ "$exported" = "$(cat "$2")" ]; then exit 0; fi
printf '%s\n' "$exported" | diff "$2" - >&2
exit 1
