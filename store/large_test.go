package store_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"

	"github.com/assay-verifier/assay/verifier"
)

// Records of one group keep what is theirs, whether their evidence and log are small, and share statements, or
// large, and do not.
func TestEvidenceOfEverySizeInOneGroup(t *testing.T) {
	s, _ := newStore(t)
	const n = 12
	token := joinToken(t, s, "j", n)
	bodies, logs := make([][]byte, n), make([][]byte, n)
	var wg sync.WaitGroup
	for i := range n {
		e := active(t, s, token, fmt.Sprint("m", i))
		bodies[i], logs[i] = make([]byte, 500), make([]byte, 700)
		if i%3 == 0 {
			bodies[i], logs[i] = make([]byte, 200<<10), make([]byte, 300<<10)
		}
		_, _ = rand.Read(bodies[i]) // incompressible
		_, _ = rand.Read(logs[i])
		wg.Go(func() {
			digest := sha256.Sum256(logs[i])
			if err := s.PutBootLog(t.Context(), tenant, digest[:], logs[i], t0); err != nil {
				t.Error(err)
			}
			rec := judgement(e, t0, verifier.Affirming, "good")
			rec.Evidence, rec.EventLogHash = bodies[i], digest[:]
			r, err := s.RecordAppraisal(t.Context(), tenant, rec)
			if err != nil {
				t.Error(err)
				return
			}
			stored, err := s.GetEvidence(t.Context(), tenant, r.VerdictID)
			if err != nil || !bytes.Equal(stored.Body, bodies[i]) {
				t.Errorf("machine %d: the evidence is not what was sent: %v", i, err)
			}
			log, err := s.GetBootLog(t.Context(), tenant, digest[:])
			if err != nil || !bytes.Equal(log, logs[i]) {
				t.Errorf("machine %d: the log is not what was put: %v", i, err)
			}
			v, err := s.GetVerdict(t.Context(), tenant, r.VerdictID)
			if err != nil || v.MachineID != e.MachineID || v.Appraisal.Status != verifier.Affirming || !bytes.Equal(v.EventLogHash, digest[:]) {
				t.Errorf("machine %d: verdict %+v, %v", i, v, err)
			}
		})
	}
	wg.Wait()
}
