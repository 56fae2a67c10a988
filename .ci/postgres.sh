#!/bin/sh
# Install Debian's PostgreSQL, for the test of the queue that is killed. Does something only as root on Debian and its like;
# prints one line and succeeds everywhere else, and when it cannot install: in CI the test then fails, elsewhere it is skipped.
set -u

say() {
  echo "postgres: $*"
  exit 0
}

server() { ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -n 1; }

command -v apt-get >/dev/null || say "no apt-get here; install PostgreSQL yourself"
[ -z "$(server)" ] || say "$("$(server)" --version) is installed"
[ "$(id -u)" = 0 ] || say "not root; the test of the queue in Postgres needs one"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt() {
  apt-get -q -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "$@" >>"$log" 2>&1
}
# without the cluster that Debian would make and start
mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/memsinks.conf
if apt update && apt install -y --no-install-recommends postgresql && [ -n "$(server)" ]; then
  say "installed $("$(server)" --version)"
fi
say "could not install it ($(grep -m 1 '^E:' "$log" || tail -n 1 "$log")); the test of the queue in Postgres needs one"
