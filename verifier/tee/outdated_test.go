package tee

import (
	"testing"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// What is told of a TCB that is behind: each part that is, and nothing of what is not known.
func TestOutdatedInWords(t *testing.T) {
	status := func(s TCBStatus) *Claims { return &Claims{TCBStatus: &s} }
	recommended := &Policy{SNP: SNPPolicy{RecommendedTCB: map[Product]TCB{"": {SNP: 2}, Milan: {SNP: 2}}}}
	for name, c := range map[string]struct {
		claims *Claims
		policy *Policy
		want   string
	}{
		"no claims":                   {nil, recommended, ""},
		"no TCB":                      {&Claims{}, recommended, ""},
		"nothing committed":           {&Claims{Product: Milan, TCB: &TCB{}}, &Policy{}, ""},
		"another product":             {&Claims{Product: Genoa, TCB: &TCB{}}, recommended, ""},
		"below the recommended":       {&Claims{Product: Milan, TCB: &TCB{SNP: 1}}, recommended, "the reported TCB is below the recommended one: snp 1, at least 2 is required"},
		"as recommended":              {&Claims{Product: Milan, TCB: &TCB{SNP: 2}, CommittedTCB: &TCB{SNP: 2}}, recommended, ""},
		"below what is committed":     {&Claims{Product: Milan, TCB: &TCB{SNP: 2}, CommittedTCB: &TCB{SNP: 3}}, recommended, "the platform has committed to a newer TCB than the one that it reports: snp 2, at least 3 is required"},
		"both up to date":             {status(TCBStatus{Platform: "UpToDate", QE: "SWHardeningNeeded", Date: "2026"}), &Policy{}, ""},
		"needs configuration":         {status(TCBStatus{Platform: "ConfigurationAndSWHardeningNeeded"}), &Policy{}, ""},
		"the platform alone":          {status(TCBStatus{Platform: "OutOfDate", QE: "UpToDate"}), &Policy{}, "Intel says of the TCB: platform OutOfDate"},
		"the quoting enclave alone":   {status(TCBStatus{QE: "OutOfDate"}), &Policy{}, "Intel says of the TCB: quoting enclave OutOfDate"},
		"both, with date":             {status(TCBStatus{Platform: "Revoked", QE: "OutOfDate", Date: "2026"}), &Policy{}, "Intel says of the TCB: platform Revoked, quoting enclave OutOfDate, at the level of 2026"},
		"with what is known about it": {status(TCBStatus{Platform: "OutOfDate", Advisories: []string{"SA-1"}}), &Policy{}, "Intel says of the TCB: platform OutOfDate; advisories SA-1"},
	} {
		if got := c.claims.Outdated(c.policy); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A mask or a value of another length compares with nothing, whatever it holds.
func TestMasksCompareWholeValues(t *testing.T) {
	for name, c := range map[string]struct {
		value, mask, want []byte
		equal             bool
	}{
		"equal":               {[]byte{1, 2}, []byte{255, 255}, []byte{1, 2}, true},
		"equal under a mask":  {[]byte{1, 0xf2}, []byte{255, 15}, []byte{1, 2}, true},
		"another":             {[]byte{1, 2}, []byte{255, 255}, []byte{1, 3}, false},
		"beside the mask":     {[]byte{1, 2}, []byte{255, 15}, []byte{1, 0x12}, false},
		"a short mask":        {[]byte{1, 2}, []byte{255}, []byte{1, 2}, false},
		"a long mask":         {[]byte{1, 2}, []byte{255, 255, 255}, []byte{1, 2}, false},
		"a short expectation": {[]byte{1, 2}, []byte{255, 255}, []byte{1}, false},
		"a long expectation":  {[]byte{1, 2}, []byte{255, 255}, []byte{1, 2, 3}, false},
		"nothing":             {nil, []byte{255}, []byte{0}, false},
	} {
		if got := maskedEqual(c.value, c.mask, c.want); got != c.equal {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A quoting enclave that says nothing of how it runs is none of Intel's.
func TestAQuotingEnclaveWithoutAttributes(t *testing.T) {
	intel := teetest.NewIntel(t)
	q, err := parseTDX(quote(intel).Quote)
	if err != nil {
		t.Fatal(err)
	}
	if err := intelQE(q); err != nil {
		t.Fatal(err)
	}
	q.proto.GetSignedData().GetCertificationData().GetQeReportCertificationData().GetQeReport().Attributes = nil
	if intelQE(q) == nil {
		t.Error("taken for Intel's")
	}
}
