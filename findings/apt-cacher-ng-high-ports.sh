#!/usr/bin/env bash
# apt-cacher-ng 3.7.4 takes no port above 32767.
#
# A port goes up to 65535. Seen with apt-cacher-ng 3.7.4-1+b2 of Debian 12: with Port=32767 it serves; with Port=32768 it
# says "Error resolving address for binding: Success" and ends nothing, but listens on its unix socket alone. The service
# that it hands to getaddrinfo(3) is "-3276": the port as a signed short, cut to five characters.
# Its package is downloaded and unpacked, not installed; its libraries are those of the system, or downloaded beside it.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download apt-cacher-ng=3.7.4-1+b2 libevent-2.1-7 libevent-pthreads-2.1-7 libwrap0 libfuse2 >/dev/null 2>&1
for one in *.deb; do dpkg-deb -x "$one" .; done
server=$(find . -type f -name apt-cacher-ng -path '*sbin*')
cat >shim.c <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    int result = real(node, service, hints, found);
    fprintf(stderr, "getaddrinfo service %s: %s\n", service, result ? gai_strerror(result) : "found");
    return result;
}
C
cc -shared -fPIC -o shim.so shim.c -ldl
seen() {
    mkdir -p "conf$1" "cache$1"
    touch "conf$1/acng.conf"
    LD_LIBRARY_PATH=$(dirname "$(find "$dir" -name 'libevent-2.1.so.7' | head -1)"):$(dirname "$(find "$dir" -name 'libwrap.so.0' | head -1)") LD_PRELOAD=$dir/shim.so \
        timeout 3 "$server" -c "$dir/conf$1" ForeGround=1 "Port=$1" BindAddress=127.0.0.1 "CacheDir=$dir/cache$1" \
        "LogDir=$dir/cache$1" "SocketPath=$dir/socket$1" PidFile= 2>&1 | tr '\0' ' ' || true
}
below=$(seen 32767)
above=$(seen 32768)
echo "32767: $below"
echo "32768: $above"
grep -q 'service 32767: found' <<<"$below" && grep -q 'service -3276: ' <<<"$above"
