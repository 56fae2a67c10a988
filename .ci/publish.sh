#!/usr/bin/env bash
# What is published, from what was built: npm and JSR take it without a warning, and Node, bundlers and TypeScript find all of
# its exports with their types. Publishes nothing. Deno is optional.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "npm publish --dry-run"
npm publish --dry-run --ignore-scripts >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
# that nobody is logged in is as it should be
if grep -iE '^npm (warn|error)' "$folder/log" | grep -v 'requires you to be logged in'; then exit 1; fi
grep -E 'package size|unpacked size|total files' "$folder/log"

tarball=$folder/$(npm pack --ignore-scripts --silent --pack-destination "$folder")
npx --no-install publint run --strict "$tarball"
npx --no-install attw "$tarball" --profile esm-only --format ascii --no-color >"$folder/log" || { cat "$folder/log"; exit 1; }
echo "attw: no problems"

# types that JSR calls slow are what Effect's classes of schemas and services are, and cost a user's editor nothing else
if command -v deno >/dev/null; then
  deno publish --dry-run --allow-dirty --allow-slow-types --no-check >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
  echo "deno publish --dry-run: clean"
fi
