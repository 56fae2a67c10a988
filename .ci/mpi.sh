#!/bin/sh
# Install Open MPI and MPICH, side by side, for tests of several ranks. Does something only as root on Debian and its like;
# prints one line and succeeds everywhere else, and when it cannot install: the tests then skip what needs them.
set -u

say() {
  echo "mpi: $*"
  exit 0
}

version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null; }
installed() { command -v mpirun.openmpi >/dev/null && command -v mpirun.mpich >/dev/null; }
both() { echo "Open MPI $(version libopenmpi3 || version libopenmpi3t64) and MPICH $(version libmpich12)"; }

command -v apt-get >/dev/null || say "no apt-get here; install Open MPI and MPICH yourself"
installed && say "$(both) are installed"
[ "$(id -u)" = 0 ] || say "not root; tests of ranks on MPI are skipped"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt() {
  apt-get -q -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "$@" >>"$log" 2>&1
}
if apt update && apt install -y --no-install-recommends openmpi-bin mpich && installed; then
  say "installed $(both)"
fi
say "could not install them ($(grep -m 1 '^E:' "$log" || tail -n 1 "$log")); tests of ranks on MPI are skipped"
