package finding

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

func on(name string) Input {
	yes := true
	return Input{Machine: Machine{Name: name, OS: "linux", Observed: Posture{VTPM: &yes, AgentInstalled: &yes}}}
}

// failedAs is the alert of a machine whose appraisal failed so.
func failedAs(t testing.TB, name string, a verifier.Appraisal) Alert {
	t.Helper()
	in := on(name)
	a.Status = verifier.Contraindicated
	in.Appraisal = &a
	for _, alert := range Derive(in).Alerts {
		if alert.Code == "attestation_failed" {
			return alert
		}
	}
	t.Fatal("no alert")
	return Alert{}
}

func grub(actual string) verifier.Deviation {
	return verifier.Deviation{PCR: 4, Kind: verifier.Changed, Component: eventlog.ComponentBootLoader, EventType: "EV_EFI_BOOT_SERVICES_APPLICATION",
		Bank: "sha256", Expected: []string{"00"}, Actual: actual, Now: "grubx64.efi", Description: "grubx64.efi changed"}
}

func deviating(ds ...verifier.Deviation) verifier.Appraisal {
	return verifier.Appraisal{Reason: verifier.BaselineDeviation, Deviations: ds,
		Checks: []verifier.Check{{Code: verifier.CheckBaselineMatch, Status: verifier.Fail, Detail: "of this machine"}}}
}

func failing(codes ...verifier.CheckCode) verifier.Appraisal {
	a := verifier.Appraisal{Reason: verifier.OriginUnverified}
	for _, c := range codes {
		a.Checks = append(a.Checks, verifier.Check{Code: c, Status: verifier.Fail})
	}
	return a
}

// Each appraisal is of a cause of its own.
func TestWhatDiffersIsAnotherIncident(t *testing.T) {
	claim := verifier.Deviation{PCR: 7, Kind: verifier.Changed, Component: eventlog.ComponentSecureBoot, Expected: []string{"true"}, Actual: "false", Description: "Secure Boot is off"}
	gone := grub("")
	gone.Kind = verifier.Removed
	file := func(path, digest string) verifier.Deviation {
		return verifier.Deviation{PCR: 10, Kind: verifier.Added, Component: eventlog.ComponentIMA, EventType: "IMA", Actual: digest, Now: path}
	}
	seen := map[[32]byte]string{}
	for story, a := range map[string]verifier.Appraisal{
		"grub":                  deviating(grub("aa")),
		"grub of another build": deviating(grub("bb")),
		"no grub":               deviating(gone),
		"grub and a claim":      deviating(grub("aa"), claim),
		"a claim":               deviating(claim),
		"a file":                deviating(file("/usr/bin/a", "sha256:01")),
		"the file, otherwise":   deviating(file("/usr/bin/a", "sha256:02")),
		"another file":          deviating(file("/usr/bin/b", "sha256:01")),
		"signature":             failing(verifier.CheckQuoteSignature),
		"nonce":                 failing(verifier.CheckQuoteNonce),
		"rules":                 {Reason: verifier.BaselineDeviation, Checks: []verifier.Check{{Code: verifier.CheckPolicyRules, Status: verifier.Fail}}},
	} {
		alert := failedAs(t, "m", a)
		if other, twice := seen[alert.GroupKey()]; twice {
			t.Errorf("%s and %s are one incident", story, other)
		}
		if alert.GroupTitle() == "" || alert.GroupTitle() == alert.DisplayName {
			t.Errorf("%s has the title %q", story, alert.GroupTitle())
		}
		seen[alert.GroupKey()] = story
	}
	changed := failedAs(t, "m", deviating(grub("aa")))
	if title := changed.GroupTitle(); title != "grubx64.efi changed" {
		t.Errorf("title %q", title)
	}
	plain := Alert{Code: "a", DisplayName: "A"}
	split, whole := Alert{Code: "a", Group: Group{Cause: []string{"b", "c"}}}, Alert{Code: "a", Group: Group{Cause: []string{"bc"}}}
	if split.GroupKey() == whole.GroupKey() || plain.GroupTitle() != "A" {
		t.Error("parts of a cause run into each other, or a plain alert has no title")
	}
}

// Whatever is of one machine alone changes no incident: name, order, words, values of registers, files that ran besides.
func TestWhatIsOfOneMachineGroupsAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		digests := rapid.SliceOfNDistinct(rapid.StringMatching(`[0-9a-f]{64}`), 1, 6, rapid.ID[string]).Draw(t, "digests")
		random := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))) // #nosec G404 -- a test
		of := func(machine string) verifier.Appraisal {
			a := deviating()
			for i, digest := range digests {
				d := grub(digest)
				d.PCR = 4 + i
				d.Description = "on " + machine
				a.Deviations = append(a.Deviations, d)
			}
			a.Deviations = append(a.Deviations, verifier.Deviation{PCR: 9, Kind: verifier.Changed, Component: eventlog.ComponentKernel, Bank: "sha256",
				Actual: fmt.Sprintf("%064x", random.Uint64()), Description: "PCR 9 of " + machine})
			random.Shuffle(len(a.Deviations), func(i, j int) { a.Deviations[i], a.Deviations[j] = a.Deviations[j], a.Deviations[i] })
			a.Checks[0].Detail = machine
			return a
		}
		one, other := of("one"), of("other")
		x, y := causeOf(&one), causeOf(&other)
		if !slices.Equal(x.Cause, y.Cause) {
			t.Fatalf("%q and %q", x.Cause, y.Cause)
		}
		other.Deviations[0].Component, other.Deviations[0].EventType = "other", "OTHER"
		if z := causeOf(&other); slices.Equal(x.Cause, z.Cause) {
			t.Fatal("another component makes no other incident")
		}
	})
}
