#!/bin/sh
# The browser test needs Chromium: Debian's where apt-get is allowed. Elsewhere the test says that it skips.
set -u
command -v chromium >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
command -v chromium >/dev/null 2>&1 || echo "Chromium could not be installed: the browser test will SKIP." >&2
exit 0
