// Package keylime imports the two policies of Keylime (keylime/keylime, Apache-2.0): the reference state of measured boot
// (mb_refstate, keylime/mba/elchecking/example.py) and the runtime policy of IMA (keylime/ima/ima.py, version 1), which
// may be signed in a DSSE envelope.
//
// Reference values mean what Keylime makes of the same document, but for what Notes say: where Keylime compares more than
// reference values can, the rest is named there and judged by nothing.
package keylime

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/dsse"
	"github.com/assay-verifier/assay/baseline/jsondoc"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
)

// The names of the formats in provenance.
const (
	FormatRefState      = "keylime-mb-refstate"
	FormatRuntimePolicy = "keylime-runtime-policy"
)

// PayloadType is that of a runtime policy in an envelope (keylime/dsse).
const PayloadType = "application/vnd.keylime+json"

// Import reads a reference state, a runtime policy, or a runtime policy in an envelope, whose signature is then verified
// against trust. The error is a *baseline.ImportError.
func Import(b []byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	if dsse.IsEnvelope(b) {
		envelope, err := dsse.Open(b, trust)
		if err != nil {
			return nil, err
		}
		return Signed(envelope)
	}
	if isRuntimePolicy(b) {
		return runtimePolicy(b, "")
	}
	return refState(b)
}

// Signed reads the runtime policy of an envelope that has been verified.
func Signed(envelope *dsse.Verified) (*baseline.Imported, error) {
	if envelope.PayloadType != PayloadType {
		return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "/payloadType", "the payload is %q; a Keylime policy is %q", envelope.PayloadType, PayloadType)
	}
	out, err := runtimePolicy(envelope.Payload, "/payload")
	if err == nil {
		out.Signer = &envelope.Signer
	}
	return out, err
}

// isRuntimePolicy tells the two documents apart by a member that only one of them has.
func isRuntimePolicy(b []byte) bool {
	return jsondoc.FirstOf(b, func(name string) bool { return policyMembers[name] }) != ""
}

var policyMembers = map[string]bool{"meta": true, "digests": true, "excludes": true, "keyrings": true, "ima": true, "ima-buf": true, "verification-keys": true}

type policyReader struct {
	*jsondoc.Reader
	out *baseline.Imported
	ima *verifier.ReferenceIMA
}

func runtimePolicy(b []byte, at string) (*baseline.Imported, error) {
	p := &policyReader{Reader: jsondoc.New(b, at), ima: &verifier.ReferenceIMA{}}
	p.out = &baseline.Imported{Format: FormatRuntimePolicy, Provenance: map[string]string{}, Values: verifier.ReferenceValues{IMA: p.ima}}
	p.Object(p.member)
	p.End()
	if p.Err() != nil {
		return nil, p.Err()
	}
	if len(p.ima.Allow) == 0 && len(p.ima.Keyrings) == 0 && len(p.ima.VerificationKeys) == 0 && len(p.ima.Buffers) == 0 {
		return nil, baseline.ImportErrorf(baseline.ImportNothingFound, at, "the policy allows nothing: it has no digests, keyrings, ima-buf or verification-keys")
	}
	return p.out, baseline.CheckValues(p.out.Values, p.place(at))
}

// place finds the element of the policy that a pointer into reference values came from.
func (p *policyReader) place(at string) func(string) string {
	names := map[string]string{"allow": "/digests", "exclude": "/excludes", "keyrings": "/keyrings", "ignored_keyrings": "/ima/ignored_keyrings",
		"buffers": "/ima-buf", "verification_keys": "/verification-keys"}
	return func(pointer string) string {
		parts := strings.SplitN(strings.TrimPrefix(pointer, "/ima/"), "/", 3)
		place := at + names[parts[0]]
		if parts[0] == "allow" { // digests are a map, and the list has lost their names
			return place
		}
		if len(parts) > 1 && parts[0] != "verification_keys" {
			place += "/" + strings.Join(parts[1:], "/")
		}
		return place
	}
}

func (p *policyReader) member(name string) {
	switch name {
	case "meta":
		p.Object(p.meta)
	case "release":
		p.Skip()
	case "digests":
		p.Object(p.file)
	case "excludes":
		p.list(p.exclude)
	case "keyrings":
		p.ima.Keyrings = p.digests()
	case "ima-buf":
		p.ima.Buffers = p.digests()
	case "ima":
		p.Object(p.options)
	case "verification-keys":
		p.keys()
	default:
		p.Unknown()
	}
}

// list reads an array, for which Keylime also takes null.
func (p *policyReader) list(each func()) {
	if !p.Null() {
		p.Array(each)
	}
}

func (p *policyReader) meta(name string) {
	switch name {
	case "version":
		if v := p.Int(1 << 31); p.Err() == nil && v != 1 {
			p.Fail(baseline.ImportUnsupported, "version %d is not 1", v)
		}
	case "timestamp":
		p.out.Provenance["timestamp"] = p.Text()
	case "generator":
		p.out.Provenance["generator"] = fmt.Sprint(p.Int(1 << 31))
	default:
		p.Skip() // for people; Keylime adds to it
	}
}

func (p *policyReader) file(path string) {
	if path == "" {
		p.Fail(baseline.ImportMalformed, "a path is needed")
		return
	}
	allow := verifier.ReferenceFile{Path: ima.EscapeGlob(path)}
	p.Array(func() { allow.Digests = append(allow.Digests, p.digest()) })
	if path == "boot_aggregate" {
		p.out.Notes = append(p.out.Notes, "boot_aggregate is not taken: it repeats PCRs that the quote proves itself")
		return
	}
	if len(allow.Digests) > 0 {
		p.ima.Allow = append(p.ima.Allow, allow)
	}
}

// digest reads hex whose algorithm Keylime leaves to its length, or "algorithm:hex".
func (p *policyReader) digest() string {
	text := p.Text()
	if strings.Contains(text, ":") || p.Err() != nil {
		return text
	}
	alg := map[int]string{40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}[len(text)]
	if _, err := hex.DecodeString(text); err != nil || alg == "" {
		p.Fail(baseline.ImportMalformed, "it is no digest in hex of SHA-1, SHA-256, SHA-384 or SHA-512")
	}
	return alg + ":" + strings.ToLower(text)
}

func (p *policyReader) digests() map[string][]string {
	out := map[string][]string{}
	p.Object(func(name string) {
		list := []string{}
		p.Array(func() { list = append(list, p.digest()) })
		out[name] = list
	})
	return out
}

// exclude takes a pattern that Keylime matches from the path's beginning on, not to its end (re.match).
func (p *policyReader) exclude() {
	text := p.Text()
	if p.Err() != nil || text == "" {
		return
	}
	if _, err := regexp.Compile(text); err != nil {
		p.Fail(baseline.ImportUnsupported, "this pattern of Python is none of RE2: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return
	}
	p.ima.Exclude = append(p.ima.Exclude, `(?:`+text+`)(?s:.*)`)
}

func (p *policyReader) options(name string) {
	switch name {
	case "ignored_keyrings":
		p.list(func() { p.ima.IgnoredKeyrings = append(p.ima.IgnoredKeyrings, p.Text()) })
	case "log_hash_alg":
		p.out.Provenance["log_hash_alg"] = p.Text() // of the template hash; a list shows its own
	case "dm_policy":
		if !p.Null() {
			p.Skip()
			p.out.Notes = append(p.out.Notes, "dm_policy is not judged: what IMA measures of the device mapper is compared with ima-buf alone")
		}
	default:
		p.Unknown()
	}
}

// keys reads the keyring that Keylime writes as JSON in a string (file_signatures.py, ImaKeyring.to_string).
func (p *policyReader) keys() {
	if p.Null() {
		return
	}
	text := p.Text()
	if p.Err() != nil || text == "" {
		return
	}
	inner := jsondoc.New([]byte(text), p.Pointer())
	if inner.IsText() { // Keylime itself reads one that was quoted twice
		text = inner.Text()
		inner = jsondoc.New([]byte(text), p.Pointer())
	}
	inner.Object(func(name string) {
		switch name {
		case "pubkeys":
			inner.Array(func() { p.ima.VerificationKeys = append(p.ima.VerificationKeys, pemOf(inner)) })
		case "keyids", "meta":
			inner.Skip() // found again from the keys
		default:
			inner.Unknown()
		}
	})
	inner.End()
	if err := inner.Err(); err != nil {
		var e = err.(*baseline.ImportError) //nolint:errorlint // the reader's errors are of this type
		p.FailAt(e.Kind, e.Element, "%s", e.Detail)
	}
}
