#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fails when a kernel file compiled for more than every CPU has (NM OBJECT...) defines anything but
# its one function: an inline function that the linker could take for everybody would be weak.
set -eu
nm=$1
shift
checked=0
code=0
for object in "$@"; do
  isa=$(basename "$object")
  isa=${isa%%.*}
  case $object in */csrc/kernels/*) ;; *) continue ;; esac
  [ "$isa" != dispatch ] || continue
  checked=$((checked + 1))
  others=$("$nm" --defined-only --extern-only --demangle "$object" |
    grep -v " T shira::kernels::${isa}_kernels(" | grep . || true)
  if [ -n "$others" ]; then
    printf '%s defines for everybody:\n%s\n' "$object" "$others"
    code=1
  fi
done
[ "$checked" -ge 2 ] || { echo "found $checked kernel files among the objects"; code=1; }
exit "$code"
