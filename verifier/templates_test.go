package verifier_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/anchors"
	"github.com/assay-verifier/assay/verifier/rules"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The template for confidential VMs has nothing to say against real ones of Azure, but for the console that Azure
// leaves on; and it fails where the report is withheld, is another machine's, or shows a guest under debug.
func TestConfidentialTemplateOnRealSets(t *testing.T) {
	all, err := rules.Templates()
	if err != nil {
		t.Fatal(err)
	}
	policy := all[slices.IndexFunc(all, func(x rules.Template) bool { return x.Name == "confidential_vm" })].Policy
	set, err := rules.Compile(policy.Rules)
	if err != nil {
		t.Fatal(err)
	}
	judge := func(body []byte, change func(*verifier.Inputs)) *verifier.Appraisal {
		return judgePlatform(t, body, nil, func(in *verifier.Inputs) {
			in.Policy.Rules, in.Policy.PlatformEvidence, in.Rules = policy.Rules, policy.PlatformEvidence, set
			if change != nil {
				change(in)
			}
		})
	}
	for _, name := range []string{"trustee-snp-v0", "trustee-snp-v2", "trustee-tdx-v0"} {
		a := judge(azureBody(t, "azure-hcl/"+name, name), nil)
		if c := checkOf(a, verifier.CheckPolicyRules); c.Status != verifier.Warn || c.Detail != "console_off: the paravisor's console is on" || a.Assurance != verifier.TEEBound {
			t.Errorf("%s: %+v %s", name, c, a.Assurance)
		}
	}
	ev, err := verifier.DecodeOffline(azureBody(t, "azure-hcl/trustee-snp-v0", "trustee-snp-v0"))
	if err != nil {
		t.Fatal(err)
	}
	in := verifier.Inputs{Now: platformTime, Policy: verifier.DefaultPolicy(), Rules: set, Freshness: tpm.Freshness{Nonce: []byte("challenge")},
		AK: verifier.AttestationKey{Public: tee.Verify(ev.Platform, &tee.Trust{SNP: anchors.Purpose("snp")}, platformTime).AK(), Assurance: verifier.AKCertified}}
	in.Policy.Rules, ev.Platform = policy.Rules, nil
	if c := checkOf(verifier.Appraise(ev, in), verifier.CheckPolicyRules); c.Status != verifier.Fail || !strings.HasPrefix(c.Detail, "bound_to_hardware: ") || !strings.Contains(c.Detail, "known_technology: ") {
		t.Errorf("without a report: %+v", c)
	}
	other := judge(azureBody(t, "azure-hcl/trustee-snp-v0", "trustee-snp-v0"), func(in *verifier.Inputs) {
		in.Freshness = tpm.Freshness{Nonce: []byte("another")}
	})
	if c := checkOf(other, verifier.CheckPolicyRules); c.Status != verifier.Skipped {
		t.Errorf("of evidence that is not fresh: %+v", c)
	}
}
