// A relying party in another language: it verifies results with the library jose, and with nothing of ours. It keeps the
// key set as the library does by itself. Each line of standard input is a JSON request, each line of standard output its answer:
//
//   {"token", "jwks", "issuer", "audience", "nonce", "at"}  ->  {"ok", "payload", "alg", "code", "fetches"}
//
// "at" is the time to judge at, RFC 3339; "fetches" counts how often the key set has been fetched since the start.
import { webcrypto } from 'node:crypto'
import { createInterface } from 'node:readline'
import { createRemoteJWKSet, customFetch, jwtVerify } from 'jose'

globalThis.crypto ??= webcrypto // Node 18

const sets = new Map()
let fetches = 0

function keySet(url) {
  if (!sets.has(url)) {
    sets.set(url, createRemoteJWKSet(new URL(url), {
      [customFetch]: (...args) => { fetches++; return fetch(...args) },
    }))
  }
  return sets.get(url)
}

async function answer(r) {
  try {
    const { payload, protectedHeader } = await jwtVerify(r.token, keySet(r.jwks), {
      issuer: r.issuer || undefined,
      audience: r.audience || undefined,
      typ: 'eat+jwt',
      algorithms: ['EdDSA', 'ES256'],
      requiredClaims: ['sub', 'exp', 'iat', 'nbf', 'jti'],
      currentDate: r.at ? new Date(r.at) : undefined,
    })
    if (r.nonce && payload.eat_nonce !== r.nonce) return { ok: false, code: 'NONCE', fetches }
    return { ok: true, payload, alg: protectedHeader.alg, fetches }
  } catch (err) {
    return { ok: false, code: err.code ?? String(err), fetches }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + '\n')
}
process.exit(0)
