package ima

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Policy says which files a machine may measure. The empty policy allows nothing but boot_aggregate.
type Policy struct {
	Allow   []Allow
	Exclude []string // RE2, matched against the whole path: "/var/log/.*"
	// AllowViolations makes violations no findings. Nothing covers a violation's path, so they can be
	// allowed all or none, whatever Exclude says.
	AllowViolations bool
	// Keyrings are the digests of the keys that may be loaded into a keyring, by its name (".ima").
	Keyrings map[string][]string
	// IgnoredKeyrings are keyrings whose keys are not judged; "*" stands for all.
	IgnoredKeyrings []string
	// Buffers are the digests that other measured buffers may have, by their name ("kexec-cmdline").
	Buffers map[string][]string
	// Keys are public keys or certificates in PEM. A file that Allow does not name passes with a signature of one.
	Keys []string
	// RequireSignatures are paths or globs of files that need a signature of one of Keys, whatever their digest; Exclude
	// does not except them.
	RequireSignatures []string
}

// Allow names files and the digests they may have.
type Allow struct {
	// Path is a whole path, or a glob: "*" stands for any characters but "/", "**" for any characters,
	// "?" for one character but "/"; "\" takes the next character as it is. "[" has no meaning,
	// since it is a file's name (/usr/bin/[).
	Path string
	// Digests are "sha256:<hex>", or "verity:sha256:<hex>" for an fs-verity digest.
	Digests []string
}

// Bounds of a policy. An entry is judged by one look-up and at most MaxPatterns patterns, however long the list is.
const (
	MaxDigests  = 250_000
	MaxPatterns = 1000
	MaxKeys     = 64
)

// PolicyError is a value of a policy that does not fit, with its place as an RFC 6901 JSON pointer.
type PolicyError struct {
	Pointer string
	Detail  string
}

// Error implements error.
func (e *PolicyError) Error() string { return e.Pointer + ": " + e.Detail }

// CompiledPolicy is a Policy made ready for Judge. It may be used by several goroutines at once.
type CompiledPolicy struct {
	// files holds path, NUL and digestKey; named the paths alone. One table for all files costs a fraction of a set each.
	files           digestSet
	named           map[string]struct{}
	globs           []globRule
	exclude         []*regexp.Regexp
	allowViolations bool
	buffers         bufferRules
	keys            keySet
	signed          pathSet
	digests         int // counted while compiling
	patterns        int
}

// digestSet holds keys as digestKey makes them.
type digestSet map[string]struct{}

type globRule struct {
	re      *regexp.Regexp
	digests digestSet
}

// pathSet holds paths and globs.
type pathSet struct {
	exact map[string]struct{}
	globs []*regexp.Regexp
}

func (s *pathSet) has(path []byte) bool {
	if _, ok := s.exact[string(path)]; ok {
		return true
	}
	for _, re := range s.globs {
		if re.Match(path) {
			return true
		}
	}
	return false
}

// Compile checks the policy and makes it ready. The error is a *PolicyError.
func (p *Policy) Compile() (*CompiledPolicy, error) {
	c := &CompiledPolicy{files: make(digestSet, len(p.Allow)), named: make(map[string]struct{}, len(p.Allow)), allowViolations: p.AllowViolations}
	for i := range p.Allow {
		if err := c.allow(&p.Allow[i], i); err != nil {
			return nil, err
		}
	}
	for i, x := range p.Exclude {
		pointer := fmt.Sprintf("/exclude/%d", i)
		if err := c.countPattern(pointer); err != nil {
			return nil, err
		}
		// Compiled alone first, so that ")" cannot end the group that anchors it.
		if _, err := regexp.Compile(x); err != nil {
			return nil, &PolicyError{pointer, err.Error()}
		}
		re, err := regexp.Compile(`^(?:` + x + `)$`)
		if err != nil {
			return nil, &PolicyError{pointer, err.Error()}
		}
		c.exclude = append(c.exclude, re)
	}
	if err := c.compileBuffers(p); err != nil {
		return nil, err
	}
	if err := c.compileSignatures(p); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *CompiledPolicy) allow(a *Allow, i int) error {
	pointer := fmt.Sprintf("/allow/%d", i)
	if a.Path == "" {
		return &PolicyError{pointer + "/path", "a path is needed"}
	}
	path, pattern, err := compileGlob(a.Path)
	if err != nil {
		return &PolicyError{pointer + "/path", err.Error()}
	}
	set, prefix := c.files, path+"\x00"
	if pattern == nil {
		c.named[path] = struct{}{}
	} else {
		if err := c.countPattern(pointer + "/path"); err != nil {
			return err
		}
		set, prefix = make(digestSet, len(a.Digests)), ""
		c.globs = append(c.globs, globRule{pattern, set})
	}
	return c.addDigests(set, prefix, a.Digests, pointer+"/digests")
}

func (c *CompiledPolicy) addDigests(set digestSet, prefix string, digests []string, pointer string) error {
	for j, d := range digests {
		if c.digests++; c.digests > MaxDigests {
			return &PolicyError{pointer, fmt.Sprintf("more than %d digests in all", MaxDigests)}
		}
		key, err := parseDigest(d)
		if err != nil {
			return &PolicyError{fmt.Sprintf("%s/%d", pointer, j), err.Error()}
		}
		set[prefix+key] = struct{}{}
	}
	return nil
}

func (c *CompiledPolicy) countPattern(pointer string) error {
	if c.patterns++; c.patterns > MaxPatterns {
		return &PolicyError{pointer, fmt.Sprintf("more than %d globs and excluded patterns in all", MaxPatterns)}
	}
	return nil
}

// EscapeGlob writes a file's path as an Allow.Path that stands for this file alone.
func EscapeGlob(path string) string { return globEscape.Replace(path) }

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)

// compileGlob returns the path when the glob has no wildcard, else a pattern.
func compileGlob(glob string) (path string, pattern *regexp.Regexp, err error) {
	var literal, re strings.Builder
	re.WriteString(`(?s)^`)
	wild := false
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			wild = true
			if i+1 < len(glob) && glob[i+1] == '*' {
				i++
				re.WriteString(`.*`)
			} else {
				re.WriteString(`[^/]*`)
			}
		case '?':
			wild = true
			re.WriteString(`[^/]`)
		default:
			if c == '\\' {
				if i++; i == len(glob) {
					return "", nil, fmt.Errorf(`the path ends with "\" at character %d`, i)
				}
			}
			literal.WriteByte(glob[i])
			re.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	if !wild {
		return literal.String(), nil, nil
	}
	re.WriteByte('$')
	pattern, err = regexp.Compile(re.String())
	return "", pattern, err
}

// parseDigest reads "alg:hex" or "verity:alg:hex".
func parseDigest(s string) (key string, err error) {
	kind, rest := "", s
	if strings.Count(s, ":") == 2 {
		kind, rest, _ = strings.Cut(s, ":")
		if kind != "verity" && kind != "ima" {
			return "", fmt.Errorf("%q is neither ima nor verity", kind)
		}
	}
	alg, text, ok := strings.Cut(rest, ":")
	if !ok {
		return "", fmt.Errorf(`%q has no algorithm: write "sha256:" before the hex digits`, s)
	}
	size := digestSize([]byte(alg))
	if size == 0 {
		return "", fmt.Errorf("digest algorithm %q is not known", alg)
	}
	sum, err := hex.DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("%q is not hex", text)
	}
	if len(sum) != size {
		return "", fmt.Errorf("a %s digest is %d bytes long, not %d", alg, size, len(sum))
	}
	return string(digestKey(nil, []byte(kind), []byte(alg), sum)), nil
}

// digestKey appends what makes two digests the same: whether it is of fs-verity, algorithm, value.
func digestKey(dst, kind, alg, sum []byte) []byte {
	if string(kind) == "verity" {
		dst = append(dst, 'v')
	}
	if len(alg) == 0 {
		dst = append(dst, algBySize(len(sum))...)
	} else {
		dst = append(dst, alg...)
	}
	return append(append(dst, ':'), sum...)
}

// Finding is one proven entry that the policy does not allow.
type Finding struct {
	Index  int    // of the entry, from the start of the boot
	Path   string // as the list states it
	Digest string // "sha256:<hex>"; empty when the entry cannot be read
	Why    string // plain words, naming the file
	Kind   EntryKind
}

// MaxFindings bounds Judgement.Findings; what is over is only counted.
const MaxFindings = 1000

// Judgement is the outcome of Judge.
type Judgement struct {
	Findings   []Finding // in the order of the list, at most MaxFindings
	Unexpected int       // all entries that are not allowed
	Judged     int       // entries looked at
}

// Judge compares the entries that rep proves with the policy. An entry is allowed when its path is
// excluded, or when its path and digest are allowed together. The boot_aggregate that opens the list is
// always allowed: it repeats PCRs that the quote covers itself (see BootAggregate).
func (l *List) Judge(p *CompiledPolicy, rep Report) Judgement {
	var out Judgement
	if rep.Status != Pass {
		return out
	}
	key := make([]byte, 0, 96)
	for i := 0; i < rep.Matched && i < len(l.recs); i++ {
		rec := &l.recs[i]
		out.Judged++
		v := l.view(rec)
		why, kind := "", KindUnprovable
		switch {
		case rec.pcr != PCR:
			why = fmt.Sprintf("is measured into PCR %d, which nothing proves here", rec.pcr)
		case rec.flags&flagViolation != 0:
			if p.allowViolations {
				continue
			}
			why = "was changed while it was measured, or measured while it was open for writing"
		case v.fault != "":
			why = "cannot be read: " + v.fault
		case rep.First == 0 && i == 0 && string(v.path) == BootAggregateName:
			continue
		case v.signatureFault != "":
			if p.excluded(v.path) && !p.signed.has(v.path) {
				continue
			}
			why, kind = "has a malformed signature: "+v.signatureFault, KindSignature
		case v.isBuffer:
			if key, kind, why = p.whyBuffer(key, &v); why == "" {
				continue
			}
		default:
			if key, kind, why = p.why(key, &v); why == "" {
				continue
			}
		}
		out.Unexpected++
		if len(out.Findings) >= MaxFindings {
			continue
		}
		f := Finding{Index: rep.First + i, Path: string(v.path), Kind: kind}
		if v.fault == "" {
			f.Digest = digestText(string(v.digestType), string(v.alg), v.digest)
		}
		subject := f.Path
		if subject == "" {
			subject = fmt.Sprintf("entry %d", f.Index)
		}
		f.Why = subject + " " + why
		out.Findings = append(out.Findings, f)
	}
	return out
}

// why is empty when the file is allowed. key is scratch space, which is returned for the next entry.
func (c *CompiledPolicy) why(key []byte, v *view) ([]byte, EntryKind, string) {
	key, named, allowed := c.byDigest(key, v)
	const otherContent = "has another content than the reference values allow"
	if c.signed.has(v.path) {
		switch fault := c.keys.fault(v); {
		case fault != "":
			return key, KindSignature, "needs a trusted signature: " + fault
		case named && !allowed:
			return key, KindFile, otherContent
		}
		return key, "", ""
	}
	if allowed || c.excluded(v.path) {
		return key, "", ""
	}
	if named {
		return key, KindFile, otherContent
	}
	const notNamed = "is not among the files that the reference values allow"
	if len(c.keys) == 0 || len(v.signature) == 0 {
		return key, KindFile, notNamed
	}
	if fault := c.keys.fault(v); fault != "" {
		return key, KindFile, notNamed + ", and its signature does not make up for it: " + fault
	}
	return key, "", ""
}

// byDigest tells whether the reference values name the path, and whether they allow it with this digest.
func (c *CompiledPolicy) byDigest(key []byte, v *view) (scratch []byte, named, allowed bool) {
	if _, named = c.named[string(v.path)]; named {
		key = append(append(key[:0], v.path...), 0)
		key = digestKey(key, v.digestType, v.alg, v.digest)
		if _, allowed = c.files[string(key)]; allowed {
			return key, true, true
		}
	}
	key = digestKey(key[:0], v.digestType, v.alg, v.digest)
	for i := range c.globs {
		if !c.globs[i].re.Match(v.path) {
			continue
		}
		named = true
		if _, ok := c.globs[i].digests[string(key)]; ok {
			return key, true, true
		}
	}
	return key, named, false
}

func (c *CompiledPolicy) excluded(path []byte) bool {
	for _, re := range c.exclude {
		if re.Match(path) {
			return true
		}
	}
	return false
}

// BootAggregateName is the name of the entry that opens a list.
const BootAggregateName = "boot_aggregate"

// BootAggregate computes the digests that the first entry of a list may have: over PCRs 0 to 7, and, in
// banks other than SHA-1, over PCRs 0 to 9 (Linux 5.8 and later; ima_calc_boot_aggregate_tfm in
// ima_crypto.c). It is nil when the bank lacks one of PCRs 0 to 7 or is not computed.
func BootAggregate(bank *tpm.Bank) [][]byte {
	if bank == nil || bank.Alg.Hash() == 0 {
		return nil
	}
	data := make([]byte, 0, 10*maxDigest)
	var out [][]byte
	for i := 0; i < 10; i++ {
		if len(bank.Values[i]) != bank.Alg.Size() {
			break
		}
		data = append(data, bank.Values[i]...)
		if i == 7 || i == 9 && bank.Alg != tpm.SHA1 {
			var sum digest
			n := sum.of(bank.Alg, data)
			out = append(out, append([]byte(nil), sum[:n]...))
		}
	}
	return out
}
