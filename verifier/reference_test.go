package verifier_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
)

func TestReferenceRefuses(t *testing.T) {
	tests := map[string]struct{ body, pointer string }{
		"nothing to judge":    {`{}`, ""},
		"empty lists":         {`{"pcrs": {}, "events": []}`, ""},
		"unknown field":       {`{"pcr": {}}`, "/pcr"},
		"unknown bank":        {`{"pcrs": {"md5": {"0": ["00"]}}}`, "/pcrs/md5"},
		"PCR 24":              {`{"pcrs": {"sha256": {"24": ["` + zeroPCR + `"]}}}`, "/pcrs/sha256/24"},
		"short value":         {`{"pcrs": {"sha256": {"0": ["` + zeroPCR + `", "00"]}}}`, "/pcrs/sha256/0/1"},
		"not hex":             {`{"pcrs": {"sha256": {"0": ["` + strings.Repeat("zz", 32) + `"]}}}`, "/pcrs/sha256/0/0"},
		"event PCR":           {`{"events": [{"pcr": 24, "digests": {"sha256": ["` + zeroPCR + `"]}}]}`, "/events/0/pcr"},
		"event without":       {`{"events": [{"pcr": 4, "digests": {}}]}`, "/events/0/digests"},
		"event bank":          {`{"events": [{"pcr": 4, "digests": {"md5": ["00"]}}]}`, "/events/0/digests/md5"},
		"event empty bank":    {`{"events": [{"pcr": 4, "digests": {"sha256": []}}]}`, "/events/0/digests/sha256"},
		"event digest":        {`{"events": [{"pcr": 4, "digests": {"sha256": ["00"]}}]}`, "/events/0/digests/sha256/0"},
		"bad pattern":         {`{"claims": {"kernel_cmdline": {"pattern": "("}}}`, "/claims/kernel_cmdline/pattern"},
		"long pattern":        {`{"claims": {"kernel_cmdline": {"pattern": "` + strings.Repeat("a", 1025) + `"}}}`, "/claims/kernel_cmdline/pattern"},
		"pattern and any_of":  {`{"claims": {"kernel_cmdline": {"pattern": "a", "any_of": ["a"]}}}`, "/claims/kernel_cmdline"},
		"unknown claim rule":  {`{"claims": {"kernel_cmdline": {"equals": "a"}}}`, "/claims/kernel_cmdline"},
		"unknown claim":       {`{"claims": {"phase_of_the_moon": "full"}}`, "/claims/phase_of_the_moon"},
		"IMA digest":          {`{"ima": {"allow": [{"path": "/a", "digests": ["00"]}]}}`, "/ima/allow/0/digests/0"},
		"IMA exclude":         {`{"ima": {"exclude": ["("]}}`, "/ima/exclude/0"},
		"launch measurement":  {`{"launch_measurements": ["00"]}`, "/launch_measurements/0"},
		"RTMR 4":              {`{"pcrs": {"rtmr": {"4": ["` + zeroPCR + zeroPCR[:32] + `"]}}}`, "/pcrs/rtmr/4"},
		"RTMR value":          {`{"pcrs": {"rtmr": {"0": ["` + zeroPCR + `"]}}}`, "/pcrs/rtmr/0/0"},
		"event RTMR":          {`{"events": [{"pcr": 4, "digests": {"rtmr": ["` + zeroPCR + zeroPCR[:32] + `"]}}]}`, "/events/0/pcr"},
		"event RTMR, mixed":   {`{"events": [{"pcr": 7, "digests": {"rtmr": ["` + zeroPCR + zeroPCR[:32] + `"], "sha256": ["` + zeroPCR + `"]}}]}`, "/events/0/pcr"},
		"PCR values of a map": {`{"pcrs": {"sha256": {"0": "` + zeroPCR + `"}}}`, "/pcrs/sha256/0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := verifier.ParseReferenceValues([]byte(tt.body))
			pointer := "none"
			var fe *verifier.FieldError
			var de *verifier.DecodeError
			switch {
			case errors.As(err, &fe):
				pointer = fe.Pointer
			case errors.As(err, &de):
				pointer = de.Pointer
			}
			if err == nil || pointer != tt.pointer {
				t.Errorf("error %v at %q, want one at %q", err, pointer, tt.pointer)
			}
		})
	}
}

func reference(t *testing.T, body string) *verifier.Reference {
	t.Helper()
	r, err := verifier.ParseReferenceValues([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A list made by hand: a PCR matches by value, or if each of its events is allowed; the separators and
// fixed actions of the firmware need no entry; an unknown image is named.
func TestReferenceMadeByHand(t *testing.T) {
	const shim = "80a66d53a945d2286fcadd780fae1c225aa732079cd67b5225dc78aaab4e2ff8"
	const grub = "a68f6d71ebddaa19751ff8d729f67d11b0df8e4c49400c3e7e90de16119e1265"
	const kernel = "5f21ff2c0d5d899842b28a8b19901ba72cf7a7ab93c02a77fadc6ff72be85b31"
	event := func(digests ...string) string {
		return `{"pcr": 4, "type": "EV_EFI_BOOT_SERVICES_APPLICATION", "digests": {"sha256": ["` + strings.Join(digests, `","`) + `"]}}`
	}
	tests := map[string]struct {
		body   string
		status verifier.CheckStatus
	}{
		"every image allowed":           {`{"pcrs": {"sha256": {"4": ["` + zeroPCR + `"]}}, "events": [` + event(shim) + `,` + event(grub) + `,` + event(kernel) + `]}`, verifier.Pass},
		"events alone":                  {`{"events": [` + event(shim, grub, kernel) + `]}`, verifier.Pass},
		"one image unknown":             {`{"events": [` + event(shim) + `,` + event(grub) + `]}`, verifier.Fail},
		"none of the images":            {`{"events": [` + event(zeroPCR) + `]}`, verifier.Fail},
		"value wrong and no events":     {`{"pcrs": {"sha256": {"4": ["` + zeroPCR + `"]}}}`, verifier.Fail},
		"no value given":                {`{"pcrs": {"sha256": {"4": []}}}`, verifier.Fail},
		"value of a bank not quoted":    {`{"pcrs": {"sha512": {"4": ["` + zeroPCR + zeroPCR + `"]}}}`, verifier.Fail},
		"PCR that has no events":        {`{"events": [{"pcr": 11, "digests": {"sha256": ["` + zeroPCR + `"]}}]}`, verifier.Fail},
		"one of several values":         {`{"pcrs": {"sha256": {"7": ["` + zeroPCR + `", "` + pcr7(t) + `"]}}}`, verifier.Pass},
		"a claim that holds":            {`{"claims": {"secure_boot": true, "tpm.restart_count": 0}}`, verifier.Pass},
		"a claim that does not hold":    {`{"claims": {"secure_boot": false}}`, verifier.Fail},
		"a claim that is not proven":    {`{"claims": {"audit_mode": true}}`, verifier.Fail},
		"a pattern that matches":        {`{"claims": {"kernel_cmdline": {"pattern": "BOOT_IMAGE=/vmlinuz console=ttyS[0-9],115200"}}}`, verifier.Pass},
		"a pattern that matches a part": {`{"claims": {"kernel_cmdline": {"pattern": "console"}}}`, verifier.Fail},
		"any of":                        {`{"claims": {"secure_boot": {"any_of": [false, true]}}}`, verifier.Pass},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
			in := c.inputs(t)
			in.Candidates = []verifier.Candidate{{Reference: reference(t, tt.body)}}
			got := verifier.Appraise(c.ev, in)
			if have := check(got, verifier.CheckBaselineMatch); have.Status != tt.status || (tt.status == verifier.Fail) != (len(got.Deviations) > 0) {
				t.Errorf("%s\n%s", have.Status, render(got))
			}
		})
	}
}

func pcr7(t *testing.T) string {
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	return hexOf(c.ev.PCRs[0].Values[7])
}

// A required event that is no longer measured is a deviation.
func TestRequiredEventMissing(t *testing.T) {
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	in := c.inputs(t)
	in.Candidates = []verifier.Candidate{{Reference: reference(t, `{"events": [
		{"pcr": 14, "digests": {"sha256": ["`+zeroPCR+`"]}, "description": "revocations", "required": true}]}`)}}
	got := verifier.Appraise(c.ev, in)
	for _, d := range got.Deviations {
		if d.Kind == verifier.Removed && strings.Contains(d.Description, "revocations") {
			return
		}
	}
	t.Errorf("the missing event is not named\n%s", render(got))
}

// With several versions valid at once one match is enough, and the verdict names the one that matched.
func TestCandidates(t *testing.T) {
	old := golden(t, "sb-on-1", "sha256")[0]
	old.Baseline = verifier.VersionRef{ID: "web", Version: 6}
	next := golden(t, "mok-signed", "sha256")[0]
	next.Baseline = verifier.VersionRef{ID: "web", Version: 7}
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	in := c.inputs(t)
	in.Candidates = []verifier.Candidate{next, old}
	got := verifier.Appraise(c.ev, in)
	if got.Status != verifier.Affirming || got.Baseline == nil || got.Baseline.Version != 6 {
		t.Errorf("%s, baseline %+v\n%s", got.Status, got.Baseline, render(got))
	}
	c = loadCapture(t, "cmdline", "rsassa", "sha256")
	in = c.inputs(t)
	in.Candidates = []verifier.Candidate{old, next}
	if got = verifier.Appraise(c.ev, in); got.Baseline == nil || got.Baseline.Version != 6 || len(got.Deviations) != 3 {
		t.Errorf("deviations are not told against the first candidate: %+v\n%s", got.Baseline, render(got))
	}
}

func TestPolicy(t *testing.T) {
	p, err := verifier.ParsePolicy([]byte(`{"require_secure_boot": false, "pcrs": {"sha384": [7]}}`))
	if err != nil || p.RequireSecureBoot || len(p.PCRs) != 1 || !p.RequireEKCertificate || p.AttestationIntervalSeconds != 300 {
		t.Errorf("%+v, %v", p, err)
	}
	for body, pointer := range map[string]string{
		`{"pcrs": {"md5": [0]}}`:                      "/pcrs/md5",
		`{"pcrs": {}}`:                                "/pcrs",
		`{"pcrs": {"sha256": []}}`:                    "/pcrs/sha256",
		`{"pcrs": {"sha256": [0, 24]}}`:               "/pcrs/sha256/1",
		`{"pcrs": {"sha1": [0]}}`:                     "/pcrs/sha1",
		`{"baseline_pcrs": [-1]}`:                     "/baseline_pcrs/0",
		`{"attestation_interval_seconds": 1}`:         "/attestation_interval_seconds",
		`{"challenge_lifetime_seconds": 1000000}`:     "/challenge_lifetime_seconds",
		`{"stale_after_seconds": 29}`:                 "/stale_after_seconds",
		`{"attestation_missing_delay_seconds": -1}`:   "/attestation_missing_delay_seconds",
		`{"require_secureboot": true}`:                "/require_secureboot",
		`{"attestation_interval_seconds": "5 hours"}`: "/attestation_interval_seconds",
	} {
		_, err := verifier.ParsePolicy([]byte(body))
		var fe *verifier.FieldError
		var de *verifier.DecodeError
		if !(errors.As(err, &fe) && fe.Pointer == pointer) && !(errors.As(err, &de) && de.Pointer == pointer) {
			t.Errorf("%s: %v, want an error at %s", body, err, pointer)
		}
	}
}

func FuzzParseReferenceValues(f *testing.F) {
	f.Add([]byte(`{"pcrs": {"sha256": {"0": ["` + zeroPCR + `"]}}, "events": [{"pcr": 4, "digests": {"sha256": ["` + zeroPCR + `"]}}], "claims": {"secure_boot": true, "kernel_cmdline": {"pattern": ".*"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := verifier.ParseReferenceValues(body)
		if err == nil && r == nil {
			t.Fatal("neither a reference nor an error")
		}
	})
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(`{"pcrs": {"sha256": [0, 7]}, "require_secure_boot": false, "selector": {"labels": {"env": "prod"}}}`))
	f.Add([]byte(`{"attestation_interval_seconds": 1e9}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := verifier.ParsePolicy(body)
		if err != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("an accepted policy is not valid: %v", err)
		}
		if len(p.RequiredSelections()) == 0 {
			t.Fatal("an accepted policy requires no PCR")
		}
	})
}

func FuzzDecodeOffline(f *testing.F) {
	f.Add([]byte(`{"quotes":[{"message":"AA==","signature":"AA=="}],"pcrs":{"sha256":{"0":"` + zeroPCR + `"}},"enrollment":{"ak_public":"AA=="}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := verifier.DecodeOffline(body)
		var de *verifier.DecodeError
		if err != nil && !errors.As(err, &de) || err == nil && len(ev.Quotes) == 0 {
			t.Fatalf("%+v, %v", ev, err)
		}
	})
}
