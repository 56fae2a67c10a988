#!/bin/sh
# Install a software Vulkan (Mesa's lavapipe) that Dawn accepts, for tests on machines without a GPU. It is several
# times as fast as the SwiftShader that the tests otherwise use, and has f16. Does something only as root on Debian 12,
# whose own Mesa is too old; prints one line and succeeds everywhere else, and when it cannot install.
set -u

say() {
  echo "mesa: $*"
  exit 0
}

installed=$(dpkg-query -W -f '${Status} ${Version}' mesa-vulkan-drivers 2>/dev/null) || installed=
case $installed in
  "install ok installed "*)
    version=${installed##* }
    version=${version#*:}
    [ "${version%%.*}" -ge 23 ] 2>/dev/null && dpkg-query -W libvulkan1 >/dev/null 2>&1 &&
      say "mesa-vulkan-drivers $version is installed"
    ;;
esac

release=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")
[ "$release" = "debian 12" ] || say "not Debian 12 (${release:-unknown system}); install mesa-vulkan-drivers yourself"
[ "$(id -u)" = 0 ] || say "not root; the tests will use SwiftShader"

# The mirror that the machine already uses for Debian itself: the first address of a source with the suite bookworm.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  awk '
    $1 == "deb" { for (i = 2; i < NF; i++) if ($i ~ /^https?:/ && $(i + 1) == "bookworm") { print $i; exit } }
    $1 == "URIs:" { uri = $2 }
    $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == "bookworm") { print uri; exit } }
  ')
[ -n "$mirror" ] || say "found no source of Debian packages to take it from; the tests will use SwiftShader"
keys=/usr/share/keyrings/debian-archive-keyring.gpg

added=
if ! grep -rqs '^[^#]*bookworm-backports' /etc/apt/sources.list /etc/apt/sources.list.d/; then
  added=/etc/apt/sources.list.d/bookworm-backports.sources
  cat >"$added" <<SOURCE
Types: deb
URIs: $mirror
Suites: bookworm-backports
Components: main
Signed-By: $keys
SOURCE
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt() {
  apt-get -q -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "$@" >>"$log" 2>&1
}
if apt update && apt install -y --no-install-recommends -t bookworm-backports mesa-vulkan-drivers libvulkan1; then
  say "installed mesa-vulkan-drivers $(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)"
fi
[ -z "$added" ] || rm -f "$added"
say "could not install it ($(grep -m 1 '^E:' "$log" || tail -n 1 "$log")); the tests will use SwiftShader"
