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

// PolicyError is a value of a policy that does not fit, with its place as an RFC 6901 JSON pointer.
type PolicyError struct {
	Pointer string
	Detail  string
}

// Error implements error.
func (e *PolicyError) Error() string { return e.Pointer + ": " + e.Detail }

// CompiledPolicy is a Policy made ready for Judge. It may be used by several goroutines at once.
type CompiledPolicy struct {
	exact           map[string]digestSet
	globs           []globRule
	exclude         []*regexp.Regexp
	allowViolations bool
}

// digestSet holds keys as digestKey makes them.
type digestSet map[string]struct{}

type globRule struct {
	re      *regexp.Regexp
	digests digestSet
}

// Compile checks the policy and makes it ready. The error is a *PolicyError.
func (p *Policy) Compile() (*CompiledPolicy, error) {
	c := &CompiledPolicy{exact: make(map[string]digestSet, len(p.Allow)), allowViolations: p.AllowViolations}
	for i, a := range p.Allow {
		if a.Path == "" {
			return nil, &PolicyError{fmt.Sprintf("/allow/%d/path", i), "a path is needed"}
		}
		path, pattern, err := compileGlob(a.Path)
		if err != nil {
			return nil, &PolicyError{fmt.Sprintf("/allow/%d/path", i), err.Error()}
		}
		var set digestSet
		if pattern == nil {
			if set = c.exact[path]; set == nil {
				set = make(digestSet, len(a.Digests))
				c.exact[path] = set
			}
		} else {
			set = make(digestSet, len(a.Digests))
			c.globs = append(c.globs, globRule{pattern, set})
		}
		for j, d := range a.Digests {
			key, err := parseDigest(d)
			if err != nil {
				return nil, &PolicyError{fmt.Sprintf("/allow/%d/digests/%d", i, j), err.Error()}
			}
			set[key] = struct{}{}
		}
	}
	for i, x := range p.Exclude {
		// Compiled alone first, so that ")" cannot end the group that anchors it.
		if _, err := regexp.Compile(x); err != nil {
			return nil, &PolicyError{fmt.Sprintf("/exclude/%d", i), err.Error()}
		}
		re, err := regexp.Compile(`^(?:` + x + `)$`)
		if err != nil {
			return nil, &PolicyError{fmt.Sprintf("/exclude/%d", i), err.Error()}
		}
		c.exclude = append(c.exclude, re)
	}
	return c, nil
}

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
		why := ""
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
		case rep.First == 0 && i == 0 && string(v.path) == bootAggregate:
			continue
		case v.signatureFault != "":
			if p.excluded(v.path) {
				continue
			}
			why = "has a malformed signature: " + v.signatureFault
		default:
			key = digestKey(key[:0], v.digestType, v.alg, v.digest)
			if why = p.why(v.path, key); why == "" {
				continue
			}
		}
		out.Unexpected++
		if len(out.Findings) >= MaxFindings {
			continue
		}
		f := Finding{Index: rep.First + i, Path: string(v.path)}
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

// why is empty when the path with this digest is allowed.
func (p *CompiledPolicy) why(path, key []byte) string {
	known := false
	if set, ok := p.exact[string(path)]; ok {
		if _, ok := set[string(key)]; ok {
			return ""
		}
		known = true
	}
	for i := range p.globs {
		if !p.globs[i].re.Match(path) {
			continue
		}
		if _, ok := p.globs[i].digests[string(key)]; ok {
			return ""
		}
		known = true
	}
	if p.excluded(path) {
		return ""
	}
	if known {
		return "has another content than the reference values allow"
	}
	return "is not among the files that the reference values allow"
}

func (p *CompiledPolicy) excluded(path []byte) bool {
	for _, re := range p.exclude {
		if re.Match(path) {
			return true
		}
	}
	return false
}

const bootAggregate = "boot_aggregate"

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
