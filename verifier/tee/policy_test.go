package tee

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

func ptr[T any](v T) *T { return &v }

func TestAPolicyThatDoesNotFitSaysWhere(t *testing.T) {
	h48, h32 := strings.Repeat("ab", 48), strings.Repeat("ab", 32)
	many := make([]string, maxPolicyValues+1)
	for i := range many {
		many[i] = h48
	}
	for pointer, p := range map[string]Policy{
		"/launch_measurements/1":        {LaunchMeasurements: []string{h48, h32}},
		"/launch_measurements/0":        {LaunchMeasurements: []string{"x" + h48[1:]}},
		"/launch_measurements/0#longer": {LaunchMeasurements: []string{h48 + "a"}},
		"/launch_measurements/0#word":   {LaunchMeasurements: []string{h48 + "xy"}},
		"/launch_measurements":          {LaunchMeasurements: many},
		"/snp/id_key_digests/0":         {SNP: SNPPolicy{IDKeyDigests: []string{""}}},
		"/snp/author_key_digests/0":     {SNP: SNPPolicy{AuthorKeyDigests: []string{h32}}},
		"/snp/host_data/0":              {SNP: SNPPolicy{HostData: []string{h48}}},
		"/snp/minimum_tcb":              {SNP: SNPPolicy{MinimumTCB: map[Product]TCB{"rome": {}}}},
		"/snp/recommended_tcb":          {SNP: SNPPolicy{RecommendedTCB: map[Product]TCB{"Milan": {}}}},
		"/snp/max_vmpl":                 {SNP: SNPPolicy{MaxVMPL: ptr(uint32(4))}},
		"/tdx/mr_config_ids/0":          {TDX: TDXPolicy{MRConfigIDs: []string{h32}}},
		"/tdx/mr_owners/0":              {TDX: TDXPolicy{MROwners: []string{h32}}},
		"/tdx/mr_owner_configs/0":       {TDX: TDXPolicy{MROwnerConfigs: []string{h32}}},
		"/tdx/mr_signer_seams/0":        {TDX: TDXPolicy{MRSignerSeams: []string{h32}}},
		"/tdx/allowed_tcb_statuses/1":   {TDX: TDXPolicy{AllowedTCBStatuses: []string{"UpToDate", "Fine"}}},
		"/tdx/minimum_tee_tcb_svn":      {TDX: TDXPolicy{MinimumTEETCBSVN: "00"}},
		"/tdx/minimum_tee_tcb_svn#long": {TDX: TDXPolicy{MinimumTEETCBSVN: strings.Repeat("0", 33)}},
		"/tdx/minimum_tee_tcb_svn#odd":  {TDX: TDXPolicy{MinimumTEETCBSVN: strings.Repeat("0", 31)}},
		"/tdx/minimum_tee_tcb_svn#word": {TDX: TDXPolicy{MinimumTEETCBSVN: strings.Repeat("x", 32)}},
	} {
		var bad *PolicyError
		if err := p.Validate(); !errors.As(err, &bad) || bad.Pointer != strings.Split(pointer, "#")[0] || bad.Error() != bad.Pointer+": "+bad.Detail {
			t.Errorf("%s: %v", pointer, err)
		}
	}
	good := Policy{LaunchMeasurements: many[1:], SNP: SNPPolicy{MinimumTCB: map[Product]TCB{Milan: {}, Genoa: {}, Turin: {}}, MaxVMPL: ptr(uint32(3)),
		HostData: []string{strings.ToUpper(h32)}}, TDX: TDXPolicy{AllowedTCBStatuses: statuses, MinimumTEETCBSVN: strings.Repeat("0A", 16), MROwners: []string{strings.ToUpper(h48)}}}
	if err := good.Validate(); err != nil || good.SNP.HostData[0] != h32 || good.TDX.MROwners[0] != h48 {
		t.Errorf("%v %+v", err, good)
	}
	if err := (&Policy{}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestWhatPinsALaunch(t *testing.T) {
	one := []string{strings.Repeat("ab", 48)}
	for want, policies := range map[bool][]Policy{
		true:  {{LaunchMeasurements: one}, {SNP: SNPPolicy{IDKeyDigests: one}}, {SNP: SNPPolicy{AuthorKeyDigests: one}}},
		false: {{}, {Require: true, SNP: SNPPolicy{HostData: one}, TDX: TDXPolicy{MROwners: one}}},
	} {
		for _, p := range policies {
			if p.PinsLaunch() != want {
				t.Errorf("%+v", p)
			}
		}
	}
}

// judged is one step of what is made of a report.
func judged(r *Report, p *Policy, s Step) (out StepResult, ok bool) {
	for _, x := range r.Judge(p) {
		if x.Step == s {
			return x, true
		}
	}
	return out, false
}

func wants(t *testing.T, r *Report, p *Policy, s Step, want Outcome, detail string) {
	t.Helper()
	if got, ok := judged(r, p, s); !ok || got.Outcome != want || !strings.Contains(got.Detail, detail) {
		t.Errorf("%s: want %d %q, have %+v (%v)", s, want, detail, got, ok)
	}
}

func absent(t *testing.T, r *Report, p *Policy, s Step) {
	t.Helper()
	if got, ok := judged(r, p, s); ok {
		t.Errorf("asked of nothing: %+v", got)
	}
}

// snpOf proves a report with the fields that are chosen.
func snpOf(t *testing.T, product string, edits ...func(*teetest.Report)) *Report {
	t.Helper()
	amd := teetest.NewAMD(t, product)
	return passes(t, Verify(genuine(amd, 3, edits...), &Trust{SNP: amd.Anchors()}, teetest.Now))
}

func tdxOf(t *testing.T, edits ...func(*teetest.Quote)) *Report {
	t.Helper()
	intel := teetest.NewIntel(t)
	return passes(t, Verify(quote(intel, edits...), under(intel), teetest.Now))
}

func TestPrivilegeLevels(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Milan)
	for _, c := range []struct {
		vmpl, limit uint32
		paravisor   bool
		policy      *uint32
	}{
		{0, 0, true, nil}, {1, 0, true, nil}, {3, 0, true, nil}, {0xffffffff, 0, true, nil}, {1, 1, true, ptr(uint32(1))}, {2, 1, true, ptr(uint32(1))},
		{0, 3, false, nil}, {3, 3, false, nil}, {4, 3, false, nil}, {0xffffffff, 3, false, nil}, {0xffffffff, 3, false, ptr(uint32(3))},
		{1, 0, false, ptr(uint32(0))}, {0, 0, false, ptr(uint32(0))},
	} {
		edit := func(f *teetest.Report) { f.VMPL = c.vmpl }
		e := genuine(amd, 3, edit)
		if c.paravisor {
			e = azureOf(t, amd, nil, teetest.HCL{Fields: edit})
		}
		r := passes(t, Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now))
		p := &Policy{SNP: SNPPolicy{MaxVMPL: c.policy}}
		if c.vmpl <= c.limit {
			wants(t, r, p, StepVMPL, Pass, "made at VMPL")
		} else {
			wants(t, r, p, StepVMPL, Fail, "but at most")
		}
	}
	absent(t, tdxOf(t), &Policy{}, StepVMPL)
}

func TestDebugAndMigration(t *testing.T) {
	lax := &Policy{AllowDebug: true, AllowMigration: true}
	debug := snpOf(t, teetest.Milan, func(f *teetest.Report) { f.Policy |= teetest.PolicyDebug })
	wants(t, debug, &Policy{}, StepDebug, Fail, "the guest's policy allows debugging")
	wants(t, debug, &Policy{AllowMigration: true}, StepDebug, Fail, "debugging")
	wants(t, debug, lax, StepDebug, Pass, "")
	wants(t, debug, &Policy{}, StepMigration, Pass, "no migration agent")
	moves := snpOf(t, teetest.Milan, func(f *teetest.Report) { f.Policy |= teetest.PolicyMigrateMA })
	wants(t, moves, &Policy{}, StepMigration, Fail, "lets a migration agent move it")
	wants(t, moves, &Policy{AllowDebug: true}, StepMigration, Fail, "migration agent")
	wants(t, moves, lax, StepMigration, Pass, "")
	wants(t, moves, &Policy{}, StepDebug, Pass, "cannot read")
	for bit := range 64 {
		attributes := make([]byte, 8)
		attributes[bit/8] = 1 << (bit % 8)
		r := tdxOf(t, func(q *teetest.Quote) { q.TDAttributes = attributes })
		got, _ := judged(r, &Policy{}, StepDebug)
		if want := bit < 8; (got.Outcome == Fail) != want { // the TUD group: DEBUG and what is reserved beside it
			t.Errorf("TD attribute %d: %+v", bit, got)
		}
		got, _ = judged(r, &Policy{}, StepMigration)
		if want := bit == 29; (got.Outcome == Fail) != want {
			t.Errorf("TD attribute %d: %+v", bit, got)
		}
	}
	td := tdxOf(t, func(q *teetest.Quote) { q.TDAttributes = []byte{1, 0, 0, 0x20} })
	wants(t, td, &Policy{}, StepDebug, Fail, "the TD is under debug")
	wants(t, td, lax, StepDebug, Pass, "")
	wants(t, td, lax, StepMigration, Pass, "")
	for _, attributes := range [][]byte{{1}, {0, 0, 0, 0, 0, 0, 0, 0x80}} {
		r := tdxOf(t, func(q *teetest.Quote) { q.SeamAttributes = attributes })
		wants(t, r, &Policy{}, StepDebug, Fail, "SEAMATTRIBUTES")
		if got := r.Claims().SEAMAttributes; !strings.HasPrefix(got, hex.EncodeToString(attributes)) {
			t.Errorf("SEAMATTRIBUTES claimed as %q", got)
		}
		wants(t, r, lax, StepDebug, Pass, "")
	}
}

func TestMeasurementsAndSigners(t *testing.T) {
	repeat := func(b byte, n int) string { return strings.Repeat(hex.EncodeToString([]byte{b}), n) }
	snp, td := snpOf(t, teetest.Genoa), tdxOf(t, func(q *teetest.Quote) {
		q.MRConfigID, q.MROwner, q.MROwnerConfig = bytes.Repeat([]byte{1}, 48), bytes.Repeat([]byte{2}, 48), bytes.Repeat([]byte{3}, 48)
	})
	for _, r := range []*Report{snp, td} {
		absent(t, r, &Policy{}, StepMeasurement)
		absent(t, r, &Policy{}, StepSigner)
		wants(t, r, &Policy{LaunchMeasurements: []string{repeat(1, 48), repeat(0x3e, 48)}}, StepMeasurement, Pass, "one that the policy allows")
		wants(t, r, &Policy{LaunchMeasurements: []string{repeat(1, 48)}}, StepMeasurement, Fail, "the launch measurement "+repeat(0x3e, 48)+" is none")
	}
	other := []string{repeat(0xee, 48), repeat(0xee, 32)}
	for _, c := range []struct {
		r      *Report
		set    func(p *Policy, values []string)
		actual string
		what   string
	}{
		{snp, func(p *Policy, v []string) { p.SNP.IDKeyDigests = v }, repeat(0x1d, 48), "the id key digest"},
		{snp, func(p *Policy, v []string) { p.SNP.AuthorKeyDigests = v }, repeat(0xa0, 48), "the author key digest"},
		{snp, func(p *Policy, v []string) { p.SNP.HostData = v }, repeat(0x05, 32), "the host data"},
		{td, func(p *Policy, v []string) { p.TDX.MRConfigIDs = v }, repeat(1, 48), "the TD's MRCONFIGID"},
		{td, func(p *Policy, v []string) { p.TDX.MROwners = v }, repeat(2, 48), "the TD's MROWNER "},
		{td, func(p *Policy, v []string) { p.TDX.MROwnerConfigs = v }, repeat(3, 48), "the TD's MROWNERCONFIG"},
		{td, func(p *Policy, v []string) { p.TDX.MRSignerSeams = v }, repeat(0, 48), "the TDX module's signer"},
	} {
		p := &Policy{}
		c.set(p, append(other, c.actual))
		wants(t, c.r, p, StepSigner, Pass, "by whom the policy allows")
		c.set(p, other)
		shown := c.actual
		if strings.Trim(shown, "0") == "" {
			shown = "(none)"
		}
		wants(t, c.r, p, StepSigner, Fail, strings.TrimSpace(c.what)+" "+shown+" is none")
	}
	// Of several faults the first is told.
	wants(t, snp, &Policy{SNP: SNPPolicy{IDKeyDigests: other, HostData: other, MinimumGuestSVN: 9, AllowVLEK: ptr(false)}}, StepSigner, Fail, "the id key digest")
	unsigned := snpOf(t, teetest.Milan, func(f *teetest.Report) { f.IDKeyDigest = nil })
	wants(t, unsigned, &Policy{SNP: SNPPolicy{IDKeyDigests: other}}, StepSigner, Fail, "the id key digest (none) is none")

	wants(t, snp, &Policy{SNP: SNPPolicy{MinimumGuestSVN: 3}}, StepSigner, Pass, "")
	wants(t, snp, &Policy{SNP: SNPPolicy{MinimumGuestSVN: 4}}, StepSigner, Fail, "security version 3 is below the policy's minimum 4")
	wants(t, snp, &Policy{SNP: SNPPolicy{AllowVLEK: ptr(false)}}, StepSigner, Pass, "")
	absent(t, snp, &Policy{SNP: SNPPolicy{AllowVLEK: ptr(true)}}, StepSigner)
	vlek := snpOf(t, teetest.Milan, byVLEK)
	wants(t, vlek, &Policy{SNP: SNPPolicy{AllowVLEK: ptr(false)}}, StepSigner, Fail, "signed by a cloud provider's key (VLEK)")
	wants(t, vlek, &Policy{SNP: SNPPolicy{AllowVLEK: ptr(false), MinimumGuestSVN: 4}}, StepSigner, Fail, "security version")
	absent(t, vlek, &Policy{}, StepSigner)
	absent(t, vlek, &Policy{SNP: SNPPolicy{AllowVLEK: ptr(true)}}, StepSigner)

	foreign := tdxOf(t, func(q *teetest.Quote) { q.MRSignerSeam = bytes.Repeat([]byte{9}, 48) })
	wants(t, foreign, &Policy{}, StepSigner, Fail, "the TDX module is not signed by Intel")
	wants(t, foreign, &Policy{TDX: TDXPolicy{MRSignerSeams: []string{repeat(9, 48)}}}, StepSigner, Pass, "")
	wants(t, foreign, &Policy{TDX: TDXPolicy{MROwners: other}}, StepSigner, Fail, "the TD's MROWNER")
}

func TestMinimumTCBOfEveryPart(t *testing.T) {
	base := teetest.NewAMD(t, teetest.Turin).TCB
	at := TCB{Bootloader: base.Bootloader, TEE: base.TEE, SNP: base.SNP, Microcode: base.Microcode}
	for product, name := range products {
		r := snpOf(t, name)
		minimum := func(tcb TCB) *Policy { return &Policy{SNP: SNPPolicy{MinimumTCB: map[Product]TCB{product: tcb}}} }
		wants(t, r, minimum(at), StepTCB, Pass, "the reported TCB reaches the policy's minimum: ")
		wants(t, r, minimum(TCB{}), StepTCB, Pass, "reaches")
		for part, edit := range map[string]func(*TCB){"bootloader 4": func(t *TCB) { t.Bootloader++ }, "tee 2": func(t *TCB) { t.TEE++ },
			"snp 24": func(t *TCB) { t.SNP++ }, "microcode 220": func(t *TCB) { t.Microcode++ }} {
			higher := at
			edit(&higher)
			wants(t, r, minimum(higher), StepTCB, Fail, "the reported TCB is below the policy's minimum: "+part+", at least")
			if got := r.Outdated(&Policy{SNP: SNPPolicy{RecommendedTCB: map[Product]TCB{product: higher}}}); !strings.Contains(got, "below the recommended one: "+part) {
				t.Error(got)
			}
		}
		withFMC := at
		for fmc, ok := range map[uint8]bool{0: product == Turin, 1: product == Turin, 2: false} {
			withFMC.FMC = &fmc
			if ok {
				wants(t, r, minimum(withFMC), StepTCB, Pass, "")
			} else {
				wants(t, r, minimum(withFMC), StepTCB, Fail, "fmc ")
			}
		}
		if got := r.Outdated(&Policy{SNP: SNPPolicy{RecommendedTCB: map[Product]TCB{product: at, "other": {SNP: 255}}}}); got != "" {
			t.Error(got)
		}
		absent(t, r, &Policy{}, StepTCB)
		others := map[Product]TCB{Milan: {}, Genoa: {}, Turin: {}}
		delete(others, product)
		wants(t, r, &Policy{SNP: SNPPolicy{MinimumTCB: others}}, StepTCB, Fail, "the policy sets minimum TCBs, and none for "+string(product))
		if s := r.Claims().TCB.String(); s != map[bool]string{true: "fmc 1, ", false: ""}[product == Turin]+"bootloader 4, tee 2, snp 24, microcode 220" {
			t.Error(s)
		}
		ahead := snpOf(t, name, func(f *teetest.Report) { f.Committed.Microcode++ })
		if got := ahead.Outdated(&Policy{}); !strings.Contains(got, "has committed to a newer TCB than the one that it reports: microcode 220, at least 221") {
			t.Error(got)
		}
		both := snpOf(t, name, func(f *teetest.Report) { f.Committed.Microcode++; f.Committed.SNP++ })
		if got := both.Outdated(&Policy{}); !strings.HasSuffix(got, ": snp 24, at least 25 is required; microcode 220, at least 221 is required") {
			t.Errorf("every part that is behind is named: %q", got)
		}
	}
}

func TestMinimumTEETCBSVN(t *testing.T) {
	r := tdxOf(t)
	have := append([]byte{5, 1}, bytes.Repeat([]byte{3}, 14)...)
	wants(t, r, &Policy{TDX: TDXPolicy{MinimumTEETCBSVN: hex.EncodeToString(have)}}, StepTCB, Pass, "TEE TCB SVN reaches the policy's minimum")
	for i := range have {
		more := bytes.Clone(have)
		more[i]++
		wants(t, r, &Policy{TDX: TDXPolicy{MinimumTEETCBSVN: hex.EncodeToString(more)}}, StepTCB, Fail, "at byte ")
	}
	wants(t, r, &Policy{TDX: TDXPolicy{MinimumTEETCBSVN: "no hex"}}, StepTCB, Fail, "at byte 0")
	wants(t, r, &Policy{}, StepTCB, Skipped, "no TCB info of Intel's is held")
	if r.Outdated(&Policy{}) != "" {
		t.Error("nothing tells")
	}
	intel := teetest.NewIntel(t)
	known := passes(t, Verify(quote(intel), under(intel, tcbInfo(t, intel)), teetest.Now))
	wants(t, known, &Policy{TDX: TDXPolicy{MinimumTEETCBSVN: strings.Repeat("ff", 16)}}, StepTCB, Fail, "below the policy's minimum")
	wants(t, known, &Policy{TDX: TDXPolicy{MinimumTEETCBSVN: strings.Repeat("00", 16)}}, StepTCB, Pass, "Intel says of the TCB: UpToDate")
}

// A verdict tells the steps in their order.
func TestStepsInTheirOrder(t *testing.T) {
	p := &Policy{LaunchMeasurements: []string{""}, SNP: SNPPolicy{MinimumTCB: map[Product]TCB{Milan: {}}, MinimumGuestSVN: 1}, TDX: TDXPolicy{MRSignerSeams: []string{""}}}
	for _, c := range []struct {
		r    *Report
		want []Step
	}{
		{snpOf(t, teetest.Milan), []Step{StepTCB, StepVMPL, StepDebug, StepMigration, StepMeasurement, StepSigner}},
		{tdxOf(t), []Step{StepTCB, StepDebug, StepMigration, StepMeasurement, StepSigner}},
	} {
		var got []Step
		for _, s := range c.r.Judge(p) {
			got = append(got, s.Step)
		}
		if strings.Join(text(got), " ") != strings.Join(text(c.want), " ") {
			t.Errorf("%v", got)
		}
	}
	var zero StepResult
	if zero.Outcome != Fail || Binding(0) != Unbound {
		t.Error("the zero value proves something")
	}
	if p, err := abi.ParseSnpPolicy(teetest.PolicyReserved1 | teetest.PolicyDebug | teetest.PolicyMigrateMA | teetest.PolicySMT); err != nil || !p.Debug || !p.MigrateMA || !p.SMT {
		t.Errorf("the fake's bits are not AMD's: %+v %v", p, err)
	}
}

func text(steps []Step) (out []string) {
	for _, s := range steps {
		out = append(out, string(s))
	}
	return out
}
