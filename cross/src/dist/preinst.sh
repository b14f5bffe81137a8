#!/bin/sh
# armel has processors older than this build, which would end with SIGILL.
set -e
case "$(uname -m)" in
armv6* | armv7* | armv8* | aarch64) ;;
*)
    echo "punnet needs an ARMv6 with VFP or newer, this is $(uname -m)" >&2
    exit 1
    ;;
esac
