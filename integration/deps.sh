#!/usr/bin/env bash
# Installs the Debian packages that the demo and the tests use, where they are missing. Quiet, and safe
# to run again. Without root it uses sudo, or names the one line to run.
set -euo pipefail
declare -A need=(
  [swtpm]=swtpm [swtpm_setup]=swtpm-tools [swtpm_localca]=swtpm-tools [certtool]=gnutls-bin
  [tpm2_quote]=tpm2-tools [jq]=jq [curl]=curl [openssl]=openssl [chromium]=chromium [shellcheck]=shellcheck
  [gcc]=gcc [node]=nodejs [npm]=npm [softhsm2-util]=softhsm2
)
missing=()
for tool in "${!need[@]}"; do
  command -v "$tool" >/dev/null 2>&1 || missing+=("${need[$tool]}")
done
compgen -G '/usr/lib/*/libtss2-tcti-swtpm.so*' >/dev/null || missing+=(libtss2-tcti-swtpm0)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && { integration/jose/install.sh; exit 0; }

mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then as_root=(sudo -n)
  else echo "These packages are missing; please run:  sudo apt-get install -y ${packages[*]}" >&2; exit 1; fi
fi
command -v apt-get >/dev/null || { echo "Not a Debian system: install these yourself: ${packages[*]}" >&2; exit 1; }
echo "installing ${packages[*]}"
log=$(mktemp)
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >"$log" 2>&1
}
if ! install; then
  "${as_root[@]}" apt-get update -qq >>"$log" 2>&1 || true
  install || { cat "$log" >&2; rm -f "$log"; exit 1; }
fi
rm -f "$log"
integration/jose/install.sh
