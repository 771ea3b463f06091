#!/usr/bin/env bash
# usage: tpm2-tools.sh SERVER STATE_DIR [JOIN_TOKEN_FILE [NAME]]
#
# A client of Assay without any code of Assay: tpm2-tools, curl, jq and coreutils. It enrols the machine if
# STATE_DIR holds no enrolment yet (for that it needs a join token), attests it, and prints the verdict as JSON.
#
#   echo "$JOIN_TOKEN" >token
#   tpm2-tools.sh https://assay.example:8440 /var/lib/assay-tpm2 token web-1   # enrol and attest
#   tpm2-tools.sh https://assay.example:8440 /var/lib/assay-tpm2               # attest again, also after a reboot
#
# Environment:
#   TPM2TOOLS_TCTI   the TPM, as for tpm2-tools: device:/dev/tpmrm0 (their default), swtpm:path=SOCKET
#   EVENT_LOG        boot log; default /sys/kernel/security/tpm0/binary_bios_measurements; not sent if absent or empty
#   EXTERNAL_ID      id in the inventory; default /etc/machine-id
#   SECURITY_TYPE    standard (default), trusted_launch, confidential_snp, confidential_tdx, physical
#   CURL_CA_BUNDLE   CA of the service's certificate, as for curl
#
# Exit code: 0 affirming, 1 any other verdict, 2 anything else.
#
# The steps, by function:
#   make_keys   EK of the TCG's RSA-2048 template (its certificate is at NV index 0x01c00002), and an ECDSA P-256 AK
#               below it: restricted, fixed, sign only. The EK is made again at each run, since it follows from
#               the TPM's seed; of the AK the encrypted blob is kept.
#   enroll      POST /v1/enrollments, TPM2_ActivateCredential, POST .../activation: the service learns that the AK
#               is in the TPM that the EK certificate is of, and answers with the machine's token.
#   attest      POST .../challenges, TPM2_Quote over the nonce, POST .../evidence.
set -euo pipefail
umask 077

fail() { echo "tpm2-tools.sh: $*" >&2; exit 2; }
if [ $# -lt 2 ] || [ $# -gt 4 ]; then sed -n '2s/^# //p' "$0" >&2; exit 2; fi
for tool in tpm2_createek tpm2_createak tpm2_quote curl jq base64 od; do
  command -v "$tool" >/dev/null || fail "$tool is not installed"
done
server=${1%/} token_file=${3:+$(realpath "$3")} name=${4:-$(hostname)}
log=$(realpath -m "${EVENT_LOG:-/sys/kernel/security/tpm0/binary_bios_measurements}")
mkdir -p "$2"
cd "$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

b64() { base64 -w0 "$1"; }
hex() { od -An -v -tx1 "$1" | tr -d ' \n'; }
# Without a resource manager a TPM holds three objects and three sessions; with one this does nothing.
flush() { tpm2_flushcontext -t; tpm2_flushcontext -l; tpm2_flushcontext -s; } >/dev/null
# tpm COMMAND ...: runs it, and shows what it says only if it fails.
tpm() { "$@" >"$work/tpm.log" 2>&1 || { cat "$work/tpm.log" >&2; fail "$1 failed"; }; }

# request TOKEN METHOD PATH [BODY_FILE]: prints the answer; a problem document ends the script. The token, which may
# be empty, goes by a file, since other users can read command lines.
request() {
  local status data=()
  printf '%s\n' "${1:+Authorization: Bearer $1}" >"$work/headers"
  [ $# -lt 4 ] || data=(-H 'Content-Type: application/json' --data-binary "@$4")
  status=$(curl -sS -X "$2" -H "@$work/headers" "${data[@]}" -o "$work/answer" -w '%{http_code}' "$server$3") || exit 2
  case $status in
    2*) cat "$work/answer" ;;
    *) fail "$2 $3: $status $(jq -r '"\(.code): \(.detail) \(.errors // [] | map("\(.pointer) \(.detail)") | join("; "))"' "$work/answer" 2>/dev/null || cat "$work/answer")" ;;
  esac
}

# The EK may be used in a session that proved the endorsement hierarchy's (empty) authorization.
ek_session() {
  tpm tpm2_startauthsession --policy-session -S "$work/session"
  tpm tpm2_policysecret -S "$work/session" -c e
}

make_keys() {
  flush
  tpm tpm2_createek -G rsa -c "$work/ek.ctx"
  flush
  if ! [ -s ak.private ]; then
    tpm tpm2_createak -C "$work/ek.ctx" -c "$work/ak.ctx" -G ecc -g sha256 -s ecdsa -f tss -u "$work/ak.pub" -r "$work/ak.private"
    mv "$work/ak.pub" ak.pub # TPM2B_PUBLIC
    mv "$work/ak.private" ak.private
  else
    ek_session
    tpm tpm2_load -C "$work/ek.ctx" -P "session:$work/session" -u ak.pub -r ak.private -c "$work/ak.ctx"
  fi
  flush
}

enroll() {
  [ -n "$token_file" ] || fail "$PWD holds no enrolment: a join token is needed"
  local answer enrollment
  tpm tpm2_nvread -C o 0x01c00002 -o "$work/ek.der"
  tpm tpm2_readpublic -c "$work/ek.ctx" -f tss -o "$work/ek.tss" # TPM2B_PUBLIC
  flush
  jq -n --arg name "$name" --arg id "${EXTERNAL_ID:-$(cat /etc/machine-id)}" --arg type "${SECURITY_TYPE:-standard}" \
    --arg cert "$(b64 "$work/ek.der")" --arg ek "$(b64 "$work/ek.tss")" --arg ak "$(b64 ak.pub)" \
    '{machine: {name: $name, external_id: $id, os: "linux", platform: "other", security_type: $type},
      ek_certificate: $cert, ek_public: $ek, ak_public: $ak}' >"$work/body"
  answer=$(request "$(cat "$token_file")" POST /v1/enrollments "$work/body")
  enrollment=$(jq -r .enrollment_id <<<"$answer")

  # tpm2_activatecredential reads a file: magic 0xbadcc0de, version 1, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.
  {
    printf '\xba\xdc\xc0\xde\x00\x00\x00\x01'
    jq -r .credential_blob <<<"$answer" | base64 -d
    jq -r .encrypted_secret <<<"$answer" | base64 -d
  } >"$work/credential"
  ek_session
  tpm tpm2_activatecredential -c "$work/ak.ctx" -C "$work/ek.ctx" -P "session:$work/session" -i "$work/credential" -o "$work/secret"
  flush
  jq -n --arg secret "$(b64 "$work/secret")" '{$secret}' >"$work/body"
  answer=$(request "" POST "/v1/enrollments/$enrollment/activation" "$work/body")
  jq -r .machine_id <<<"$answer" >machine.id
  jq -r .machine_token <<<"$answer" >machine.token
}

attest() {
  local id token challenge selection
  id=$(cat machine.id) token=$(cat machine.token)
  challenge=$(request "$token" POST "/v1/machines/$id/challenges")
  jq -r .nonce <<<"$challenge" | base64 -d >"$work/nonce"
  selection=$(jq -r '.pcr_selection | to_entries | map("\(.key):\(.value | sort | join(","))") | join("+")' <<<"$challenge")
  tpm tpm2_quote -c "$work/ak.ctx" -l "$selection" -q "$(hex "$work/nonce")" -g sha256 \
    -m "$work/message" -s "$work/signature" -f tss -o "$work/pcrs" -F values
  flush
  # The values lie one after the other, in the order of the selection.
  jq -n --arg selection "$selection" --arg values "$(hex "$work/pcrs")" '
    {sha1: 40, sha256: 64, sha384: 96, sha512: 128} as $size
    | reduce ($selection | split("+")[] | split(":") | .[0] as $bank | .[1] | split(",")[] | [$bank, .]) as [$bank, $pcr]
        ({at: 0, pcrs: {}}; .pcrs[$bank][$pcr] = $values[.at:.at + $size[$bank]] | .at += $size[$bank])
    | .pcrs' >"$work/pcrs.json"
  # A log can be longer than a command line may be, so it goes by a file.
  if [ -s "$log" ]; then b64 "$log"; fi >"$work/log"
  jq -n --arg message "$(b64 "$work/message")" --arg signature "$(b64 "$work/signature")" \
    --slurpfile pcrs "$work/pcrs.json" --rawfile log "$work/log" \
    '{quotes: [{$message, $signature}], pcrs: $pcrs[0], agent: {version: "tpm2-tools.sh"}}
     + if $log == "" then {} else {event_log: $log} end' >"$work/body"
  request "$token" POST "/v1/machines/$id/evidence" "$work/body"
}

make_keys
[ -s machine.token ] || enroll
attest >"$work/verdict"
jq . "$work/verdict"
[ "$(jq -r .status "$work/verdict")" = affirming ] || exit 1
