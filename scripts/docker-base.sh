#!/bin/sh
# Make the two base images that the Dockerfile builds on, with no image registry: only a Debian package mirror is needed.
#
#   scripts/docker-base.sh [--name pyconsul-base] [--suite bookworm] [--mirror URL] [--keep DIR] [--force]
#
# NAME:SUITE is a small Debian with Python and venv, the build stage runs there; NAME:SUITE-slim is the same system
# without what a running agent never opens (perl, apt, pip's wheels, test suites, character tables, time zones), it is
# what ships. Both have the same interpreter at the same path, so a virtual environment made in one runs in the other.
# Does nothing when both exist, unless --force. Needs root, debootstrap and a running Docker engine; debootstrap is
# installed with apt-get when it is missing. --keep DIR keeps (and uses again) the unpacked system. About a minute.
set -eu

name=pyconsul-base suite=bookworm mirror='' keep='' force=''
while [ $# -gt 0 ]; do
    case "$1" in
        --name) name=$2; shift 2 ;;
        --suite) suite=$2; shift 2 ;;
        --mirror) mirror=$2; shift 2 ;;
        --keep) keep=$2; shift 2 ;;
        --force) force=yes; shift ;;
        -h | --help) sed -n '2,/^set -eu/{/^#/p}' "$0"; exit 0 ;;
        *) echo "docker-base: unknown argument $1 (--help shows the usage)" >&2; exit 2 ;;
    esac
done

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

if [ -z "$force" ] && have_image "$name:$suite" && have_image "$name:$suite-slim"; then
    echo "docker-base: $name:$suite and $name:$suite-slim are there already"
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "docker-base: debootstrap needs root" >&2; exit 1; }
docker info >/dev/null 2>&1 || { echo "docker-base: no Docker engine answers (scripts/docker-engine starts one)" >&2; exit 1; }
if ! command -v debootstrap >/dev/null 2>&1; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap; } >/dev/null 2>&1 \
        || { echo "docker-base: debootstrap is missing and apt-get cannot install it" >&2; exit 1; }
fi

if [ -n "$keep" ]; then
    root=$keep
else
    root=$(mktemp -d "${TMPDIR:-/var/tmp}/pyconsul-base.XXXXXX")
    trap 'rm -rf "$root"' EXIT
    trap 'exit 130' INT TERM
fi
if [ ! -x "$root/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root" $mirror \
        >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; echo "docker-base: debootstrap failed" >&2; exit 1; }
    rm -f "$root.log"
fi

# What neither image needs.
set -- --exclude=./var/cache --exclude=./var/lib/apt/lists --exclude=./var/log --exclude=./usr/share/doc \
    --exclude=./usr/share/man --exclude=./usr/share/info --exclude=./usr/share/locale --exclude='__pycache__' \
    --exclude=./usr/share/lintian --exclude=./usr/share/bug
tar -C "$root" -c "$@" . | docker import --change 'CMD ["python3"]' - "$name:$suite" >/dev/null

# What a running agent does not need. The package database stays, so that scanners know the versions of what is left.
lib=./usr/lib/$(ls "$root/usr/lib" | grep -- '-linux-gnu$' | head -n 1)
set -- "$@" --exclude='./usr/bin/perl*' --exclude="$lib/perl-base" --exclude="$lib/perl" --exclude=./usr/share/perl5 \
    --exclude='./usr/bin/apt*' --exclude=./usr/lib/apt --exclude="$lib/libapt-*" --exclude=./usr/share/bash-completion \
    --exclude=./usr/share/python-wheels --exclude="$lib/gconv" --exclude=./usr/share/zoneinfo --exclude=./usr/share/i18n \
    --exclude=./usr/share/gcc --exclude=./usr/share/gdb --exclude=./usr/lib/udev --exclude=./usr/lib/systemd \
    --exclude="$lib/e2fsprogs" --exclude='./usr/sbin/*e2*' --exclude='./usr/sbin/mkfs*' --exclude='./usr/sbin/fsck*' \
    --exclude='./usr/lib/python3*/ensurepip' --exclude='./usr/lib/python3*/lib2to3' --exclude='./usr/lib/python3*/pydoc*' \
    --exclude='./usr/lib/python3*/idlelib' --exclude='./usr/lib/python3*/turtledemo' --exclude='./usr/lib/python3*/tkinter' \
    --exclude='./usr/lib/python3*/unittest' --exclude='./usr/lib/python3*/distutils' --exclude='./usr/lib/python3*/config-*' \
    --exclude='./usr/lib/python3*/test'
tar -C "$root" -c "$@" . | docker import --change 'CMD ["python3"]' - "$name:$suite-slim" >/dev/null

docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}' "$name" | grep -F ":$suite"
