package attest

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// Wherever a machine stands, it waits half an interval at least and an interval at most, never past the life of the challenge
// that it is given for it, and keeps its moment once it is there.
func TestNextAttestationHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := verifier.DefaultPolicy()
		p.AttestationIntervalSeconds = rapid.IntRange(10, 7*24*3600).Draw(t, "interval")
		every := interval(&p)
		now := noon.Add(time.Duration(rapid.Int64Range(0, int64(every)).Draw(t, "at")))
		id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		for i := range 6 {
			wait := nextAttestation(id, now, &p)
			if wait <= every/2-time.Second || wait > every || wait%time.Second != 0 {
				t.Fatalf("%s of %s", wait, every)
			}
			if i >= 2 && every-wait > every/100+time.Second { // what it came late
				t.Fatalf("the third time it still waits %s of %s", wait, every)
			}
			if life := nextChallengeLifetime(&p); wait >= life {
				t.Fatalf("%s, and the challenge lives %s", wait, life)
			}
			late := time.Duration(rapid.Int64Range(0, int64(every/100)).Draw(t, "late")) // it takes a moment on the way
			now = now.Add(wait + late)
		}
	})
}

// A fleet that attests at one moment, as after a power failure, has parted within two intervals: while it does no tenth of an
// interval sees more than twice its share, and some more by chance, and afterwards none sees more than its share.
func TestAHerdDissolves(t *testing.T) {
	p := verifier.DefaultPolicy()
	const machines, parts = 20_000, 10
	tenth := interval(&p) / parts
	seen := map[int]int{}
	for range machines {
		id := uuid.Must(uuid.NewV7())
		for now := noon; now.Before(noon.Add(6 * interval(&p))); {
			now = now.Add(nextAttestation(id, now, &p))
			seen[int(now.Sub(noon)/tenth)]++
		}
	}
	const share = machines / parts
	for part := range 6 * parts {
		most := 2*share + share/5
		if part >= 2*parts {
			most = share + share/5
		}
		if n := seen[part]; n > most || part >= 2*parts && n < share-share/5 {
			t.Errorf("tenth %d: %d attest, where %d is the share", part, n, share)
		}
	}
}

func TestTrigger(t *testing.T) {
	reset := func(n uint32) *uint32 { return &n }
	seen := noon
	for name, c := range map[string]struct {
		stored, noTPM bool
		seen          *time.Time
		last          *tpm.ClockState
		resets        *uint32
		lastBoot      string
		boot          string
		want          verifier.Trigger
	}{
		"the first":                              {resets: reset(1), want: verifier.TriggerFirst},
		"the first of a key":                     {seen: &seen, resets: reset(1), lastBoot: "a", boot: "a", want: verifier.TriggerFirst},
		"a reset":                                {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(2), want: verifier.TriggerBoot},
		"a reset, as the agent says too":         {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(2), lastBoot: "a", boot: "b", want: verifier.TriggerBoot},
		"a reset that the agent does not tell":   {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(2), lastBoot: "a", boot: "a", want: verifier.TriggerBoot},
		"a kernel that started another":          {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(1), lastBoot: "a", boot: "b", want: verifier.TriggerBoot},
		"the same boot":                          {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(1), lastBoot: "a", boot: "a", want: verifier.TriggerPeriodic},
		"the same, of an agent that says none":   {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(1), lastBoot: "a", want: verifier.TriggerPeriodic},
		"without a TPM, the first":               {noTPM: true, boot: "a", want: verifier.TriggerFirst},
		"without a TPM, a boot":                  {noTPM: true, seen: &seen, lastBoot: "a", boot: "b", want: verifier.TriggerBoot},
		"without a TPM, the same boot":           {noTPM: true, seen: &seen, lastBoot: "a", boot: "a", want: verifier.TriggerPeriodic},
		"without a TPM and without a boot id":    {noTPM: true, seen: &seen, lastBoot: "a", want: verifier.TriggerUnknown},
		"without a TPM, the first with an id":    {noTPM: true, seen: &seen, boot: "a", want: verifier.TriggerUnknown},
		"evidence that was there":                {stored: true, seen: &seen, last: &tpm.ClockState{ResetCount: 1}, resets: reset(2), want: verifier.TriggerReappraisal},
		"evidence whose quote cannot be read":    {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, want: verifier.TriggerUnknown},
		"that, of an agent that tells of a boot": {seen: &seen, last: &tpm.ClockState{ResetCount: 1}, lastBoot: "a", boot: "b", want: verifier.TriggerBoot},
	} {
		a := &appraisal{stored: c.stored, resetCount: c.resets, evidence: &verifier.Evidence{NoTPM: c.noTPM, Agent: verifier.AgentInfo{BootID: c.boot}},
			inputs: store.AppraisalInputs{Machine: store.Machine{LastSeenAt: c.seen}, LastClock: c.last, LastBootID: c.lastBoot}}
		if got := a.trigger(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
