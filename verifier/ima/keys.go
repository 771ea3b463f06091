package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" // #nosec G505 -- names keys as the kernel does; nothing is trusted because of it
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// minRSABits is the smallest RSA key that a policy may trust for file signatures.
const minRSABits = 2048

// keyID is the name of a key in a signature's header: the last four bytes of the certificate's subject key identifier
// (Linux: security/integrity/digsig_asymmetric.c, request_asymmetric_key), which evmctl makes of the SHA-1 of the key.
type keyID [4]byte

// keySet holds the trusted keys by their id. An id is no proof, and two keys may share one.
type keySet map[keyID][]crypto.PublicKey

// fault is empty where the file is signed by one of the keys.
func (s keySet) fault(v *view) string {
	if len(v.signature) == 0 {
		return "it has no signature"
	}
	if string(v.digestType) == "verity" {
		return "signatures over fs-verity digests are not verified"
	}
	if _, err := signatureHash(v.signature); err != nil {
		return err.Error()
	}
	id := keyID(v.signature[3:7])
	keys := s[id]
	if len(keys) == 0 {
		return fmt.Sprintf("the reference values trust no key with the id %x", id)
	}
	var last error
	for _, key := range keys {
		if last = verifySignature(v.signature, string(v.alg), v.digest, key); last == nil {
			return ""
		}
	}
	return last.Error()
}

func (c *CompiledPolicy) compileSignatures(p *Policy) error {
	if len(p.Keys) > MaxKeys {
		return &PolicyError{"/verification_keys", fmt.Sprintf("more than %d keys", MaxKeys)}
	}
	c.keys = make(keySet, len(p.Keys))
	for i, text := range p.Keys {
		if err := c.keys.add(text); err != nil {
			return &PolicyError{fmt.Sprintf("/verification_keys/%d", i), err.Error()}
		}
	}
	c.signed.exact = make(map[string]struct{}, len(p.RequireSignatures))
	for i, glob := range p.RequireSignatures {
		pointer := fmt.Sprintf("/require_signatures/%d", i)
		if len(p.Keys) == 0 {
			return &PolicyError{pointer, "signatures are required, and verification_keys trusts no key"}
		}
		if err := c.countPattern(pointer); err != nil {
			return err
		}
		path, pattern, err := compileGlob(glob)
		switch {
		case err != nil:
			return &PolicyError{pointer, err.Error()}
		case glob == "":
			return &PolicyError{pointer, "a path is needed"}
		case pattern == nil:
			c.signed.exact[path] = struct{}{}
		default:
			c.signed.globs = append(c.signed.globs, pattern)
		}
	}
	return nil
}

// add reads one PUBLIC KEY or CERTIFICATE block. The dates of a certificate say nothing of a file that was signed in
// its time, so they are not looked at.
func (s keySet) add(text string) error {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("one PEM block of type PUBLIC KEY or CERTIFICATE is needed")
	}
	var spki []byte
	var ids []keyID
	switch block.Type {
	case "PUBLIC KEY":
		spki = block.Bytes
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("the certificate cannot be read: %w", err)
		}
		spki = cert.RawSubjectPublicKeyInfo
		if n := len(cert.SubjectKeyId); n >= len(keyID{}) {
			ids = append(ids, keyID(cert.SubjectKeyId[n-len(keyID{}):]))
		}
	default:
		return fmt.Errorf("%q is neither PUBLIC KEY nor CERTIFICATE", block.Type)
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fmt.Errorf("the public key cannot be read: %w", err)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits is too short; at least %d are needed", key.N.BitLen(), minRSABits)
		}
	case *ecdsa.PublicKey:
	default:
		return fmt.Errorf("keys of type %T are not supported; RSA and ECDSA are", key)
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return errors.New("the public key cannot be read")
	}
	sum := sha1.Sum(info.Key.Bytes) // #nosec G401 -- it names a key, and signs nothing
	if id := keyID(sum[len(sum)-len(keyID{}):]); len(ids) == 0 || ids[0] != id {
		ids = append(ids, id)
	}
	for _, id := range ids {
		s[id] = append(s[id], key)
	}
	return nil
}

// KeyName names a key of Policy.Keys for a person: its certificate's subject, and the SHA-256 of the DER.
func KeyName(text string) string {
	der := []byte(text)
	if block, _ := pem.Decode([]byte(text)); block != nil {
		der = block.Bytes
	}
	name := fmt.Sprintf("key sha256:%x", sha256.Sum256(der))
	if cert, err := x509.ParseCertificate(der); err == nil {
		name = fmt.Sprintf("%q, %s", cert.Subject.String(), name)
	}
	return name
}

// bufferRules is what a policy says of measured buffers.
type bufferRules struct {
	allowed digestSet // name, NUL, digestKey
	named   map[string]string
	ignored map[string]struct{}
}

// What a name of bufferRules stands for.
const (
	isKeyring = "keyring"
	isOther   = "buffer"
)

func (c *CompiledPolicy) compileBuffers(p *Policy) error {
	b := bufferRules{allowed: digestSet{}, named: map[string]string{}, ignored: map[string]struct{}{}}
	for _, of := range []struct {
		kind, pointer string
		digests       map[string][]string
	}{{isKeyring, "/keyrings/", p.Keyrings}, {isOther, "/buffers/", p.Buffers}} {
		for name, digests := range of.digests {
			pointer := of.pointer + pointerEscape.Replace(name)
			if name == "" {
				return &PolicyError{pointer, "a name is needed"}
			}
			if was := b.named[name]; was != "" && was != of.kind {
				return &PolicyError{pointer, "it is named as a keyring and as another buffer"}
			}
			b.named[name] = of.kind
			if err := c.addDigests(b.allowed, name+"\x00", digests, pointer); err != nil {
				return err
			}
		}
	}
	for i, name := range p.IgnoredKeyrings {
		if name == "" {
			return &PolicyError{fmt.Sprintf("/ignored_keyrings/%d", i), "a name is needed"}
		}
		b.ignored[name] = struct{}{}
	}
	c.buffers = b
	return nil
}

// EntryKind is what reference values can say of an entry that they do not allow.
type EntryKind string

// The kinds of entries.
const (
	KindFile       EntryKind = "file"       // allowed by path and digest
	KindKeyring    EntryKind = "keyring"    // allowed by the digests of its keyring
	KindBuffer     EntryKind = "buffer"     // allowed by the digests of its name
	KindSignature  EntryKind = "signature"  // needs a signature of a trusted key: no digest makes up for it
	KindUnprovable EntryKind = "unprovable" // a violation, or what cannot be read or is not what it states: never allowed by a digest
)

// whyBuffer is why for an entry with a buffer. Its template is not covered by its hash, and a file's signature would read
// as a buffer: so the digest must be that of the buffer, and only names that the policy gives to buffers are looked up.
func (c *CompiledPolicy) whyBuffer(key []byte, v *view) ([]byte, EntryKind, string) {
	name := string(v.path)
	b := &c.buffers
	kind := b.named[name]
	if kind == "" && !b.ignores(name) {
		return c.whyUnnamed(key, v)
	}
	if !isDigestOf(v.digest, v.alg, v.buffer) {
		return key, KindUnprovable, "is measured with a digest that is not that of its buffer"
	}
	if kind == "" {
		if isDER(v.buffer) {
			return key, "", ""
		}
		return key, KindUnprovable, "is no key, and only keys of this keyring are passed over"
	}
	key = digestKey(append(append(key[:0], name...), 0), v.digestType, v.alg, v.digest)
	if _, ok := b.allowed[string(key)]; ok {
		return key, "", ""
	}
	if kind == isKeyring {
		return key, KindKeyring, "(keyring) was given a key that the reference values do not allow: " + keyText(v.buffer)
	}
	return key, KindBuffer, "(measured buffer) has another content than the reference values allow"
}

// whyUnnamed is why for a buffer of a name that the policy gives to none. Where it names no file of that path either, its
// digest belongs among those of keyrings or buffers; naming it there would undo what it allows as a file.
func (c *CompiledPolicy) whyUnnamed(key []byte, v *view) ([]byte, EntryKind, string) {
	key, kind, why := c.why(key, v)
	if kind != KindFile || !bufferName.Match(v.path) || !isDigestOf(v.digest, v.alg, v.buffer) {
		return key, kind, why
	}
	if _, named, _ := c.byDigest(key, v); named {
		return key, kind, why
	}
	if isDER(v.buffer) {
		return key, KindKeyring, why
	}
	return key, KindBuffer, why
}

func (b *bufferRules) ignores(name string) bool {
	if _, ok := b.ignored[name]; ok {
		return true
	}
	_, all := b.ignored["*"]
	return all && bufferName.MatchString(name)
}

// bufferName is a keyring's name: no path.
var bufferName = regexp.MustCompile(`^[^/]+$`)

// pointerEscape writes a name into a JSON pointer (RFC 6901, section 3).
var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

func isDigestOf(digest, alg, data []byte) bool {
	h, ok := algByName(string(alg))
	if !ok {
		return false
	}
	w := h.New()
	w.Write(data)
	return bytes.Equal(w.Sum(nil), digest)
}

func algByName(name string) (crypto.Hash, bool) {
	switch name {
	case "sha1":
		return crypto.SHA1, true
	case "sha256":
		return crypto.SHA256, true
	case "sha384":
		return crypto.SHA384, true
	case "sha512":
		return crypto.SHA512, true
	}
	return 0, false
}

// isDER tells whether the buffer is one ASN.1 sequence, as keys and certificates are.
func isDER(b []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	return err == nil && len(rest) == 0 && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence
}

// keyText names a key for a person.
func keyText(b []byte) string {
	if cert, err := x509.ParseCertificate(b); err == nil {
		return fmt.Sprintf("%q", cert.Subject.String())
	}
	return fmt.Sprintf("%d bytes", len(b))
}

// BufferKind is what the buffer of an entry holds.
type BufferKind int

// The kinds of buffers.
const (
	NoBuffer    BufferKind = iota // the entry is of a file
	BufferKey                     // a key or certificate, and the entry is named after its keyring
	BufferOther                   // a command line, a hash, a table of the device mapper
)

// BufferKind tells files from buffers. An entry whose digest is not that of its buffer is none: its template is not covered
// by its hash, and a file's signature would read as a buffer.
func (e *Entry) BufferKind() BufferKind {
	switch {
	case !e.hasBuffer || !isDigestOf(e.FileDigest, []byte(e.FileDigestAlg), e.Buffer):
		return NoBuffer
	case isDER(e.Buffer) && bufferName.MatchString(e.Path):
		return BufferKey
	}
	return BufferOther
}
